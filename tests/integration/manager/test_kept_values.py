"""What ended tasks keep alive of the user's: bounded in bytes, and never the frames of who waited for them."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from qorzen_obs import TaskInfo, TaskManager, TaskStatus
from qorzen_obs.errors import TaskFailedError, TaskNotRerunnableError
from qorzen_obs.tasks import CategoryName
from qorzen_obs.testing import open_test_manager
from tests.support import Gate, settings, turns, until


class Data(bytearray):
    """A buffer of which one can tell whether it lives."""


class Made:
    """Makes buffers, and knows how many of them live."""

    def __init__(self) -> None:
        self.all: list[weakref.ref[Data]] = []

    def __call__(self, size: int = 0) -> Data:
        data = Data(size)
        self.all.append(weakref.ref(data))
        return data

    @property
    def alive(self) -> int:
        return sum(ref() is not None for ref in self.all)


@pytest.fixture(autouse=True)
def no_collector() -> Any:
    """Nothing here may need the garbage collector: memory has to be given back at once."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def fail() -> None:
    raise ValueError("on purpose")


def fail_in_a_thread() -> None:
    raise ValueError("on purpose")


async def leave() -> None:
    raise SystemExit("on purpose")


@pytest.mark.parametrize("task", [fail, fail_in_a_thread, leave], ids=lambda task: task.__name__)
async def test_a_kept_failure_keeps_no_frame_of_those_that_waited_for_it(task: Callable[[], Any]) -> None:
    made = Made()

    async def handler(tasks: TaskManager) -> None:
        big = made()
        with pytest.raises((ValueError, TaskFailedError), match="on purpose") as caught:
            await tasks.run(task)
        assert any(entry.name == task.__name__ for entry in caught.traceback) or task is leave
        del caught
        assert big is not None

    async with open_test_manager() as tasks:
        await asyncio.gather(*(handler(tasks) for _ in range(50)))
        await turns()
        gc.collect()  # of what pytest has made
        assert made.alive == 0
        assert len(await tasks.get_tasks(status="failed")) == 50


async def fail_after_an_await() -> None:
    await asyncio.sleep(0)
    raise ValueError("on purpose")


@pytest.mark.parametrize("category", ["core", "ui"])
@pytest.mark.parametrize(
    "task", [fail, fail_after_an_await, fail_in_a_thread], ids=lambda task: task.__name__
)
async def test_what_is_raised_to_a_waiter_leads_to_no_circle(
    task: Callable[[], Any], category: CategoryName
) -> None:
    made = Made()

    async def handler(tasks: TaskManager) -> None:
        big = made()
        try:
            await tasks.run(task, category=category)
        except ValueError:
            assert big is not None

    async with open_test_manager() as tasks:
        await asyncio.gather(*(handler(tasks) for _ in range(10)))
        await turns()
        assert made.alive == 0


async def test_several_waiters_of_one_failure_leave_nothing_behind() -> None:
    made, gate = Made(), Gate()

    async def work() -> None:
        await gate()
        raise ValueError("on purpose")

    async def handler(tasks: TaskManager, task_id: str) -> None:
        big = made()
        try:
            await tasks._control.value_of(tasks._table.live[task_id])
        except ValueError:
            assert big is not None

    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(work)
        await gate.holds(1)
        handlers = [asyncio.create_task(handler(tasks, task_id)) for _ in range(5)]
        await turns()
        gate.open()
        await asyncio.gather(*handlers)
        del handlers
        await turns()
        assert made.alive == 0


async def ended(tasks: TaskManager, func: Callable[..., Any], *args: Any) -> TaskInfo:
    return await tasks.wait_for_task(await tasks.submit_task(func, *args))


@pytest.mark.parametrize("category", ["core", "ui"])
async def test_a_large_result_is_released_once_a_waiter_has_it(category: CategoryName) -> None:
    made = Made()
    async with open_test_manager(settings(keep_value_bytes=1_000)) as tasks:
        for _ in range(20):
            assert len(await tasks.run(made, 2_000, category=category)) == 2_000
        await turns()
        assert made.alive == 0
        for info in await tasks.get_tasks():
            assert (info.status, info.result, info.result_released) == (TaskStatus.COMPLETED, None, True)


async def test_a_result_within_the_bound_is_kept_with_its_record() -> None:
    made = Made()
    async with open_test_manager(settings(keep_value_bytes=4_000)) as tasks:
        for _ in range(20):
            await tasks.run(made, 2_000)
        assert made.alive == 20
        assert all(len(info.result) == 2_000 for info in await tasks.get_tasks())
        assert not any(info.result_released for info in await tasks.get_tasks())


async def test_a_snapshot_has_the_large_result_and_the_next_one_says_that_it_was_released() -> None:
    async with open_test_manager(settings(keep_value_bytes=1_000)) as tasks:
        info = await ended(tasks, Data, 2_000)
        assert (len(info.result), info.result_released) == (2_000, False)
        again = await tasks.wait_for_task(info.task_id)
        assert (again.result, again.result_released) == (None, True)


async def test_all_that_wait_for_a_large_result_get_it() -> None:
    gate = Gate()

    async def work() -> Data:
        await gate()
        return Data(2_000)

    async with open_test_manager(settings(keep_value_bytes=1_000)) as tasks:
        task_id = await tasks.submit_task(work)
        await gate.holds(1)
        waiters = [asyncio.create_task(tasks.wait_for_task(task_id)) for _ in range(3)]
        await turns()
        gate.open()
        assert [len(info.result) for info in await asyncio.gather(*waiters)] == [2_000] * 3
        assert (await tasks.wait_for_task(task_id)).result_released


async def test_a_waiter_that_was_cancelled_has_taken_nothing() -> None:
    gate = Gate()

    async def work() -> Data:
        await gate()
        return Data(2_000)

    async with open_test_manager(settings(keep_value_bytes=1_000)) as tasks:
        task_id = await tasks.submit_task(work)
        await gate.holds(1)
        waiter = asyncio.create_task(tasks.wait_for_task(task_id))
        await turns()
        waiter.cancel()
        await turns()
        gate.open()
        await turns()
        assert len((await tasks.wait_for_task(task_id)).result) == 2_000


async def test_large_results_that_nobody_has_waited_for_are_kept_up_to_a_sum_the_newest_longest() -> None:
    made = Made()
    async with open_test_manager(settings(keep_value_bytes=1_000, keep_completed_tasks=10)) as tasks:
        ids = [await tasks.submit_task(made, 3_000, category="ui") for _ in range(8)]
        await tasks.run(asyncio.sleep, 0, priority="low")
        while (await tasks.get_tasks(status=["pending", "running"])) != []:
            await turns()
        kept = [tasks.find(task_id).result_released for task_id in ids]  # type: ignore[union-attr]  # they are kept
        assert kept == [True] * 5 + [False] * 3
        assert made.alive == 3
        assert len((await tasks.wait_for_task(ids[-1])).result) == 3_000
        await tasks.run(made, 3_000)
        assert [len(tasks.find(task_id).result or "") for task_id in ids[-3:]] == [3_000, 3_000, 0]  # type: ignore[union-attr]  # as above


async def test_a_result_larger_than_all_room_reaches_who_waits_and_nobody_later() -> None:
    async with open_test_manager(settings(keep_value_bytes=0)) as tasks:
        assert len(await tasks.run(Data, 2_000)) == 2_000
        assert (await ended(tasks, Data, 2_000)).result is not None
        task_id = await tasks.submit_task(Data, 2_000)
        await until(lambda: (info := tasks.find(task_id)) is not None and info.result_released)


async def failed(tasks: TaskManager, func: Callable[..., Any], *args: Any) -> TaskInfo:
    info = await ended(tasks, func, *args)
    assert info.status is TaskStatus.FAILED
    return info


async def take(data: object) -> None:
    raise ValueError("on purpose")


async def test_large_arguments_of_a_failed_task_are_not_kept_and_a_rerun_says_so() -> None:
    made = Made()
    async with open_test_manager(settings(keep_value_bytes=1_000)) as tasks:
        large, small = await failed(tasks, take, made(2_000)), await failed(tasks, take, made(100))
        await turns()
        assert made.alive == 1
        with pytest.raises(
            TaskNotRerunnableError, match=r"see tasks\.keep_arguments and tasks\.keep_value_bytes"
        ):
            await tasks.rerun(large.task_id)
        again = await tasks.wait_for_task(await tasks.rerun(small.task_id))
        assert again.status is TaskStatus.FAILED


async def test_large_arguments_of_a_cancelled_task_are_not_kept() -> None:
    made = Made()
    async with open_test_manager(settings(keep_value_bytes=1_000, max_concurrent_tasks=1)) as tasks:
        ids = [await tasks.submit_task(asyncio.sleep, 1_000, made(2_000)) for _ in range(3)]
        for task_id in reversed(ids):
            await tasks.cancel_task(task_id)
        for task_id in ids:
            assert (await tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED
        await turns()
        assert made.alive == 0
