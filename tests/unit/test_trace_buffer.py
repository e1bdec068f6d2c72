"""The decision about traces: each span has one fate, what must be kept is, nothing grows, the budget holds."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import SpanContext, TraceFlags

from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.exemplars import ExemplarSlot
from qorzen_obs.telemetry.trace_buffer import Bounds, Budget, TraceBuffer

HIGH = 2**64 - 1  # the last id that any ratio but 1 chooses


class Kept:
    """A buffer of small bounds, with what it kept: pairs of a span and whether its trace is partial."""

    def __init__(self, per_second: float = math.inf, ratio: float = 1.0, **bounds: Any) -> None:
        self.spans: list[tuple[object, bool]] = []
        self.must_keep: list[bool] = []  # for each of them, whether its trace is kept for a reason of its own
        self.buffer: TraceBuffer[object] = TraceBuffer(
            Budget(per_second, ratio), self._keep, Bounds(**bounds)
        )

    def _keep(self, spans: Sequence[object], partial: bool, must_keep: bool) -> None:
        self.spans += [(span, partial) for span in spans]
        self.must_keep += [must_keep] * len(spans)

    def whole(self, trace_id: int, span_id: int, must_keep: str | None = None, now: float = 0.0) -> None:
        """The life of a span."""
        self.buffer.start(trace_id, span_id, None, now)
        self.buffer.end(trace_id, span_id, f"{trace_id}.{span_id}", must_keep, now)


def context(trace_id: int, span_id: int = 1) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(1))


def test_a_trace_waits_for_its_last_open_span() -> None:
    kept = Kept()
    kept.buffer.start(1, 1, None, 0.0)
    kept.whole(1, 2)
    assert (kept.spans, kept.buffer.ended_spans(1)) == ([], ["1.2"])
    kept.buffer.end(1, 1, "root", None, 1.0)
    assert kept.spans == [("1.2", False), ("root", False)]
    assert kept.buffer.decisions == {("kept", names.BY_BUDGET): 1}
    assert (kept.buffer.undecided, kept.buffer.waiting_spans) == (0, 0)


def test_a_span_that_must_be_kept_brings_the_whole_trace_with_it_at_once() -> None:
    kept = Kept(per_second=0)
    kept.buffer.start(1, 1, None, 0.0)
    kept.whole(1, 2)
    kept.whole(1, 3, names.BY_ERROR)
    assert [span for span, _ in kept.spans] == ["1.2", "1.3"]
    kept.whole(1, 4)
    kept.buffer.end(1, 1, "root", None, 1.0)
    assert [span for span, _ in kept.spans] == ["1.2", "1.3", "1.4", "root"]
    assert kept.buffer.decisions == {("kept", names.BY_ERROR): 1}


def test_after_a_drop_what_must_be_kept_keeps_the_rest_marked_as_partial() -> None:
    kept = Kept(per_second=0)
    kept.whole(1, 1)
    kept.whole(1, 2)
    kept.whole(1, 3, names.BY_SLOW)
    kept.whole(1, 4)
    assert kept.spans == [("1.3", True), ("1.4", True)]
    assert kept.buffer.dropped_spans == 2
    assert kept.buffer.decisions == {("dropped", names.BY_BUDGET): 1, ("partial", names.BY_SLOW): 1}


def test_a_span_that_was_not_seen_to_start_is_part_of_the_trace_that_is_open() -> None:
    kept = Kept()
    kept.buffer.start(1, 1, None, 0.0)
    kept.buffer.end(1, 77, "of a worker", None, 0.0)
    assert kept.spans == []
    kept.buffer.end(1, 1, "run", None, 0.0)
    assert [span for span, _ in kept.spans] == ["of a worker", "run"]
    kept.buffer.end(2, 78, "of a trace that is unknown", None, 0.0)
    assert kept.buffer.waiting_spans == 0


def test_a_reason_of_its_own_is_told_with_all_spans_from_then_on() -> None:
    kept = Kept()
    kept.whole(1, 1)
    kept.whole(1, 2, names.BY_ERROR)
    kept.whole(1, 3)
    kept.buffer.start(2, 1, names.BY_UPSTREAM, 0.0)
    kept.buffer.end(2, 1, "root", None, 0.0)
    kept.whole(3, 1)
    assert kept.must_keep == [False, True, True, True, False]
    partial = Kept(per_second=0)
    partial.whole(1, 1)
    partial.whole(1, 2, names.BY_SLOW)
    partial.whole(1, 3)
    assert partial.must_keep == [True, True]


def test_an_upstream_decision_holds_from_the_start() -> None:
    kept = Kept(per_second=0)
    kept.buffer.start(1, 1, names.BY_UPSTREAM, 0.0)
    kept.buffer.end(1, 1, "root", None, 0.0)
    assert kept.spans == [("root", False)]


@pytest.mark.parametrize("per_second", [math.inf, 0.0])
def test_age_and_size_end_the_wait(per_second: float) -> None:
    kept = Kept(per_second, spans_per_trace=3, seconds=60.0)
    kept.buffer.start(1, 1, None, 0.0)
    kept.buffer.tick(59.9)
    assert kept.buffer.undecided == 1
    kept.buffer.tick(60.0)
    assert kept.buffer.undecided == 0
    for span_id in (1, 2, 3):
        kept.buffer.start(2, span_id, None, 60.0)
    decision = "kept" if per_second else "dropped"
    assert kept.buffer.decisions == {(decision, names.BY_WINDOW): 2}


def test_overflow_decides_about_the_oldest() -> None:
    kept = Kept(traces=2)
    for trace_id in (1, 2, 3):
        kept.buffer.start(trace_id, 1, None, 0.0)
    kept.buffer.end(1, 1, "later", None, 0.0)
    assert kept.buffer.decisions == {("kept", names.BY_OVERFLOW): 1}
    assert kept.spans == [("later", False)]


def test_exemplars_are_written_with_the_decision_and_never_for_a_dropped_trace() -> None:
    kept, slots = Kept(per_second=1, ratio=0.5), [ExemplarSlot() for _ in range(3)]
    kept.buffer.start(1, 1, None, 0.0)
    kept.buffer.offer(context(1), [(slots[0], 0.5)], 10.0)
    assert slots[0].read() is None
    kept.buffer.end(1, 1, "low id", None, 0.0)
    found = slots[0].read()
    assert found is not None
    assert (found.value, found.timestamp, found.labels["trace_id"]) == (0.5, 10.0, f"{1:032x}")
    kept.buffer.offer(context(1), [(slots[1], 2.0)], 11.0)
    assert slots[1].read() is not None
    kept.buffer.start(HIGH, 1, None, 0.0)
    kept.buffer.offer(context(HIGH), [(slots[2], 0.5)], 10.0)
    kept.buffer.end(HIGH, 1, "high id", None, 0.0)
    kept.buffer.offer(context(HIGH), [(slots[2], 0.5)], 10.0)
    kept.buffer.offer(context(99), [(slots[2], 0.5)], 10.0)
    assert slots[2].read() is None


def test_held_exemplars_are_bounded_and_the_newest_of_a_slot_counts() -> None:
    kept, slots = Kept(exemplars_per_trace=2), [ExemplarSlot() for _ in range(3)]
    kept.buffer.start(1, 1, None, 0.0)
    for at in (1.0, 2.0):
        kept.buffer.offer(context(1), [(slot, at) for slot in slots], at)
    kept.buffer.end(1, 1, "root", None, 0.0)
    assert [found and found.value for found in (slot.read() for slot in slots)] == [2.0, 2.0, None]


@given(st.integers(0, 2**128 - 1), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_ratio_chooses_all_that_a_lower_one_does(trace_id: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert chosen(trace_id, 1.0)
    assert not chosen(trace_id, 0.0)
    assert chosen(trace_id, high) or not chosen(trace_id, low)


def chosen(trace_id: int, ratio: float) -> bool:
    return Budget(math.inf, ratio).admit(trace_id, 0.0)


@given(
    st.sampled_from([0.0, 0.2, 1.0, 3.0, 10.0]),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 2), st.integers(0, HIGH)), max_size=200),
)
def test_in_no_span_of_time_is_the_budget_exceeded_by_more_than_a_second_s_worth(
    per_second: float, ratio: float, arrivals: list[tuple[float, int]]
) -> None:
    budget, now, kept = Budget(per_second, ratio), 0.0, []
    for wait, trace_id in arrivals:
        now += wait
        if budget.admit(trace_id, now):
            assert chosen(trace_id, ratio)
            kept.append(now)
    for first, begin in enumerate(kept):
        for last in range(first, len(kept)):
            allowed = (kept[last] - begin) * per_second + max(1.0, per_second)
            assert last - first + 1 <= allowed + 1e-6


def test_a_quiet_service_keeps_everything_and_a_busy_one_what_the_budget_allows() -> None:
    quiet, busy = Budget(100.0), Budget(100.0)
    assert all(quiet.admit(n * 0x9E3779B97F4A7C15, n / 50) for n in range(500))
    kept = sum(busy.admit(n * 0x9E3779B97F4A7C15, n / 10_000) for n in range(100_000))
    assert 800 <= kept <= 1_100


STEP = st.tuples(
    st.sampled_from(["start", "end", "remote", "offer", "tick"]),
    st.integers(0, 7),  # trace
    st.sampled_from([None, None, None, None, names.BY_ERROR]),
    st.sampled_from([0.0, 0.0, 0.5, 30.0]),
)


@settings(max_examples=300)
@given(st.sampled_from([0.0, 1.0, math.inf]), st.lists(STEP, max_size=120))
def test_every_span_is_kept_or_dropped_once_and_nothing_grows(
    per_second: float, steps: list[tuple[str, int, str | None, float]]
) -> None:
    bounds = Bounds(traces=4, spans_per_trace=6, spans=12, seconds=60.0, decisions=5)
    kept: list[object] = []
    buffer: TraceBuffer[object] = TraceBuffer(
        Budget(per_second), lambda spans, *_: kept.extend(spans), bounds
    )
    running: dict[int, list[int]] = defaultdict(list)
    ended: list[tuple[int, int]] = []
    now = 0.0
    for number, (kind, trace_id, must_keep, wait) in enumerate(steps, 1):
        now += wait
        if kind == "start":
            running[trace_id].append(number)
            buffer.start(trace_id, number, None, now)
        elif kind == "tick":
            buffer.tick(now)
        elif kind == "offer":
            buffer.offer(context(trace_id + 1), [(ExemplarSlot(), 1.0)], now)
        elif kind == "remote" or running[trace_id]:
            span_id = number if kind == "remote" else running[trace_id].pop()
            span = (trace_id, span_id)
            ended.append(span)
            buffer.end(trace_id, span_id, span, must_keep, now)
            if must_keep is not None:
                assert kept[-1] == span, "it and what waited with it is kept at once"
        assert buffer.undecided <= bounds.traces
        assert buffer.waiting_spans <= bounds.spans
    buffer.decide_all(now)
    assert (buffer.undecided, buffer.waiting_spans) == (0, 0)
    assert not [span for span, n in Counter(kept).items() if n > 1]
    assert len(kept) + buffer.dropped_spans == len(ended)
    assert set(kept) <= set(ended)
    assert buffer.decisions.keys() <= set(names.TRACE_SERIES)
