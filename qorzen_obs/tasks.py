"""The vocabulary: what a task is, which states it passes through, and the facts about it that anyone may read.

Pure data. A TaskInfo is a snapshot: changing one changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # With a default, `TaskInfo` without brackets passes strict checks.
    R_co = TypeVar("R_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    R_co = TypeVar("R_co", covariant=True)  # Python knows defaults of type variables from 3.13 on


class TaskCategory(str, Enum):
    """What kind of work a task is: chooses its default engine and labels its metrics."""

    __hash__ = str.__hash__  # Enum's own runs Python code for each lookup

    CORE = "core"  #: the service's own work
    PLUGIN = "plugin"  #: work of an extension, see `plugin_id`
    UI = "ui"  #: must run on the main loop's own thread when synchronous
    IO = "io"  #: waits for disks and networks; synchronous calls run on the I/O threads
    BACKGROUND = "background"  #: housekeeping that nobody waits for
    USER = "user"  #: asked for by a person


class TaskPriority(IntEnum):
    """Who goes first: the higher number, and among equals the task that has waited longer.

    The numbers are points. A waiting task gains 50 points in each `tasks.ageing_seconds` (300), so none waits for ever.
    """

    __hash__ = int.__hash__  # as above

    LOW = 0  #: goes after all others
    NORMAL = 50  #: the usual one
    HIGH = 100  #: goes before normal tasks that have not waited 300 s longer
    CRITICAL = 200  #: goes before normal tasks that have not waited 900 s longer

    @property
    def label(self) -> str:
        """The name shown in labels, attributes, logs and JSON: low, normal, high, critical."""
        return _LABELS[self]


_LABELS: Final = {priority: priority.name.lower() for priority in TaskPriority}


class TaskStatus(str, Enum):
    """The five states of a task; the last three are final."""

    __hash__ = str.__hash__  # Enum's own runs Python code for each lookup

    PENDING = "pending"  #: accepted; waits for a slot, or for its `eligible_at`
    RUNNING = "running"  #: its engine has started it
    COMPLETED = "completed"  #: it returned a value
    FAILED = "failed"  #: it raised, passed its timeout, or was lost: see `error_type`
    CANCELLED = "cancelled"  #: it ended because somebody asked it to

    @property
    def final(self) -> bool:
        """Whether no transition leads out of this state."""
        return self in FINAL


# For what runs for each task: Python 3.11 takes 120 ns to find `TaskStatus.FAILED`, and 10 for one of these.
PENDING: Final = TaskStatus.PENDING
RUNNING: Final = TaskStatus.RUNNING
COMPLETED: Final = TaskStatus.COMPLETED
FAILED: Final = TaskStatus.FAILED
CANCELLED: Final = TaskStatus.CANCELLED

FINAL: Final = frozenset({COMPLETED, FAILED, CANCELLED})

#: running -> pending is an attempt that will be retried, pending -> failed a deadline that passed before a start.
LEGAL_TRANSITIONS: Final[Mapping[TaskStatus, frozenset[TaskStatus]]] = {
    TaskStatus.PENDING: frozenset({TaskStatus.RUNNING, TaskStatus.CANCELLED, TaskStatus.FAILED}),
    TaskStatus.RUNNING: frozenset(
        {TaskStatus.PENDING, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}
    ),
    TaskStatus.COMPLETED: frozenset(),
    TaskStatus.FAILED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}


class EngineKind(str, Enum):
    """Where a callable runs: the names of the engines of this package."""

    __hash__ = str.__hash__  # Enum's own runs Python code for each lookup

    LOOP = "loop"  #: as a coroutine on the manager's event loop
    IO = "io"  #: on a thread of the pool for waiting calls
    THREAD = "thread"  #: on a worker thread
    PROCESS = "process"  #: in a worker process, which can be killed
    MAIN = "main"  #: on the loop's own thread, one at a time, blocking it
    EXTERNAL = "external"  #: wherever a foreign concurrency manager puts it


#: A TaskCategory as text. A type checker finds a misspelt one, as for the types below.
CategoryName: TypeAlias = Literal["core", "plugin", "ui", "io", "background", "user"]
PriorityName: TypeAlias = Literal["low", "normal", "high", "critical"]  #: A TaskPriority as text.
#: A TaskStatus as text.
StatusName: TypeAlias = Literal["pending", "running", "completed", "failed", "cancelled"]
#: The engines that a task may choose, as text.
EngineName: TypeAlias = Literal["loop", "io", "thread", "process", "main"]

CategoryOrName: TypeAlias = TaskCategory | CategoryName  #: A category, as itself or as text.
#: A priority, as itself, as text or as its number.
PriorityOrName: TypeAlias = TaskPriority | PriorityName | Literal[0, 50, 100, 200]
StatusOrName: TypeAlias = TaskStatus | StatusName  #: A status, as itself or as text.
EngineOrName: TypeAlias = EngineKind | EngineName  #: An engine, as itself or as text.


class CancelGuarantee(str, Enum):
    """What an engine promises when a running task is asked to stop."""

    PROMPT = "prompt"  #: interrupted at its next await
    COOPERATIVE = "cooperative"  #: told by its token; abandoned when it ignores it past the grace
    KILL = "kill"  #: told by its token; its process is killed when it ignores it past the grace
    NONE = "none"  #: cannot be stopped once started


#: The `error_type` of an attempt, or a task, that passed its deadline.
TIMEOUT: Final = "timeout"


class EventKind(str, Enum):
    """What happened to a task. The values are the event types on the bus."""

    __hash__ = str.__hash__  # Enum's own runs Python code for each lookup

    SUBMITTED = "task/submitted"  #: the task was accepted and is pending
    STARTED = "task/started"  #: an attempt has started
    PROGRESS = "task/progress"  #: its code has reported progress
    RETRYING = "task/retrying"  #: an attempt has failed, and the task is pending again for another one
    COMPLETED = "task/completed"  #: the task has ended: it returned a value
    FAILED = "task/failed"  #: the task has ended: it raised, passed its timeout or was lost
    CANCELLED = "task/cancelled"  #: the task has ended because somebody asked it to


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far a task says it is."""

    percent: float = 0.0  #: 0 to 100, never falls
    message: str = ""  #: what its code said last, redacted; at most 500 characters
    updated_at: float | None = None  #: Unix seconds; None before the first report


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAttempt:
    """One run of a task's callable."""

    number: int  #: from 1
    engine: str  #: where it ran, usually the value of an EngineKind
    worker: int | None = None  #: the id of the worker process, of an attempt that was followed by another
    started_at: float  #: Unix seconds
    ended_at: float | None = None  #: None while it runs
    error_type: str | None = None  #: of one that failed, as in TaskInfo


@dataclass(slots=True, kw_only=True)
class TaskInfo(Generic[R_co]):
    """A snapshot of one task. Times are Unix seconds, durations are seconds by the monotonic clock.

    Its containers are its own, except for `result`, which is the object that the task returned. Its type is known
    where a TaskHandle gives the snapshot: `TaskInfo[int | None]` of a task that returns an int.
    """

    task_id: str  #: unique to this task
    name: str  #: as submitted, else of the definition, else of the function; redacted
    category: TaskCategory  #: as submitted, else of the definition, else CORE
    plugin_id: str | None  #: as submitted, redacted
    priority: TaskPriority  #: as submitted, else of the definition, else NORMAL
    status: TaskStatus  #: when the snapshot was taken
    progress: TaskProgress  #: the last report of its code
    created_at: float  #: when it was accepted
    started_at: float | None = None  #: the first attempt's start
    completed_at: float | None = None  #: when it ended, however it ended
    error: str | None = None  #: the exception's message
    error_type: str | None = None  #: its qualified name, or `timeout`, or `lost`
    traceback: str | None = None  #: without values of local variables
    #: None until it has completed. Stays in this process: never in HTTP, logs or on the bus.
    result: R_co = None  # type: ignore[assignment]  # a snapshot with a type that excludes None gives a result
    metadata: dict[str, Any] = field(default_factory=dict)  #: as submitted, in the form that JSON has
    cancellable: bool = True  #: whether `cancel_task` may stop it
    attempt: int = 0  #: the running or last attempt, from 1; 0 before the first
    engine: str = EngineKind.LOOP.value  #: where it runs, usually the value of an EngineKind
    cancel_guarantee: str = CancelGuarantee.PROMPT.value  #: of that engine: the value of a CancelGuarantee
    timeout_seconds: float | None = None  #: of one attempt; None means no limit
    #: From when on it may start, or could have; if that is later than now, it is scheduled.
    eligible_at: float | None = None
    queue_wait_seconds: float | None = None  #: from `eligible_at` to the start of the last attempt
    duration_seconds: float | None = None  #: of the last attempt
    #: Seconds by phase of its life so far, as docs/traces.md lists them.
    phases: dict[str, float] = field(default_factory=dict)
    waiting_for: str | None = None  #: the id of the task that it waits for; it holds no slot meanwhile
    cancel_reason: str | None = None  #: why it was asked to stop, redacted; None where it was not
    abandoned: bool = False  #: it ended on paper, and its code would not stop; stays true once that has ended
    code_ended_at: float | None = None  #: when the code of an abandoned one ended; None while it may run
    #: Its result was larger than `tasks.keep_value_bytes`, and was handed over or had to make room for newer ones.
    result_released: bool = False
    evicted: bool = False  #: retention has dropped its result, error, metadata and progress
    trace_id: str | None = None  #: 32 hexadecimal digits
    span_id: str | None = None  #: 16 hexadecimal digits, of the last attempt
    rerun_of: str | None = None  #: the id of the ended task that it runs again
    parent_id: str | None = None  #: the id of the task of this manager that submitted it; None outside a task
    definition: str = ""  #: the name of its definition, else of its function; redacted
    attempts: tuple[TaskAttempt, ...] = ()  #: the last 100 at most, the running one included; oldest first
    instance: str | None = None  #: the id of the manager that accepted it

    def replace(self, **changes: Any) -> TaskInfo[R_co]:
        """Return a copy with these fields changed; the task itself does not change."""
        return dataclasses.replace(self, **changes)


#: The event that announces each final status.
ENDED: Final[Mapping[TaskStatus, EventKind]] = {
    TaskStatus.COMPLETED: EventKind.COMPLETED,
    TaskStatus.FAILED: EventKind.FAILED,
    TaskStatus.CANCELLED: EventKind.CANCELLED,
}
