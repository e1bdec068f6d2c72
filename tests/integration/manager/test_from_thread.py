"""The manager's calls from other threads: the user's own, and those of tasks. They always end (F39)."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Self

import pytest

from qorzen_obs import TaskManager, TaskStatus, current_task
from qorzen_obs.clock import SystemClock
from qorzen_obs.core.runner import Runner
from qorzen_obs.core.runtime import Runtime
from qorzen_obs.errors import (
    InvalidTaskError,
    TaskCancelled,
    TaskManagerClosedError,
    TaskNotFoundError,
    TaskWaitTimeoutError,
)
from qorzen_obs.testing import CapturedEvents, CapturedLogs, open_test_manager
from tests.support import PATIENCE_SECONDS, Gate, Spans, attempt, record, until


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


# ---------------------------------------------------------------------- while the loop ends, and after


class Caller:
    """A thread that calls the manager again and again, and what became of its calls."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.answered = 0
        self.errors: list[BaseException] = []
        self._call = call
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._left.is_set():
            try:
                self._call()
                self.answered += 1
            except Exception as error:  # noqa: BLE001 - the test looks at them
                self.errors.append(error)
                # What is refused at once must not keep the interpreter from the others.
                self._left.wait(0.001)

    def leave(self) -> None:
        """End; returns only if no call hangs."""
        self._left.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "it hangs in a call"

    def ends_refused(self) -> None:
        """Every call that was not answered was refused, and there was one."""
        assert {type(error) for error in self.errors} == {TaskManagerClosedError}


def test_f39_threads_that_submit_for_ever_are_refused_when_main_ends() -> None:
    async def main() -> list[Caller]:
        async with open_test_manager() as tasks:
            callers = [Caller(lambda: tasks.from_thread.submit(max, 1, 2)) for _ in range(4)]
            await until(lambda: all(caller.answered > 10 for caller in callers))
        await until(lambda: all(caller.errors for caller in callers))
        return callers

    for caller in asyncio.run(main()):
        refused = len(caller.errors)
        while len(caller.errors) <= refused:  # once more, now that the loop is closed
            time.sleep(0.001)
        caller.leave()
        caller.ends_refused()


class Unfinished:
    """A manager whose loop stops before the manager does."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._manager = open_test_manager()
        self.gate = Gate()
        self.callers: list[Caller] = []

    def __enter__(self) -> Self:
        self.loop.run_until_complete(self._begin())
        return self

    async def _begin(self) -> None:
        self.tasks = await self._manager.__aenter__()
        away = self.tasks.from_thread
        pending = await self.tasks.submit_task(self.gate)
        for call in (lambda: away.run(self.gate), lambda: away.submit(max, 1, 2), lambda: away.wait(pending)):
            self.callers.append(Caller(call))
        await self.gate.holds(2)

    def __exit__(self, *_: object) -> None:
        for caller in self.callers:
            caller.leave()
        self.loop.run_until_complete(self._manager.__aexit__(None, None, None))
        self.loop.close()


def test_f39_calls_are_refused_when_their_loop_stops_without_a_word() -> None:
    with Unfinished() as unfinished:
        for caller in unfinished.callers:
            while not caller.errors:
                time.sleep(0.001)
            caller.leave()
            caller.ends_refused()


def test_f39_what_a_refused_thread_ran_is_cancelled_when_the_loop_goes_on() -> None:
    with Unfinished() as unfinished:
        for caller in unfinished.callers:
            while not caller.errors:
                time.sleep(0.001)
            caller.leave()
        counts = unfinished.tasks.looks.counts
        unfinished.loop.run_until_complete(until(lambda: counts.get(TaskStatus.CANCELLED) == 1))


def test_f39_calls_whose_loop_cancels_everything_are_refused() -> None:
    """As `asyncio.run` does when main has ended, also where nobody has shut the manager down."""
    manager = open_test_manager()

    async def main() -> list[Caller]:
        tasks = await manager.__aenter__()
        gate = Gate()
        callers = [Caller(lambda: tasks.from_thread.run(gate)) for _ in range(4)]
        await gate.holds(4)
        return callers

    for caller in asyncio.run(main()):
        caller.leave()
        assert {type(error) for error in caller.errors} <= {TaskManagerClosedError, TaskCancelled}
        assert caller.errors


async def test_f39_after_the_stop_a_thread_still_learns_how_a_task_ended() -> None:
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(max, 2, 3)
        await tasks.wait_for_task(task_id)
        await tasks.shutdown()
        assert (await in_thread(tasks.from_thread.wait, task_id)).result == 3
        for call in (tasks.from_thread.wait, tasks.from_thread.cancel, tasks.from_thread.rerun):
            with pytest.raises(TaskManagerClosedError, match="stopped"):
                await in_thread(call, "nobody")


def test_f39_progress_after_the_loop_was_closed_is_dropped() -> None:
    runtime = Runtime()
    runtime.loop = loop = asyncio.new_event_loop()
    loop.close()
    ignore: Callable[..., None] = lambda *_: None  # noqa: E731
    runner = Runner(
        runtime,
        SystemClock(),
        on_decided=ignore,
        on_late_end=ignore,
        on_progress=ignore,
        on_engine_failed=ignore,
    )
    runner.report_progress(attempt(record()), 50, "half")


# ---------------------------------------------------------------------- several threads of one task


async def test_each_waiting_thread_of_a_task_learns_that_it_was_asked_to_stop() -> None:
    gate, learned = Gate(), list[str]()
    async with open_test_manager() as tasks:

        def run_a_child() -> None:
            with pytest.raises(TaskCancelled, match="enough"):
                tasks.from_thread.run(gate)
            learned.append("run")

        def wait_for_the_token() -> None:
            assert current_task().wait(PATIENCE_SECONDS)
            learned.append("wait")

        waiting = threading.Barrier(7)

        def announced(work: Callable[[], None]) -> None:
            waiting.wait(PATIENCE_SECONDS)
            work()

        def parent() -> None:
            jobs = [run_a_child, wait_for_the_token] * 3
            threads = [threading.Thread(target=copy_context().run, args=(announced, job)) for job in jobs]
            for thread in threads:
                thread.start()
            waiting.wait(PATIENCE_SECONDS)
            for thread in threads:
                thread.join(PATIENCE_SECONDS)

        task_id = await tasks.submit_task(parent)
        await gate.holds(3)
        await tasks.cancel_task(task_id, reason="enough")
        info = await tasks.wait_for_task(task_id)
        assert (info.status, info.abandoned) == (TaskStatus.COMPLETED, False)
        assert sorted(learned) == ["run"] * 3 + ["wait"] * 3


async def test_a_call_that_ends_leaves_the_other_calls_of_its_task_within_reach() -> None:
    first, second = Gate(), Gate()
    async with open_test_manager() as tasks:

        def parent() -> str:
            beside = threading.Thread(target=copy_context().run, args=(tasks.from_thread.run, second))
            beside.start()
            try:
                tasks.from_thread.run(first)
            except TaskCancelled as error:
                return str(error.reason)
            finally:
                beside.join(PATIENCE_SECONDS)
            return "nobody asked"

        task_id = await tasks.submit_task(parent)
        await first.holds(1)
        await second.holds(1)
        second.open()
        await until(lambda: tasks.status()["tasks"]["by_status"]["completed"] == 1)
        await tasks.cancel_task(task_id, reason="enough")
        assert (await tasks.wait_for_task(task_id)).result == "enough"
