"""The task metrics: counts what happens when it happens, reads what is true when it is scraped.

`qorzen_tasks`, `…_submitted` and `…_finished` come from the cells that `status()` reads, all from one reading, so
that they cannot disagree.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from prometheus_client import Metric
from prometheus_client.core import InfoMetricFamily, StateSetMetricFamily
from prometheus_client.registry import Collector

from qorzen_obs.counts import CATEGORIES, CELL_OF, CELLS, PRIORITIES, CountsView, TaskCounts
from qorzen_obs.record import Ask, End
from qorzen_obs.tasks import (
    COMPLETED,
    FAILED,
    EngineKind,
    EventKind,
    TaskCategory,
    TaskPriority,
    TaskStatus,
)
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.cells import CappedCounter, HistogramCell
from qorzen_obs.telemetry.exemplars import Exemplars, ExemplarSlot, IfSampled
from qorzen_obs.telemetry.families import counter, gauge, histogram

#: A bound for each label whose values users choose, and for the routes and codes of HTTP.
LABEL_CAP: Final = 200
_RETRYING: Final = EventKind.RETRYING
FINAL: Final = tuple(status for status in TaskStatus if status.final)
REJECTION_REASONS: Final = ("queue_full", "closed")
DROP_KINDS: Final = ("event", "progress", "late_result", "worker_report", "log_line", "log_record")

Ages = Mapping[tuple[TaskCategory, TaskPriority], float]


class MetricsSource(Protocol):
    """What is read at scrape, from any thread."""

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


class Load(NamedTuple):
    """What the manager has done until now, by which two readings tell what it did between them."""

    at: float  #: monotonic
    counts: CountsView
    queue_waits: Mapping[TaskPriority, list[int]]  #: by bucket of QUEUE_WAIT
    loop_lags: list[int]  #: by bucket of LOOP_LAG
    worst_lag: float  #: seconds, since the reading before


class TaskMetrics(Collector):
    """All metrics of one manager. Register it with one CollectorRegistry."""

    def __init__(
        self, source: MetricsSource, exemplars: Exemplars | None = None, *, time_ledger: bool = True
    ) -> None:
        self._source = source
        self._exemplars = exemplars or IfSampled()
        phases = names.PHASES if time_ledger else ()
        self._phase_seconds = [dict.fromkeys(phases, 0.0) for _ in CELLS]
        kinds = [(category.value, priority.label) for category, priority in CELLS]
        self._run_duration = {
            status: [HistogramCell(names.RUN_DURATION, (*kind, status.value)) for kind in kinds]
            for status in FINAL
        }
        self._queue_wait = [HistogramCell(names.QUEUE_WAIT, kind) for kind in kinds]
        self._finished_exemplars = {status: [ExemplarSlot() for _ in CELLS] for status in FINAL}
        self._cancel_latency = {
            kind: HistogramCell(names.CANCEL_LATENCY, (kind.value,)) for kind in EngineKind
        }
        self._http: dict[tuple[str, str, str], HistogramCell] = {}
        self._rejected = {(cell, reason): 0 for cell in range(len(CELLS)) for reason in REJECTION_REASONS}
        self._retries = [0] * len(CELLS)
        self._errors = CappedCounter(LABEL_CAP)
        self._last_success: dict[TaskCategory, float] = {}
        self.loop_lag = HistogramCell(names.LOOP_LAG)
        self.dropped: Counter[str] = Counter(dict.fromkeys(DROP_KINDS, 0))
        self.telemetry_errors: Counter[str] = Counter()
        self.read_lost: Callable[[], Mapping[str, int]] = dict  #: by kind, what others count

    def on_ends(self, ends: Sequence[End]) -> None:
        """Count attempts that have ended; for one thread at a time."""
        may_keep = self._exemplars.may_keep
        for end in ends:
            record, state = end.record, end.state
            cell, status, span = record.cell, state.status, state.span
            if end.kind is _RETRYING:
                self._retries[cell] += 1
                continue
            seconds, waited = state.duration_seconds, state.queue_wait_seconds
            if seconds is not None and waited is not None:
                duration, wait = self._run_duration[status][cell], self._queue_wait[cell]
                duration.observe(seconds)
                wait.observe(waited)
                if span is not None and may_keep(span):
                    observations = (
                        (duration.slot(seconds), seconds),
                        (wait.slot(waited), waited),
                        (self._finished_exemplars[status][cell], 1.0),
                    )
                    self._exemplars.offer(span, observations, end.at)
            if status is COMPLETED:
                self._last_success[record.category] = end.at
            elif status is FAILED:
                self._errors.add((record.category.value,), state.error_type or "unknown")

    def on_stopped(self, engine: EngineKind, ask: Ask, seconds: float) -> None:
        """Count how long a running attempt took to end after it was asked to."""
        if ask is Ask.CANCEL:
            self._cancel_latency[engine].observe(seconds)

    def on_phases(self, cell: int, seconds: Mapping[str, float]) -> None:
        """Count phases of a task's life that have ended."""
        totals = self._phase_seconds[cell]
        for phase, more in seconds.items():
            totals[phase] += more

    def on_rejected(self, cell: int, reason: str) -> None:
        """Count a submission that was refused; `reason` is one of REJECTION_REASONS."""
        self._rejected[cell, reason] += 1

    @property
    def rejected(self) -> int:
        """How many submissions were refused."""
        return sum(self._rejected.values())

    def queue_waits(self) -> dict[TaskPriority, list[int]]:
        """Return how many tasks have waited how long, by priority and by bucket; from any thread."""
        sums = {priority: [0] * (len(names.QUEUE_WAIT.buckets) + 1) for priority in PRIORITIES}
        for (_, priority), cell in zip(CELLS, self._queue_wait, strict=True):
            sums[priority] = [total + n for total, n in zip(sums[priority], cell.by_bucket, strict=True)]
        return sums

    def on_request(self, method: str, route: str, code: int, seconds: float) -> None:
        """Count an answer of the ops plane; called on its thread only."""
        key = (method, route, str(code))
        cell = self._http.get(key)
        if cell is None:
            if len(self._http) >= LABEL_CAP:
                key = ("other", "other", "other")
            cell = self._http.setdefault(key, HistogramCell(names.HTTP_DURATION, key))
        cell.observe(seconds)

    def describe(self) -> Iterator[Metric]:
        """Tell the registry the names, so that it refuses another manager's."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Yield every family; from any thread."""
        yield from self._collect_counts()
        yield from self._collect_ends()
        yield from self._collect_state()
        yield from self._collect_observation()

    def _collect_counts(self) -> Iterator[Metric]:
        cells = self._source.counts.read().by_cell
        tasks = gauge(names.TASKS)
        submitted, finished = counter(names.TASKS_SUBMITTED), counter(names.TASKS_FINISHED)
        accepted: Counter[tuple[str, str]] = Counter()
        for (category, priority, status), n in cells.items():
            labels = (category.value, priority.label)
            tasks.add_metric((*labels, status.value), n)
            accepted[labels] += n
            if status.final:
                exemplar = self._finished_exemplars[status][CELL_OF[category, priority]].read() if n else None
                finished.add_metric((*labels, status.value), n, exemplar=exemplar)
        for labels, n in accepted.items():
            submitted.add_metric(labels, n)
        rejected = counter(names.TASKS_REJECTED)
        for (cell, reason), n in list(self._rejected.items()):
            category, priority = CELLS[cell]
            rejected.add_metric((category.value, priority.label, reason), n)
        yield from (tasks, submitted, rejected, finished)

    def _collect_ends(self) -> Iterator[Metric]:
        duration, wait = histogram(names.RUN_DURATION), histogram(names.QUEUE_WAIT)
        retries, phases = counter(names.TASK_RETRIES), counter(names.PHASE_SECONDS)
        for index, (category, priority) in enumerate(CELLS):
            labels = (category.value, priority.label)
            wait.add(self._queue_wait[index])
            retries.add_metric(labels, self._retries[index])
            for phase, seconds in list(self._phase_seconds[index].items()):
                phases.add_metric((*labels, phase), seconds)
            for status in FINAL:
                duration.add(self._run_duration[status][index])
        errors = counter(names.TASK_ERRORS)
        for error_labels, n in self._errors.read():
            errors.add_metric(error_labels, n)
        overflow = counter(names.LABEL_OVERFLOW)
        overflow.add_metric(("error_type",), self._errors.overflowed)
        latency = histogram(names.CANCEL_LATENCY)
        for cell in self._cancel_latency.values():
            latency.add(cell)
        success = gauge(names.LAST_SUCCESS)
        for category, at in list(self._last_success.items()):
            success.add_metric((category.value,), at)
        yield from (duration, wait, phases, retries, errors, overflow, latency, success)

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
        lag.add(self.loop_lag)
        blocked = counter(names.LOOP_BLOCKED)
        for category, seconds in self._source.loop_blocked_by_category().items():
            blocked.add_metric((category,), seconds)
        dropped, errors = counter(names.EVENTS_DROPPED), counter(names.TELEMETRY_ERRORS)
        for kind, n in {**self.dropped, **self.read_lost()}.items():
            dropped.add_metric((kind,), n)
        for component, n in list(self.telemetry_errors.items()):
            errors.add_metric((component,), n)
        http = histogram(names.HTTP_DURATION)
        for cell in list(self._http.values()):
            http.add(cell)
        yield from (lag, blocked, dropped, errors, http)
