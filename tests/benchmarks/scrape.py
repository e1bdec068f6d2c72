"""One scrape of 120 label sets with three histograms each: ours from cells, and the client's own objects.

Both show the same series with the same values, and every one has changed since the scrape before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, Metric, disable_created_metrics, generate_latest
from prometheus_client.registry import Collector

from qorzen_obs.server.metrics import Variant, render
from qorzen_obs.server.negotiation import TEXT
from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.cells import HistogramCell
from qorzen_obs.telemetry.families import histogram
from tests.benchmarks.script import Measured, Stopwatch

#: As of `qorzen_tasks`: 6 categories, 4 priorities, 5 statuses.
LABEL_SETS: Final = [
    (category.value, priority.label, status.value)
    for category in TaskCategory
    for priority in TaskPriority
    for status in TaskStatus
]
#: Some of ours, each with its own bounds, all by the same labels.
HISTOGRAMS: Final = [
    dataclasses.replace(metric, labels=names.TASKS.labels)
    for metric in (names.RUN_DURATION, names.QUEUE_WAIT, names.HTTP_DURATION)
]


class _Cells(Collector):
    def __init__(self) -> None:
        self.cells = [[HistogramCell(metric, labels) for labels in LABEL_SETS] for metric in HISTOGRAMS]

    def collect(self) -> Iterator[Metric]:
        for metric, cells in zip(HISTOGRAMS, self.cells, strict=True):
            family = histogram(metric)
            for cell in cells:
                family.add(cell)
            yield family


async def ours(scrapes: int) -> Measured:
    """Render what /metrics answers with."""
    registry, collector, variant = CollectorRegistry(), _Cells(), Variant(TEXT, compressed=False)
    registry.register(collector)
    observe = [cell.observe for cells in collector.cells for cell in cells]
    return _scrape(
        scrapes, observe, lambda: render(lambda write: map(write, registry.collect()), variant).body
    )


async def client(scrapes: int) -> Measured:
    """Render the client's objects by its own generate_latest, without the series that say when they were made."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs
    registry = CollectorRegistry()
    families = [
        Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
        for metric in HISTOGRAMS
    ]
    observe = [family.labels(*labels).observe for family in families for labels in LABEL_SETS]
    return _scrape(scrapes, observe, lambda: generate_latest(registry))


def _scrape(scrapes: int, observe: Sequence[Callable[[float], None]], make: Callable[[], bytes]) -> Measured:
    seconds = cpu_seconds = 0.0
    text = b""
    for number in range(scrapes):
        for index, one in enumerate(observe):
            one((number * 31 + index * 7) % 997 / 100)
        with Stopwatch() as watch:
            text = make()
        seconds += watch.seconds
        cpu_seconds += watch.cpu_seconds
    facts = {"bytes": len(text), "series": text.count(b"\n") - text.count(b"\n#")}
    return Measured(seconds / scrapes * 1e3, cpu_seconds / scrapes * 1e3, facts)
