"""The manager's own view of a task: its record, its state, which each transition replaces, and its running attempt.

Only the work loop writes here. A `TaskState` never changes, so another thread that has one reads consistent values.
Everyone else gets a `TaskInfo`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from copy import copy
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec
from msgspec.structs import replace
from opentelemetry.trace import Span, SpanContext, format_span_id, format_trace_id

from qorzen_obs.definition import TaskDefinition
from qorzen_obs.definition_limit import DefinitionLimit
from qorzen_obs.engines.traits import EngineTraits
from qorzen_obs.errors import TaskCancelled
from qorzen_obs.ledger import NO_SECONDS, Ledger, Meter, Seconds
from qorzen_obs.tasks import (
    PENDING,
    RUNNING,
    EventKind,
    TaskAttempt,
    TaskCategory,
    TaskInfo,
    TaskPriority,
    TaskProgress,
    TaskStatus,
)

if TYPE_CHECKING:
    import asyncio


class Ask(Enum):
    """Why a running attempt was asked to stop."""

    CANCEL = "cancel"
    DEADLINE = "deadline"


class Decision(msgspec.Struct, frozen=True):
    """The end of an attempt. Fields as in TaskInfo."""

    status: TaskStatus
    result: object = None
    error: str | None = None
    error_type: str | None = None
    traceback: str | None = None
    exception: BaseException | None = None  #: the exception that `run` raises again
    cancel_reason: str | None = None
    abandoned: bool = False


class TaskState(Decision, frozen=True):
    """The state of a task and the end of its last attempt; each transition replaces it whole. Fields as in TaskInfo."""

    attempt: int = 0
    started_at: float | None = None
    completed_at: float | None = None
    queue_wait_seconds: float | None = None
    duration_seconds: float | None = None
    span: SpanContext | None = None  #: of the last attempt
    ledger: Ledger | None = None  #: None where the time ledger is off
    result_released: bool = False  #: see core/retention.py
    code_ended_at: float | None = None

    def started(
        self,
        started_at: float,
        queue_wait_seconds: float,
        span: SpanContext | None,
        ledger: Ledger | None,
    ) -> TaskState:
        """Return the state of a pending task whose next attempt begins: nothing of the last one stays."""
        return TaskState(
            RUNNING,
            attempt=self.attempt + 1,
            started_at=started_at,
            queue_wait_seconds=queue_wait_seconds,
            span=span,
            ledger=ledger,
        )

    def decided(
        self,
        decision: Decision,
        span: SpanContext | None,
        completed_at: float,
        duration_seconds: float,
        ledger: Ledger | None,
    ) -> TaskState:
        """Return the state of a running task whose attempt ends this way."""
        return TaskState(
            decision.status,
            result=decision.result,
            error=decision.error,
            error_type=decision.error_type,
            traceback=decision.traceback,
            exception=decision.exception,
            cancel_reason=decision.cancel_reason,
            abandoned=decision.abandoned,
            attempt=self.attempt,
            started_at=self.started_at,
            completed_at=completed_at,
            queue_wait_seconds=self.queue_wait_seconds,
            duration_seconds=duration_seconds,
            span=span,
            ledger=ledger,
        )

    def but(self, **changes: Any) -> TaskState:
        """Return the state with these fields changed."""
        return replace(self, **changes)

    def outline(self) -> TaskState:
        """Return the state without the fields that may keep much alive: result, exception and traceback."""
        if self.result is None and self.exception is None and self.traceback is None:
            return self
        return replace(self, result=None, exception=None, traceback=None)


class Rerun(NamedTuple):
    """The ended task that a task runs again."""

    task_id: str
    span: SpanContext | None  #: of its last attempt


ACCEPTED: Final = TaskState(PENDING)
MOST_ATTEMPTS: Final = 100  #: attempts of a task that are kept
NO_KWARGS: Final[dict[str, Any]] = {}  # shared, and never changed
NO_PROGRESS: Final = TaskProgress()
_LEFT: Final = Context()  # of every attempt whose code has ended


class TaskRecord(msgspec.Struct, eq=False):
    """One accepted task. What it was submitted with is fixed; `state` and `progress` get replaced."""

    task_id: str
    name: str
    func: Callable[..., Any] | None  #: dropped with args and kwargs, see `release`
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    category: TaskCategory
    priority: TaskPriority
    cell: int  #: index of its counters
    plugin_id: str | None
    metadata: dict[str, Any] | None
    timeout: float | None  #: seconds of an attempt; None means no limit
    cancellable: bool
    definition: TaskDefinition
    limit: DefinitionLimit | None  #: the definition's, shared by all of its tasks
    wants_progress: bool
    engine: EngineTraits
    context: Context | None  #: the submitter's; dropped when the task ends
    definition_name: str = ""  #: the definition's, else the function's: one of few, unlike `name`
    #: monotonic; the moment up to which `info` accounts for its time
    clock: Callable[[], float] | None = None
    # Set when it is accepted.
    sequence: int = 0  #: order of acceptance, from 1
    created_at: float = 0.0  #: Unix seconds
    eligible_at: float = 0.0  #: monotonic; moves when another attempt is planned
    eligible_wall: float = 0.0  #: Unix seconds
    state: TaskState = ACCEPTED
    progress: TaskProgress = NO_PROGRESS
    rerun: Rerun | None = None  #: the task that it runs again, if any
    rerun_as: str | None = None  #: the id of the last task that runs it again
    parent_id: str | None = None  #: the task that submitted it
    earlier: tuple[TaskAttempt, ...] = ()  #: the attempts that were followed by another, the oldest first
    instance: str | None = None  #: the manager that accepts it
    attempt: Attempt | None = None
    #: the span that it was submitted in, or the mark of its submission there
    submitter: SpanContext | None = None
    queue_entry: list[Any] | None = None  #: the queue's handle while it is pending
    #: Bytes that it keeps alive once it has ended, as far as they are more than most tasks keep; see core/retention.py.
    kept_bytes: int = 0
    #: Called when each attempt starts, see core/calls.py.
    on_start: Callable[[Attempt], object] | None = None
    waiters: list[tuple[asyncio.Future[TaskState], Wait | None]] | None = None

    @property
    def new_trace(self) -> bool:
        """Whether its spans start a trace of their own: if requested, or if the task does not start at once."""
        return self.definition.new_trace or self.definition.starts_later

    def remember(self, attempt: TaskAttempt) -> None:
        """Keep an attempt that is followed by another."""
        self.earlier = (*self.earlier[1 - MOST_ATTEMPTS :], attempt)

    def release(self, *, keep_call: bool = False) -> None:
        """Drop what the ended task needed; `keep_call` keeps its callable and arguments, to run it again."""
        self.context = None
        if self.queue_entry is not None:  # writing to a struct costs ten times as much as reading
            self.queue_entry = None
        if self.on_start is not None:
            self.on_start = None
        if not keep_call:
            self.func = None
            if self.args:
                self.args = ()
            if self.kwargs:
                self.kwargs = NO_KWARGS

    def outline(self) -> TaskRecord:
        """Return a copy, for `info` of a given state, that keeps none of the user's objects and no attempt alive."""
        outline = copy(self)
        outline.release()
        outline.metadata = outline.attempt = outline.waiters = outline.limit = None
        outline.state = ACCEPTED
        return outline

    def info(self, state: TaskState | None = None, progress: TaskProgress | None = None) -> TaskInfo:
        """Return a snapshot, of an earlier `state` and `progress` if given; from any thread.

        Its phases reach up to now. With an earlier state or a given `progress`, as in an event, they reach up to the
        transition that led to it. The value of each field of TaskInfo comes from here.
        """
        state = state or self.state
        phases = self._phases_now(state) if progress is None else state.ledger.seconds if state.ledger else {}
        attempt, span = self.attempt, self.span_of(state)
        return TaskInfo(
            task_id=self.task_id,
            name=self.name,
            category=self.category,
            plugin_id=self.plugin_id,
            priority=self.priority,
            status=state.status,
            progress=progress or self.progress,
            created_at=self.created_at,
            started_at=state.started_at,
            completed_at=state.completed_at,
            error=state.error,
            error_type=state.error_type,
            traceback=state.traceback,
            result=state.result,
            metadata=msgspec.to_builtins(self.metadata) if self.metadata else {},
            cancellable=self.cancellable,
            attempt=state.attempt,
            engine=self.engine.kind,
            cancel_guarantee=self.engine.cancel_guarantee.value,
            timeout_seconds=self.timeout,
            eligible_at=self.eligible_wall,
            queue_wait_seconds=state.queue_wait_seconds,
            duration_seconds=state.duration_seconds,
            phases=dict(phases),
            waiting_for=attempt.waiting_for if attempt else None,
            cancel_reason=state.cancel_reason or (attempt.reason if attempt else None),
            abandoned=state.abandoned,
            code_ended_at=state.code_ended_at,
            result_released=state.result_released,
            trace_id=format_trace_id(span.trace_id) if span else None,
            span_id=format_span_id(span.span_id) if span else None,
            rerun_of=self.rerun.task_id if self.rerun else None,
            parent_id=self.parent_id,
            definition=self.definition_name,
            attempts=self._attempts(state),
            instance=self.instance,
        )

    def _attempts(self, state: TaskState) -> tuple[TaskAttempt, ...]:
        """Return the attempts up to a state, which may be an earlier one."""
        earlier, number = self.earlier, state.attempt
        if earlier and earlier[-1].number >= number and state.status is not RUNNING:
            return tuple(one for one in earlier if one.number <= number)
        if not number or state.status is PENDING:
            return ()
        before = tuple(one for one in earlier if one.number < number)
        later = next((one for one in earlier if one.number == number), None)
        if later is not None:
            started_at = later.started_at
        elif number == 1:
            started_at = state.started_at or 0.0
        else:
            started_at = self.eligible_wall + (state.queue_wait_seconds or 0.0)
        last = TaskAttempt(
            number=number,
            engine=self.engine.kind,
            started_at=started_at,
            ended_at=state.completed_at,
            error_type=state.error_type,
        )
        return (*before, last)

    def span_of(self, state: TaskState) -> SpanContext | None:
        """Return the reference to the span of a state's attempt, None if there is none."""
        attempt = self.attempt
        return state.span or (attempt.span_context if attempt and state is self.state else None)

    def _phases_now(self, state: TaskState) -> Seconds:
        attempt, ledger = self.attempt, state.ledger
        if ledger is None:
            return {}
        if state is not self.state or state.status.final or self.clock is None:
            return ledger.seconds
        now = self.clock()
        if state.status is PENDING:
            seconds = ledger.waiting(max(now, ledger.until), self.eligible_at, before=state.attempt)
            return ledger.plus(now, seconds).seconds
        if attempt is None or attempt.meter is None:  # it is starting or ending at this moment
            return ledger.seconds
        elapsed = max(0.0, now - ledger.until)
        return ledger.plus(now, attempt.meter.phases(self.engine, elapsed, now)).seconds


class FarSide(Protocol):
    """The service's side of the telemetry of calls in other processes."""

    @property
    def entry(self) -> str:
        """The other process's side, as `module:name`; see worker.FarTelemetry."""
        ...

    def surroundings(self, attempt: Attempt) -> Any:
        """Return the plain data that `entry` gets for a call."""
        ...

    def on_event(self, attempt: Attempt | None, kind: str, data: Any) -> None:
        """Take a log line, a span or a line of output; None if its process had no call."""
        ...


class AttemptOwner(Protocol):
    """What an attempt needs from its owner (core/lifecycle.py)."""

    @property
    def manager(self) -> object:
        """The TaskManager that the code inside the task gets."""
        ...

    @property
    def far_side(self) -> FarSide | None:
        """The observer of calls in other processes; None if there is none."""
        ...

    def begin(self, attempt: Attempt) -> None: ...
    def suspended(self, attempt: Attempt) -> None: ...
    def report_progress(self, attempt: Attempt, percent: float, message: str) -> None: ...
    def keep_trace(self, attempt: Attempt) -> None: ...


class Attempt(msgspec.Struct, eq=False):
    """One run of a task's callable. `current_task()` also gives it to the code inside."""

    record: TaskRecord
    number: int
    context: Context
    owner: AttemptOwner
    kwargs: dict[str, Any]
    started_at: float = 0.0  #: monotonic
    started_wall: float = 0.0  #: Unix seconds
    #: It is current in its context; its meter and its span exist, if they ever will.
    begun: bool = False
    span: Span | None = None
    span_context: SpanContext | None = None  #: None if it leads nowhere
    meter: Meter | None = None  #: None if the time ledger is off
    waited: Seconds = NO_SECONDS  #: phases of the time before it, since acceptance or the last attempt
    phases: Seconds = NO_SECONDS  #: phases of its own time, once it is settled
    traceback: str | None = None  #: for a failed one that is followed by another
    ended_at: float = 0.0  #: monotonic, once it is settled
    asked: Ask | None = None  #: the first request wins
    asked_at: float = 0.0  #: monotonic
    reason: str | None = None
    #: No attempt will follow: the task was cancelled or passed its deadline.
    last: bool = False
    grace: asyncio.TimerHandle | None = None  #: ends the grace; None if nobody asked, and once it is over
    settled: bool = False  #: its outcome is decided
    decision: Decision | None = None  #: the decision; until its code has ended
    ended: bool = False  #: its code has ended
    outcome: tuple[object, BaseException | None] | None = None  #: the outcome, while deciding was interrupted
    driver: Any = None  #: the engine's own handle; None before the engine has it, and after its end
    deadline: list[Any] | None = None  #: the entry by which it can be removed
    reported: tuple[float, str] | None = None  #: the newest progress
    reported_at: float = -inf  #: when progress last reached the record, monotonic
    progress_waits: bool = False  #: `reported` will be written to the record soon
    #: the tasks that it submitted while the manager drained: they end with it
    children: tuple[TaskRecord, ...] = ()
    waits_for: tuple[str, ...] = ()  #: the ids of the tasks whose end it waits for right now
    _on_ask: list[Callable[[], object]] = []

    @property
    def task_id(self) -> str:
        return self.record.task_id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def category(self) -> TaskCategory:
        return self.record.category

    @property
    def priority(self) -> TaskPriority:
        return self.record.priority

    @property
    def manager(self) -> Any:
        return self.owner.manager

    @property
    def waiting_for(self) -> str | None:
        """The first of the tasks that this one waits for."""
        return self.waits_for[0] if self.waits_for else None

    @property
    def wants_slot(self) -> bool:
        """Whether it should hold a slot: it waits for no other task and was not asked to stop."""
        return not (self.waits_for or self.settled or self.asked is not None)

    @property
    def cancelled(self) -> bool:
        return self.asked is not None

    def raise_if_cancelled(self) -> None:
        if self.asked is not None:
            raise TaskCancelled(self.record.task_id, self.reason)

    def wait(self, seconds: float) -> bool:
        asked = threading.Event()
        with self.notifying(asked.set):
            return asked.wait(min(seconds, threading.TIMEOUT_MAX))

    def progress(self, percent: float, message: str = "") -> None:
        self.owner.report_progress(self, percent, message)

    def keep_trace(self) -> None:
        self.owner.keep_trace(self)

    def ask(self, why: Ask, reason: str, at: float) -> None:
        """Set the token: from here on the code inside can see that it should stop."""
        self.asked_at = at
        self.reason = reason
        self.asked = why
        for call in list(self._on_ask):
            call()

    def begin(self) -> None:
        """Become current in the context; call this before its code runs, in that context only."""
        self.owner.begin(self)

    def suspended(self) -> None:
        """Note that its code waits for the first time; on the loop."""
        self.owner.suspended(self)

    def release(self) -> None:
        """Drop what ran it, since its code has ended. Its context leads back to it and would keep everything alive."""
        self.driver = self.decision = None
        self.context = _LEFT
        if self.grace is not None or self.outcome is not None:
            self.grace = self.outcome = None

    @contextmanager
    def notifying(self, call: Callable[[], object]) -> Iterator[None]:
        """Call `call` when the attempt is asked to stop within the block, at once if it was; from any thread.

        Each thread of a task has a call of its own. It may come twice, and must not raise.
        """
        self._on_ask.append(call)
        try:
            if self.asked is not None:  # `ask` may have read the calls before
                call()
            yield
        finally:
            self._on_ask.remove(call)


class Wait:
    """One wait of a running task, for which it has lent its slot."""

    __slots__ = ("_over", "attempt", "resumed", "waits_for")

    def __init__(self, attempt: Attempt, waits_for: str) -> None:
        self.attempt = attempt
        self.waits_for = waits_for
        self.resumed: asyncio.Future[None] | None = None  #: done when the task has its slot back
        self._over = False
        attempt.waits_for = (*attempt.waits_for, waits_for)

    def end(self) -> bool:
        """Note that it is over; return False if it already was."""
        if self._over:
            return False
        self._over = True
        left = list(self.attempt.waits_for)
        left.remove(self.waits_for)
        self.attempt.waits_for = tuple(left)
        return True


class End(msgspec.Struct, frozen=True, gc=False):
    """What to announce about an attempt that has ended, or a task that ended without one."""

    kind: EventKind  #: retrying, completed, failed or cancelled
    at: float  #: Unix seconds
    record: TaskRecord
    state: TaskState  #: the state that it led to
    attempt: Attempt | None
    context: Context | None  #: the submitter's, which the record releases
    waited: Seconds = NO_SECONDS  #: phases of a task that ended without an attempt

    @property
    def traceback(self) -> str | None:
        """The traceback of a failed attempt, also when its task is pending again and keeps none."""
        return self.state.traceback or (self.attempt.traceback if self.attempt else None)


class TaskEvent(msgspec.Struct, frozen=True, gc=False):
    """One fact about one task, announced exactly once, in order of `sequence`."""

    sequence: int  #: rises by one with each event of a manager
    kind: EventKind  #: what has happened
    at: float  #: Unix seconds
    record: TaskRecord
    state: TaskState  #: the state that the event led to
    progress: TaskProgress  #: the last report of the task's code
    previous: TaskStatus | None = None  #: the status before the event; None for submitted

    def outline(self) -> TaskEvent:
        """Return the event without the fields that may keep much alive: arguments, metadata, result and traceback."""
        record, state = self.record.outline(), self.state.outline()
        return TaskEvent(
            sequence=self.sequence,
            kind=self.kind,
            at=self.at,
            record=record,
            state=state,
            progress=self.progress,
            previous=self.previous,
        )

    @property
    def info(self) -> TaskInfo:
        """The task right after the event."""
        return self.record.info(self.state, self.progress)
