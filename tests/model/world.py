"""The real manager on a stepped loop, the actors that are submitted to it, and the model that watches.

Each operation does one thing and returns when all is quiet again. What it was called with is kept in `script`, so
that another world can be taken the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from opentelemetry import trace
from prometheus_client import CollectorRegistry

from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.engines.base import Engine
from qorzen_obs.engines.loop import LoopEngine
from qorzen_obs.engines.main import MainEngine
from qorzen_obs.engines.traits import IO, THREAD
from qorzen_obs.errors import (
    TaskManagerClosedError,
    TaskNotCancellableError,
    TaskNotFoundError,
    TaskQueueFullError,
    TaskWaitTimeoutError,
)
from qorzen_obs.settings import Settings, TaskSettings, TelemetrySettings
from qorzen_obs.tasks import EngineKind, EventKind, TaskCategory, TaskStatus
from qorzen_obs.testing import CapturedEvents
from tests.model.actors import Actor, GatedThreads, Line, Plan, Show, error_of, run_and_tell, submit_and_tell
from tests.model.ends import qualified
from tests.model.loop import SteppedLoop
from tests.model.model import EPSILON, Model
from tests.model.rest import Rest
from tests.model.spans import SpanRecorder

P = ParamSpec("P")


class ModelError(AssertionError):
    """The manager did something that the model does not allow."""


class Lines:
    """A logger and its manager: keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def get_logger(self, name: str) -> Lines:
        return self

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    debug = warning = error = exception = info


class Threads:
    """A concurrency manager whose threads are gated."""

    def __init__(self, slots: dict[EngineKind, int]) -> None:
        loop = asyncio.get_running_loop()
        engines: list[Engine] = [LoopEngine(loop), MainEngine(loop)]
        engines += [GatedThreads(IO, slots[EngineKind.IO]), GatedThreads(THREAD, slots[EngineKind.THREAD])]
        self._engines = {engine.traits.kind: engine for engine in engines}

    def engine(self, kind: str) -> Engine:
        return self._engines[kind]


@dataclass
class Telemetry:
    """Everything that observes, so that a test may break it."""

    logs: Any = field(default_factory=Lines)
    events: Any = field(default_factory=CapturedEvents)
    spans: SpanRecorder = field(default_factory=SpanRecorder)
    observer: Callable[[Any], None] | None = None


@dataclass
class Waiter:
    """Somebody outside who waits for a task."""

    target: Actor
    deadline: float | None
    task: asyncio.Task[Any]


def operation(
    method: Callable[Concatenate[World, P], None],
) -> Callable[Concatenate[World, P], None]:
    """Write the call into the script, and look for problems afterwards."""

    @wraps(method)
    def scripted(world: World, /, *args: P.args, **kwargs: P.kwargs) -> None:
        world.script.append((method.__name__, args))
        method(world, *args, **kwargs)
        world.look_for_problems()

    return scripted


class World:
    """One manager from start to end. `settings` are fields of `tasks.*`."""

    def __init__(
        self,
        settings: dict[str, Any],
        slots: dict[EngineKind, int] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.telemetry = telemetry or Telemetry()
        self.script: list[tuple[str, tuple[Any, ...]]] = []
        self.actors: list[Actor] = []
        self.waiters: list[Waiter] = []
        self.submissions: list[tuple[Actor, asyncio.Task[Any]]] = []
        self.stopping: list[asyncio.Task[Any]] = []
        self.slots = {EngineKind.IO: 2, EngineKind.THREAD: 2, **(slots or {}), EngineKind.MAIN: 1}
        self.loop = SteppedLoop()
        self.given = settings
        tasks = TaskSettings(**settings)
        self.settings = {name: getattr(tasks, name) for name in tasks.__struct_fields__}
        self.settings["category_limits"] = {key.value: n for key, n in tasks.category_limits.items()}
        self.model = Model(self.settings, self.slots, self.telemetry.spans, self.actors, self.now)

    def open(self) -> None:
        """Start the manager."""
        opening = self.loop.create_task(self._open(TaskSettings(**self.given)))
        self.loop.run_until_quiet()
        opening.result()
        self.rest = Rest(self)
        self.loop.on_rest = self._check
        self.look_for_problems()

    def _check(self) -> None:
        """Compare at a moment of rest, and fail there: what follows from a problem may go on for ever."""
        self.rest.check()
        self.look_for_problems()

    async def _open(self, tasks: TaskSettings) -> None:
        # Else most of a scrape would be buckets.
        few = TelemetrySettings(run_buckets=(1.0,), wait_buckets=(1.0,))
        self.config = ConfigManager(Settings(tasks=tasks, telemetry=few))
        self.registry = CollectorRegistry()
        self.manager = TaskManager(
            Threads(self.slots),
            self.telemetry.events,
            self.telemetry.logs,
            self.config,
            registry=self.registry,
            tracer_provider=self.telemetry.spans,
            clock=self.loop.clock,
        )
        await self.manager.initialize()
        self.manager._life._loop_monitor.stop()  # its pulse would be most of what happens in an hour
        self.manager._lifecycle._random.seed(0)  # a script goes the same way each time
        self.manager.observe("model", self.model.on_event)
        if self.telemetry.observer is not None:
            self.manager.observe("broken", self.telemetry.observer)

    def look_for_problems(self) -> None:
        """Fail when something did not go as the model says, or went wrong where nobody saw it."""
        problems = self.model.problems + self.loop.complaints
        if not any(name == "model" for name, _ in self.manager._announcer.observers[EventKind.SUBMITTED]):
            problems = [*problems, "the model itself failed and was dismissed"]
        if problems:
            self.model.problems, self.loop.complaints = [], []
            raise ModelError("\n".join(problems))

    def now(self) -> float:
        return self.loop.time()

    # ------------------------------------------------------------------ what actors tell

    def complain(self, problem: str) -> None:
        self.model.problems.append(problem)

    def show_began(self, show: Show) -> None:
        self.model.note_show(show)

    def show_ended(self, show: Show) -> None:
        self.model.note_show_end(show)

    def refuses_wait(self, show: Show, target: Actor) -> bool:
        return self.model.may_not_wait(show, target)

    def lends(self, show: Show, target: Actor, line: Line) -> None:
        life = self.model.lives[show.actor.number]
        if show.actor.plan.sync and show.task.cancelled:
            return  # the call from the thread is refused before it begins
        if line is Line.RUN:
            blocks = self.model.accepts(show) in (None, self._worth_waiting_for)
        else:
            blocks = self.model.lives[target.number].final is None
        if blocks and life.final is None:
            show.lent = True

    @property
    def _worth_waiting_for(self) -> str | None:
        return "queue_full" if self.settings["when_full"] == "wait" else None

    def waits_no_more(self, show: Show, target: Actor) -> None:
        if target in show.targets:
            show.targets.remove(target)
        life = self.model.lives[show.actor.number]
        if not show.targets and life.final is None and not self.model.asks_of(life):
            show.lent = False

    def run_was_cancelled(self, target: Actor) -> None:
        life = self.model.lives.get(target.number)
        if life is not None and life.final is None and target.plan.cancellable:
            self.model.note_cancel(life, "the caller of run() was cancelled")

    def heard(self, target: Actor, value: object, error: BaseException | None) -> None:
        """What `run` gave is what the task ended with."""
        life = self.model.lives[target.number]
        final = life.final
        if final is None:
            return self.complain(f"D25: run() of {target} returned before its end")
        if final.status is TaskStatus.COMPLETED:
            ok = error is None and value == final.result
        elif final.status is TaskStatus.CANCELLED:
            ok = type(error).__name__ == "TaskCancelled"
        elif final.error_type == "timeout":
            ok = isinstance(error, TimeoutError)
        else:
            ok = error is not None and final.error_type in (
                qualified(error),
                getattr(error, "error_type", None),
            )
        if not ok:
            self.complain(f"D11: run() of {target} gave {value!r}, {error!r} for {final.status}")
        return None

    def submission(self, actor: Actor) -> None:
        """A submission is about to be made: nothing comes between this and the manager's own look."""
        actor.obstacle = self.model.accepts(actor.caller)
        if actor.obstacle is not None and actor.obstacle != self._worth_waiting_for:
            self.model.rejected[actor.obstacle] += 1

    def refused(self, actor: Actor, error: Exception) -> None:
        """D22: a refusal is typed, and comes when there is a reason."""
        actor.refusal = error
        waited = actor.obstacle == "queue_full" == self._worth_waiting_for
        if waited and self.model.accepts(actor.caller) == "closed":
            actor.obstacle = "closed"
            self.model.rejected["closed"] += 1
        kinds: dict[str, type[Exception]] = {
            "closed": TaskManagerClosedError,
            "queue_full": TaskQueueFullError,
        }
        if actor.obstacle is None or not isinstance(error, kinds[actor.obstacle]):
            self.complain(f"D22: {actor} was refused with {error!r}, where {actor.obstacle} was due")

    # ------------------------------------------------------------------ operations

    @operation
    def submit(self, plans: list[Plan], cancel_at_once: bool = False) -> None:
        """Submit tasks one after the other within one turn of the loop."""
        actors = [self._hire(plan) for plan in plans]
        for actor in actors:
            work = self._submit(actor, cancel_at_once)
            self.submissions.append((actor, self.loop.create_task(work)))
        self.loop.run_until_quiet()

    @operation
    def run(self, plan: Plan) -> None:
        """Call `run` from outside; `stop_waiting` may cancel it."""
        actor = self._hire(plan)
        self.waiters.append(Waiter(actor, None, self.loop.create_task(run_and_tell(actor))))
        self.loop.run_until_quiet()

    @operation
    def tell(self, number: int, line: Line, given: Any = None) -> None:
        """Give a running task its next line."""
        show = self.actors[number].show
        assert show is not None
        if line is Line.RUN:
            given = [self._hire(plan) for plan in given]
        elif line is Line.SUBMIT:
            given = self._hire(given)
        elif line is Line.WAIT:
            given = [self.actors[target] for target in given]
        elif line is Line.RAISE:
            given = error_of(given)
        show.lines.put_nowait((line, given))
        self.loop.run_until_quiet()

    @operation
    def cancel(self, number: int) -> None:
        self._now(self._cancel(self.actors[number]))

    @operation
    def cancel_unknown(self) -> None:
        self._now(self._expecting(TaskNotFoundError, self.manager.cancel_task("f" * 32)))

    @operation
    def wait(self, number: int, timeout: float | None) -> None:
        """Wait for a task from outside."""
        target = self.actors[number]
        assert target.task_id is not None
        deadline = None if timeout is None else self.now() + timeout
        waiting = self.loop.create_task(self.manager.wait_for_task(target.task_id, timeout))
        self.waiters.append(Waiter(target, deadline, waiting))
        self.loop.run_until_quiet()

    @operation
    def stop_waiting(self, index: int) -> None:
        """Cancel somebody's wait."""
        self.waiters.pop(index).task.cancel()
        self.loop.run_until_quiet()

    @operation
    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @operation
    def move_wall_clock(self, seconds: float) -> None:
        self.loop.clock.wall_offset += seconds

    @operation
    def configure(self, name: str, value: Any) -> None:
        """Change a setting at run time."""
        self.settings[name] = value
        self.model.retain()
        self._now(self.config.set(f"tasks.{name}", value))

    @operation
    def pause(self, category: TaskCategory) -> None:
        self.model.paused.add(category)
        self._now(self.manager.pause(category))

    @operation
    def resume(self, category: TaskCategory) -> None:
        self.model.paused.discard(category)
        self._now(self.manager.resume(category))

    @operation
    def shutdown(self, grace_seconds: float) -> None:
        model = self.model
        model.ready = False
        model.stop_asked_at = min(model.stop_asked_at, self.now() + grace_seconds)
        self.stopping.append(self.loop.create_task(self.manager.shutdown(grace_seconds=grace_seconds)))
        self.loop.run_until_quiet()

    @operation
    def look(self) -> None:
        """Compare everything that can be read."""
        self.rest.look_closely()

    @operation
    def scrape(self) -> None:
        """Read the metrics."""
        self.rest.scrape()

    # ------------------------------------------------------------------ their parts

    def _hire(self, plan: Plan) -> Actor:
        actor = Actor(len(self.actors), plan, self)
        self.actors.append(actor)
        return actor

    def _now(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run what ends within one settling."""
        task = self.loop.create_task(coroutine)
        self.loop.run_until_quiet()
        if not task.done():
            self.complain(f"D25: {coroutine} does not return")
            task.cancel()
            self.loop.run_until_quiet()
        elif task.exception() is not None:
            self.complain(f"D26: {coroutine} raised {task.exception()!r}")

    async def _submit(self, actor: Actor, cancel_at_once: bool) -> None:
        with contextlib.ExitStack() as stack:
            if actor.plan.traced:
                stack.enter_context(self._span())
                actor.submitter = trace.get_current_span().get_span_context()
            accepted = await submit_and_tell(actor)
        if accepted and cancel_at_once:
            await self._cancel(actor)

    def _span(self) -> Any:
        span = self.telemetry.spans.start_span("the caller")
        return trace.use_span(span, end_on_exit=True)

    async def _cancel(self, actor: Actor) -> None:
        """D9 and D10: cancel, and compare the answer."""
        assert actor.task_id is not None
        life = self.model.lives[actor.number]
        before, live = life.status, life.final is None
        if live and not actor.plan.cancellable:
            cancelling = self.manager.cancel_task(actor.task_id, reason="the machine")
            return await self._expecting(TaskNotCancellableError, cancelling)
        if live:
            self.model.note_cancel(life, "the machine")
        answer = await self.manager.cancel_task(actor.task_id, reason="the machine")
        if answer is not live:
            self.complain(f"D9: cancelling {actor} in {before} gave {answer}")
        if before is TaskStatus.PENDING and live and life.final is None:
            self.complain(f"D9: {actor} was pending, was cancelled, and has not ended")
        return None

    async def _expecting(self, kind: type[Exception], coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            answer = await coroutine
        except kind:
            return
        self.complain(f"D10: {coroutine} gave {answer!r}, and should raise {kind.__name__}")

    def forget_waiters(self) -> None:
        """Drop those that wait no more."""
        self.waiters = [waiter for waiter in self.waiters if not waiter.task.done()]

    def waiter_is_right(self, waiter: Waiter) -> bool:
        """D25: return whether a waiter was released when, and only when, it should be."""
        life = self.model.lives.get(waiter.target.number)
        over = waiter.target.refusal is not None or (life is not None and life.final is not None)
        late = waiter.deadline is not None and self.now() >= waiter.deadline - EPSILON
        if not waiter.task.done():
            return not over and not (late and self.now() > (waiter.deadline or 0.0) + EPSILON)
        if waiter.task.cancelled():
            return False
        if isinstance(waiter.task.exception(), TaskWaitTimeoutError):
            return late
        return over and waiter.task.exception() is None

    # ------------------------------------------------------------------ the end

    def end(self) -> None:
        """Shut down, let the last code end, and see that nothing is left (23, 24, 25)."""
        if not self.stopping:
            self.shutdown(0.0)
        self.advance(self.model.stop_asked_at - self.now() if self.model.stop_asked_at > self.now() else 0.0)
        self.advance(self.settings["cancel_grace_seconds"] + 3.0)
        self.rest.after_shutdown()
        self.look()
        self.scrape()
        for life in list(self.model.abandoned):
            self._release(life.actor)
        self.rest.when_all_is_over()
        self.look_for_problems()

    def _release(self, actor: Actor) -> None:
        show = actor.show
        if show is not None and show.outcome is None:
            show.lines.put_nowait((Line.RETURN, None))
            self.loop.run_until_quiet()

    def close(self) -> None:
        """Close the loop, whatever state a failure left it in."""
        self.loop.on_rest = lambda: None
        self.loop.set_exception_handler(lambda *_: None)
        for _ in range(5):
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            for actor in self.actors:
                if actor.show is not None and actor.show.outcome is None:
                    actor.show.lines.put_nowait((Line.RETURN, None))
            with contextlib.suppress(AssertionError):  # it does not come to rest
                self.loop.run_until_quiet()
        self.loop.close()
