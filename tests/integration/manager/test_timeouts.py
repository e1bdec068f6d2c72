"""Timeouts: from the start of the attempt, by the monotonic clock, whatever the task does about it."""

import asyncio
import contextlib
import math
import threading
from collections.abc import Awaitable, Callable

import pytest

from qorzen_obs import TaskInfo, TaskStatus, current_task, task
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.testing import CapturedEvents, VirtualTimeLoop, open_test_manager
from tests.support import PATIENCE_SECONDS, Gate, ThreadGate, settings, turns, until, virtual_time


async def end_of(tasks: TaskManager, task_id: str) -> TaskInfo:
    return await tasks.wait_for_task(task_id)


def assert_timed_out(info: TaskInfo, seconds: float) -> None:
    assert (info.status, info.error_type, info.result) == (TaskStatus.FAILED, "timeout", None)
    assert info.error == f"the attempt took longer than its timeout of {seconds:g} s"


@virtual_time
async def test_an_attempt_has_its_whole_timeout_however_long_the_task_waited_before() -> None:
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        await tasks.submit_task(asyncio.sleep, 1_000, timeout=2_000)
        in_time = await tasks.submit_task(asyncio.sleep, 299.9)
        too_long = await tasks.submit_task(asyncio.sleep, 300.1)
        info = await end_of(tasks, in_time)
        assert info.status is TaskStatus.COMPLETED
        assert info.queue_wait_seconds == pytest.approx(1_000)
        info = await end_of(tasks, too_long)
        assert_timed_out(info, 300)
        assert info.duration_seconds == pytest.approx(300)
        assert info.duration_seconds is not None
        assert info.duration_seconds >= 300, "never early"


@virtual_time
async def test_the_submission_goes_before_the_definition_and_that_before_the_setting() -> None:
    @task(timeout=50)
    async def defined() -> None:
        await asyncio.sleep(1_000)

    async with open_test_manager(settings(default_timeout=100)) as tasks:
        for submit, expected in [
            (tasks.submit_task(defined, timeout=20), 20),
            (tasks.submit_task(defined), 50),
            (tasks.submit_task(asyncio.sleep, 1_000), 100),
        ]:
            info = await end_of(tasks, await submit)
            assert_timed_out(info, expected)
            assert info.timeout_seconds == expected


@virtual_time
async def test_infinity_is_no_limit() -> None:
    async with open_test_manager() as tasks:
        info = await end_of(tasks, await tasks.submit_task(asyncio.sleep, 1_000, timeout=math.inf))
        assert (info.status, info.timeout_seconds) == (TaskStatus.COMPLETED, None)
    async with open_test_manager(settings(default_timeout=math.inf)) as tasks:
        info = await end_of(tasks, await tasks.submit_task(asyncio.sleep, 1_000))
        assert (info.status, info.timeout_seconds) == (TaskStatus.COMPLETED, None)
        assert tasks.status()["config"]["default_timeout"] == "inf"


async def swallows_and_returns() -> str:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(1_000)
    return "a value"


async def swallows_and_raises() -> None:
    try:
        await asyncio.sleep(1_000)
    except asyncio.CancelledError:
        raise ValueError("something else") from None


async def cleans_up() -> None:
    try:
        await asyncio.sleep(1_000)
    finally:
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("func", [swallows_and_returns, swallows_and_raises, cleans_up])
def test_a_timeout_is_a_timeout_whatever_the_task_makes_of_it(func: Callable[[], Awaitable[object]]) -> None:
    @virtual_time
    async def main() -> None:
        async with open_test_manager() as tasks:
            info = await end_of(tasks, await tasks.submit_task(func, timeout=10))
            assert_timed_out(info, 10)
            assert not info.abandoned

    main()


@virtual_time
async def test_a_task_that_outlasts_its_timeout_and_the_grace_is_abandoned() -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        stuck = await tasks.submit_task(stubborn, timeout=10)
        behind = await tasks.submit_task(asyncio.sleep, 0)
        info = await end_of(tasks, stuck)
        assert_timed_out(info, 10)
        assert info.abandoned
        assert info.duration_seconds == pytest.approx(11)
        assert (await end_of(tasks, behind)).status is TaskStatus.COMPLETED
        release.set()
        await turns()


async def test_a_thread_past_its_timeout_is_told_by_its_token() -> None:
    def work() -> bool:
        return current_task().wait(PATIENCE_SECONDS)

    async with open_test_manager() as tasks:
        info = await end_of(tasks, await tasks.submit_task(work, timeout=0.05))
        assert_timed_out(info, 0.05)
        assert not info.abandoned
        assert info.duration_seconds is not None
        assert 0.05 <= info.duration_seconds < PATIENCE_SECONDS


async def test_a_thread_that_ignores_its_timeout_is_abandoned_and_its_slot_replaced() -> None:
    with ThreadGate() as gate:
        brief = settings(worker_threads=1, cancel_grace_seconds=0.05)
        async with open_test_manager(brief) as tasks:
            stuck = await tasks.submit_task(gate, timeout=0.05)
            behind = await tasks.submit_task(threading.get_ident)
            info = await end_of(tasks, stuck)
            assert_timed_out(info, 0.05)
            assert info.abandoned
            assert (await end_of(tasks, behind)).status is TaskStatus.COMPLETED
            gate.open()
            await until(lambda: tasks.status()["slots"]["thread"]["abandoned"] == 0)


async def test_on_the_main_loops_thread_an_overrun_is_reported_afterwards() -> None:
    class Clock:
        """Runs with the loop, and further when the test says so."""

        ahead = 0.0

        def now(self) -> float:
            return 1e9 + self.ahead

        def monotonic(self) -> float:
            return asyncio.get_running_loop().time() + self.ahead

    clock = Clock()

    def block(seconds: float) -> str:
        clock.ahead += seconds
        return "done"

    async with open_test_manager(clock=clock) as tasks:
        info = await end_of(tasks, await tasks.submit_task(block, 6, category="ui", timeout=5))
        assert_timed_out(info, 5)
        info = await end_of(tasks, await tasks.submit_task(block, 4, category="ui", timeout=5))
        assert info.status is TaskStatus.COMPLETED


@virtual_time
async def test_the_first_reason_to_stop_wins() -> None:
    events = CapturedEvents()

    async with open_test_manager(events=events) as tasks:
        late = await tasks.submit_task(cleans_up, timeout=10)
        early = await tasks.submit_task(cleans_up, timeout=10.1)
        await asyncio.sleep(10.05)
        assert await tasks.cancel_task(late), "it is being stopped"
        assert await tasks.cancel_task(early)
        info = await end_of(tasks, late)
        assert_timed_out(info, 10)
        info = await end_of(tasks, early)
        assert (info.status, info.error_type) == (TaskStatus.CANCELLED, None)


@virtual_time
async def test_f21_a_jump_of_the_wall_clock_moves_no_timeout_and_makes_no_duration_negative() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    ten_years = 10 * 365.25 * 86_400
    async with open_test_manager(settings(max_concurrent_tasks=2)) as tasks:
        overdue = await tasks.submit_task(asyncio.sleep, 1_000, timeout=100)
        in_time = await tasks.submit_task(asyncio.sleep, 99)
        queued = await tasks.submit_task(asyncio.sleep, 50)
        for jump in (ten_years, -2 * ten_years):
            await asyncio.sleep(30)
            loop.clock.wall_offset += jump
        info = await end_of(tasks, in_time)
        assert info.status is TaskStatus.COMPLETED
        assert info.duration_seconds == pytest.approx(99)
        info = await end_of(tasks, overdue)
        assert_timed_out(info, 100)
        assert info.duration_seconds == pytest.approx(100)
        info = await end_of(tasks, queued)
        assert info.queue_wait_seconds == pytest.approx(99)
        assert info.duration_seconds == pytest.approx(50)
        text = [sample for family in tasks.registry.collect() for sample in family.samples]
        assert all(sample.value >= 0 for sample in text)


@virtual_time
async def test_each_of_many_tasks_times_out_at_its_own_time() -> None:
    async with open_test_manager(settings(max_concurrent_tasks=500)) as tasks:
        timeouts = [1 + (number * 37) % 499 for number in range(500)]
        ids = [await tasks.submit_task(asyncio.sleep, 10_000, timeout=timeout) for timeout in timeouts]
        for task_id, timeout in zip(ids, timeouts, strict=True):
            info = await end_of(tasks, task_id)
            assert_timed_out(info, timeout)
            assert info.duration_seconds == pytest.approx(timeout)
            assert info.duration_seconds is not None
            assert info.duration_seconds >= timeout


@virtual_time
async def test_a_tasks_timeout_goes_on_while_it_waits_for_a_child() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:

        async def parent() -> None:
            await tasks.run(gate, timeout=1_000)

        info = await end_of(tasks, await tasks.submit_task(parent, timeout=10))
        assert_timed_out(info, 10)
        (child,) = await tasks.get_tasks(status="cancelled")
        assert child.cancel_reason == "the caller of run() was cancelled"


@virtual_time
async def test_a_tasks_own_timeouts_inside_it_are_left_to_it() -> None:
    async def careful() -> str:
        try:
            async with asyncio.timeout(5):
                await asyncio.sleep(100)
        except TimeoutError:
            return "went on without"
        return "never"

    async def careless() -> None:
        async with asyncio.timeout(5):
            await asyncio.sleep(100)

    async with open_test_manager() as tasks:
        assert await tasks.run(careful, timeout=10) == "went on without"
        info = await end_of(tasks, await tasks.submit_task(careless, timeout=10))
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "TimeoutError")
