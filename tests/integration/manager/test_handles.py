"""TaskHandle: what `await tasks.start(…)` gives, and what becomes of it when everything around it has gone."""

import asyncio
import gc
import pickle
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from qorzen_obs import TaskHandle, TaskManager, TaskStatus, current_task, track
from qorzen_obs.errors import (
    InvalidTaskError,
    TaskCancelled,
    TaskFailedError,
    TaskManagerClosedError,
    TaskNotCancellableError,
    TaskTimeoutError,
)
from qorzen_obs.testing import CapturedLogs, open_test_manager
from tests.support import Gate, settings, turns, until, virtual_time


async def add(a: int, b: int) -> int:
    return a + b


def fail(message: str) -> None:
    raise ValueError(message)


class Large:
    """A result that is counted as large, and can be seen to be gone."""

    def __init__(self) -> None:
        self.content = bytes(100_000)


async def make_large() -> Large:
    return Large()


async def test_a_handle_has_the_id_the_state_and_the_value_of_its_task() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        handle = await tasks.start(gate, 3, name="held", category="io", metadata={"a": 1})
        await gate.holds(1)
        info = handle.info()
        assert (info.task_id, info.name, info.status) == (handle.task_id, "held", TaskStatus.RUNNING)
        assert (info.category, info.metadata, info.result) == ("io", {"a": 1}, None)
        assert tasks.find(handle.task_id) is not None
        assert repr(handle) == f"<TaskHandle 'held' {handle.task_id} running>"
        gate.open()
        assert await handle == 3
        assert (handle.info().status, handle.info().result) == (TaskStatus.COMPLETED, 3)
        assert await (await tasks.start(max, 2, 5)) == 5
        assert await (await tasks.start(add, 1, b=2)) == 3


async def test_its_progress_is_the_tasks() -> None:
    seen = asyncio.Event()

    async def work() -> None:
        for number in track(range(4)):
            if number == 2:
                await seen.wait()

    async with open_test_manager() as tasks:
        handle = await tasks.start(work)
        assert (handle.progress.percent, handle.progress.updated_at) == (0.0, None)
        await until(lambda: handle.progress.percent == 50.0)
        assert handle.progress.message == "2/4"
        seen.set()
        await handle
        assert handle.progress.percent == 100.0


async def test_it_may_be_awaited_by_many_and_many_times() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        handle = await tasks.start(gate, "value")

        async def wait() -> Any:
            return await handle

        waiting = [asyncio.create_task(wait()) for _ in range(3)]
        await gate.holds(1)
        gate.open()
        assert await asyncio.gather(*waiting, wait()) == ["value"] * 4
        assert await handle == "value"


async def test_what_the_task_raised_is_raised_each_time_with_the_tasks_own_frames() -> None:
    async with open_test_manager() as tasks:
        handle = await tasks.start(fail, "on purpose")
        lengths = []
        for _ in range(5):
            with pytest.raises(ValueError, match="on purpose") as caught:
                await handle
            frames = traceback.extract_tb(caught.value.__traceback__)
            lengths.append(len(frames))
            assert frames[-1].name == "fail"
        assert len({*lengths}) == 1, "an await leaves no frames to the next"
        info = handle.info()
        assert (info.status, info.error) == (TaskStatus.FAILED, "on purpose")


@virtual_time
async def test_other_ends_are_raised_as_run_raises_them() -> None:
    def leave() -> None:
        raise SystemExit(3)

    async with open_test_manager() as tasks:
        with pytest.raises(TaskTimeoutError):
            await (await tasks.start(asyncio.sleep, 10, timeout=1))
        with pytest.raises(TaskFailedError):
            await (await tasks.start(leave))


async def test_cancel_asks_the_task_and_says_so_once_it_has_ended() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        running, pending = await tasks.start(gate), await tasks.start(gate)
        await gate.holds(1)
        assert pending.cancel()
        assert pending.info().status is TaskStatus.CANCELLED
        assert running.cancel(reason="not needed")
        assert running.info().status is TaskStatus.RUNNING, "it was asked"
        with pytest.raises(TaskCancelled, match="not needed"):
            await running
        assert not running.cancel()
        assert not pending.cancel()
        kept = await tasks.start(gate, cancellable=False)
        with pytest.raises(TaskNotCancellableError):
            kept.cancel()
        gate.open()
        await kept


@virtual_time
async def test_cancelling_the_wait_leaves_the_task_alone() -> None:
    async with open_test_manager() as tasks:
        handle = await tasks.start(asyncio.sleep, 10, "slept")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await handle
        assert handle.info().status is TaskStatus.RUNNING
        assert await handle == "slept"


async def test_a_task_that_awaits_a_handle_lends_its_slot() -> None:
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:

        async def parent() -> int:
            handle = await current_task().manager.start(add, 1, 2)
            return await handle + await handle

        assert await tasks.run(parent) == 6


async def test_a_task_that_awaits_its_own_handle_is_refused() -> None:
    async with open_test_manager() as tasks:
        handles: list[TaskHandle[None]] = []

        async def wait_for_itself() -> None:
            await handles[0]

        handles.append(await tasks.start(wait_for_itself))
        with pytest.raises(InvalidTaskError, match="its own end"):
            await handles[0]


async def test_log_and_metrics_have_the_end_before_who_awaits_it() -> None:
    logs = CapturedLogs()
    async with open_test_manager(logs=logs) as tasks:
        handle = await tasks.start(add, 1, 2)
        await until(lambda: handle.info().status.final)
        await handle
        assert [line["task_id"] for line in logs.of("task.finished")] == [handle.task_id]


# ---------------------------------------------------------------- what the manager no longer keeps


async def test_the_handle_of_an_evicted_task_knows_it_whole() -> None:
    async with open_test_manager(settings(keep_completed_tasks=0)) as tasks:
        completed = await tasks.start(add, 1, 2, metadata={"a": 1})
        failed = await tasks.start(fail, "on purpose")
        await tasks.wait_for_task(completed.task_id)
        await tasks.wait_for_task(failed.task_id)
        await turns()
        outline = tasks.find(completed.task_id)
        assert outline is not None
        assert outline.evicted
        info = completed.info()
        assert (info.result, info.metadata, info.evicted) == (3, {"a": 1}, False)
        assert await completed == 3
        with pytest.raises(ValueError, match="on purpose"):
            await failed
        assert not completed.cancel()


async def test_a_released_result_is_the_handles() -> None:
    async with open_test_manager(settings(keep_value_bytes=1_000)) as tasks:
        handle = await tasks.start(make_large)
        await tasks.wait_for_task(handle.task_id)
        kept = tasks.find(handle.task_id)
        assert kept is not None
        assert (kept.result, kept.result_released) == (None, True), "who waited has it"
        info = handle.info()
        assert (type(info.result), info.result_released) == (Large, False)
        assert await handle is await handle is info.result


async def test_the_manager_keeps_no_large_result_that_a_handle_has_given() -> None:
    async with open_test_manager(settings(keep_value_bytes=1_000)) as tasks:
        handle = await tasks.start(make_large)
        gone = weakref.ref(await handle)
        assert gone() is not None
        del handle
        await turns()
        gc.collect()
        assert gone() is None


async def test_a_task_whose_handle_was_dropped_runs_to_its_end() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        handle = await tasks.start(gate, "value")
        task_id, gone = handle.task_id, weakref.ref(handle)
        del handle
        assert gone() is None
        gate.open()
        assert (await tasks.wait_for_task(task_id)).result == "value"


async def test_a_handle_outlives_the_manager() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        done, cancelled = await tasks.start(add, 1, 2), await tasks.start(gate)
    assert await done == 3
    with pytest.raises(TaskCancelled):
        await cancelled
    assert not cancelled.cancel()
    with pytest.raises(TaskManagerClosedError):
        _ = await tasks.start(add, 1, 2)


# ---------------------------------------------------------------- other threads, other processes


def refusal_of(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidTaskError) as caught:
        call()
    return str(caught.value)


async def test_another_thread_may_read_and_is_told_how_to_do_the_rest() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        handle = await tasks.start(gate, "value")
        await gate.holds(1)

        async def wait() -> Any:
            return await handle

        def look(tasks: TaskManager) -> None:
            assert handle.info().status is TaskStatus.RUNNING
            assert handle.progress.percent == 0.0
            assert "use tasks.from_thread.cancel(handle.task_id)" in refusal_of(handle.cancel)
            assert "use tasks.from_thread.wait(handle.task_id)" in refusal_of(lambda: asyncio.run(wait()))
            assert tasks.from_thread.cancel(handle.task_id)
            assert tasks.from_thread.wait(handle.task_id).status is TaskStatus.CANCELLED
            assert handle.info().status is TaskStatus.CANCELLED
            assert not handle.cancel()

        await asyncio.to_thread(look, tasks)


async def test_a_handle_is_not_pickled() -> None:
    async with open_test_manager() as tasks:
        handle = await tasks.start(add, 1, 2)
        await handle
        with pytest.raises(TypeError, match=r"pass handle\.task_id"):
            pickle.dumps(handle)
