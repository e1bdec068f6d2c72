"""The task metrics' cells: events of tasks are counted here as they happen.

telemetry/collector.py shows them to a scraper.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from opentelemetry.trace import SpanContext

from qorzen_obs.counts import CATEGORIES, CELL_LABELS, CELL_OF, CELLS, PRIORITIES, CountsView
from qorzen_obs.definition import TaskDefinition
from qorzen_obs.engines.traits import ENGINES, EngineTraits
from qorzen_obs.record import Ask, End
from qorzen_obs.settings import WAIT_BUCKETS, TelemetrySettings
from qorzen_obs.tasks import (
    CANCELLED,
    COMPLETED,
    ENDED,
    FAILED,
    EventKind,
    TaskCategory,
    TaskPriority,
)
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.cells import CappedCounter, HistogramCell
from qorzen_obs.telemetry.definitions import FINAL, DefinitionCells
from qorzen_obs.telemetry.exemplars import Exemplars, ExemplarSlot, IfSampled
from qorzen_obs.telemetry.exponential import ExponentialCounts
from qorzen_obs.telemetry.peaks import RecentPeak

#: The maximum number of values for each label that users choose, and for HTTP routes and codes.
LABEL_CAP: Final = 200
_SLACK_SECONDS: Final = 1.0
# Names that Python finds at once: reading a member of an enum class runs Python code.
_RETRYING: Final = EventKind.RETRYING
_ASKED_TO_CANCEL: Final = Ask.CANCEL
#: By the event that follows an attempt: the outcome of ATTEMPT_DURATION.
_OUTCOMES: Final = {_RETRYING: "retrying", **{ENDED[status]: status.value for status in FINAL}}
REJECTION_REASONS: Final = ("queue_full", "closed", "history")
DROP_KINDS: Final = (
    "event",
    "progress",
    "late_result",
    "worker_report",
    "log_line",
    "log_record",
    "span_text",
)


class Load(NamedTuple):
    """The work of the manager so far; the difference of two readings is the work between them."""

    at: float  #: monotonic
    counts: CountsView
    queue_waits: Mapping[TaskPriority, list[int]]  #: by bucket
    loop_lags: list[int]  #: by bucket of LOOP_LAG
    worst_lag: float  #: seconds, since the reading before
    longest_waits: Mapping[TaskPriority, float] = {}  #: seconds, since the previous reading; never too small
    wait_buckets: tuple[float, ...] = WAIT_BUCKETS  #: upper bounds of `queue_waits`


class TaskMetrics:
    """The counts of one manager. The cells are for the collector; all other code calls the methods.

    Args:
        monotonic: the clock for the times of attempts.
        exponential_histograms: whether each histogram also counts in exponential buckets.
    """

    def __init__(
        self,
        exemplars: Exemplars | None = None,
        settings: TelemetrySettings | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        exponential_histograms: bool = False,
    ) -> None:
        settings = settings or TelemetrySettings()
        self._exemplars = exemplars or IfSampled()
        self._exponential = exponential_histograms
        self.monotonic = monotonic
        self._time_ledger = settings.time_ledger
        phases = dict.fromkeys(names.PHASES if settings.time_ledger else (), 0.0)
        self.phase_seconds = [dict(phases) for _ in CELLS]
        self.registered_cells: frozenset[int] = frozenset()  #: metrics of registered definitions
        # Queue waits: the lifecycle writes these cells and peaks when an attempt starts.
        wait = names.QUEUE_WAIT.with_buckets(settings.wait_buckets)
        self.queue_wait = [self._cell(wait, labels) for labels in CELL_LABELS]
        self.wait_peaks = [RecentPeak() for _ in CELLS]
        cancelled_wait = names.CANCELLED_WAIT.with_buckets(settings.wait_buckets)
        self.cancelled_wait = [self._cell(cancelled_wait, labels) for labels in CELL_LABELS]
        # Durations, all with the same bounds.
        run = names.RUN_DURATION.with_buckets(settings.run_buckets)
        self._run_buckets = run.buckets
        self.run_duration = {
            status: [self._cell(run, (*labels, status.value)) for labels in CELL_LABELS] for status in FINAL
        }
        self.run_peaks = [RecentPeak() for _ in CELLS]
        attempt = names.ATTEMPT_DURATION.with_buckets(settings.run_buckets)
        self.attempt_duration = {
            kind: {category: self._cell(attempt, (category.value, outcome)) for category in CATEGORIES}
            for kind, outcome in _OUTCOMES.items()
        }
        #: None if they are off
        self.definitions = (
            DefinitionCells(settings.metrics_by_definition, settings.run_buckets, self._cell)
            if settings.metrics_by_definition
            else None
        )
        self.never_started = {status: [0] * len(CELLS) for status in (FAILED, CANCELLED)}
        self.finished_exemplars = {status: [ExemplarSlot() for _ in CELLS] for status in FINAL}
        self.cancel_latency: dict[str, HistogramCell] = {}  # by engine
        self.know_engines(ENGINES.values())
        self.http: dict[tuple[str, str, str], HistogramCell] = {}
        self.rejected_by_cell = {
            (cell, reason): 0 for cell in range(len(CELLS)) for reason in REJECTION_REASONS
        }
        self.retries = [0] * len(CELLS)
        self.errors = CappedCounter(LABEL_CAP)
        self.last_success: dict[TaskCategory, float] = {}
        self.loop_lag = self._cell(names.LOOP_LAG)
        self.dropped: Counter[str] = Counter(dict.fromkeys(DROP_KINDS, 0))
        self.telemetry_errors: Counter[str] = Counter()

    def _cell(self, metric: names.MetricName, labels: tuple[str, ...] = ()) -> HistogramCell:
        return HistogramCell(metric, labels, ExponentialCounts() if self._exponential else None)

    def know_definition(self, name: str, definition: TaskDefinition) -> None:
        """Start the series of a registered definition at 0."""
        category = definition.category or TaskCategory.CORE
        priority = TaskPriority.NORMAL if definition.priority is None else definition.priority
        self.registered_cells |= {CELL_OF[category, priority]}
        if self.definitions is not None:
            self.definitions.know(name)

    def know_engines(self, engines: Iterable[EngineTraits]) -> None:
        """Start the series of these engines at 0."""
        for engine in engines:
            cell = self._cell(names.CANCEL_LATENCY, (engine.kind,))
            self.cancel_latency.setdefault(engine.kind, cell)
            for phase in (engine.use_phase, engine.wait_phase) if self._time_ledger else ():
                for totals in self.phase_seconds:
                    totals.setdefault(phase, 0.0)

    def on_ends(self, ends: Sequence[End]) -> None:
        """Count attempts that have ended, and tasks that ended without one; for one thread at a time."""
        may_keep, run_buckets, definitions = self._exemplars.may_keep, self._run_buckets, self.definitions
        for end in ends:
            record, state, attempt, kind = end.record, end.state, end.attempt, end.kind
            cell, status, span = record.cell, state.status, state.span
            seconds = state.duration_seconds  # the last attempt's; None if there was none
            bucket = 0 if seconds is None else bisect_left(run_buckets, seconds)
            totals = self.phase_seconds[cell]
            for phases in (end.waited,) if attempt is None else (attempt.waited, attempt.phases):
                if phases:
                    for phase, more in phases.items():
                        totals[phase] = totals[phase] + more if phase in totals else more
            if attempt is not None:
                if attempt.asked is _ASKED_TO_CANCEL:
                    self.cancel_latency[record.engine.kind].observe(attempt.ended_at - attempt.asked_at)
                if seconds is not None:
                    histogram = self.attempt_duration[kind][record.category]
                    histogram.counts[bucket] += 1
                    histogram.sums[0] += seconds
                    if histogram.exponential is not None:
                        histogram.exponential.observe(seconds)
                    if status is CANCELLED:
                        self.cancelled_wait[cell].observe(state.queue_wait_seconds or 0.0)
            if status is COMPLETED:
                self.last_success[record.category] = end.at
            elif status is FAILED or kind is _RETRYING:
                self.errors.add((record.category.value,), state.error_type or "unknown", self.monotonic())
            if kind is _RETRYING:
                self.retries[cell] += 1
            else:
                if seconds is not None:
                    histogram = self.run_duration[status][cell]
                    histogram.counts[bucket] += 1
                    histogram.sums[0] += seconds
                    if histogram.exponential is not None:
                        histogram.exponential.observe(seconds)
                    ended_at = self.monotonic() if attempt is None else attempt.ended_at
                    self.run_peaks[cell].add(ended_at, seconds)
                elif status is not COMPLETED:
                    self.never_started[status][cell] += 1
                if definitions is not None:
                    name = record.definition_name
                    of_name = definitions.cells[name] if name in definitions.cells else definitions.of(name)
                    of_name.ended[status] += 1
                    if seconds is not None:
                        histogram = of_name.run_duration
                        histogram.counts[bucket] += 1
                        histogram.sums[0] += seconds
                        if histogram.exponential is not None:
                            histogram.exponential.observe(seconds)
            if span is not None and seconds is not None and may_keep(span):
                self._offer(end, span, seconds)

    def _offer(self, end: End, span: SpanContext, seconds: float) -> None:
        """Offer exemplars with the attempt's span for its observations, and for those of its task if that has ended."""
        cell, state = end.record.cell, end.state
        observations: list[tuple[ExemplarSlot, float]] = []
        if end.attempt is not None:  # otherwise the wait was offered at the end of the last attempt
            waited = state.queue_wait_seconds or 0.0
            observations.append((self.queue_wait[cell].slot(waited), waited))
        if end.kind is not _RETRYING:
            observations.append((self.run_duration[state.status][cell].slot(seconds), seconds))
            observations.append((self.finished_exemplars[state.status][cell], 1.0))
        self._exemplars.offer(span, observations, end.at)

    def on_rejected(self, cell: int, reason: str) -> None:
        """Count a refused submission; `reason` is one of REJECTION_REASONS."""
        self.rejected_by_cell[cell, reason] += 1

    @property
    def rejected(self) -> int:
        """How many submissions were refused."""
        return sum(self.rejected_by_cell.values())

    def queue_waits(self) -> dict[TaskPriority, list[int]]:
        """Return the counts of queue waits, by priority and bucket; from any thread."""
        sums = {priority: [0] * (len(self.wait_buckets) + 1) for priority in PRIORITIES}
        for (_, priority), cell in zip(CELLS, self.queue_wait, strict=True):
            sums[priority] = [total + n for total, n in zip(sums[priority], cell.by_bucket, strict=True)]
        return sums

    @property
    def wait_buckets(self) -> tuple[float, ...]:
        """The upper bounds of the buckets of queue waits."""
        return self.queue_wait[0].bounds

    def longest_waits(self, since: float) -> dict[TaskPriority, float]:
        """Return the longest waits by priority of the attempts that started `since` a moment; from any thread.

        A start is counted a moment after its time, so this looks back a little further.
        """
        longest = dict.fromkeys(PRIORITIES, 0.0)
        for (_, priority), peak in zip(CELLS, self.wait_peaks, strict=True):
            longest[priority] = max(longest[priority], peak.since(since - _SLACK_SECONDS))
        return longest

    def on_request(self, method: str, route: str, code: int, seconds: float) -> None:
        """Count an answer of the ops plane; call this only on its thread."""
        key = (method, route, str(code))
        cell = self.http.get(key)
        if cell is None:
            if len(self.http) >= LABEL_CAP:
                key = ("other", "other", "other")
            cell = self.http.setdefault(key, self._cell(names.HTTP_DURATION, key))
        cell.observe(seconds)
