"""What `/metrics` writes is what the client's generate_latest writes of the same families, byte for byte."""

import itertools
import math
import threading
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanContext, TraceFlags
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    Metric,
    PlatformCollector,
    ProcessCollector,
    Summary,
)
from prometheus_client.core import GaugeHistogramMetricFamily, UnknownMetricFamily

from qorzen_obs.server.metrics import Variant, render
from qorzen_obs.server.negotiation import OPENMETRICS, TEXT, MediaType
from qorzen_obs.telemetry.cells import HistogramCell
from qorzen_obs.telemetry.exemplars import ExemplarSlot
from qorzen_obs.telemetry.exposition import HistogramReading
from qorzen_obs.telemetry.families import counter, gauge, histogram
from qorzen_obs.telemetry.names import MetricName
from tests.both_texts import Collected, assert_same, by_both
from tests.support import PATIENCE_SECONDS

GAUGE = MetricName("gauge", "temperature", 'Of the "room".', ("room", "a_side"))
COUNTER = MetricName("counter", "doors", "Opened \\ closed\nor both.", ("door",))
SECONDS = MetricName("histogram", "wait_seconds", "For these tests.", ("zone", "kind"), (0.1, 1, 10, 2e6))
BARE = MetricName("histogram", "lag_seconds", "Without labels.", (), (0.5,))

FORMATS = pytest.mark.parametrize("media_type", [TEXT, OPENMETRICS], ids=lambda media_type: media_type.name)
HOSTILE = (
    "",
    "plain",
    'a "quoted" one',
    "back\\slash\\n",
    "two\nlines",
    "\r\x85\u2028 which splitlines splits at",
    "%d %s %(a)s {0} {le}",
    "# EOF\n",
    "\N{SNOWMAN}\N{PILE OF POO}",
)
NUMBERS = (
    0,
    -0.0,
    1,
    True,
    0.1,
    1e-7,
    5e-324,
    999_999,
    999_999.5,
    1_000_000,
    1_234_567.875,
    1e15,
    1e16,
    1.5e300,
    -1,
    -2.5e6,
    math.inf,
    -math.inf,
    math.nan,
    10**18,
)


def span(number: int) -> SpanContext:
    return SpanContext(number << 40 | 0xABC, number, is_remote=False, trace_flags=TraceFlags(1))


class Told(HistogramCell):
    """A cell that has counted what it is told."""

    def __init__(self, labels: tuple[str, ...], counts: list[int], total: float) -> None:
        super().__init__(SECONDS, labels)
        self.counts, self.total = counts, total

    def read(self) -> HistogramReading:
        return HistogramReading(list(self.counts), self.total, [])


@FORMATS
@pytest.mark.parametrize("value", NUMBERS)
def test_numbers_are_written_as_the_client_writes_them(media_type: MediaType, value: float) -> None:
    degrees, doors, waits = gauge(GAUGE), counter(COUNTER), histogram(SECONDS)
    degrees.add_metric(("kitchen", "north"), value)
    doors.add_metric(("front",), value)
    waits.add(Told(("a", "b"), [1, 2, 0, 4, 5], value))
    assert_same((degrees, doors, waits), media_type)


@FORMATS
@pytest.mark.parametrize("first", [0, 999_998, 999_999, 1_000_000, 123_456_789, 10**17])
def test_so_are_counts_that_pass_a_million_within_one_histogram(media_type: MediaType, first: int) -> None:
    waits = histogram(SECONDS)
    waits.add(Told(("a", "b"), [first, 1, 0, 1, 2], 3.5))
    assert_same((waits,), media_type)


@FORMATS
def test_label_values_are_escaped_as_the_client_escapes_them(media_type: MediaType) -> None:
    degrees, doors, waits, slot = gauge(GAUGE), counter(COUNTER), histogram(SECONDS), ExemplarSlot()
    slot.put(span(1), 1.0, 1234.5)
    for one, other in itertools.product(HOSTILE, repeat=2):
        degrees.add_metric((one, other), 1.5)
        cell = HistogramCell(SECONDS, (one, other))
        cell.observe(0.5)
        cell.slot(0.5).put(span(2), 0.5, 1234.5)
        waits.add(cell)
    for one in HOSTILE:
        doors.add_metric((one,), 3, exemplar=slot.read())
    assert_same((degrees, doors, waits), media_type)


@FORMATS
@pytest.mark.parametrize("value", NUMBERS)
def test_exemplars_are_written_as_the_client_writes_them(media_type: MediaType, value: float) -> None:
    doors, waits, slot = counter(COUNTER), histogram(BARE), ExemplarSlot()
    slot.put(span(7), value, 1_764_096_000.125)
    doors.add_metric(("front",), 1, exemplar=slot.read())
    cell = HistogramCell(BARE)
    cell.slot(value).put(span(7), value, 1_764_096_000.125)
    waits.add(cell)
    assert_same((doors, waits), media_type)


@FORMATS
def test_families_without_a_series_have_their_head(media_type: MediaType) -> None:
    assert_same((gauge(GAUGE), counter(COUNTER), histogram(SECONDS)), media_type)


@FORMATS
def test_what_others_collect_stands_where_it_did(media_type: MediaType) -> None:
    registry = CollectorRegistry(target_info={"service": "a"})
    Counter("theirs_before", "Has _created.", ["label"], registry=registry).labels("x").inc(
        exemplar={"id": "1"}
    )
    ours = Ours()
    registry.register(ours)
    Histogram("theirs_after", "Has _created.", registry=registry).observe(3)
    Summary("theirs_sum", "Says # EOF\n", registry=registry).observe(3)
    Info("theirs_about", "Info.", registry=registry).info({"version": "1"})
    registry.register(
        Collected(
            [
                UnknownMetricFamily("theirs_unknown", "Untyped.", 1.0),
                GaugeHistogramMetricFamily("theirs_gauges", "Gauges.", [("1", 2), ("+Inf", 3)], 4.0),
            ]
        )
    )
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    ours_lines, theirs_lines = by_both(registry, media_type)
    assert ours_lines == theirs_lines
    assert any(line.startswith(b"wait_seconds_sum") for line in ours_lines)


@FORMATS
def test_a_registry_that_is_restricted_to_some_names_is_too(media_type: MediaType) -> None:
    registry, ours = CollectorRegistry(), Ours()
    registry.register(ours)
    ours.cell.observe(3)
    ours_lines, theirs_lines = by_both(registry.restricted_registry(["wait_seconds_sum"]), media_type)
    assert ours_lines == theirs_lines
    assert any(line.startswith(b"wait_seconds_sum") for line in ours_lines)


class Ours:
    """A collector with something of everything."""

    def __init__(self) -> None:
        self.cell, self.other = HistogramCell(SECONDS, ("a", "b")), HistogramCell(SECONDS, ("c", "d"))
        self.opened = ExemplarSlot()
        self.doors = 0

    def describe(self) -> Iterable[Metric]:
        return self.collect()

    def collect(self) -> list[Metric]:
        doors, waits, degrees = counter(COUNTER), histogram(SECONDS), gauge(GAUGE)
        doors.add_metric(("front",), self.doors, exemplar=self.opened.read())
        waits.add(self.cell)
        waits.add(self.other)
        degrees.add_metric(("kitchen", "north"), self.doors / 7)
        return [doors, waits, degrees]


def observe(ours: Ours, value: float, number: int) -> None:
    ours.cell.observe(value)


def observe_other(ours: Ours, value: float, number: int) -> None:
    ours.other.observe(value)


def observe_nothing_new(ours: Ours, value: float, number: int) -> None:
    ours.cell.observe(0.0)  # which a sum alone would not show


def keep_trace(ours: Ours, value: float, number: int) -> None:
    ours.cell.slot(value).put(span(number), value, 1000.0 + number)


def open_door(ours: Ours, value: float, number: int) -> None:
    ours.doors += 1
    ours.opened.put(span(number), 1.0, 1000.0 + number)


def wait(ours: Ours, value: float, number: int) -> None:
    """Nothing happens between two scrapes."""


Step = Callable[[Ours, float, int], None]
STEPS: list[Step] = [observe, observe_other, observe_nothing_new, keep_trace, open_door, wait]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(STEPS),
            st.sampled_from([0.0, 0.05, 0.1, 3.0, 11.5, 5e6, math.inf, math.nan]) | st.floats(0, 20),
            st.sampled_from([None, TEXT, OPENMETRICS]),
        ),
        max_size=30,
    )
)
def test_what_is_kept_from_an_earlier_scrape_is_never_old(
    steps: list[tuple[Step, float, MediaType | None]],
) -> None:
    ours = Ours()
    for number, (step, value, scraped) in enumerate(steps, 1):
        step(ours, value, number)
        if scraped is not None:
            assert_same(ours.collect(), scraped)
    assert_same(ours.collect(), TEXT)
    assert_same(ours.collect(), OPENMETRICS)


def test_a_histogram_that_has_not_changed_is_not_written_again() -> None:
    cell = HistogramCell(SECONDS, ("a", "b"))
    cell.observe(3.0)
    cell.slot(3.0).put(span(1), 3.0, 1000.0)
    before = {exemplars: cell.text.write(cell.read(), exemplars=exemplars) for exemplars in (False, True)}
    for exemplars in (True, False):
        assert cell.text.write(cell.read(), exemplars=exemplars) is before[exemplars]
    cell.slot(3.0).put(span(2), 3.0, 1001.0)
    assert cell.text.write(cell.read(), exemplars=False) is before[False], "which shows no exemplars"
    assert cell.text.write(cell.read(), exemplars=True) != before[True]


@FORMATS
def test_a_family_is_of_the_moment_at_which_it_was_collected(media_type: MediaType) -> None:
    ours = Ours()
    earlier = ours.collect()
    text = by_both(Collected(earlier), media_type)
    again = ours.collect()
    ours.cell.observe(3.0)
    ours.cell.slot(3.0).put(span(1), 3.0, 1000.0)
    by_both(Collected(ours.collect()), media_type)
    assert by_both(Collected(earlier), media_type) == text
    assert by_both(Collected(again), media_type) == text, "nobody had looked at these before"


def test_who_asks_a_family_for_its_samples_gets_the_same_list_each_time() -> None:
    doors = counter(COUNTER)
    doors.add_metric(("front",), 2)
    assert doors.samples is doors.samples
    assert [sample.value for sample in doors.samples] == [2]


def test_renders_in_two_threads_agree_with_themselves_while_another_counts() -> None:
    ours, stop = Ours(), threading.Event()
    bodies: list[tuple[bytes, bytes]] = []

    def scrape(media_type: MediaType) -> None:
        while not stop.is_set():
            body = render(Collected(list(ours.collect())).gather, Variant(media_type, compressed=False)).body
            lines = [line.rsplit(b"#")[0].split() for line in body.split(b"\n") if b'kind="b"' in line]
            *_, last, count, _ = [line[1] for line in lines]
            bodies.append((last, count))

    threads = [threading.Thread(target=scrape, args=(media_type,)) for media_type in (TEXT, OPENMETRICS)]
    for thread in threads:
        thread.start()
    for number in range(20_000):
        observe(ours, number % 13, number)
        keep_trace(ours, number % 13, number)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
    assert bodies
    assert all(last == count for last, count in bodies)
    assert_same(ours.collect(), TEXT)
    assert_same(ours.collect(), OPENMETRICS)
