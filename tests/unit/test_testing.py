"""What ships for tests of tasks: virtual time that is safe with threads, and a manager that touches nothing else."""

import asyncio
import threading

import pytest
import structlog
from opentelemetry import trace
from prometheus_client import REGISTRY

from qorzen_obs import TaskStatus
from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.errors import TaskTimeoutError
from qorzen_obs.settings import Settings, TaskSettings
from qorzen_obs.testing import (
    CapturedEvents,
    CapturedLogs,
    VirtualClock,
    VirtualTimeLoop,
    open_test_manager,
    virtual_time,
)
from tests.support import PATIENCE_SECONDS


def the_loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


@virtual_time
async def test_hours_pass_at_once_and_in_order() -> None:
    order: list[tuple[str, float]] = []

    async def wait(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append((name, the_loop().time()))

    await asyncio.gather(wait("late", 7_200), wait("early", 0.001), wait("middle", 60), wait("also", 60))
    assert [name for name, _ in order] == ["early", "middle", "also", "late"]
    assert [at for _, at in order] == pytest.approx([0.001, 60, 60, 7_200])


@virtual_time
async def test_what_is_ready_goes_before_any_jump() -> None:
    steps = 0
    timer = asyncio.create_task(asyncio.sleep(0.001))
    while steps < 1_000:
        await asyncio.sleep(0)
        steps += 1
    assert the_loop().time() == 0
    await timer


@virtual_time
async def test_a_timer_due_later_than_a_day_is_met_too() -> None:
    await asyncio.sleep(3 * 86_400)
    assert the_loop().time() == pytest.approx(3 * 86_400)


@virtual_time
async def test_the_wall_clock_can_jump_and_the_monotonic_clock_does_not() -> None:
    clock = the_loop().clock
    now, monotonic = clock.now(), clock.monotonic()
    clock.wall_offset -= 1_000
    await asyncio.sleep(1)
    assert clock.now() - now == pytest.approx(-999)
    assert clock.monotonic() - monotonic == pytest.approx(1)
    assert isinstance(clock, VirtualClock)


@virtual_time
async def test_time_stands_still_while_a_condition_holds() -> None:
    loop, released = the_loop(), asyncio.Event()
    loop.stand_still_while(lambda: not released.is_set())
    timer = asyncio.create_task(asyncio.sleep(5))
    threading.Timer(0.02, loop.call_soon_threadsafe, [released.set]).start()
    await released.wait()
    assert loop.time() == 0
    await timer
    assert loop.time() == pytest.approx(5)


@virtual_time
async def test_a_thread_of_the_manager_holds_the_time_until_it_is_done() -> None:
    entered, leave = threading.Event(), threading.Event()

    def work() -> str:
        entered.set()
        assert leave.wait(PATIENCE_SECONDS)
        return "in time"

    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(work, timeout=0.001)
        threading.Timer(0.02, leave.set).start()
        assert (await tasks.wait_for_task(task_id)).result == "in time"
        with pytest.raises(TaskTimeoutError):
            await tasks.run(asyncio.sleep, 10, timeout=0.001)


@virtual_time
async def test_a_thread_that_waits_for_an_async_task_lets_the_time_run() -> None:
    async with open_test_manager() as tasks:
        assert await tasks.run(lambda: tasks.from_thread.run(asyncio.sleep, 100, "woken")) == "woken"
        assert the_loop().time() == pytest.approx(100)


def test_a_decorated_test_keeps_its_name_takes_arguments_and_gives_its_value() -> None:
    @virtual_time
    async def add(a: int, *, b: int) -> int:
        """Add."""
        await asyncio.sleep(3_600)
        return a + b

    assert (add.__name__, add.__doc__, add(1, b=2)) == ("add", "Add.", 3)


async def test_the_test_manager_is_ready_takes_settings_and_is_stopped_at_the_end() -> None:
    settings = Settings(tasks=TaskSettings(max_concurrent_tasks=2))
    async with open_test_manager(settings) as tasks:
        assert tasks.status()["config"]["max_concurrent_tasks"] == 2
        running = await tasks.submit_task(asyncio.Event().wait)
    assert tasks.find(running).status is TaskStatus.CANCELLED  # type: ignore[union-attr]  # it is known
    assert tasks.status()["state"] == "stopped"


async def test_a_test_that_fails_inside_gets_its_own_exception() -> None:
    async def failing_test() -> None:
        async with open_test_manager() as tasks:
            await tasks.submit_task(asyncio.Event().wait)
            raise ValueError("the test's own")

    with pytest.raises(ValueError, match="the test's own"):
        await failing_test()


async def test_it_touches_nothing_outside(capfd: pytest.CaptureFixture[str]) -> None:
    before = len(list(REGISTRY.collect()))
    async with open_test_manager() as tasks:
        await tasks.run(int)
        assert (await tasks.get_tasks())[0].trace_id is None
    assert not isinstance(trace.get_tracer_provider(), trace.NoOpTracerProvider)
    assert not structlog.is_configured()
    assert len(list(REGISTRY.collect())) == before
    assert capfd.readouterr() == ("", "")


async def test_parts_that_were_handed_in_are_used_and_left_running() -> None:
    logs, events, concurrency = CapturedLogs(), CapturedEvents(), ConcurrencyManager()
    await concurrency.initialize()
    async with open_test_manager(logs=logs, events=events, concurrency=concurrency) as tasks:
        task_id = await tasks.submit_task(int)
        await tasks.wait_for_task(task_id)
    assert concurrency.initialized
    assert events.of(task_id) == ["task/submitted", "task/started", "task/completed"]
    assert [line["task_id"] for line in logs.of("task.finished")] == [task_id]
    await concurrency.shutdown()
