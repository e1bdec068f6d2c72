"""What counting one task costs on the work plane, and a scrape, next to the client's own objects.

The peer of the counting holds the same metrics as labelled Counter and Histogram objects of prometheus_client, used as
its documents show: labels() at each event. The peer of the scrape holds the same histograms with the same values and
writes the same bytes. All is processor time; the ratio within one run is the figure.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from opentelemetry.trace import SpanContext
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.counts import CELL_OF
from qorzen_obs.record import End, TaskRecord, TaskState
from qorzen_obs.server.metrics import Variant, render
from qorzen_obs.server.negotiation import OPENMETRICS, TEXT, MediaType
from qorzen_obs.tasks import EventKind, TaskCategory, TaskPriority, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.cells import HistogramCell
from qorzen_obs.telemetry.collector import TaskMetricsCollector
from qorzen_obs.telemetry.families import histogram
from qorzen_obs.testing import CapturedEvents, CapturedLogs
from tests.support import attempt, record

EVENTS = 20_000
ROUNDS = 5
SCRAPES = 21
KINDS = [(category, priority) for category in TaskCategory for priority in TaskPriority]
#: As of `qorzen_tasks`: 6 categories, 4 priorities, 5 statuses.
LABEL_SETS = [(c.value, p.label, status.value) for c, p in KINDS for status in TaskStatus]
#: Some of ours, each with its own bounds, all by the same labels.
HISTOGRAMS = [
    dataclasses.replace(metric, labels=names.TASKS.labels)
    for metric in (names.RUN_DURATION, names.QUEUE_WAIT, names.HTTP_DURATION)
]


class Peer:
    """The same counts by the client's objects."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._submitted = Counter(
            names.TASKS_SUBMITTED.name, "x", names.TASKS_SUBMITTED.labels, registry=self.registry
        )
        self._finished = Counter(
            names.TASKS_FINISHED.name, "x", names.TASKS_FINISHED.labels, registry=self.registry
        )
        self._duration = _peer_histogram(names.RUN_DURATION, self.registry)
        self._wait = _peer_histogram(names.QUEUE_WAIT, self.registry)

    def count(self, one: TaskRecord) -> None:
        """Count one task from its submission to its end."""
        category, priority, status = one.category.value, one.priority.label, one.state.status.value
        self._submitted.labels(category, priority).inc()
        self._finished.labels(category, priority, status).inc()
        self._duration.labels(category, priority, status).observe(one.state.duration_seconds or 0.0)
        self._wait.labels(category, priority).observe(one.state.queue_wait_seconds or 0.0)


class OurHistograms:
    """HISTOGRAMS by LABEL_SETS in cells."""

    def __init__(self) -> None:
        self._cells = [[HistogramCell(metric, labels) for labels in LABEL_SETS] for metric in HISTOGRAMS]
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def change(self, scrape: int, each: int, *, exemplars: bool) -> None:
        """Observe once in every `each`-th histogram."""
        for cells in self._cells:
            for index in range(scrape % each, len(cells), each):
                value = _observed(scrape, index)
                cells[index].observe(value)
                if exemplars:
                    span = SpanContext(index + 1, scrape + 1, is_remote=False)
                    cells[index].slot(value).put(span, value, time.time())

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        for metric, cells in zip(HISTOGRAMS, self._cells, strict=True):
            family = histogram(metric)
            for cell in cells:
                family.add(cell)
            yield family


class TheirHistograms:
    """The same in the client's objects."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        families = [_peer_histogram(metric, self.registry) for metric in HISTOGRAMS]
        self._children = [[family.labels(*labels) for labels in LABEL_SETS] for family in families]

    def change(self, scrape: int, each: int, *, exemplars: bool) -> None:
        """Observe once in every `each`-th histogram."""
        for children in self._children:
            for index in range(scrape % each, len(children), each):
                span = {"trace_id": f"{index + 1:032x}", "span_id": f"{scrape + 1:016x}"}
                children[index].observe(_observed(scrape, index), span if exemplars else None)


def _observed(scrape: int, index: int) -> float:
    return (scrape * 31 + index * 7) % 997 / 100


def _peer_histogram(metric: names.MetricName, registry: CollectorRegistry) -> Histogram:
    return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)


def _records() -> list[TaskRecord]:
    records = []
    for number in range(EVENTS):
        category, priority = KINDS[number % len(KINDS)]
        one = record(category=category, priority=priority, cell=CELL_OF[category, priority])
        one.state = TaskState(
            TaskStatus.COMPLETED, duration_seconds=number % 97 / 50, queue_wait_seconds=number % 31 / 100
        )
        records.append(one)
    return records


def _ends(records: list[TaskRecord]) -> list[End]:
    return [End(EventKind.COMPLETED, 1.0, one, one.state, attempt(one), None) for one in records]


class _Nowhere:
    async def get(self, key: str, default: object) -> object:
        """There is no configuration."""
        return default


def _manager() -> TaskManager:
    nowhere: Any = _Nowhere()
    return TaskManager(nowhere, CapturedEvents(), CapturedLogs(), nowhere)


def main() -> None:
    """Print the table."""
    records = _records()
    ends = _ends(records)
    manager = _manager()
    peer = Peer()

    def ours() -> None:
        counts, metrics = manager.looks.counts, manager.looks.metrics
        for end in ends:
            cell, waited = end.record.cell, end.state.queue_wait_seconds or 0.0
            counts.accept(cell)
            counts.move(cell, TaskStatus.PENDING, TaskStatus.RUNNING)
            metrics.wait_peaks[cell].add(0.0, waited)
            metrics.queue_wait[cell].observe(waited)
            counts.move(cell, TaskStatus.RUNNING, TaskStatus.COMPLETED)
        metrics.on_ends(ends)

    def theirs() -> None:
        for one in records:
            peer.count(one)

    print(f"Cost of the metrics: median of {ROUNDS} rounds of {EVENTS:,} tasks, all {len(KINDS)} kinds")
    _row("count one task", ours, theirs, EVENTS)
    print()
    _scrapes()


def _scrapes() -> None:
    disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs; the series are then the same
    one, other = OurHistograms(), TheirHistograms()
    assert _render(one.registry, TEXT) == _generate(other.registry, TEXT)
    print(
        f"A scrape of {len(HISTOGRAMS)} histograms by {len(LABEL_SETS)} label sets, {SCRAPES} rounds, in ms"
    )
    for media_type, exemplars in ((TEXT, False), (OPENMETRICS, True)):
        for each, changed in ((1, "all"), (10, "1 in 10")):

            def change(number: int, each: int = each, exemplars: bool = exemplars) -> None:
                one.change(number, each, exemplars=exemplars)
                other.change(number, each, exemplars=exemplars)

            what = f"{media_type.name.split('/')[1]}, {changed} changed"
            _scrape_row(what, media_type, one.registry, other.registry, change)

    registry = CollectorRegistry()
    manager = _manager()
    registry.register(TaskMetricsCollector(manager.looks.metrics, manager.looks))
    ends = _ends(_records()[: len(KINDS)])
    for end in ends:
        manager.looks.counts.accept(end.record.cell)

    def end_one_of_each(_: int) -> None:
        manager.looks.metrics.on_ends(ends)

    _scrape_row("the whole catalogue", TEXT, registry, registry, end_one_of_each)
    print("In the last row the client writes what our collector collects, as it did for us before.")


def _scrape_row(
    what: str,
    media_type: MediaType,
    ours: CollectorRegistry,
    theirs: CollectorRegistry,
    change: Callable[[int], None],
) -> None:
    pairs = []
    for number in range(SCRAPES):
        change(number)
        ms = _seconds(lambda: _render(ours, media_type)) * 1e3
        pairs.append((ms, _seconds(lambda: _generate(theirs, media_type)) * 1e3))
    ratio = statistics.median(a / b for a, b in pairs)
    columns = [
        f"median {statistics.median(column):6.2f} min {min(column):6.2f}"
        for column in zip(*pairs, strict=True)
    ]
    print(f"{what:36}{columns[0]}   the client {columns[1]}   ratio {ratio:.3f}")


def _render(registry: CollectorRegistry, media_type: MediaType) -> bytes:
    return render(lambda write: map(write, registry.collect()), Variant(media_type, compressed=False)).body


def _generate(registry: CollectorRegistry, media_type: MediaType) -> bytes:
    write: Callable[[CollectorRegistry], bytes] = (
        generate_openmetrics if media_type is OPENMETRICS else generate_latest
    )
    return write(registry)


def _row(what: str, ours: Callable[[], object], theirs: Callable[[], object], times: int) -> None:
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(ROUNDS)]
    our_us, their_us = (statistics.median(column) / times * 1e6 for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{what:18}{our_us:>10.1f} µs   the client's objects {their_us:>8.1f} µs   ratio {ratio:.2f}")


def _seconds(run: Callable[[], object]) -> float:
    started = time.thread_time()  # of this thread's processor: what else the machine does is not in it
    run()
    return time.thread_time() - started
