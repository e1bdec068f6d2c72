"""`manager.executor(…)`: a concurrent.futures.Executor whose calls are tasks. See also test_executor_by_cpython.py."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from qorzen_obs import (
    Retry,
    TaskCategory,
    TaskManager,
    TaskPriority,
    TaskStatus,
    current_task,
    task,
    with_options,
)
from qorzen_obs.errors import (
    ExecutorRefusedError,
    InvalidTaskError,
    TaskCancelled,
    TaskManagerClosedError,
    TaskNotRerunnableError,
    TaskQueueFullError,
    TaskTimeoutError,
)
from qorzen_obs.tasks import EngineOrName
from qorzen_obs.testing import open_test_manager
from tests.services.threaded_manager import threaded_manager
from tests.support import PATIENCE_SECONDS, Gate, Spans, ThreadGate, metric, settings, until

ROOT = Path(__file__).parents[3]
ENGINES = ("thread", "process")
ONE_SLOT = settings(max_concurrent_tasks=1, worker_threads=1, io_threads=1)


class Value:
    """Something that can be referred to weakly."""


class OddError(Exception):
    pass


def where(value: Any = None) -> tuple[str, Any]:
    return current_task().task_id, value


def fail(error: BaseException) -> None:
    raise error


def everything(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return args, kwargs


def large() -> bytes:
    return bytes(100_000)


@task(name="report", category="background", timeout=7)
def reporting() -> str:
    return current_task().name


async def awaited(value: int) -> int:
    await asyncio.sleep(0)
    return value


@pytest.fixture
def manager() -> Iterator[TaskManager]:
    with threaded_manager(settings(keep_value_bytes=1_000)) as tasks:
        yield tasks


@pytest.mark.parametrize("engine", ENGINES)
def test_a_call_is_a_task(manager: TaskManager, engine: EngineOrName) -> None:
    executor = manager.executor(category="plugin", engine=engine, priority="high")
    future = executor.submit(where, 5)
    assert future.result() == (future.task_id, 5)
    info = manager.find(future.task_id)
    assert info is not None
    assert (info.name, info.category, info.priority) == ("where", TaskCategory.PLUGIN, TaskPriority.HIGH)
    assert (info.engine, info.status, info.timeout_seconds) == (engine, TaskStatus.COMPLETED, None)


def test_by_its_category_or_engine_it_is_a_thread_pool(manager: TaskManager) -> None:
    assert isinstance(manager.executor(), ThreadPoolExecutor)
    assert isinstance(manager.executor(category=TaskCategory.IO), ThreadPoolExecutor)
    assert not isinstance(manager.executor(engine="process"), ThreadPoolExecutor)
    assert isinstance(manager.executor(engine="process"), Executor)
    ids = [manager.executor(category=category).submit(where).result()[0] for category in ("io", "ui", "core")]
    assert [info.engine for info in map(manager.find, ids) if info] == ["io", "main", "thread"]


def test_what_a_task_says_of_itself_holds_and_a_given_option_wins(manager: TaskManager) -> None:
    own = manager.executor().submit(reporting)
    given = manager.executor(category="user", timeout=9).submit(reporting)
    assert (own.result(), given.result()) == ("report", "report")
    infos = [manager.find(future.task_id) for future in (own, given)]
    seen = [(info.category, info.timeout_seconds) for info in infos if info is not None]
    assert seen == [(TaskCategory.BACKGROUND, 7), (TaskCategory.USER, 9)]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_keyword_is_the_callables(manager: TaskManager, engine: EngineOrName) -> None:
    given = {"name": "x", "timeout": 0, "category": 1, "cancellable": None, "fn": 3, "self": 4, "func": 5}
    assert manager.executor(engine=engine).submit(everything, 1, **given).result() == ((1,), given)


def test_async_functions_run_on_the_loop_where_no_engine_is_asked_for(manager: TaskManager) -> None:
    assert manager.executor().submit(awaited, 3).result() == cast(Any, 3)
    with pytest.raises(InvalidTaskError, match="awaited is async"):
        manager.executor(engine="thread").submit(awaited, 3)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"engine": "treads"}, "engine"),
        ({"engine": "loop"}, "engine"),
        ({"category": "nothing"}, "category"),
        ({"priority": "hihg"}, "priority"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_a_bad_option_is_refused_at_once(manager: TaskManager, options: Any, argument: str) -> None:
    with pytest.raises(InvalidTaskError) as refused:
        manager.executor(**options)
    assert refused.value.argument == argument


def test_what_cannot_be_called_is_refused_at_once(manager: TaskManager) -> None:
    with pytest.raises(InvalidTaskError, match="not callable"):
        manager.executor().submit(5)  # type: ignore[arg-type]
    manager.executor().shutdown()


# ---------------------------------------------------------------------- outcomes


@pytest.mark.parametrize("engine", ENGINES)
def test_a_result_comes_whole_whatever_the_history_keeps(manager: TaskManager, engine: EngineOrName) -> None:
    future = manager.executor(engine=engine).submit(large)
    assert future.result() == large()
    info = manager.find(future.task_id)
    assert info is not None
    assert (info.result, info.result_released) == (None, True)


def test_an_exception_comes_as_the_object_that_was_raised(manager: TaskManager) -> None:
    for error in (OddError("odd"), SystemExit(3), KeyboardInterrupt()):
        future = manager.executor().submit(fail, error)
        assert future.exception() is error
    future = manager.executor(engine="process").submit(fail, OddError("odd"))
    with pytest.raises(OddError, match="odd"):
        future.result()


def test_a_timeout_that_was_asked_for_is_raised(manager: TaskManager) -> None:
    with ThreadGate() as gate, pytest.raises(TaskTimeoutError):
        manager.executor(timeout=0.01).submit(gate).result()


@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_of_a_call_is_held_after_its_end(fails: bool) -> None:
    def work(argument: Value) -> Value:
        made.append(weakref.ref(argument))
        result, error = Value(), OddError()
        made.extend([weakref.ref(result), weakref.ref(error)])
        if fails:
            raise error
        return result

    made: list[weakref.ref[Any]] = []
    async with open_test_manager(settings()) as tasks:
        future = tasks.executor().submit(work, Value())
        await asyncio.gather(asyncio.wrap_future(future), return_exceptions=True)
        task_id = future.task_id
        del future
        await until(lambda: gc.collect() is not None and [one() for one in made] == [None] * 3)
        if fails:
            with pytest.raises(TaskNotRerunnableError):
                await tasks.rerun(task_id)


@pytest.mark.parametrize("error", [OddError("odd"), SystemExit(3), KeyboardInterrupt()])
def test_a_callback_that_raises_keeps_nobody_from_the_outcome(
    manager: TaskManager, error: BaseException
) -> None:
    with ThreadGate() as gate:
        future = manager.executor().submit(gate, 1)
        seen: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.add_done_callback(lambda _: fail(error))
        future.add_done_callback(lambda done: seen.set_result(done.result()))
    assert seen.result(PATIENCE_SECONDS) == 1
    assert manager.executor().submit(abs, -2).result() == 2


# ---------------------------------------------------------------------- states


async def test_a_future_runs_when_its_task_does_and_can_be_cancelled_before() -> None:
    async with open_test_manager(ONE_SLOT) as tasks:
        executor = tasks.executor()
        with ThreadGate() as gate:
            running, waits = executor.submit(gate, 1), executor.submit(gate, 2)
            await gate.holds(1)
            assert (running.running(), waits.running()) == (True, False)
            assert (running.cancel(), waits.cancel()) == (False, True)
            # It waits for the notice of the cancelling, which only the work loop gives.
            done, _ = await run_in_thread(concurrent.futures.wait, [waits], PATIENCE_SECONDS)
            assert done == {waits}
            info = tasks.find(waits.task_id)
            assert info is not None
            assert (info.status, info.cancel_reason) == (TaskStatus.CANCELLED, "its future was cancelled")
        assert await asyncio.wrap_future(running) == 1
        assert gate.arrived == [1]


def test_a_future_that_is_cancelled_on_the_way_has_no_task(manager: TaskManager) -> None:
    assert manager.loop is not None
    with ThreadGate() as gate:
        manager.loop.call_soon_threadsafe(gate)  # the loop is held, so the call cannot arrive
        future = manager.executor().submit(where)
        assert future.cancel()
    assert concurrent.futures.wait([future], PATIENCE_SECONDS).done == {future}
    assert manager.find(future.task_id) is None


async def test_cancelling_the_task_ends_the_future() -> None:
    async with open_test_manager(ONE_SLOT) as tasks:
        executor = tasks.executor()
        with ThreadGate() as gate:
            blocker, waits = executor.submit(gate), executor.submit(gate)
            await gate.holds(1)
            await tasks.cancel_task(waits.task_id)
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wrap_future(waits)
            assert waits.cancelled()
        await asyncio.wrap_future(blocker)

        def stoppable() -> None:
            started.set()
            current_task().wait(PATIENCE_SECONDS)
            current_task().raise_if_cancelled()

        started = threading.Event()
        running = executor.submit(stoppable)
        await until(started.is_set)
        await tasks.cancel_task(running.task_id, reason="enough")
        with pytest.raises(TaskCancelled, match="enough"):
            await asyncio.wrap_future(running)


def test_a_task_that_is_tried_again_keeps_its_future_running(manager: TaskManager) -> None:
    attempts: list[int] = []

    def fails_twice() -> int:
        attempts.append(current_task().number)
        if len(attempts) < 3:
            raise OddError
        return len(attempts)

    call = with_options(fails_twice, retry=Retry(max_attempts=3, backoff=lambda *_: 0.001))
    assert manager.executor().submit(call).result() == 3
    assert attempts == [1, 2, 3]


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize("way", ["loop", "thread"])
async def test_a_full_queue_refuses_with_runtime_error(way: str) -> None:
    async with open_test_manager(settings(max_concurrent_tasks=1, max_pending=1)) as tasks:
        executor = tasks.executor()

        def submit() -> None:
            with pytest.raises(RuntimeError, match="max_pending") as refused:
                executor.submit(where)
            assert isinstance(refused.value, ExecutorRefusedError)
            assert isinstance(refused.value.__cause__, TaskQueueFullError)

        with ThreadGate() as gate:
            running, waits = executor.submit(gate), executor.submit(gate)
            if way == "loop":
                submit()
            else:
                await run_in_thread(submit)
            await until(
                lambda: metric(tasks.registry, "qorzen_tasks_rejected_total", reason="queue_full") == 1
            )
        await asyncio.gather(*map(asyncio.wrap_future, (running, waits)))


async def test_a_queue_that_becomes_full_on_the_way_refuses_by_the_future() -> None:
    async with open_test_manager(settings(max_concurrent_tasks=1, max_pending=1)) as tasks:
        executor = tasks.executor()

        def submit() -> Any:
            calls = [executor.submit(gate, number) for number in range(3)]
            submitted.set()
            return calls

        submitted = threading.Event()
        with ThreadGate() as gate:
            submitting = run_in_thread(submit)
            submitted.wait(PATIENCE_SECONDS)  # the loop stands still, so none of the three arrives meanwhile
            *_, late = await submitting
            with pytest.raises(ExecutorRefusedError, match="max_pending"):
                await asyncio.wrap_future(late)
        assert metric(tasks.registry, "qorzen_tasks_rejected_total", reason="queue_full") == 1
        await until(lambda: sorted(gate.arrived) == [0, 1])


async def test_where_submitting_waits_for_room_the_future_waits() -> None:
    full = settings(max_concurrent_tasks=1, max_pending=1, when_full="wait")
    async with open_test_manager(full) as tasks:
        executor = tasks.executor()
        with ThreadGate() as gate:
            futures = [executor.submit(gate, number) for number in range(5)]
            await gate.holds(1)
            assert tasks.status()["tasks"]["total"] == 2
            assert futures[3].cancel()
            assert (await run_in_thread(concurrent.futures.wait, futures[3:4], PATIENCE_SECONDS)).done
        values = await asyncio.gather(*(asyncio.wrap_future(f) for f in futures if not f.cancelled()))
        assert values == [0, 1, 2, 4]


def test_a_manager_that_takes_no_work_refuses_with_runtime_error() -> None:
    with threaded_manager() as tasks:
        executor = tasks.executor()
    with pytest.raises(ExecutorRefusedError, match="stopped"):
        executor.submit(where)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(where)


def test_the_refusal_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ExecutorRefusedError("no room")))
    assert (str(error), error.problem) == ("no room", "no room")


# ---------------------------------------------------------------------- asyncio.to_thread


async def test_to_thread_makes_tasks_that_have_the_name_of_the_function() -> None:
    spans, variable = Spans(), contextvars.ContextVar[str]("variable")

    def look() -> tuple[str, str, str | None]:
        return current_task().name, variable.get(), current_task().task_id

    async with open_test_manager(settings(), tracer_provider=spans.provider) as tasks:
        asyncio.get_running_loop().set_default_executor(tasks.executor(category="io"))
        variable.set("mine")
        with spans.tracer.start_as_current_span("request") as request:
            name, seen, task_id = await asyncio.to_thread(look)
        assert (name, seen) == (look.__qualname__, "mine")
        info = tasks.find(task_id or "")
        assert info is not None
        assert info.category is TaskCategory.IO
        assert info.trace_id == f"{request.get_span_context().trace_id:032x}"
        submitted = spans.one(f"submit {name}")
        assert submitted.parent is not None
        assert submitted.parent.span_id == request.get_span_context().span_id
        args = await asyncio.to_thread(functools.partial(everything, 1), 2, timeout=3)
        assert args == ((1, 2), {"timeout": 3})
        direct = tasks.executor().submit(contextvars.copy_context().run, where, 4)
        assert (await asyncio.wrap_future(direct))[1] == 4
        run = await asyncio.get_running_loop().run_in_executor(None, where, 5)
        assert run[1] == 5


# ---------------------------------------------------------------------- parents


async def test_coroutines_that_hold_every_slot_get_their_calls_done() -> None:
    async with open_test_manager(ONE_SLOT) as tasks:
        executor = tasks.executor()

        async def parent() -> int:
            loop = asyncio.get_running_loop()
            calls = [loop.run_in_executor(executor, pow, 2, number) for number in range(4)]
            return sum(await asyncio.gather(*calls))

        both = await asyncio.gather(*(tasks.run(parent) for _ in range(2)))
        assert both == [15, 15]
        await until(lambda: all(not slots["busy"] for slots in tasks.status()["slots"].values()))


@pytest.mark.parametrize("how", ["result", "map", "wait", "as_completed", "with"])
async def test_threads_that_hold_every_slot_get_their_calls_done(how: str) -> None:
    async with open_test_manager(ONE_SLOT) as tasks:
        executor = tasks.executor()

        def parent() -> list[int]:
            if how == "map":
                return list(executor.map(abs, [-1, -2]))
            if how == "with":
                with tasks.executor() as own:
                    calls = [own.submit(abs, number) for number in (-1, -2)]
                return [call.result() for call in calls]
            calls = [executor.submit(abs, number) for number in (-1, -2)]
            if how == "wait":
                concurrent.futures.wait(calls)
            if how == "as_completed":
                return sorted(call.result() for call in concurrent.futures.as_completed(calls))
            return [call.result() for call in calls]

        both = await asyncio.gather(*(tasks.run(parent) for _ in range(2)))
        assert both == [[1, 2], [1, 2]]
        await until(lambda: all(not slots["busy"] for slots in tasks.status()["slots"].values()))


async def test_a_task_that_is_asked_to_stop_waits_no_longer() -> None:
    async with open_test_manager(settings(cancel_grace_seconds=60)) as tasks:
        executor = tasks.executor()
        with ThreadGate() as gate:

            def parent() -> Any:
                return executor.submit(gate).result()

            task_id = await tasks.submit_task(parent)
            await gate.holds(1)
            await tasks.cancel_task(task_id)
            assert (await tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED


# ---------------------------------------------------------------------- ends


def test_leaving_the_block_waits_for_the_calls(manager: TaskManager) -> None:
    with manager.executor() as executor:
        futures = [executor.submit(time.sleep, 0.001) for _ in range(20)]
    assert all(future.done() for future in futures)


async def test_on_the_loop_async_with_waits_for_the_calls() -> None:
    async with open_test_manager(settings()) as tasks:
        async with tasks.executor() as executor:
            futures = [executor.submit(abs, number) for number in range(5)]
            failing = executor.submit(fail, OddError())
        assert [future.result() for future in futures] == [0, 1, 2, 3, 4]
        assert isinstance(failing.exception(), OddError)
        with pytest.raises(RuntimeError):
            executor.submit(abs, 1)


async def test_waiting_on_the_loop_is_refused_and_says_what_to_do() -> None:
    async with open_test_manager(settings()) as tasks:
        executor = tasks.executor()
        with ThreadGate() as gate:
            future = executor.submit(gate, 1)
            with pytest.raises(InvalidTaskError, match="wrap_future"):
                future.result()
            with pytest.raises(TimeoutError):
                future.result(timeout=0)
            with pytest.raises(InvalidTaskError, match="async with"):
                executor.shutdown()
            executor.shutdown(wait=False)
        assert await asyncio.wrap_future(future) == 1
        assert future.result() == 1
        executor.shutdown()


async def test_shutdown_cancels_what_has_not_begun() -> None:
    async with open_test_manager(ONE_SLOT) as tasks:
        executor = tasks.executor()
        with ThreadGate() as gate:
            running, waits = executor.submit(gate, 1), executor.submit(gate, 2)
            await gate.holds(1)
            executor.shutdown(wait=False, cancel_futures=True)
            assert waits.cancelled()
        assert await asyncio.wrap_future(running) == 1
        assert gate.arrived == [1]


@pytest.mark.parametrize("cancel_futures", [False, True])
def test_shutdown_does_not_wait_for_a_call_that_is_refused_meanwhile(cancel_futures: bool) -> None:
    """Other threads submit all the time, to a full queue, so some shutdown comes in the middle of a refusal."""

    def hammer() -> None:
        while not stopped.is_set():
            with contextlib.suppress(ExecutorRefusedError):
                executors[-1].submit(where)

    stopped, interval = threading.Event(), sys.getswitchinterval()
    with threaded_manager(settings(max_concurrent_tasks=1, max_pending=1)) as tasks, ThreadGate() as gate:
        for _ in range(2):
            tasks.executor().submit(gate)
        executors = [tasks.executor()]
        hammers = [threading.Thread(target=hammer) for _ in range(3)]
        sys.setswitchinterval(1e-6)
        try:
            for thread in hammers:
                thread.start()
            for _ in range(40):
                executors.append(tasks.executor())
                ending = threading.Thread(
                    target=executors[-2].shutdown, kwargs={"cancel_futures": cancel_futures}
                )
                ending.start()
                ending.join(PATIENCE_SECONDS)
                assert not ending.is_alive()
        finally:
            sys.setswitchinterval(interval)
            stopped.set()
            for thread in hammers:
                thread.join()


async def test_a_managers_shutdown_ends_its_calls() -> None:
    async with open_test_manager(settings(cancel_grace_seconds=0.01)) as tasks:
        gate = Gate()
        future = tasks.executor().submit(cast(Any, gate))
        await gate.holds(1)
        await tasks.shutdown(grace_seconds=0)
        with pytest.raises(TaskCancelled):
            await asyncio.wrap_future(future)


def test_a_caller_gets_an_error_when_the_loop_has_stopped() -> None:
    async def leave() -> Any:
        async with open_test_manager(settings()) as tasks:
            managers.append(tasks)
            future = tasks.executor().submit(ThreadGate)
            asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
            await asyncio.Event().wait()
            return future

    managers: list[TaskManager] = []
    loop = asyncio.new_event_loop()
    stopped = loop.create_task(leave())
    loop.run_forever()
    future = managers[0].executor().submit(abs, 1)
    with pytest.raises(TaskManagerClosedError):
        future.result()
    managers[0].executor().shutdown()
    stopped.cancel()
    loop.run_until_complete(asyncio.wait([stopped]))
    assert future.result() == 1
    loop.close()
    with pytest.raises(ExecutorRefusedError, match="stopped"):
        managers[0].executor().submit(abs, 1)


AT_EXIT = """
import asyncio, atexit, sys, threading, time
from pathlib import Path
from qorzen_obs import open_task_manager

ready = threading.Event()

def serve():
    async def main():
        global loop, tasks
        loop = asyncio.get_running_loop()
        async with open_task_manager() as tasks:
            ready.set()
            await asyncio.Event().wait()
    asyncio.run(main())

if __name__ == "__main__":
    engine, seconds = sys.argv[1], float(sys.argv[2])
    threading.Thread(target=serve, daemon=True).start()
    ready.wait()
    loop.call_soon_threadsafe(time.sleep, seconds)  # the interpreter exits before any call starts
    # Nobody holds the executors.
    futures = [tasks.executor(engine=engine).submit(Path("a").joinpath, name) for name in "bcd"]
    atexit.register(lambda: print(*[future.result(timeout=0) for future in futures]))
"""


@pytest.mark.parametrize("seconds", ["0", "0.5"])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_exit_of_the_interpreter_waits_for_the_calls(engine: str, seconds: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "QORZEN_TELEMETRY__LOG_LEVEL": "off"}
    program = subprocess.run(
        [sys.executable, "-c", AT_EXIT, engine, seconds],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    assert program.stderr == ""
    assert program.stdout == "a/b a/c a/d\n"


def run_in_thread(call: Any, *args: Any) -> asyncio.Future[Any]:
    """What `call` returns on a thread that is no task's, which has begun."""
    answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
    threading.Thread(target=lambda: answer.set_result(call(*args))).start()
    return asyncio.wrap_future(answer)
