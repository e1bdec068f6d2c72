"""What counting one task costs on the work plane, and reading it all at scrape, next to the client's own objects.

The peer holds the same metrics as labelled Counter and Histogram objects of prometheus_client, used as its documents
show: labels() at each event. Both count the same events; the ratio within one run is the figure.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.counts import CELL_OF
from qorzen_obs.record import TaskEvent, TaskRecord, TaskState
from qorzen_obs.tasks import EventKind, TaskCategory, TaskPriority, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.testing import CapturedEvents, CapturedLogs
from tests.support import record

EVENTS = 20_000
ROUNDS = 5
KINDS = [(category, priority) for category in TaskCategory for priority in TaskPriority]


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


def _peer_histogram(metric: names.MetricName, registry: CollectorRegistry) -> Histogram:
    return Histogram(metric.name, "x", metric.labels, buckets=metric.buckets, registry=registry)


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


class _Nowhere:
    async def get(self, key: str, default: object) -> object:
        """There is no configuration."""
        return default


def main() -> None:
    """Print the table."""
    records = _records()
    events = [
        TaskEvent(n, EventKind.COMPLETED, 1.0, one, one.state, one.progress) for n, one in enumerate(records)
    ]
    manager = TaskManager(_Nowhere(), CapturedEvents(), CapturedLogs(), _Nowhere())
    manager.registry.register(manager.metrics)
    peer = Peer()

    def ours() -> None:
        counts, on_event = manager.counts, manager.metrics.on_event
        for event in events:
            cell = event.record.cell
            counts.accept(cell)
            counts.move(cell, TaskStatus.PENDING, TaskStatus.RUNNING)
            counts.move(cell, TaskStatus.RUNNING, TaskStatus.COMPLETED)
            on_event(event)

    def theirs() -> None:
        for one in records:
            peer.count(one)

    print(f"Cost of the metrics: median of {ROUNDS} rounds of {EVENTS:,} tasks, all {len(KINDS)} kinds")
    _row("count one task", ours, theirs, EVENTS)
    _row(
        "read and render",
        lambda: generate_latest(manager.registry),
        lambda: generate_latest(peer.registry),
        1,
    )
    print("Ours renders the whole catalogue, the peer four of its metrics.")


def _row(what: str, ours: Callable[[], object], theirs: Callable[[], object], times: int) -> None:
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(ROUNDS)]
    our_us, their_us = (statistics.median(column) / times * 1e6 for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{what:18}{our_us:>10.1f} µs   the client's objects {their_us:>8.1f} µs   ratio {ratio:.2f}")


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
