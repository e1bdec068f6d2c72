"""The tasks of the machine: each waits for its next line, and does as it is told.

A `Plan` is what a task is submitted with, an `Actor` is its callable, a `Show` is one run of that callable. They
tell `Notes` what the code inside saw, so that the model need not believe the manager.
"""

from __future__ import annotations

import asyncio
import itertools
import types
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import partial
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry.trace import SpanContext

from qorzen_obs.core.current_task import current_task
from qorzen_obs.current import CurrentTask
from qorzen_obs.engines.base import Ended
from qorzen_obs.engines.traits import EngineTraits
from qorzen_obs.errors import InvalidTaskError, QorzenError, RetryLater, TaskCancelled
from qorzen_obs.options import TaskOptions, with_options
from qorzen_obs.record import Attempt
from qorzen_obs.retry import Retry
from qorzen_obs.tasks import EngineKind, TaskCategory, TaskPriority

_UNIQUE_SECONDS = 0.00137  # times the actor's number: so that no two timers are due at one instant


class BoomError(Exception):
    """What a task raises on its own account."""


class Manner(Enum):
    """What a coroutine does when it is interrupted."""

    GIVES_IN = "gives in"
    RETURNS = "returns"
    RAISES = "raises"
    IGNORES = "ignores"


@dataclass(frozen=True)
class RetryPlan:
    """A retry policy in the model's words."""

    max_attempts: int = 3
    wait_seconds: float = 1.0
    only: type[BaseException] = Exception
    broken: bool = False  #: its backoff raises, but when it is tried

    def policy(self) -> Retry:
        calls = itertools.count()

        def backoff(attempt: int, source: object) -> float:
            if next(calls) and self.broken:
                raise BoomError("the user's own backoff fails")
            return self.wait_seconds

        return Retry(max_attempts=self.max_attempts, backoff=backoff, on=(self.only,))


@dataclass(frozen=True, repr=False)
class Plan:
    """What a task is submitted with."""

    sync: bool = False
    category: TaskCategory = TaskCategory.CORE
    priority: TaskPriority = TaskPriority.NORMAL
    timeout: float | None = None
    deadline: float | None = None
    delay: float = 0.0
    cancellable: bool = True
    retry: RetryPlan | None = None
    limit: tuple[str, int] | None = None  #: name and max_concurrent of its definition
    manner: Manner = Manner.GIVES_IN
    plugin_id: str | None = None
    traced: bool = False  #: submitted inside a span

    def __repr__(self) -> str:
        """Show what is not as usual, so that a failing script can be read."""
        changed = (
            (one.name, getattr(self, one.name))
            for one in fields(self)
            if getattr(self, one.name) != one.default
        )
        return f"Plan({', '.join(f'{name}={value}' for name, value in changed)})"

    @property
    def engine(self) -> EngineKind:
        if not self.sync:
            return EngineKind.LOOP
        return {TaskCategory.IO: EngineKind.IO, TaskCategory.UI: EngineKind.MAIN}.get(
            self.category, EngineKind.THREAD
        )


class Line(Enum):
    """What a running task may be told to do."""

    RETURN = "return"
    RAISE = "raise"
    REPORT = "report"
    HEED = "raise_if_cancelled"
    WAIT = "wait_for_task"
    RUN = "run"
    SUBMIT = "submit_task"


@dataclass(eq=False)
class Show:
    """One run of an actor's callable."""

    actor: Actor
    number: int
    task: CurrentTask
    lines: asyncio.Queue[tuple[Line, Any]] = field(default_factory=asyncio.Queue)
    targets: list[Actor] = field(default_factory=list)  #: whom it waits for just now
    lent: bool = False  #: it gave its slot away and has not resumed since
    interrupted_at: float | None = None
    #: ("returned", value) or ("raised", error), once the code has ended.
    outcome: tuple[str, Any] | None = None
    reported: list[float] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        return self.outcome is None and not self.targets and self.lines.empty()


class Notes(Protocol):
    """Whom actors tell what they see."""

    manager: Any

    def now(self) -> float: ...
    def complain(self, problem: str) -> None: ...
    def show_began(self, show: Show) -> None: ...
    def show_ended(self, show: Show) -> None: ...
    def refuses_wait(self, show: Show, target: Actor) -> bool: ...
    def lends(self, show: Show, target: Actor, line: Line) -> None: ...
    def waits_no_more(self, show: Show, target: Actor) -> None: ...
    def run_was_cancelled(self, target: Actor) -> None: ...
    def heard(self, target: Actor, value: object, error: BaseException | None) -> None: ...
    def submission(self, actor: Actor) -> None: ...
    def refused(self, actor: Actor, error: Exception) -> None: ...


class Actor:
    """One task of the machine."""

    def __init__(self, number: int, plan: Plan, notes: Notes) -> None:
        self.number, self.plan, self.notes = number, plan, notes
        self.task_id: str | None = None
        self.shows: list[Show] = []
        self.caller: Show | None = None  #: the run of another task that submits it
        self.submitter: SpanContext = trace.INVALID_SPAN_CONTEXT
        self.obstacle: str | None = None  #: why it could not be accepted at once
        self.refusal: Exception | None = None
        self.name = plan.limit[0] if plan.limit else f"task-{number}"
        unique = number * _UNIQUE_SECONDS
        self.timeout = None if plan.timeout is None else plan.timeout + unique
        self.deadline = None if plan.deadline is None else plan.deadline + unique
        self.delay = plan.delay + unique if plan.delay else 0.0

    def __repr__(self) -> str:
        return f"{self.name}#{self.number}"

    @property
    def show(self) -> Show | None:
        return self.shows[-1] if self.shows else None

    def callable(self) -> Callable[..., Any]:
        plan = self.plan
        options: TaskOptions = {"name": self.name, "delay": self.delay}
        if self.deadline is not None:
            options["deadline"] = self.deadline
        if plan.retry is not None:
            options["retry"] = plan.retry.policy()
        if plan.limit is not None:
            options["max_concurrent"] = plan.limit[1]
        if plan.engine is EngineKind.MAIN:
            return with_options(self.play_at_once, **options)
        return with_options(self.play_in_thread if plan.sync else self.play, **options)

    def options(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "category": plan.category,
            "priority": plan.priority,
            "timeout": self.timeout,
            "cancellable": plan.cancellable,
            "plugin_id": plan.plugin_id,
            "metadata": {"actor": self.number},
        }

    # ------------------------------------------------------------------ the callables

    async def play(self) -> Any:
        """Follow the machine's lines until one of them, or an interruption, ends the run."""
        return await self._perform(self._enter())

    def play_in_thread(self) -> Coroutine[Any, Any, Any]:
        """As `play`, for the engine below, which runs what this returns as a thread would run a function."""
        return self._perform(self._enter())

    def play_at_once(self) -> str:
        """Return or raise, by number, for the loop's own thread."""
        show = self._enter()
        error = BoomError("at once") if self.number % 3 == 0 else None
        show.outcome = ("raised", error) if error else ("returned", self._value(show))
        self.notes.show_ended(show)
        if error:
            raise error
        return self._value(show)

    def _enter(self) -> Show:
        task = current_task()
        show = Show(self, task.number, task)
        self.shows.append(show)
        self.notes.show_began(show)
        return show

    async def _perform(self, show: Show) -> Any:
        try:
            value = await self._follow(show)
        except GeneratorExit:
            raise
        except BaseException as error:
            show.outcome = ("raised", error)
            self.notes.show_ended(show)
            raise
        show.outcome = ("returned", value)
        self.notes.show_ended(show)
        return value

    async def _follow(self, show: Show) -> Any:
        while True:
            try:
                line, given = await show.lines.get()
                if line in (Line.WAIT, Line.RUN):
                    await self._wait(show, line, given)
                    continue
                if line is Line.SUBMIT:
                    await self._submit_one(show, given)
                    continue
            except (asyncio.CancelledError, TaskCancelled):
                if show.interrupted_at is None:
                    show.interrupted_at = self.notes.now()
                if self.plan.manner is Manner.GIVES_IN:
                    raise
                if self.plan.manner is Manner.RETURNS:
                    return self._value(show)
                if self.plan.manner is Manner.RAISES:
                    raise BoomError("interrupted") from None
                continue
            if line is Line.RETURN:
                return self._value(show)
            if line is Line.RAISE:
                raise given
            if line is Line.HEED:
                show.task.raise_if_cancelled()
            elif line is Line.REPORT:
                show.reported.append(given)
                show.task.progress(given, f"{given:g}")

    def _value(self, show: Show) -> str:
        return f"{self.number}.{show.number}"

    # ------------------------------------------------------------------ waiting for others

    async def _wait(self, show: Show, line: Line, targets: list[Actor]) -> None:
        """Wait for one target, or gather several."""
        how = self._run_one if line is Line.RUN else self._wait_one
        show.targets += targets
        try:
            if len(targets) == 1:
                await how(show, targets[0])
            else:
                await asyncio.gather(*(how(show, target) for target in targets))
        finally:
            for target in list(show.targets):  # branches that were cancelled before they began
                self.notes.waits_no_more(show, target)

    async def _wait_one(self, show: Show, target: Actor) -> None:
        assert target.task_id is not None
        refused = self.notes.refuses_wait(show, target)
        if not refused:
            self.notes.lends(show, target, Line.WAIT)
        try:
            info = await self._as_the_engine_would(show, self.notes.manager.wait_for_task(target.task_id))
            if info.task_id != target.task_id or not info.status.final:
                self.notes.complain(f"D25: waiting for {target} gave {info.status} of {info.name}")
        except InvalidTaskError:
            if not refused:
                self.notes.complain(f"D25: {self} may wait for {target}, and was refused")
        else:
            if refused:
                self.notes.complain(f"D25: {self} waits for its own end by way of {target}")
        finally:
            self.notes.waits_no_more(show, target)

    async def _submit_one(self, show: Show, target: Actor) -> None:
        """Submit a task and do not wait for it."""
        target.caller, target.submitter = show, trace.get_current_span().get_span_context()
        await self._as_the_engine_would(show, submit_and_tell(target))

    async def _run_one(self, show: Show, target: Actor) -> None:
        target.caller, target.submitter = show, trace.get_current_span().get_span_context()
        self.notes.lends(show, target, Line.RUN)
        try:
            await self._as_the_engine_would(show, run_and_tell(target))
        finally:
            self.notes.waits_no_more(show, target)

    async def _as_the_engine_would(self, show: Show, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await; in a thread by way of a task of the loop that the token cancels, as `from_thread` does."""
        if not self.plan.sync:
            return await coroutine
        task = asyncio.ensure_future(coroutine)
        attempt: Any = show.task
        with attempt.notifying(task.cancel):
            return await task


async def submit_and_tell(target: Actor) -> bool:
    """Submit a target and tell what came of it; return whether it was accepted."""
    notes = target.notes
    notes.submission(target)
    try:
        task_id = await notes.manager.submit_task(target.callable(), **target.options())
    except QorzenError as error:
        notes.refused(target, error)
        return False
    if task_id != target.task_id:
        notes.complain(f"D1: {target} was accepted as {target.task_id} and returned {task_id}")
    return True


async def run_and_tell(target: Actor) -> None:
    """`manager.run` a target and tell what came of it."""
    notes = target.notes
    notes.submission(target)
    running = notes.manager.run(target.callable(), **target.options())
    try:
        value = await noticing(running, partial(notes.run_was_cancelled, target))
    except Exception as error:
        if target.task_id is None:
            if not isinstance(error, QorzenError):
                raise
            notes.refused(target, error)
        else:
            notes.heard(target, None, error)
    else:
        notes.heard(target, value, None)


@types.coroutine
def noticing(coroutine: Coroutine[Any, Any, Any], notice: Callable[[], None]) -> Generator[Any, Any, Any]:
    """Await `coroutine` and call `notice` when a cancellation arrives, before the coroutine itself sees it."""
    try:
        future = coroutine.send(None)
        while True:
            try:
                got = yield future
            except asyncio.CancelledError as error:
                notice()
                future = coroutine.throw(error)
            else:
                future = coroutine.send(got)
    except StopIteration as stop:
        return stop.value


class GatedThreads:
    """Stands for a pool of threads: runs what the machine's synchronous callables return, deaf to interruption."""

    def __init__(self, traits: EngineTraits, slots: int) -> None:
        self.traits = traits
        self.slots: int | None = slots

    def start(self, attempt: Attempt, ended: Ended) -> None:
        attempt.driver = asyncio.get_running_loop().create_task(
            self._run(attempt, ended), context=attempt.context
        )

    def interrupt(self, attempt: Attempt) -> None:
        pass

    def abandon(self, attempt: Attempt) -> None:
        pass

    def close(self) -> None:
        pass

    async def _run(self, attempt: Attempt, ended: Ended) -> None:
        value, error = None, None
        func: Any = attempt.record.func
        try:
            value = await func(*attempt.record.args, **attempt.kwargs)
        except GeneratorExit:
            raise
        except BaseException as caught:  # noqa: BLE001 - as at a thread's top
            error = caught
        ended(attempt, value, error)


def error_of(name: str) -> BaseException:
    """Return a fresh error that a task may be told to raise."""
    errors: dict[str, Callable[[], BaseException]] = {
        "BoomError": lambda: BoomError("boom"),
        "OSError": lambda: OSError("no such luck"),
        "RetryLater": lambda: RetryLater(2.5, "not there yet"),
        "CancelledError": asyncio.CancelledError,
        "TaskCancelled": lambda: TaskCancelled("somebody else's"),
        "SystemExit": lambda: SystemExit(3),
    }
    return errors[name]()
