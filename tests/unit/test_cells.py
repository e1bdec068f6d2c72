"""The cells: histograms and capped counters, as Prometheus reads them."""

import math
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanContext, TraceFlags

from qorzen_obs.telemetry.cells import CappedCounter, HistogramCell
from qorzen_obs.telemetry.exposition import shown_bounds
from qorzen_obs.telemetry.names import MetricName

SECONDS = MetricName("histogram", "seconds", "For these tests.", (), (0.1, 1, 10))


def buckets(cell: HistogramCell) -> dict[str, float]:
    return dict(zip(shown_bounds(SECONDS), accumulate(cell.read().counts), strict=True))


def test_an_empty_histogram_has_all_its_buckets() -> None:
    cell = HistogramCell(SECONDS)
    assert (buckets(cell), cell.read().total, cell.count) == (
        {"0.1": 0, "1.0": 0, "10.0": 0, "+Inf": 0},
        0.0,
        0,
    )


def test_a_value_on_a_bound_belongs_below_it() -> None:
    cell = HistogramCell(SECONDS)
    for value in (0.1, 1.0, 10.0, 10.1):
        cell.observe(value)
    assert buckets(cell) == {"0.1": 1, "1.0": 2, "10.0": 3, "+Inf": 4}


@given(st.lists(st.floats(0, 100)))
def test_buckets_are_cumulative_and_count_everything(values: list[float]) -> None:
    cell = HistogramCell(SECONDS)
    for value in values:
        cell.observe(value)
    assert cell.count == len(values)
    assert math.isclose(cell.read().total, math.fsum(values), abs_tol=1e-6)
    for bound, n in buckets(cell).items():
        assert n == sum(value <= float(bound.replace("+Inf", "inf")) for value in values)


def test_each_bucket_keeps_the_newest_span_with_its_value_and_time() -> None:
    cell = HistogramCell(SECONDS)
    for span_id, value, at in ((1, 0.05, 1001.0), (2, 0.06, 1002.0), (4, 0.04, 1000.0), (3, 5.0, 1003.0)):
        span = SpanContext(0xABC, span_id, is_remote=False, trace_flags=TraceFlags(1))
        cell.observe(value)
        cell.slot(value).put(span, value, at)
    cell.observe(0.07)
    first, second, *others = cell.read().exemplars
    assert (second, others[1:]) == (None, [None])
    assert first is not None
    assert first.labels == {"trace_id": f"{0xABC:032x}", "span_id": f"{2:016x}"}
    assert (first.value, first.timestamp) == (0.06, 1002.0)
    assert others[0] is not None
    assert others[0].value == 5.0


def test_a_capped_counter_folds_what_is_too_much_into_other_and_counts_the_folding() -> None:
    counter = CappedCounter(3)
    for number in range(5):
        for _ in range(number + 1):
            counter.add(("io",), f"type {number}")
    counted = dict(counter.read())
    assert counted == {
        ("io", "type 0"): 1,
        ("io", "type 1"): 2,
        ("io", "type 2"): 3,
        ("io", "_other"): 4 + 5,
    }
    assert counter.overflowed == 4 + 5


@given(st.lists(st.tuples(st.sampled_from(["io", "ui"]), st.text(max_size=3))))
def test_a_capped_counter_is_bounded_and_loses_no_count(labels: list[tuple[str, str]]) -> None:
    counter = CappedCounter(4)
    for fixed, free in labels:
        counter.add((fixed,), free)
    counted = dict(counter.read())
    assert sum(counted.values()) == len(labels)
    assert len(counted) <= 4 + 2
    for fixed in ("io", "ui"):
        mine = [n for (label, _), n in counted.items() if label == fixed]
        assert sum(mine) == [label for label, _ in labels].count(fixed)


def test_a_capped_counter_knows_which_labels_were_there_at_a_moment() -> None:
    counter = CappedCounter(2)
    for at, kind in enumerate(("a", "b", "a", "c", "d")):
        counter.add(("io",), kind, float(at))
    assert [labels for labels, _ in counter.read()] == [("io", "a"), ("io", "b"), ("io", "_other")]
    assert [counter.known_at(at) for at in (-1.0, 0.0, 2.0, 3.0, 9.0)] == [0, 1, 2, 3, 3]
