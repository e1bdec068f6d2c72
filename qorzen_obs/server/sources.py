"""What the server sees of a manager: `Looks` reads, `Commands` acts. It never sees the class."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Protocol

from aiohttp import web
from msgspec import Struct

from qorzen_obs.clock import Clock
from qorzen_obs.core.event_ring import EventRing
from qorzen_obs.core.health_checks import HealthChecks
from qorzen_obs.core.idempotency import Submission
from qorzen_obs.core.task_table import MayRerun
from qorzen_obs.history.base import Loss, StoredTasks
from qorzen_obs.record import Attempt, TaskRecord
from qorzen_obs.scheduling.scheduler import Explanation
from qorzen_obs.settings import HealthSettings
from qorzen_obs.stacks import LiveStack
from qorzen_obs.tasks import CategoryOrName, PriorityOrName, TaskCategory, TaskInfo
from qorzen_obs.telemetry.definitions import DefinitionReading
from qorzen_obs.telemetry.gathering import Gathering
from qorzen_obs.telemetry.loop_monitor import Block, EndedBlock
from qorzen_obs.telemetry.metrics import Load
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.task_lines import KeptLines
from qorzen_obs.telemetry.task_span import AnySpan
from qorzen_obs.telemetry.traces import Traces


class Looks(Protocol):
    """What the server reads of a manager: from any thread and without its work loop, except for `why_pending`."""

    @property
    def state(self) -> Enum:
        """Where the manager stands: new, starting, ready, draining or stopped."""
        ...

    @property
    def initialized(self) -> bool: ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The work loop, where commands run; None before it is known."""
        ...

    @property
    def clock(self) -> Clock:
        """What the times of tasks and attempts are read from."""
        ...

    @property
    def gathering(self) -> Gathering:
        """What reads the metrics."""
        ...

    @property
    def redactor(self) -> Redactor:
        """What takes secrets out of kept spans, which user code has filled."""
        ...

    @property
    def traces(self) -> Traces | None:
        """The recent traces; None where none are kept."""
        ...

    @property
    def health(self) -> HealthChecks:
        """The checks of the program's own."""
        ...

    @property
    def stored(self) -> StoredTasks | None:
        """The stored tasks of this and earlier processes; None where tasks are only in memory. Its methods block."""
        ...

    @property
    def losses(self) -> Sequence[Loss]:
        """What this start found that crashes of earlier processes had taken, the newest first."""
        ...

    @property
    def event_ring(self) -> EventRing:
        """The last events, and the counts after them."""
        ...

    def status(self) -> dict[str, Any]: ...

    def settings_in_force(self) -> Mapping[str, Struct]:
        """Return the settings that hold now, by section."""
        ...

    def find(self, task_id: str) -> TaskInfo | None: ...

    def may_rerun(self, task_id: str) -> MayRerun:
        """Return whether a task can be run again, and whether it was."""
        ...

    def records(self) -> Sequence[TaskRecord]:
        """Return every live and kept task, the newest first."""
        ...

    def live_records(self) -> Sequence[TaskRecord]:
        """Return the pending and running tasks, oldest first."""
        ...

    def kept_records(self) -> Sequence[TaskRecord]:
        """Return the ended tasks that are kept whole, oldest end first."""
        ...

    @property
    def paused(self) -> Collection[TaskCategory]:
        """The categories of which no task starts."""
        ...

    def attempts(self) -> Sequence[Attempt]:
        """Return the running attempts, longest running first."""
        ...

    def log_of(self, task_id: str) -> KeptLines:
        """Return the kept log lines of a task."""
        ...

    def span_of(self, task_id: str) -> AnySpan | None:
        """Return the span of an ended task's last attempt, made of its record; None where there is none."""
        ...

    def why_pending(self, task_id: str) -> Explanation | None:
        """Return why a task is pending, None when it is not; for the work loop."""
        ...

    def awaiting(self, attempt: Attempt) -> str | None:
        """Return what a running attempt awaits, in microseconds; None while its code runs, or where none can say."""
        ...

    def pid_of(self, attempt: Attempt) -> int | None:
        """Return the worker process that runs an attempt; None where none does."""
        ...

    def stack_of(self, task_id: str) -> LiveStack | None:
        """Return where a task is; None when no code of it runs. For a process task it may take a second."""
        ...

    def blocked_seconds(self) -> float:
        """Return for how long the work loop has not turned; 0.0 when it does."""
        ...

    def stalled_seconds(self) -> float:
        """Return for how many seconds a task that nothing prevents from starting has waited; 0.0 if none does."""
        ...

    def loop_block(self) -> Block | None:
        """Return what holds the work loop right now, once it was noticed."""
        ...

    def ended_blocks(self) -> Sequence[EndedBlock]:
        """Return the last blocks of the work loop that are over, oldest first."""
        ...

    def load(self, since: float) -> Load:
        """Return the counters and histograms as they are, and the worst lag `since` a moment of its clock."""
        ...

    def definitions(self) -> Mapping[str, DefinitionReading] | None:
        """Return what was counted by definition; None where that is off."""
        ...

    @property
    def definition_limit(self) -> int:
        """How many definitions are told apart."""
        ...


class Commands(Protocol):
    """Everything that the server asks a manager to do; on its work loop."""

    async def submit_task(
        self,
        func: Callable[..., Any],
        /,
        *,
        category: CategoryOrName | None = ...,
        priority: PriorityOrName | None = ...,
        metadata: Mapping[str, Any] | None = ...,
        timeout: float | None = ...,
    ) -> str:
        """Accept a task."""
        ...

    async def submit_once(
        self,
        func: Callable[..., Any],
        /,
        *,
        key: str,
        digest: bytes | None = ...,
        category: CategoryOrName | None = ...,
        priority: PriorityOrName | None = ...,
        metadata: Mapping[str, Any] | None = ...,
        timeout: float | None = ...,
    ) -> Submission:
        """Accept a task, unless the key was used before."""
        ...

    async def rerun(self, task_id: str) -> str:
        """Submit again what a failed or cancelled task was submitted with."""
        ...

    async def cancel_task(self, task_id: str, *, reason: str = ...) -> bool:
        """Cancel a task."""
        ...

    async def pause(self, category: CategoryOrName) -> None:
        """Start no task of a category."""
        ...

    async def resume(self, category: CategoryOrName) -> None:
        """Let tasks of a category start again."""
        ...


class ServedManager(Commands, Protocol):
    """A manager that can be served; a TaskManager is one."""

    @property
    def looks(self) -> Looks:
        """What can be read of it."""
        ...


LOOKS: Final = web.AppKey("looks", Looks)
COMMANDS: Final = web.AppKey("commands", Commands)
SPANS: Final = web.AppKey("spans", Traces)  #: missing where no traces are kept
REDACTOR: Final = web.AppKey("redactor", Redactor)  #: for kept spans, which user code has filled
HEALTH: Final = web.AppKey("health", HealthSettings)
