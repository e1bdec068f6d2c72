"""Shows the task metrics to a scraper: what was counted, and the state at that moment.

`qorzen_tasks`, `…_submitted` and `…_finished` come from the cells that `status()` reads, all from one reading, so
that they cannot disagree.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, Protocol

from prometheus_client import Metric
from prometheus_client.core import InfoMetricFamily, StateSetMetricFamily
from prometheus_client.registry import Collector

from qorzen_obs.counts import CATEGORIES, CELL_LABELS, CELL_OF, CELLS, TaskCounts
from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.families import NewcomersFamily, counter, gauge, histogram
from qorzen_obs.telemetry.metrics import TaskMetrics
from qorzen_obs.telemetry.peaks import RECENT_SECONDS

#: For a scraper that has not come before, an error type younger than this counts as new, as it may have missed the
#: first failure. An older one is history: shown as 0 first, it would look like a burst.
NEWS_SECONDS: Final = 300.0

Ages = Mapping[tuple[TaskCategory, TaskPriority], float]


class MetricsSource(Protocol):
    """The source that is read at scrape, from any thread."""

    @property
    def counts(self) -> TaskCounts: ...
    @property
    def version(self) -> str: ...
    def oldest_pending_ages(self) -> Ages: ...
    def oldest_running_ages(self) -> Ages: ...
    def abandoned_by_category(self) -> Mapping[TaskCategory, int]: ...
    def slots(self) -> Mapping[str, Mapping[str, int]]: ...
    def queue_limit(self) -> int: ...
    @property
    def paused(self) -> Collection[TaskCategory]: ...
    def service_states(self) -> Mapping[str, bool]: ...
    def loop_blocked_by_category(self) -> Mapping[str, float]: ...


class HistorySource(Protocol):
    """What is read of a durable history at scrape, from any thread."""

    def status(self) -> Mapping[str, Any]: ...
    def lost_by_category(self) -> Mapping[TaskCategory, int]: ...


class TaskMetricsCollector(Collector):
    """All metrics of one manager. Register it with one CollectorRegistry.

    Args:
        read_lost: returns the losses that others count, by kind of `qorzen_events_dropped`.
        history: the durable history; None if tasks are only in memory.
    """

    def __init__(
        self,
        metrics: TaskMetrics,
        source: MetricsSource,
        read_lost: Callable[[], Mapping[str, int]] = dict,
        history: HistorySource | None = None,
    ) -> None:
        self._metrics = metrics
        self._source = source
        self._read_lost = read_lost
        self._history = history

    def describe(self) -> Iterator[Metric]:
        """Tell the registry the names, so that it refuses another manager's."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Yield every family; from any thread."""
        by_cell = self._source.counts.read().by_cell
        yield from self._collect_counts(by_cell)
        begun = self._metrics.registered_cells | {
            CELL_OF[category, priority] for (category, priority, _), n in by_cell.items() if n
        }
        yield from self._collect_waits(sorted(begun))
        yield from self._collect_durations(sorted(begun))
        yield from self._collect_definitions()
        yield from self._collect_ends()
        yield from self._collect_state()
        yield from self._collect_observation()
        yield from self._collect_history()

    def _collect_counts(
        self, by_cell: Mapping[tuple[TaskCategory, TaskPriority, TaskStatus], int]
    ) -> Iterator[Metric]:
        tasks = gauge(names.TASKS)
        submitted, finished = counter(names.TASKS_SUBMITTED), counter(names.TASKS_FINISHED)
        accepted: Counter[tuple[str, str]] = Counter()
        for (category, priority, status), n in by_cell.items():
            labels = (category.value, priority.label)
            tasks.add_metric((*labels, status.value), n)
            accepted[labels] += n
            if status.final:
                exemplar = (
                    self._metrics.finished_exemplars[status][CELL_OF[category, priority]].read()
                    if n
                    else None
                )
                finished.add_metric((*labels, status.value), n, exemplar=exemplar)
        for labels, n in accepted.items():
            submitted.add_metric(labels, n)
        rejected = counter(names.TASKS_REJECTED)
        for (cell, reason), n in list(self._metrics.rejected_by_cell.items()):
            rejected.add_metric((*CELL_LABELS[cell], reason), n)
        yield from (tasks, submitted, rejected, finished)

    # The histograms are by far the most lines. Only kinds of tasks that exist are shown, given as cells.

    def _collect_waits(self, begun: Collection[int]) -> Iterator[Metric]:
        metrics, since = self._metrics, self._metrics.monotonic() - RECENT_SECONDS
        wait, cancelled = histogram(names.QUEUE_WAIT), histogram(names.CANCELLED_WAIT)
        for cell in begun:
            cancelled.add(metrics.cancelled_wait[cell])  # first: each of these is also among the others
            wait.add(metrics.queue_wait[cell])
        longest = gauge(names.QUEUE_WAIT_MAX)
        for labels, peak in zip(CELL_LABELS, metrics.wait_peaks, strict=True):
            longest.add_metric(labels, peak.since(since))
        yield from (wait, longest, cancelled)

    def _collect_durations(self, begun: Collection[int]) -> Iterator[Metric]:
        metrics, since = self._metrics, self._metrics.monotonic() - RECENT_SECONDS
        run, attempt = histogram(names.RUN_DURATION), histogram(names.ATTEMPT_DURATION)
        for cell in begun:
            for of_status in metrics.run_duration.values():
                run.add(of_status[cell])
        for category in sorted({CELLS[cell][0] for cell in begun}):
            for of_outcome in metrics.attempt_duration.values():
                attempt.add(of_outcome[category])
        longest = gauge(names.RUN_MAX)
        for labels, peak in zip(CELL_LABELS, metrics.run_peaks, strict=True):
            longest.add_metric(labels, peak.since(since))
        yield from (run, longest, attempt)

    def _collect_definitions(self) -> Iterator[Metric]:
        tasks, run = counter(names.DEFINITION_TASKS), histogram(names.DEFINITION_RUN_DURATION)
        definitions = self._metrics.definitions
        for cell in [] if definitions is None else list(definitions.cells.values()):
            run.add(cell.run_duration)
            for status, n in cell.ended.items():
                tasks.add_metric((cell.name, status.value), n)
        yield from (tasks, run)

    def _collect_ends(self) -> Iterator[Metric]:
        metrics = self._metrics
        never_started = counter(names.NEVER_STARTED)
        for status, by_cell in metrics.never_started.items():
            for labels, n in zip(CELL_LABELS, by_cell, strict=True):
                never_started.add_metric((*labels, status.value), n)
        retries, phases = counter(names.TASK_RETRIES), counter(names.PHASE_SECONDS)
        for cell, labels in enumerate(CELL_LABELS):
            retries.add_metric(labels, metrics.retries[cell])
            for phase, seconds in list(metrics.phase_seconds[cell].items()):
                phases.add_metric((*labels, phase), seconds)
        settled = metrics.errors.known_at(metrics.monotonic() - NEWS_SECONDS)
        errors, overflow = NewcomersFamily(names.TASK_ERRORS, settled), counter(names.LABEL_OVERFLOW)
        for error_labels, n in metrics.errors.read():
            errors.add_metric(error_labels, n)
        overflow.add_metric(("error_type",), metrics.errors.overflowed)
        overflow.add_metric(("definition",), metrics.definitions.folded if metrics.definitions else 0)
        latency = histogram(names.CANCEL_LATENCY)
        for histogram_cell in list(metrics.cancel_latency.values()):
            latency.add(histogram_cell)
        success = gauge(names.LAST_SUCCESS)
        for category, at in list(metrics.last_success.items()):
            success.add_metric((category.value,), at)
        yield from (never_started, phases, retries, errors, overflow, latency, success)

    def _collect_state(self) -> Iterator[Metric]:
        source = self._source
        for name, ages in (
            (names.OLDEST_PENDING, source.oldest_pending_ages()),
            (names.OLDEST_RUNNING, source.oldest_running_ages()),
        ):
            family = gauge(name)
            for category, priority in CELLS:
                family.add_metric((category.value, priority.label), ages.get((category, priority), 0.0))
            yield family
        abandoned, by_category = gauge(names.TASKS_ABANDONED), source.abandoned_by_category()
        for category in CATEGORIES:
            abandoned.add_metric((category.value,), by_category.get(category, 0))
        slots, busy = gauge(names.ENGINE_SLOTS), gauge(names.ENGINE_SLOTS_BUSY)
        for engine, facts in source.slots().items():
            slots.add_metric((engine,), facts["limit"])
            busy.add_metric((engine,), facts["busy"])
        limit = gauge(names.QUEUE_LIMIT)
        limit.add_metric((), source.queue_limit())
        paused, categories = gauge(names.CATEGORY_PAUSED), source.paused
        for category in CATEGORIES:
            paused.add_metric((category.value,), category in categories)
        state = StateSetMetricFamily(names.SERVICE_STATE.name, names.SERVICE_STATE.help)
        state.add_metric((), dict(source.service_states()))
        build = InfoMetricFamily(names.BUILD_INFO.name, names.BUILD_INFO.help)
        build.add_metric((), {"version": source.version, "python": platform.python_version()})
        yield from (abandoned, slots, busy, limit, paused, state, build)

    def _collect_observation(self) -> Iterator[Metric]:
        lag = histogram(names.LOOP_LAG)
        lag.add(self._metrics.loop_lag)
        blocked = counter(names.LOOP_BLOCKED)
        for category, seconds in self._source.loop_blocked_by_category().items():
            blocked.add_metric((category,), seconds)
        dropped, errors = counter(names.EVENTS_DROPPED), counter(names.TELEMETRY_ERRORS)
        for kind, n in {**self._metrics.dropped, **self._read_lost()}.items():
            dropped.add_metric((kind,), n)
        for component, n in list(self._metrics.telemetry_errors.items()):
            errors.add_metric((component,), n)
        http = histogram(names.HTTP_DURATION)
        for cell in list(self._metrics.http.values()):
            http.add(cell)
        yield from (lag, blocked, dropped, errors, http)

    def _collect_history(self) -> Iterator[Metric]:
        if self._history is None:
            return
        status = self._history.status()
        lost, by_category = counter(names.TASKS_LOST), self._history.lost_by_category()
        for category in CATEGORIES:
            lost.add_metric((category.value,), by_category.get(category, 0))
        durable, waiting = gauge(names.HISTORY_DURABLE), gauge(names.HISTORY_WAITING)
        durable.add_metric((), bool(status["durable"]))
        waiting.add_metric((), status["waiting"])
        yield from (lost, durable, waiting)
