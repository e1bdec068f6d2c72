"""D21: telemetry may fail; the same script ends the same way with broken telemetry as with whole."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from qorzen_obs.tasks import TaskInfo
from tests.model.actors import BoomError
from tests.model.machine import TaskManagerMachine
from tests.model.world import Lines, Telemetry, World

BUDGET = settings(
    max_examples=12,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def fail(*_: Any, **__: Any) -> None:
    raise BoomError("the telemetry fails")


class BrokenLines(Lines):
    """A logger that fails whenever it has to write."""

    info = debug = warning = error = exception = fail


class BrokenEvents:
    """A bus that refuses every event."""

    async def publish(self, **_: Any) -> None:
        fail()


BROKEN = {
    "observer": lambda: Telemetry(observer=fail),
    "log": lambda: Telemetry(logs=BrokenLines()),
    "event bus": lambda: Telemetry(events=BrokenEvents()),
}


def ends(world: World) -> list[TaskInfo]:
    """Return all that is to be known of each end, but for what is drawn by lot."""
    return [
        life.final.replace(
            task_id="", parent_id=life.final.parent_id and "", trace_id=None, span_id=None, instance=None
        )
        for life in world.model.ended
        if life.final
    ]


def play_again(
    script: list[tuple[str, tuple[Any, ...]]], settings: Any, slots: Any, telemetry: Telemetry
) -> Any:
    """Take another world the same way; nobody looks at what it says of itself, for that is what is broken."""
    world = World(settings, slots, telemetry)
    try:
        world.open()
        world.loop.on_rest = world.forget_waiters
        for name, arguments in script:
            if name not in ("look", "scrape"):
                getattr(World, name).__wrapped__(world, *arguments)
        return ends(world)
    finally:
        world.close()


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_work_ends_the_same_way_when_what_observes_it_fails(kind: str) -> None:
    class Twice(TaskManagerMachine):
        def compare(self, world: World) -> None:
            assert play_again(world.script, world.given, world.slots, BROKEN[kind]()) == ends(world)

    run_state_machine_as_test(Twice, settings=BUDGET)
