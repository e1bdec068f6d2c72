"""When a manager with a recorder refuses a task, waits for the disk, and accepts."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.errors import (
    ExecutorRefusedError,
    HistoryUnavailableError,
    TaskManagerClosedError,
    TaskQueueFullError,
)
from qorzen_obs.tasks import TaskStatus
from tests.integration.history.managers import Recording, recorded_manager
from tests.support import Gate, metric, turns, until

Submit = Callable[[TaskManager], Awaitable[object]]


async def add(one: int, other: int) -> int:
    return one + other


async def fail() -> None:
    raise ValueError


SUBMITS: dict[str, Submit] = {
    "submit_task": lambda tasks: tasks.submit_task(add, 1, 2),
    "submit_async_task": lambda tasks: tasks.submit_async_task(add, 1, 2),
    "run": lambda tasks: tasks.run(add, 1, 2),
    "start": lambda tasks: tasks.start(add, 1, 2),
    "start_all": lambda tasks: tasks.start_all([partial(add, 1, 2), partial(add, 3, 4)]),
    "submit_once": lambda tasks: tasks.submit_once(add, 1, 2, key="once"),
}
every_way = pytest.mark.parametrize("submit", SUBMITS.values(), ids=SUBMITS)


def accepted(tasks: TaskManager) -> int:
    return int(tasks.status()["tasks"]["total"])


@every_way
async def test_a_task_is_accepted_only_once_its_record_is_on_disk(submit: Submit) -> None:
    recorder = Recording(commits_first=True)
    async with recorded_manager(recorder) as tasks:
        submitting = asyncio.ensure_future(submit(tasks))
        await recorder.offered.wait()
        await turns()
        assert not submitting.done()
        assert accepted(tasks) == 0
        assert recorder.events == []
        recorder.store()
        await submitting
        assert accepted(tasks) == len(recorder.offers)
        assert recorder.withdrawn == []


@every_way
async def test_a_cancelled_wait_for_the_disk_accepts_nothing_and_withdraws(submit: Submit) -> None:
    recorder = Recording(commits_first=True)
    async with recorded_manager(recorder) as tasks:
        submitting = asyncio.ensure_future(submit(tasks))
        await recorder.offered.wait()
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        recorder.store()
        await turns()
        assert accepted(tasks) == 0
        assert recorder.withdrawn == [record.task_id for record, _ in recorder.offers]


@every_way
async def test_a_record_that_cannot_be_stored_is_refused_and_withdrawn(submit: Submit) -> None:
    recorder = Recording(commits_first=True)
    async with recorded_manager(recorder) as tasks:
        submitting = asyncio.ensure_future(submit(tasks))
        await recorder.offered.wait()
        for _, future in recorder.offers:
            future.set_exception(HistoryUnavailableError("the disk is full"))
        with pytest.raises(HistoryUnavailableError, match="the disk is full"):
            await submitting
        assert accepted(tasks) == 0
        assert recorder.withdrawn == [record.task_id for record, _ in recorder.offers]
        refused = metric(tasks.registry, "qorzen_tasks_rejected_total", reason="history")
        assert refused == len(recorder.offers)


@every_way
async def test_a_manager_that_drains_meanwhile_accepts_nothing(submit: Submit) -> None:
    recorder = Recording(commits_first=True)
    async with recorded_manager(recorder) as tasks:
        submitting = asyncio.ensure_future(submit(tasks))
        await recorder.offered.wait()
        await tasks.shutdown(grace_seconds=0)
        recorder.store()
        with pytest.raises(TaskManagerClosedError):
            await submitting
        assert accepted(tasks) == 0
        assert recorder.withdrawn == [record.task_id for record, _ in recorder.offers]


async def test_a_rerun_is_accepted_once_its_record_is_on_disk() -> None:
    recorder = Recording(commits_first=True)
    async with recorded_manager(recorder) as tasks:
        submitting = asyncio.ensure_future(tasks.submit_task(fail))
        await recorder.offered.wait()
        recorder.store()
        task_id = await submitting
        await tasks.wait_for_task(task_id)
        again = asyncio.ensure_future(tasks.rerun(task_id))
        await until(lambda: len(recorder.offers) == 2)
        assert accepted(tasks) == 1
        recorder.store()
        assert (await tasks.wait_for_task(await again)).rerun_of == task_id


async def test_tasks_whose_records_are_being_stored_have_a_place_in_the_queue() -> None:
    recorder = Recording(commits_first=True)
    async with recorded_manager(recorder, max_pending=1) as tasks:
        first = asyncio.ensure_future(tasks.submit_task(add, 1, 2))
        await recorder.offered.wait()
        with pytest.raises(TaskQueueFullError):
            await tasks.submit_task(add, 3, 4)
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.ensure_future(tasks.submit_task(add, 3, 4))
        await until(lambda: len(recorder.offers) == 2)
        recorder.store()
        assert (await tasks.wait_for_task(await second)).result == 7


@every_way
async def test_a_broken_history_refuses_work_in_either_mode(submit: Submit) -> None:
    for when_full in ("refuse", "wait"):
        recorder = Recording()
        recorder.problem = "the disk is gone"
        async with recorded_manager(recorder, when_full=when_full) as tasks:
            with pytest.raises(HistoryUnavailableError, match="the disk is gone"):
                await submit(tasks)
            assert accepted(tasks) == 0
            assert metric(tasks.registry, "qorzen_tasks_rejected_total", reason="history") > 0
            recorder.problem = None
            await submit(tasks)


@every_way
async def test_a_history_that_lags_makes_submitters_wait_where_a_full_queue_does(submit: Submit) -> None:
    recorder = Recording()
    async with recorded_manager(recorder, when_full="wait") as tasks:
        recorder.problem, recorder.lags = "10000 changes wait", True
        submitting = asyncio.ensure_future(submit(tasks))
        await turns()
        assert not submitting.done()
        assert accepted(tasks) == 0
        recorder.problem, recorder.lags = None, False
        recorder.room.set()
        await submitting
        assert metric(tasks.registry, "qorzen_tasks_rejected_total", reason="history") == 0


async def test_an_executor_does_not_wait_for_the_disk_and_refuses_what_cannot_be_recorded() -> None:
    recorder = Recording(commits_first=True)
    async with recorded_manager(recorder) as tasks:
        executor = tasks.executor()
        assert await asyncio.wrap_future(executor.submit(len, "four")) == 4
        assert recorder.offers == []
        recorder.problem = "the disk is gone"
        with pytest.raises(ExecutorRefusedError, match="the disk is gone"):
            executor.submit(len, "four")
        await asyncio.to_thread(executor.shutdown)


async def test_a_history_that_breaks_leaves_running_tasks_alone() -> None:
    recorder, gate = Recording(), Gate()
    async with recorded_manager(recorder) as tasks:
        task_id = await tasks.submit_task(gate, "through")
        recorder.problem = "the disk is gone"
        gate.open()
        assert (await tasks.wait_for_task(task_id)).status is TaskStatus.COMPLETED
