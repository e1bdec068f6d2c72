"""F38: whatever is raised at whatever call of a step, the step is undone or finished, and a stop ends in time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final

import pytest

from qorzen_obs.tasks import TaskCategory
from tests.model.actors import Actor, Line, Manner, Plan, RetryPlan
from tests.model.interruptions import CALLS, STEPS, Interruption
from tests.model.world import World

pytestmark = pytest.mark.slow  # an exception at each of hundreds of calls, one run for each

ONE_SLOT: Final = {"max_concurrent_tasks": 1}


class Stage:
    """A world in which a step is interrupted."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.world = World(settings)
        self.world.open()
        self.raised: BaseException | None = None

    def act(self, plan: Plan) -> Actor:
        """Submit a task that nothing interrupts."""
        self.world.submit([plan])
        return self.world.actors[-1]

    def settle(
        self,
        act: Coroutine[Any, Any, None] | None = None,
        *,
        seconds: float = 0.0,
        context: Context | None = None,
    ) -> None:
        """Act, and let time pass until all is quiet, without anybody who looks; then the model looks.

        An interrupt that ends the loop is followed by another run.
        """
        loop = self.world.loop
        on_rest, loop.on_rest = loop.on_rest, lambda: None
        acting = [loop.create_task(act, context=context)] if act is not None else []
        for _ in range(2):
            try:
                loop.advance(seconds)
            except KeyboardInterrupt:
                loop.run_until_quiet()
            seconds = 0.0
        loop.run_until_quiet()
        assert all(one.done() for one in acting)
        loop.on_rest = on_rest

    def submit(self, plan: Plan, parent: Actor | None = None) -> None:
        """Submit a task, from inside another one where that is given, which is all or nothing."""
        actor, context = self.world._hire(plan), None
        if parent is not None:
            assert parent.task_id is not None
            actor.caller = parent.show
            context = self.world.manager._table.running[parent.task_id].context

        async def submit() -> None:
            self.world.submission(actor)
            try:
                actor.task_id = await self.world.manager.submit_task(actor.callable(), **actor.options())
            except BaseException as error:  # noqa: BLE001 - as any caller may
                self.raised = error

        self.settle(submit(), context=context)
        accepted = actor.number in self.world.model.lives
        assert accepted is (self.raised is None), f"{self.raised!r} was raised, and accepted is {accepted}"

    def cancel(self, actor: Actor) -> None:
        """Cancel a task; where that raises it may be undone."""
        life = self.world.model.lives[actor.number]

        async def cancel() -> None:
            assert actor.task_id is not None
            self.world.model.note_cancel(life, "the machine")
            try:
                await self.world.manager.cancel_task(actor.task_id, reason="the machine")
            except BaseException as error:  # noqa: BLE001 - as any caller may
                self.raised = error

        self.settle(cancel())
        asked = actor.show is not None and actor.show.task.cancelled
        if self.raised is not None and life.final is None and not asked:
            life.asks, life.cancel_wanted = [], False

    def tell(self, actor: Actor, line: Line, given: Any = None) -> None:
        """Let a task go on, and what follows from it."""
        assert actor.show is not None
        actor.show.lines.put_nowait((line, given))
        self.settle()

    def end(self) -> None:
        """All that the model says holds, now, while the manager stops, and afterwards."""
        world = self.world
        world.loop.run_until_quiet()
        world.look_for_problems()
        world.end()
        errors = world.manager.looks.metrics.telemetry_errors
        assert errors["consistency"] == 0, world.telemetry.logs.lines


def submit_what_starts(stage: Stage) -> Callable[[], None]:
    return lambda: stage.submit(Plan())


def submit_to_a_thread(stage: Stage) -> Callable[[], None]:
    return lambda: stage.submit(Plan(sync=True, timeout=4.0, plugin_id="a plugin"))


def submit_what_waits(stage: Stage) -> Callable[[], None]:
    stage.act(Plan())
    return lambda: stage.submit(Plan(deadline=20.0, limit=("few", 1)))


def submit_what_is_scheduled(stage: Stage) -> Callable[[], None]:
    return lambda: stage.submit(Plan(delay=1.5))


def submit_a_child_that_cannot_start(stage: Stage) -> Callable[[], None]:
    parent = stage.act(Plan())
    stage.world.shutdown(60.0)
    return lambda: stage.submit(Plan(delay=100.0), parent)


def end_one_and_start_the_next(stage: Stage) -> Callable[[], None]:
    first = stage.act(Plan(timeout=4.0))
    stage.act(Plan(sync=True, plugin_id="a plugin", timeout=4.0))
    return lambda: stage.tell(first, Line.RETURN)


def end_what_somebody_waits_for(stage: Stage) -> Callable[[], None]:
    child = stage.act(Plan())
    stage.world.wait(child.number, None)
    return lambda: stage.tell(child, Line.RAISE, OSError("no"))


def retry(stage: Stage) -> Callable[[], None]:
    actor = stage.act(Plan(retry=RetryPlan(wait_seconds=1.0)))
    stage.act(Plan(sync=True))

    def fail_and_come_back() -> None:
        stage.tell(actor, Line.RAISE, OSError("no"))
        stage.settle(seconds=2.0)

    return fail_and_come_back


def cancel_a_pending_task(stage: Stage) -> Callable[[], None]:
    stage.act(Plan())
    pending = stage.act(Plan(deadline=20.0))
    return lambda: stage.cancel(pending)


def cancel_a_running_task(stage: Stage) -> Callable[[], None]:
    running = stage.act(Plan())
    stage.act(Plan(sync=True))
    return lambda: stage.cancel(running)


def pass_a_timeout_and_the_grace(stage: Stage) -> Callable[[], None]:
    stage.act(Plan(timeout=0.5, manner=Manner.IGNORES))
    stage.act(Plan(category=TaskCategory.IO, sync=True, timeout=0.5))
    return lambda: stage.settle(seconds=3.0)


SCENES: Final[dict[str, tuple[dict[str, Any], Callable[[Stage], Callable[[], None]]]]] = {
    "submit what starts": ({}, submit_what_starts),
    "submit to a thread": ({}, submit_to_a_thread),
    "submit what waits": (ONE_SLOT, submit_what_waits),
    "submit what is scheduled": ({}, submit_what_is_scheduled),
    "submit a child that cannot start": ({}, submit_a_child_that_cannot_start),
    "end one and start the next": (ONE_SLOT, end_one_and_start_the_next),
    "end what somebody waits for": ({}, end_what_somebody_waits_for),
    "retry": (ONE_SLOT, retry),
    "cancel a pending task": (ONE_SLOT, cancel_a_pending_task),
    "cancel a running task": (ONE_SLOT, cancel_a_running_task),
    "pass a timeout and the grace": ({}, pass_a_timeout_and_the_grace),
}

#: Where the call is interrupted before its step too, which is the same for all.
WITH_ITS_CHECKS: Final = ("submit what starts", "cancel a pending task")

#: Scenes whose step begins in a caller's stack, which may be deep. All others begin in the loop.
OF_A_CALLER: Final = ("submit", "cancel")

#: What is raised, and whether at every later call of the step as well.
ERRORS: Final = {
    "RecursionError": (RecursionError, False),
    "RecursionError from then on": (RecursionError, True),
    "MemoryError": (MemoryError, False),
    "KeyboardInterrupt": (KeyboardInterrupt, False),
}


def play(scene: str, kind: str, number: int) -> Interruption:
    """Play one scene with one interruption.

    No garbage is collected meanwhile: what is called for it would be a call of the step, now and then.
    """
    settings, prepare = SCENES[scene]
    error, goes_on = ERRORS[kind]
    steps = CALLS if scene in WITH_ITS_CHECKS else STEPS
    interruption = Interruption(error, number, goes_on=goes_on, steps=steps)
    stage = Stage(settings)
    gc.disable()
    try:
        step = prepare(stage)
        with interruption:
            step()
        stage.end()
    except BaseException as problem:
        raise AssertionError(f"{scene}: {kind} at call {number}, {interruption.where}") from problem
    finally:
        gc.enable()
        stage.world.close()
    return interruption


def calls_of(scene: str, kind: str) -> list[int]:
    """The calls to interrupt, by number: of those that are made in the same place, the first and the last.

    By KeyboardInterrupt only the first, which saves time: RecursionError comes at the last ones too.
    """
    play(scene, "KeyboardInterrupt", 0)  # what is called for the first time may call more
    seen = play(scene, "KeyboardInterrupt", 0).seen
    last = {stack: number for number, stack in enumerate(seen, 1)}
    first = {stack: number for number, stack in reversed(list(enumerate(seen, 1)))}
    if kind == "KeyboardInterrupt":
        return sorted(first.values())
    return sorted({*first.values(), *last.values()})


@pytest.mark.parametrize(
    ("scene", "kind"),
    [
        (scene, kind)
        for scene in SCENES
        for kind, (_, goes_on) in ERRORS.items()
        if not goes_on or scene.startswith(OF_A_CALLER)
        if kind != "MemoryError" or scene in ("submit to a thread", "end one and start the next")
    ],
)
def test_f38_an_interrupted_step_is_undone_or_finished(scene: str, kind: str) -> None:
    numbers = calls_of(scene, kind)
    assert len(numbers) > 10, "a step makes more calls than these"
    for number in numbers:
        assert play(scene, kind, number).where is not None
