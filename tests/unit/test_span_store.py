"""The store of recent traces: what it keeps, what it lets go, and that any thread may ask."""

from __future__ import annotations

import gc
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags, format_trace_id

from qorzen_obs.telemetry.names import TASK_ATTEMPT, TRACE_KEEP
from qorzen_obs.telemetry.span_store import SpanStore
from qorzen_obs.telemetry.task_span import AnySpan
from qorzen_obs.telemetry.traces import MAX_UNDECIDED, AllTraces

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def tracer_into(store: SpanStore) -> Tracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(store)
    tracer = provider.get_tracer("test")
    assert isinstance(tracer, Tracer)
    return tracer


def trace_id(span: trace.Span | ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return format_trace_id(context.trace_id)


def below(parent: trace.Span) -> Context:
    return trace.set_span_in_context(parent)


def remote_parent() -> Context:
    sampled = TraceFlags(TraceFlags.SAMPLED)
    return below(NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=sampled)))


def names(spans: list[ReadableSpan]) -> list[str]:
    return [span.name for span in spans]


def test_a_trace_is_kept_with_its_spans_in_the_order_in_which_they_ended() -> None:
    store = SpanStore()
    tracer = tracer_into(store)
    root = tracer.start_span("root")
    child = tracer.start_span("child", below(root))
    assert store.trace(trace_id(root)) == []
    child.end()
    root.end()
    assert names(store.trace(trace_id(root))) == ["child", "root"]
    assert store.trace(trace_id(root).upper()) == store.trace(trace_id(root))
    assert store.traces_kept == 1


@pytest.mark.parametrize("unknown", ["0" * 31 + "1", "", "not hexadecimal", "é"])
def test_an_unknown_trace_is_empty(unknown: str) -> None:
    store = SpanStore()
    tracer_into(store).start_span("other").end()
    assert store.trace(unknown) == []


def test_a_summary_says_where_the_trace_began_how_long_it_took_and_what_failed() -> None:
    store = SpanStore()
    tracer = tracer_into(store)
    root = tracer.start_span("root", start_time=START)
    early = tracer.start_span("early", below(root), start_time=START + SECOND)
    late = tracer.start_span("late", below(root), start_time=START + 2 * SECOND)
    late.set_status(StatusCode.ERROR, "no")
    late.end(START + 3 * SECOND)
    early.end(START + 4 * SECOND)

    (unfinished,) = store.summaries()
    assert unfinished.root_name == "early"
    assert (unfinished.started_at, unfinished.duration_seconds) == (1_700_000_001.0, 3.0)

    root.end(START + 6 * SECOND)
    (summary,) = store.summaries()
    assert summary.trace_id == trace_id(root)
    assert summary.root_name == "root"
    assert (summary.started_at, summary.duration_seconds) == (1_700_000_000.0, 6.0)
    assert (summary.spans, summary.errors, summary.dropped) == (3, 1, 0)
    assert store.summaries() == [summary]


def test_a_span_whose_parent_is_in_another_process_is_the_root_here() -> None:
    store = SpanStore()
    tracer = tracer_into(store)
    entry = tracer.start_span("entry", remote_parent(), start_time=START + SECOND)
    tracer.start_span("inside", below(entry), start_time=START).end(START + SECOND)
    entry.end(START + 2 * SECOND)
    assert [summary.root_name for summary in store.summaries()] == ["entry"]


def test_the_trace_where_nothing_has_ended_for_longest_is_evicted_first() -> None:
    store = SpanStore(keep_traces=2)
    tracer = tracer_into(store)
    a, b = tracer.start_span("a"), tracer.start_span("b")
    tracer.start_span("in a", below(a)).end()
    b.end()
    a.end()
    tracer.start_span("c").end()
    assert store.trace(trace_id(b)) == []
    assert [summary.root_name for summary in store.summaries()] == ["c", "a"]
    assert [summary.root_name for summary in store.summaries(limit=1)] == ["c"]
    assert (store.traces_kept, store.evicted_traces, store.dropped_spans) == (2, 1, 0)


def test_the_spans_of_all_traces_together_are_bounded_and_the_newest_trace_stays() -> None:
    store = SpanStore(keep_spans=4)
    tracer = tracer_into(store)
    for name in ("first", "second", "third"):
        root = tracer.start_span(name)
        tracer.start_span("child", below(root)).end()
        root.end()
    assert [summary.root_name for summary in store.summaries()] == ["third", "second"]
    large = tracer.start_span("large")
    for _ in range(6):
        tracer.start_span("child", below(large)).end()
    assert [(summary.root_name, summary.spans) for summary in store.summaries()] == [("child", 6)]
    assert store.evicted_traces == 3


@pytest.mark.parametrize("bounds", [{"keep_traces": 3}, {"keep_spans": 3}])
def test_traces_kept_for_a_reason_of_their_own_are_evicted_last(bounds: dict[str, int]) -> None:
    store = SpanStore(**bounds)
    tracer = tracer_into(store)

    def end(name: str, *, failed: bool = False) -> None:
        span = tracer.start_span(name)
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end()

    def roots(*, errors: bool = False) -> list[str]:
        return [summary.root_name for summary in store.summaries(errors=errors)]

    end("failed 0", failed=True)
    for number in range(5):
        end(f"good {number}")
    assert roots() == ["good 4", "good 3", "failed 0"]
    assert roots(errors=True) == ["failed 0"]
    for number in (1, 2, 3):
        end(f"failed {number}", failed=True)
    assert roots() == roots(errors=True) == ["failed 3", "failed 2", "failed 1"], "of these the oldest goes"
    assert (store.traces_kept, store.evicted_traces) == (3, 6)
    assert [summary.root_name for summary in store.summaries(1, errors=True)] == ["failed 3"]


@given(
    st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=40), st.integers(1, 4), st.integers(1, 8)
)
def test_the_bounds_hold_and_no_ordinary_trace_outlives_one_that_must_be_kept(
    ends: list[tuple[int, bool]], keep_traces: int, keep_spans: int
) -> None:
    store = SpanStore(keep_traces=keep_traces, keep_spans=keep_spans)
    tracer = tracer_into(store)
    roots = [tracer.start_span(f"root {number}") for number in range(8)]
    must: set[str] = set()
    for number, failed in ends:
        before = {summary.trace_id for summary in store.summaries()}
        must &= before  # what is evicted is known no more
        span = tracer.start_span("child", below(roots[number]))
        if failed:
            span.set_status(StatusCode.ERROR)
            must.add(trace_id(span))
        span.end()
        after = {summary.trace_id: summary for summary in store.summaries()}
        evicted = (before | {trace_id(span)}) - after.keys()
        if evicted & must:
            assert after.keys() <= must
        assert len(after) <= keep_traces
        assert len(after) == 1 or sum(summary.spans for summary in after.values()) <= keep_spans
        assert store.traces_kept == len(after)


def test_a_full_trace_drops_and_counts_later_spans_but_not_its_root() -> None:
    store = SpanStore(keep_spans_per_trace=3)
    tracer = tracer_into(store)
    root = tracer.start_span("root")
    for number in range(5):
        tracer.start_span(f"child {number}", below(root)).end()
    assert names(store.trace(trace_id(root))) == ["child 0", "child 1", "child 2"]
    assert (store.summaries()[0].dropped, store.dropped_spans) == (2, 2)
    root.end()
    assert names(store.trace(trace_id(root))) == ["child 0", "child 1", "root"]
    (summary,) = store.summaries()
    assert (summary.root_name, summary.spans, summary.dropped) == ("root", 3, 3)
    assert store.dropped_spans == 3


def test_in_a_full_trace_failed_slow_and_marked_spans_displace_others() -> None:
    store = SpanStore(keep_spans_per_trace=4, keep_spans=6, slow_task_seconds=10.0)
    tracer = tracer_into(store)
    root = tracer.start_span("root", start_time=START)

    def end(name: str, *, failed: bool = False, seconds: int = 1, attribute: str = "of no meaning") -> None:
        kind = trace.SpanKind.CONSUMER
        span = tracer.start_span(name, below(root), kind, {attribute: 1}, start_time=START)
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end(START + seconds * SECOND)

    def kept() -> list[str]:
        return names(store.trace(trace_id(root)))

    end("failed 0", failed=True)
    for number in range(4):
        end(f"usual {number}")
    assert kept() == ["failed 0", "usual 0", "usual 1", "usual 2"]
    end("failed 1", failed=True)
    end("slow", seconds=10, attribute=TASK_ATTEMPT)
    end("usual 4")
    end("of user code, as long", seconds=10)
    end("marked", attribute=TRACE_KEEP)
    assert kept() == ["failed 0", "failed 1", "slow", "marked"]
    assert (store.summaries()[0].errors, store.summaries()[0].dropped, store.dropped_spans) == (2, 6, 6)
    end("failed 2", failed=True)
    end("failed 3", failed=True)
    assert kept() == ["failed 0", "failed 1", "slow", "marked", "failed 2", "failed 3"], "it grows for them"
    root.end()
    assert kept() == ["failed 1", "slow", "marked", "failed 2", "failed 3", "root"], (
        "as far as there is room at all"
    )
    assert store.summaries()[0].spans + store.dropped_spans == 13


def test_spans_of_a_trace_that_come_together_are_as_if_one_after_the_other() -> None:
    store = SpanStore(keep_spans_per_trace=2, keep_spans=3)
    several = SpanStore(keep_spans_per_trace=100)
    tracer = tracer_into(several)
    root = tracer.start_span("root")
    for number in range(5):
        span = tracer.start_span(f"failed {number}", below(root))
        span.set_status(StatusCode.ERROR)
        span.end()
    spans = several.trace(trace_id(root))
    store.put(spans[:4], must_keep=True)
    store.put(spans[4:], must_keep=True)
    assert names(store.trace(trace_id(root))) == ["failed 2", "failed 3", "failed 4"]


def test_after_shutdown_nothing_is_taken_and_what_was_kept_stays_readable() -> None:
    store = SpanStore()
    tracer = tracer_into(store)
    before = tracer.start_span("before")
    before.end()
    store.shutdown()
    store.shutdown()
    tracer.start_span("after").end()
    assert [summary.root_name for summary in store.summaries()] == ["before"]
    assert names(store.trace(trace_id(before))) == ["before"]


def test_no_span_is_lost_or_counted_twice_between_threads() -> None:
    store = SpanStore(keep_traces=1, keep_spans_per_trace=1_000)
    tracer = tracer_into(store)
    root = tracer.start_span("root")
    writing = threading.Event()
    writing.set()

    def write() -> None:
        for _ in range(500):
            tracer.start_span("child", below(root)).end()

    def read() -> None:
        while writing.is_set():
            for summary in store.summaries():
                assert summary.spans <= len(store.trace(trace_id(root))) <= 1_000

    with ThreadPoolExecutor(5) as pool:
        reading = pool.submit(read)
        for written in [pool.submit(write) for _ in range(4)]:
            written.result()
        writing.clear()
        reading.result()
    (summary,) = store.summaries()
    assert (summary.spans, summary.dropped, store.dropped_spans) == (1_000, 1_000, 1_000)


@pytest.mark.timeout(method="thread")  # nothing else interrupts a deadlock inside the collector
def test_a_span_that_the_garbage_collector_ends_inside_on_end_does_not_deadlock() -> None:
    """As when it closes a forgotten coroutine in a cycle, whose span ends then and there."""
    store = SpanStore(keep_traces=10)
    tracer = tracer_into(store)
    collected = tracer.start_span("collected")

    def end_a_span(phase: str, info: dict[str, int]) -> None:
        tracer.start_span("in the collector", below(collected)).end()

    thresholds = gc.get_threshold()
    gc.callbacks.append(end_a_span)
    gc.set_threshold(1)  # at every allocation, those under the lock included
    try:
        for _ in range(50):
            tracer.start_span("seen").end()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(end_a_span)
    assert store.traces_kept == 10
    assert "in the collector" in names(store.trace(trace_id(collected)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_f24_a_fork_while_another_thread_holds_the_lock_leaves_the_child_able_to_end_spans() -> None:
    store = SpanStore()
    tracer = tracer_into(store)
    tracer.start_span("parent's").end()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with store._lock:  # as on_end does for a moment
            held.set()
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)  # should it hang
        tracer.start_span("child's").end()
        os._exit([summary.root_name for summary in store.summaries()] != ["child's"])
    release.set()
    holder.join()
    assert os.waitpid(child, 0) == (child, 0)
    assert store.traces_kept == 1


def test_however_many_are_undecided_every_kept_trace_can_be_asked_for() -> None:
    store = SpanStore(keep_traces=3)
    tracer = tracer_into(store)
    for name in "abc":
        tracer.start_span(name).end()
    (open_one,) = store.trace(store.summaries(1)[0].trace_id)

    class Many:
        def ended_spans(self, trace_id: int) -> list[AnySpan]:
            return []

        def newest(self, limit: int) -> list[tuple[int, list[AnySpan]]]:
            return [(number + 1, [open_one]) for number in range(min(limit, 10_000))]

    traces = AllTraces(store, Many())
    found = traces.summaries(traces.keep_traces + MAX_UNDECIDED)
    assert len(found) == 3 + MAX_UNDECIDED
    assert [summary.root_name for summary in found[-3:]] == ["c", "b", "a"]


def test_traces_take_no_more_room_than_they_may_and_large_ones_count_for_more() -> None:
    store = SpanStore(keep_bytes=200_000)
    tracer = tracer_into(store)
    for number in range(200):
        tracer.start_span(f"small {number}").end()
    assert store.bytes <= 200_000
    small = store.traces_kept
    assert small > 50
    for number in range(200):
        tracer.start_span(f"large {number}", attributes={"text": "x" * 5_000}).end()
    assert store.bytes <= 200_000
    assert 20 < store.traces_kept < small
    newest = [summary.root_name for summary in store.summaries(2)]
    assert newest == ["large 199", "large 198"]


def test_a_trace_is_found_by_its_id_among_many() -> None:
    store = SpanStore()
    tracer = tracer_into(store)
    spans = [tracer.start_span(f"one {number}") for number in range(10)]
    for span in spans:
        span.end()
    ids = [trace_id(spans[3]), trace_id(spans[7]), "0" * 32, "no id"]
    assert sorted(one.root_name for one in store.summaries(ids=ids)) == ["one 3", "one 7"]
