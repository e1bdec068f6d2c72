"""What any thread may read of a manager: its status, its tasks, where their code is, the state of its loop.

Nothing here changes anything. The server and the metrics see this as `Looks` (server/sources.py) and `MetricsSource`
(telemetry/collector.py).
"""

from __future__ import annotations

import asyncio
import itertools
import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from enum import Enum
from typing import Any, TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from qorzen_obs.clock import Clock, rfc_3339
from qorzen_obs.core.announcer import Announcer
from qorzen_obs.core.collaborators import Collaborators
from qorzen_obs.core.event_ring import EventRing
from qorzen_obs.core.health_checks import HealthChecks
from qorzen_obs.core.recording import HistoryParts
from qorzen_obs.core.runtime import ManagerState, Runtime
from qorzen_obs.core.task_table import MayRerun, TaskTable, by_priority
from qorzen_obs.counts import TaskCounts
from qorzen_obs.engines.base import AwaitingEngine, ForeignProcessEngine, ReportingEngine, StackEngine
from qorzen_obs.engines.traits import EngineTraits
from qorzen_obs.errors import InvalidTaskError, TaskNotFoundError
from qorzen_obs.history.base import Loss, StoredTasks
from qorzen_obs.record import Attempt, TaskRecord
from qorzen_obs.scheduling.scheduler import Explanation, Scheduler
from qorzen_obs.scheduling.stall import StallWatch
from qorzen_obs.stacks import ABANDONED, RUNNING, STARTING, LiveStack, redacted
from qorzen_obs.tasks import TaskCategory, TaskInfo, TaskPriority, TaskStatus
from qorzen_obs.telemetry.definitions import DefinitionReading
from qorzen_obs.telemetry.gathering import Gathering
from qorzen_obs.telemetry.loop_monitor import Block, EndedBlock, LoopMonitor
from qorzen_obs.telemetry.metrics import Load, TaskMetrics
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.task_lines import KeptLines, TaskLines, encoded_line
from qorzen_obs.telemetry.task_log import canonical_line
from qorzen_obs.telemetry.task_span import AnySpan, RememberedSpans
from qorzen_obs.telemetry.traces import Traces
from qorzen_obs.telemetry.watchdog import NOTICE_SECONDS

E = TypeVar("E", bound=Enum)


class Inspection:
    """Reads of one manager; from any thread and without its work loop, unless a method says otherwise."""

    def __init__(
        self,
        runtime: Runtime,
        table: TaskTable,
        scheduler: Scheduler[TaskRecord],
        announcer: Announcer,
        *,
        name: str,
        clock: Clock,
        collaborators: Collaborators,
        counts: TaskCounts,
        health: HealthChecks,
        loop_monitor: LoopMonitor,
        metrics: TaskMetrics,
        registry: CollectorRegistry,
        gathering: Gathering,
        task_lines: TaskLines,
        telemetry: TelemetryParts,
        remembered_spans: RememberedSpans,
        sweep_soon: Callable[[], object],
        history: HistoryParts,
        version: str,
    ) -> None:
        self._runtime = runtime
        self._table = table
        self._scheduler = scheduler
        self._announcer = announcer
        self._name = name
        self._collaborators = collaborators
        self._loop_monitor = loop_monitor
        self._telemetry = telemetry
        self._remembered_spans = remembered_spans
        self._sweep_soon = sweep_soon
        self._history = history
        self._stall = StallWatch()
        self.clock = clock  #: the clock for all times of tasks
        self.counts = counts
        self.event_ring: EventRing = announcer.ring
        self.health = health
        self.metrics = metrics
        self.registry = registry  #: the metrics' registry
        self.gathering = gathering  #: the collector that reads them
        self.task_lines = task_lines
        self.version = version

    # ------------------------------------------------------------------ the manager

    @property
    def state(self) -> ManagerState:
        """The manager's lifecycle state."""
        return self._runtime.state

    @property
    def initialized(self) -> bool:
        """Whether it takes work or drains."""
        return self.state in (ManagerState.READY, ManagerState.DRAINING)

    @property
    def healthy(self) -> bool:
        """Whether it runs and no observer has failed."""
        return self.initialized and not self._announcer.has_dismissed

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The work loop, which runs commands; None before `initialize`."""
        return self._runtime.loop

    @property
    def redactor(self) -> Redactor:
        """Removes secrets from texts."""
        return self._telemetry.redactor

    @property
    def traces(self) -> Traces | None:
        """The recent traces; None where none are kept."""
        return self._telemetry.spans

    @property
    def stored(self) -> StoredTasks | None:
        """The stored tasks of this and earlier processes; None if tasks are only in memory. Its methods block."""
        return self._history.stored

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What this start found that crashes of earlier processes had taken, the newest first."""
        return self._history.losses

    def status(self) -> dict[str, Any]:
        """Return the manager's state as JSON shows it. Its tables are compared meanwhile, see core/repair.py."""
        self._sweep_soon()
        counts = self.counts.read()
        settings = self._runtime.settings
        oldest = max(self.oldest_pending_ages().values(), default=0.0)
        timeout = settings.default_timeout
        return {
            "name": self._name,
            "initialized": self.initialized,
            "healthy": self.healthy,
            "state": self.state.value,
            "ready_at": self._runtime.ready_at,
            "tasks": {
                "total": counts.total,
                "by_status": {key.value: n for key, n in counts.by_status().items()},
                "by_category": {key.value: n for key, n in counts.by_category().items()},
                "by_priority": {key.label: n for key, n in counts.by_priority().items()},
                "retained": len(self._table.history),
                "rejected": self.metrics.rejected,
                "plugins_with_tasks": len(self._table.plugins),
            },
            "queue": {
                "depth": self._scheduler.depth,
                "scheduled": self._scheduler.scheduled,
                "limit": settings.max_pending,
                "paused": [category.value for category in TaskCategory if category in self.paused],
                "oldest_pending_age_seconds": oldest,
            },
            "slots": self.slots(),
            "engines": {
                kind: dict(engine.status())
                for kind, engine in self._runtime.engines.items()
                if isinstance(engine, ReportingEngine)
            },
            "config": {
                "max_concurrent_tasks": settings.max_concurrent_tasks,
                "keep_completed_tasks": settings.keep_completed_tasks,
                "default_timeout": "inf" if timeout == float("inf") else timeout,
            },
            "history": self._history.status(),
            "telemetry": self._telemetry_status(),
            "versions": {"qorzen_obs": self.version, "python": platform.python_version()},
        }

    def _telemetry_status(self) -> dict[str, Any]:
        status = self._telemetry.status()
        return {**status, "trouble": [*status.get("trouble", ()), *self.gathering.trouble]}

    def settings_in_force(self) -> dict[str, msgspec.Struct]:
        """Return the settings in force now, by section."""
        sections: dict[str, msgspec.Struct] = {
            "tasks": self._runtime.settings,
            "telemetry": self._telemetry.settings,
            "history": self._history.settings,
        }
        engines = self._collaborators.engine_settings
        if engines is not None:
            sections["engines"] = engines
        return sections

    # ------------------------------------------------------------------ tasks

    def find(self, task_id: str) -> TaskInfo | None:
        """Return a snapshot of a live or remembered task."""
        return self._table.find(task_id)

    def select(
        self,
        status: TaskStatus | str | Iterable[TaskStatus | str] | None,
        category: TaskCategory | str | Iterable[TaskCategory | str] | None,
        plugin_id: str | None,
        limit: int,
    ) -> list[TaskInfo]:
        """Return at most `limit` live and kept tasks, highest priority first, then oldest first.

        Raises:
            InvalidTaskError: a status or category is unknown, or `limit` is not positive.
        """
        if limit < 1:
            raise InvalidTaskError("limit", f"{limit!r} must be at least 1")
        statuses = _one_or_many("status", status, TaskStatus)
        categories = _one_or_many("category", category, TaskCategory)
        plugin_id = None if plugin_id is None else self.redactor.text(plugin_id)
        found = (
            record
            for record in by_priority(self.records())
            if (statuses is None or record.state.status in statuses)
            and (categories is None or record.category in categories)
            and (plugin_id is None or record.plugin_id == plugin_id)
        )
        return [record.info() for record in itertools.islice(found, limit)]

    def records(self) -> list[TaskRecord]:
        """Return the live and the kept records, newest first."""
        return self._table.records()

    def kept_records(self) -> list[TaskRecord]:
        """Return the records of the ended tasks that are kept whole, oldest end first."""
        return self._table.history.records()

    def live_records(self) -> list[TaskRecord]:
        """Return the records of the pending and running tasks, oldest first."""
        return list(self._table.live.values())

    def attempts(self) -> list[Attempt]:
        """Return the running attempts, longest running first."""
        return list(self._table.running.values())

    def may_rerun(self, task_id: str) -> MayRerun:
        """Return whether a task can be run again, and whether it was."""
        record = self._table.whole(task_id)
        why_not = self._table.why_not_again(record)
        if why_not is None and self.state is not ManagerState.READY:
            why_not = f"the service is {self.state.value} and takes no new tasks"
        return MayRerun(why_not, None if record is None else record.rerun_as)

    def log_of(self, task_id: str) -> KeptLines:
        """Return the kept log lines of a task, the canonical one last where it has ended."""
        record = self._table.history.record(task_id)
        at = None if record is None else record.state.completed_at
        if record is None or at is None:
            return self.task_lines.of(task_id)
        state = record.state
        last = encoded_line(rfc_3339(at), *canonical_line(record, state, at, state.traceback))
        return self.task_lines.of(task_id, last)

    def span_of(self, task_id: str) -> AnySpan | None:
        """Return the span of an ended task's last attempt, made from its record; None if there is none."""
        record = self._table.whole(task_id)
        return None if record is None else self._remembered_spans.of(record)

    def why_pending(self, task_id: str) -> Explanation | None:
        """Return why a task is pending; None when it is not. For the work loop; O(n) in the pending tasks.

        Raises:
            TaskNotFoundError: the id is unknown.
        """
        record = self._table.live.get(task_id)
        if record is None and self._table.history.info(task_id) is None:
            raise TaskNotFoundError(task_id)
        if record is None or record.state.status is not TaskStatus.PENDING:
            return None
        return self._scheduler.explain(record, self.clock.monotonic())

    # ------------------------------------------------------------------ where code is

    def awaiting(self, attempt: Attempt) -> str | None:
        """Return what a running attempt awaits; None while its code runs, or if its engine cannot say.

        Takes microseconds, also while the work loop is wedged; `stack_of` shows more.
        """
        engine = self._runtime.engines[attempt.record.engine.kind]
        if not isinstance(engine, AwaitingEngine):
            return None
        awaiting = engine.awaiting(attempt)
        return None if awaiting is None else self.redactor.text(awaiting)

    def pid_of(self, attempt: Attempt) -> int | None:
        """Return the worker process that runs an attempt; None if there is none. Takes a microsecond."""
        engine = self._runtime.engines[attempt.record.engine.kind]
        return engine.pid(attempt) if isinstance(engine, ForeignProcessEngine) else None

    def stack_of(self, task_id: str) -> LiveStack | None:
        """Return where a running or abandoned task is right now; None when no code of it runs.

        Also while the work loop is wedged. For a task in a worker process it waits until that process answers, a
        second at most, so do not call it on the loop.

        Raises:
            TaskNotFoundError: the id is unknown.
            StackUnavailableError: its worker process does not answer.
        """
        running = self._table.running.get(task_id)
        attempt = running or self._table.abandoned_attempt(task_id)
        if attempt is None:
            if self.find(task_id) is None:
                raise TaskNotFoundError(task_id)
            return None
        stack = self._stack_of(attempt)
        if stack is None:
            return None
        return redacted(stack if running else replace(stack, state=ABANDONED), self.redactor.text)

    def _stack_of(self, attempt: Attempt) -> LiveStack | None:
        engine = self._runtime.engines[attempt.record.engine.kind]
        if not isinstance(engine, StackEngine):  # an engine of a foreign manager may not be able to say
            return LiveStack(RUNNING)
        if attempt.driver is None:  # its start is still being announced: the engine does not have it yet
            return None if attempt.ended else LiveStack(STARTING)
        return engine.stack(attempt)

    def engine_traits(self) -> list[EngineTraits]:
        """Return the traits of each engine."""
        return [engine.traits for engine in self._runtime.engines.values()]

    # ------------------------------------------------------------------ the work loop and the scheduler

    def blocked_seconds(self) -> float:
        """Return for how long the work loop has not turned; 0 when it turns."""
        return self._loop_monitor.blocked_seconds()

    def stalled_seconds(self) -> float:
        """Return for how long a task could have started and did not, measured between calls of this method.

        0 as well while the work loop does not turn, which `blocked_seconds` shows.
        """
        now = self.clock.monotonic()
        turns = self.blocked_seconds() < NOTICE_SECONDS
        return self._stall.seconds(self._scheduler.startable(now) if turns else None, now)

    def loop_block(self) -> Block | None:
        """Return the present block of the work loop, once it was noticed."""
        return self._loop_monitor.block

    def ended_blocks(self) -> list[EndedBlock]:
        """Return the last finished blocks of the work loop, oldest first."""
        return self._loop_monitor.ended_blocks()

    def load(self, since: float) -> Load:
        """Return the present counters and histograms, and the worst lag since `since`."""
        return Load(
            at=self.clock.monotonic(),
            counts=self.counts.read(),
            queue_waits=self.metrics.queue_waits(),
            loop_lags=self.metrics.loop_lag.by_bucket,
            worst_lag=self._loop_monitor.worst_lag(since),
            longest_waits=self.metrics.longest_waits(since),
            wait_buckets=self.metrics.wait_buckets,
        )

    def definitions(self) -> dict[str, DefinitionReading] | None:
        """Return what was counted by definition; None where `telemetry.metrics_by_definition` is 0."""
        cells = self.metrics.definitions
        return None if cells is None else cells.read()

    @property
    def definition_limit(self) -> int:
        """How many definitions are told apart."""
        return 0 if self.metrics.definitions is None else self.metrics.definitions.cap

    # ------------------------------------------------------------------ what the metrics read at scrape

    @property
    def paused(self) -> Collection[TaskCategory]:
        """The categories whose pending tasks wait until `resume`."""
        return self._scheduler.paused

    def slots(self) -> dict[str, dict[str, int]]:
        """Return, by engine, the limit, the slots held, those lent by waiting tasks, and the abandoned attempts."""
        abandoned = Counter(attempt.record.engine.kind for attempt in list(self._table.abandoned))
        limits = self._scheduler.limits
        return {
            kind: {
                "limit": limits.engines.get(kind, limits.total),
                "busy": limits.held_by_engine.get(kind, 0),
                "lent": self._scheduler.lent[kind],
                "abandoned": abandoned[kind],
            }
            for kind in self._runtime.engines
        }

    def oldest_pending_ages(self) -> dict[tuple[TaskCategory, TaskPriority], float]:
        """Return the age of the oldest pending task of each kind, in seconds."""
        now = self.clock.monotonic()
        return {cell: max(0.0, now - since) for cell, since in self._scheduler.oldest().items()}

    def oldest_running_ages(self) -> dict[tuple[TaskCategory, TaskPriority], float]:
        """Return the age of the longest running attempt of each kind, in seconds."""
        now = self.clock.monotonic()
        ages: dict[tuple[TaskCategory, TaskPriority], float] = {}
        for attempt in self.attempts():
            cell = (attempt.record.category, attempt.record.priority)
            ages[cell] = max(ages.get(cell, 0.0), now - attempt.started_at)
        return ages

    def abandoned_by_category(self) -> dict[TaskCategory, int]:
        """Return how many abandoned attempts still run, by category."""
        return dict(Counter(attempt.record.category for attempt in list(self._table.abandoned)))

    def queue_limit(self) -> int:
        """Return how many tasks may be pending."""
        return self._runtime.settings.max_pending

    def service_states(self) -> dict[str, bool]:
        """Return every state with whether it is the present one."""
        return {state.value: state is self.state for state in ManagerState}

    def loop_blocked_by_category(self) -> dict[str, float]:
        """Return the total time for which the work loop was held, by the labels of LOOP_BLOCKED."""
        return self._loop_monitor.seconds_by_category()


def _one_or_many(
    argument: str, value: E | str | Iterable[E | str] | None, kind: type[E]
) -> frozenset[E] | None:
    if value is None:
        return None
    try:
        many: list[Any] = [value] if isinstance(value, (str, kind)) else list(value)  # type: ignore[arg-type]  # a single value was handled
        return frozenset(kind(one) for one in many)
    except (TypeError, ValueError) as error:
        known = ", ".join(member.value for member in kind)
        raise InvalidTaskError(argument, f"{error}; use one of {known}") from None
