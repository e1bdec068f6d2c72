"""The task metrics' cells: what happens to tasks is counted here as it happens.

telemetry/collector.py shows them to a scraper.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from qorzen_obs.counts import CELLS, PRIORITIES, CountsView
from qorzen_obs.engines.traits import ENGINES, EngineTraits
from qorzen_obs.record import Ask, End
from qorzen_obs.tasks import (
    COMPLETED,
    FAILED,
    EventKind,
    TaskCategory,
    TaskPriority,
    TaskStatus,
)
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.cells import CappedCounter, HistogramCell
from qorzen_obs.telemetry.exemplars import Exemplars, ExemplarSlot, IfSampled

#: A bound for each label whose values users choose, and for the routes and codes of HTTP.
LABEL_CAP: Final = 200
_RETRYING: Final = EventKind.RETRYING
FINAL: Final = tuple(status for status in TaskStatus if status.final)
REJECTION_REASONS: Final = ("queue_full", "closed")
DROP_KINDS: Final = ("event", "progress", "late_result", "worker_report", "log_line", "log_record")


class Load(NamedTuple):
    """What the manager has done until now, by which two readings tell what it did between them."""

    at: float  #: monotonic
    counts: CountsView
    queue_waits: Mapping[TaskPriority, list[int]]  #: by bucket of QUEUE_WAIT
    loop_lags: list[int]  #: by bucket of LOOP_LAG
    worst_lag: float  #: seconds, since the reading before


class TaskMetrics:
    """What one manager has counted. The cells are for the collector; everything else calls the methods."""

    def __init__(self, exemplars: Exemplars | None = None, *, time_ledger: bool = True) -> None:
        self._exemplars = exemplars or IfSampled()
        self._time_ledger = time_ledger
        phases = dict.fromkeys(names.PHASES if time_ledger else (), 0.0)
        self.phase_seconds = [defaultdict(float, phases) for _ in CELLS]
        kinds = [(category.value, priority.label) for category, priority in CELLS]
        self.run_duration = {
            status: [HistogramCell(names.RUN_DURATION, (*kind, status.value)) for kind in kinds]
            for status in FINAL
        }
        self.queue_wait = [HistogramCell(names.QUEUE_WAIT, kind) for kind in kinds]
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
        self.loop_lag = HistogramCell(names.LOOP_LAG)
        self.dropped: Counter[str] = Counter(dict.fromkeys(DROP_KINDS, 0))
        self.telemetry_errors: Counter[str] = Counter()

    def know_engines(self, engines: Iterable[EngineTraits]) -> None:
        """Let the series of these engines start at 0."""
        for engine in engines:
            cell = HistogramCell(names.CANCEL_LATENCY, (engine.kind,))
            self.cancel_latency.setdefault(engine.kind, cell)
            for phase in (engine.use_phase, engine.wait_phase) if self._time_ledger else ():
                for totals in self.phase_seconds:
                    totals.setdefault(phase, 0.0)

    def on_ends(self, ends: Sequence[End]) -> None:
        """Count attempts that have ended; for one thread at a time."""
        may_keep = self._exemplars.may_keep
        for end in ends:
            record, state = end.record, end.state
            cell, status, span, attempt = record.cell, state.status, state.span, end.attempt
            totals = self.phase_seconds[cell]
            for phase, more in (end.waited if attempt is None else attempt.waited).items():
                totals[phase] += more
            if attempt is not None:
                for phase, more in attempt.phases.items():
                    totals[phase] += more
                if attempt.asked is Ask.CANCEL:
                    self.cancel_latency[record.engine.kind].observe(attempt.ended_at - attempt.asked_at)
            if end.kind is _RETRYING:
                self.retries[cell] += 1
                continue
            seconds, waited = state.duration_seconds, state.queue_wait_seconds
            if seconds is not None and waited is not None:
                duration, wait = self.run_duration[status][cell], self.queue_wait[cell]
                duration.observe(seconds)
                wait.observe(waited)
                if span is not None and may_keep(span):
                    observations = (
                        (duration.slot(seconds), seconds),
                        (wait.slot(waited), waited),
                        (self.finished_exemplars[status][cell], 1.0),
                    )
                    self._exemplars.offer(span, observations, end.at)
            if status is COMPLETED:
                self.last_success[record.category] = end.at
            elif status is FAILED:
                self.errors.add((record.category.value,), state.error_type or "unknown")

    def on_rejected(self, cell: int, reason: str) -> None:
        """Count a submission that was refused; `reason` is one of REJECTION_REASONS."""
        self.rejected_by_cell[cell, reason] += 1

    @property
    def rejected(self) -> int:
        """How many submissions were refused."""
        return sum(self.rejected_by_cell.values())

    def queue_waits(self) -> dict[TaskPriority, list[int]]:
        """Return how many tasks have waited how long, by priority and by bucket; from any thread."""
        sums = {priority: [0] * (len(names.QUEUE_WAIT.buckets) + 1) for priority in PRIORITIES}
        for (_, priority), cell in zip(CELLS, self.queue_wait, strict=True):
            sums[priority] = [total + n for total, n in zip(sums[priority], cell.by_bucket, strict=True)]
        return sums

    def on_request(self, method: str, route: str, code: int, seconds: float) -> None:
        """Count an answer of the ops plane; called on its thread only."""
        key = (method, route, str(code))
        cell = self.http.get(key)
        if cell is None:
            if len(self.http) >= LABEL_CAP:
                key = ("other", "other", "other")
            cell = self.http.setdefault(key, HistogramCell(names.HTTP_DURATION, key))
        cell.observe(seconds)
