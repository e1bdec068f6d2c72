"""The manager's calls from other threads: the user's own, and those of tasks."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from qorzen_obs import TaskManager, TaskStatus, current_task
from qorzen_obs.errors import (
    InvalidTaskError,
    TaskCancelled,
    TaskManagerClosedError,
    TaskNotFoundError,
    TaskWaitTimeoutError,
)
from qorzen_obs.testing import CapturedEvents, CapturedLogs, open_test_manager
from tests.support import PATIENCE_SECONDS, Gate, Spans, until


async def in_thread(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await asyncio.to_thread(call, *args, **kwargs)


async def test_a_thread_submits_waits_runs_and_cancels() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        away = tasks.from_thread
        task_id = await in_thread(away.submit, asyncio.sleep, 0, "value", name="mine", priority="high")
        info = await in_thread(away.wait, task_id)
        assert (info.name, info.result, info.status) == ("mine", "value", TaskStatus.COMPLETED)
        assert await in_thread(away.run, max, 2, 3) == 3
        running = await in_thread(away.submit, gate)
        await gate.holds(1)
        with pytest.raises(TaskWaitTimeoutError):
            await in_thread(away.wait, running, 0.01)
        assert await in_thread(away.cancel, running)
        assert (await tasks.wait_for_task(running)).status is TaskStatus.CANCELLED


async def test_errors_reach_the_thread_as_themselves() -> None:
    def fail() -> None:
        raise KeyError("missing")

    async with open_test_manager() as tasks:
        with pytest.raises(KeyError, match="missing"):
            await in_thread(tasks.from_thread.run, fail)
        with pytest.raises(InvalidTaskError):
            await in_thread(tasks.from_thread.submit, "not callable")
        with pytest.raises(TaskNotFoundError):
            await in_thread(tasks.from_thread.wait, "nobody")


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_a_task_that_wants_to_end_the_process_does_not_end_the_loop(error: type[BaseException]) -> None:
    def leave() -> None:
        raise error("enough")

    async with open_test_manager() as tasks:
        with pytest.raises(Exception, match="enough"):
            await in_thread(tasks.from_thread.run, leave)
        assert await tasks.run(asyncio.sleep, 0, "works") == "works"


async def test_on_the_work_loop_itself_the_caller_is_told_to_await() -> None:
    async with open_test_manager() as tasks:
        with pytest.raises(InvalidTaskError, match="await the manager's methods"):
            tasks.from_thread.submit(int)
        info = await tasks.wait_for_task(
            await tasks.submit_task(lambda: tasks.from_thread.run(int), category="ui")
        )
        assert info.error_type == "qorzen_obs.errors.InvalidTaskError"


async def test_before_the_start_and_after_the_end_work_is_refused() -> None:
    nobody: Any = object()
    new = TaskManager(nobody, CapturedEvents(), CapturedLogs(), nobody)
    with pytest.raises(TaskManagerClosedError, match="not initialized"):
        await in_thread(new.from_thread.run, int)
    async with open_test_manager() as tasks:
        await tasks.shutdown()
        with pytest.raises(TaskManagerClosedError, match="stopped"):
            await in_thread(tasks.from_thread.run, int)


def test_after_its_loop_has_closed_work_is_refused() -> None:
    async def main() -> TaskManager:
        async with open_test_manager() as tasks:
            return tasks

    tasks = asyncio.run(main())
    with pytest.raises(TaskManagerClosedError, match="stopped"):
        tasks.from_thread.run(int)


async def test_many_threads_at_once_get_each_their_own_result() -> None:
    results: dict[int, int] = {}
    async with open_test_manager() as tasks:

        def use(number: int) -> None:
            for _ in range(20):
                results[number] = tasks.from_thread.run(max, number, -1)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        await until(lambda: not any(thread.is_alive() for thread in threads))
        assert results == {number: number for number in range(8)}
        assert tasks.status()["tasks"]["by_status"]["completed"] == 160


async def test_a_child_submitted_by_a_threads_task_belongs_to_its_trace() -> None:
    spans = Spans()
    async with open_test_manager(tracer_provider=spans.provider) as tasks:

        def parent() -> str:
            child = tasks.from_thread.submit(asyncio.sleep, 0, name="child")
            return str(tasks.from_thread.wait(child).trace_id)

        info = await tasks.wait_for_task(await tasks.submit_task(parent, name="parent"))
        assert info.result == info.trace_id
        run, submit = spans.one("run child"), spans.one("submit child")
        assert run.parent is not None
        assert submit.parent is not None
        assert run.parent.span_id == submit.context.span_id
        assert submit.parent.span_id == spans.one("run parent").context.span_id


async def test_a_waiting_thread_that_is_cancelled_is_released_and_cancels_what_it_runs() -> None:
    gate, seen = Gate(), list[str]()
    async with open_test_manager() as tasks:

        def parent() -> None:
            try:
                tasks.from_thread.run(gate, name="child")
            except TaskCancelled as error:
                seen.append(str(error.reason))
                raise

        task_id = await tasks.submit_task(parent)
        await gate.holds(1)
        await tasks.cancel_task(task_id, reason="enough")
        info = await tasks.wait_for_task(task_id)
        assert (info.status, info.abandoned, seen) == (TaskStatus.CANCELLED, False, ["enough"])
        await until(lambda: tasks.status()["tasks"]["by_status"]["cancelled"] == 2)


async def test_a_thread_that_was_asked_to_stop_gets_no_more_work_in() -> None:
    entered = threading.Event()
    async with open_test_manager() as tasks:

        def parent() -> None:
            entered.set()
            assert current_task().wait(PATIENCE_SECONDS)
            tasks.from_thread.run(int)

        task_id = await tasks.submit_task(parent)
        await in_thread(entered.wait)
        await tasks.cancel_task(task_id)
        assert (await tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED
        assert tasks.status()["tasks"]["total"] == 1
