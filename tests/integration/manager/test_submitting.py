"""What can be submitted, where it runs, and how its end is told."""

import asyncio
import contextvars
import functools
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest

from qorzen_obs import TaskCategory, TaskPriority, TaskStatus, current_task, task
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.errors import InvalidTaskError, TaskCancelled, TaskFailedError, TaskTimeoutError
from qorzen_obs.tasks import CategoryName, EngineKind
from qorzen_obs.testing import CapturedLogs, open_test_manager
from tests.support import Gate, ThreadGate, settings, virtual_time

SHADE: contextvars.ContextVar[str] = contextvars.ContextVar("shade", default="none")


def add(a: int, b: int = 0) -> int:
    return a + b


async def add_async(a: int, b: int = 0) -> int:
    await asyncio.sleep(0)
    return a + b


class Adder:
    def __call__(self, a: int, b: int = 0) -> int:
        return a + b

    def method(self, a: int, b: int = 0) -> int:
        return a + b


class AsyncAdder:
    async def __call__(self, a: int, b: int = 0) -> int:
        return a + b


async def end_of(tasks: TaskManager, func: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return await tasks.wait_for_task(await tasks.submit_task(func, *args, **options))


@pytest.mark.parametrize(
    "func",
    [
        pytest.param(add, id="a function"),
        pytest.param(add_async, id="an async function"),
        pytest.param(functools.partial(add), id="a partial"),
        pytest.param(functools.partial(add_async), id="an async partial"),
        pytest.param(Adder(), id="a callable object"),
        pytest.param(AsyncAdder(), id="an async callable object"),
        pytest.param(Adder().method, id="a method"),
        pytest.param(lambda a, b=0: a + b, id="a lambda"),
    ],
)
async def test_any_callable_runs_with_its_arguments_and_its_value_is_kept(func: Callable[..., Any]) -> None:
    async with open_test_manager() as tasks:
        info = await end_of(tasks, func, 2, b=3)
        assert (info.status, info.result, info.error) == (TaskStatus.COMPLETED, 5, None)
        assert await tasks.run(func, 2, b=3) == 5


async def test_a_builtin_without_a_signature_runs_too() -> None:
    async with open_test_manager() as tasks:
        assert await tasks.run(dict, a=1) == {"a": 1}


async def test_a_task_is_found_by_the_id_from_its_submission_on() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(gate, "value", plugin_id="reports", metadata={"size": 3})
        await gate.holds(1)
        info = await tasks.get_task_info(task_id)
        assert info is not None
        assert (info.status, info.category, info.priority) == (
            TaskStatus.RUNNING,
            TaskCategory.CORE,
            TaskPriority.NORMAL,
        )
        assert (info.plugin_id, info.metadata, info.cancellable) == ("reports", {"size": 3}, True)
        assert info.started_at is not None
        assert info.created_at <= info.started_at
        gate.open()
        ended = await tasks.wait_for_task(task_id)
        assert (ended.task_id, ended.result, ended.attempt) == (task_id, "value", 1)
        assert ended.completed_at is not None
        assert ended.queue_wait_seconds is not None
        assert ended.duration_seconds is not None
        assert await tasks.get_task_info("no such id") is None


async def test_a_snapshot_can_be_changed_without_changing_the_task() -> None:
    metadata = {"tags": ["a"]}
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(add, 1, metadata=metadata)
        metadata["tags"].append("b")
        info = await tasks.wait_for_task(task_id)
        info.status, info.metadata["more"] = TaskStatus.FAILED, 1
        again = await tasks.wait_for_task(task_id)
        assert (again.status, again.metadata) == (TaskStatus.COMPLETED, {"tags": ["a"]})


async def test_metadata_of_any_mapping_is_kept_as_json_shows_it() -> None:
    async with open_test_manager() as tasks:
        info = await end_of(tasks, add, 1, metadata=MappingProxyType({"pair": (1, 2), "none": None}))
        assert info.metadata == {"pair": [1, 2], "none": None}


async def test_a_task_is_named_after_its_callable_unless_it_is_given_a_name() -> None:
    async with open_test_manager() as tasks:
        assert (await end_of(tasks, add, 1)).name == "add"
        assert (await end_of(tasks, functools.partial(add, 1))).name == "add"
        assert (await end_of(tasks, Adder(), 1)).name == "Adder"
        assert (await end_of(tasks, add, 1, name="sum of the day")).name == "sum of the day"


async def test_a_callable_that_takes_name_or_timeout_itself_goes_through_partial() -> None:
    def greet(name: str, timeout: int) -> str:
        return f"{name} {timeout}"

    async with open_test_manager() as tasks:
        assert await tasks.run(functools.partial(greet, name="Ann", timeout=0), name="greeting") == "Ann 0"


async def test_a_definition_gives_the_defaults_and_the_submission_overrides_them() -> None:
    @task(name="tidy", category="background", priority="low", timeout=7, engine="io")
    def tidy() -> str:
        return threading.current_thread().name

    async with open_test_manager() as tasks:
        info = await end_of(tasks, tidy)
        assert (info.name, info.category, info.priority, info.timeout_seconds, info.engine) == (
            "tidy",
            TaskCategory.BACKGROUND,
            TaskPriority.LOW,
            7.0,
            "io",
        )
        assert info.result.startswith("qorzen-io-")
        other = await end_of(tasks, tidy, name="again", category="user", priority=200, timeout=9)
        assert (other.name, other.category, other.priority, other.timeout_seconds) == (
            "again",
            TaskCategory.USER,
            TaskPriority.CRITICAL,
            9.0,
        )


@pytest.mark.parametrize(
    ("category", "engine", "guarantee", "thread"),
    [
        (TaskCategory.IO, EngineKind.IO, "cooperative", "qorzen-io-"),
        (TaskCategory.UI, EngineKind.MAIN, "none", "MainThread"),
        *(
            (category, EngineKind.THREAD, "cooperative", "qorzen-thread-")
            for category in TaskCategory
            if category not in (TaskCategory.IO, TaskCategory.UI)
        ),
    ],
)
async def test_a_synchronous_task_runs_where_its_category_says(
    category: TaskCategory, engine: EngineKind, guarantee: str, thread: str
) -> None:
    async with open_test_manager() as tasks:
        info = await end_of(tasks, threading.current_thread, category=category)
        assert info.result.name.startswith(thread)
        assert (info.engine, info.cancel_guarantee) == (engine.value, guarantee)


@pytest.mark.parametrize("category", list(TaskCategory))
async def test_an_async_task_runs_on_the_loop_whatever_its_category(category: TaskCategory) -> None:
    async def where() -> object:
        return asyncio.get_running_loop()

    async with open_test_manager() as tasks:
        info = await end_of(tasks, where, category=category)
        assert info.result is asyncio.get_running_loop()
        assert (info.engine, info.cancel_guarantee) == ("loop", "prompt")


@pytest.mark.parametrize("category", [TaskCategory.CORE, TaskCategory.IO])
async def test_threads_of_tasks_are_daemons_so_that_none_holds_up_the_exit(category: TaskCategory) -> None:
    async with open_test_manager() as tasks:
        assert (await tasks.run(threading.current_thread, category=category)).daemon


@pytest.mark.parametrize("category", [TaskCategory.CORE, TaskCategory.IO, TaskCategory.UI])
async def test_a_synchronous_task_sees_the_submitters_context_and_changes_only_its_own(
    category: TaskCategory,
) -> None:
    def repaint() -> str:
        before = SHADE.get()
        SHADE.set("red")
        return before

    async with open_test_manager() as tasks:
        SHADE.set("blue")
        assert await tasks.run(repaint, category=category) == "blue"
        assert SHADE.get() == "blue"


async def test_an_async_task_sees_the_context_as_it_was_at_its_submission() -> None:
    async def read() -> str:
        return SHADE.get()

    async with open_test_manager() as tasks:
        SHADE.set("then")
        task_id = await tasks.submit_task(read)
        SHADE.set("now")
        assert (await tasks.wait_for_task(task_id)).result == "then"


async def test_current_task_tells_the_callable_who_it_is_on_every_engine() -> None:
    def who() -> tuple[Any, ...]:
        me = current_task()
        return me.task_id, me.name, me.category, me.priority, me.number, me.cancelled

    async def who_async() -> tuple[Any, ...]:
        return who()

    async with open_test_manager() as tasks:
        for func, category in [
            (who, "core"),
            (who, "io"),
            (who, "ui"),
            (who_async, "user"),
        ]:
            info = await end_of(tasks, func, category=category, priority="high", name="me")
            assert info.result == (
                info.task_id,
                "me",
                TaskCategory(category),
                TaskPriority.HIGH,
                1,
                False,
            )


async def test_submit_async_task_takes_async_callables_only() -> None:
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_async_task(add_async, 1, 1, priority="high")
        assert (await tasks.wait_for_task(task_id)).result == 2
        with pytest.raises(InvalidTaskError, match="use submit_task"):
            await tasks.submit_async_task(add, 1)  # type: ignore[arg-type]  # what it refuses
        assert tasks.status()["tasks"]["total"] == 1


@pytest.mark.parametrize("category", ["core", "io", "ui"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, MemoryError, GeneratorExit, StopIteration]
)
async def test_f23_whatever_a_task_raises_fails_the_task_and_never_the_manager(
    category: CategoryName, is_async: bool, error: type[BaseException]
) -> None:
    def raises() -> None:
        raise error("on purpose")

    async def raises_async() -> None:
        await asyncio.sleep(0)
        raise error("on purpose")

    async with open_test_manager() as tasks:
        info = await end_of(tasks, raises_async if is_async else raises, category=category)
        assert info.status is TaskStatus.FAILED
        if error is StopIteration and is_async:  # Python itself does not let it out of a coroutine
            assert info.error_type == "RuntimeError"
        else:
            assert (info.error, info.error_type) == ("on purpose", error.__name__)
        assert "on purpose" in (info.traceback or "")
        assert await tasks.run(add_async, 1, b=1) == 2
        assert await tasks.run(add, 1, 1, category=category) == 2
        assert tasks.healthy


async def test_a_failure_is_told_by_message_qualified_type_and_traceback_without_values() -> None:
    def fail() -> None:
        secret = "canary"
        raise TaskFailedError("id", "kind", f"{len(secret)} letters")

    async with open_test_manager() as tasks:
        info = await end_of(tasks, fail)
        assert info.error_type == "qorzen_obs.errors.TaskFailedError"
        assert info.error == "task id failed with kind: 6 letters"
        assert info.traceback is not None
        assert "in fail" in info.traceback
        assert "canary" not in info.error
        assert info.result is None


async def test_f23_results_and_exceptions_that_cannot_be_pickled_are_handed_over_as_they_are() -> None:
    class Local(Exception):
        def __init__(self, lock: object, *, needed: object) -> None:
            super().__init__(lock)

    lock = threading.Lock()
    error = Local(lock, needed=1)

    def fail() -> None:
        raise error

    async with open_test_manager() as tasks:
        assert await tasks.run(lambda: lock) is lock
        assert len(await tasks.run(bytes, 50_000_000)) == 50_000_000
        with pytest.raises(Local) as caught:
            await tasks.run(fail)
        assert caught.value is error


async def test_run_raises_what_the_task_raised() -> None:
    error = ValueError("mine")

    async def fail() -> None:
        raise error

    async with open_test_manager() as tasks:
        with pytest.raises(ValueError, match="mine") as caught:
            await tasks.run(fail)
        assert caught.value is error


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
async def test_run_does_not_end_its_caller_with_what_was_meant_to_end_the_task(
    error: type[BaseException],
) -> None:
    async def leave() -> None:
        raise error("enough")

    async with open_test_manager() as tasks:
        with pytest.raises(TaskFailedError, match="enough") as caught:
            await tasks.run(leave)
        assert isinstance(caught.value.__cause__, error)


@virtual_time
async def test_run_tells_a_timeout_and_a_cancellation_apart() -> None:
    async with open_test_manager() as tasks:
        with pytest.raises(TaskTimeoutError, match="timeout of 5 s"):
            await tasks.run(asyncio.sleep, 10, timeout=5)
        waiting = asyncio.create_task(tasks.run(asyncio.sleep, 10, name="long"))
        await asyncio.sleep(1)
        (running,) = await tasks.get_tasks(status="running")
        await tasks.cancel_task(running.task_id, reason="not needed")
        with pytest.raises(TaskCancelled, match="not needed"):
            await waiting


async def test_an_exception_whose_message_cannot_be_shown_fails_only_its_task() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no message")

    async def fail() -> None:
        raise Broken

    async with open_test_manager() as tasks:
        info = await end_of(tasks, fail)
        assert info.status is TaskStatus.FAILED
        assert info.error == "<its message cannot be shown: RuntimeError>"
        assert await tasks.run(add, 1) == 1


async def test_a_message_that_is_no_unicode_text_is_shown_escaped_and_breaks_no_log() -> None:
    async def fail() -> None:
        current_task().progress(50, "half \udcff")
        raise FileNotFoundError("caf\udce9.txt")

    logs = CapturedLogs()
    async with open_test_manager(logs=logs) as tasks:
        info = await end_of(tasks, fail)
        assert info.error == "caf\\udce9.txt"
        assert info.progress.message == "half \\udcff"
        assert info.traceback is not None
        info.traceback.encode()
        assert logs.of("task.finished")[0]["error"] == "caf\\udce9.txt"


async def test_a_long_message_is_cut() -> None:
    async def fail() -> None:
        raise ValueError("x" * 1_000_000)

    async with open_test_manager() as tasks:
        info = await end_of(tasks, fail)
        assert len(info.error) <= 4_000
        assert len(info.traceback) <= 20_000


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("how", ["itself", "cause", "context", "member of a group"])
async def test_a_kept_failure_keeps_no_local_data_alive(how: str, is_async: bool) -> None:
    class Data:
        pass

    seen: list[weakref.ref[Data]] = []

    def hold() -> None:
        data = Data()
        seen.append(weakref.ref(data))
        raise KeyError("inner")

    def fail() -> None:
        members: list[KeyError] = []
        try:
            hold()
        except KeyError as caught:
            if how == "itself":
                raise
            if how == "cause":
                raise ValueError("outer") from caught
            if how == "context":
                raise ValueError("outer")  # noqa: B904 - without a cause is the point
            members.append(caught)
        raise ExceptionGroup("outer", members)

    async def fail_async() -> None:
        await asyncio.sleep(0)
        fail()

    async with open_test_manager() as tasks:
        info = await end_of(tasks, fail_async if is_async else fail)
        assert info.status is TaskStatus.FAILED
        gc.collect()
        assert seen[0]() is None


async def test_a_failure_that_passed_through_another_coroutine_leaves_that_one_alone() -> None:
    requests: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()

    async def answer_all() -> None:  # as a client library's reader does
        for answer in range(3):
            request = await requests.get()
            try:
                if answer == 0:
                    raise ConnectionError("reset")  # noqa: TRY301 - its frame must be this one
            except ConnectionError as error:
                request.set_exception(error)
            else:
                request.set_result(answer)

    async def ask() -> int:
        request: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        requests.put_nowait(request)
        return await request

    reader = asyncio.create_task(answer_all())
    async with open_test_manager() as tasks:
        assert (await end_of(tasks, ask)).error == "reset"
        assert await tasks.run(ask, timeout=5) == 1
        assert await tasks.run(ask, timeout=5) == 2
        await reader


@pytest.mark.parametrize("category", ["core", "ui"])
async def test_a_synchronous_callable_that_returns_a_coroutine_fails_and_says_what_to_do(
    category: str,
) -> None:
    async with open_test_manager() as tasks:
        info = await end_of(tasks, lambda: add_async(1), name="forgot", category=category)
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "TypeError")
        assert info.error == "forgot returned a coroutine that nobody awaits; submit an async function itself"


@pytest.mark.parametrize("category", ["core", "ui"])
@pytest.mark.parametrize("kind", ["generator", "async generator"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_generator_that_comes_out_of_a_call_fails_and_says_that_no_line_has_run(
    is_async: bool, kind: str, category: str
) -> None:
    def rows() -> Iterator[int]:
        yield 1

    async def async_rows() -> AsyncIterator[int]:
        yield 1

    def call() -> object:
        return rows() if kind == "generator" else async_rows()

    async def call_async() -> object:
        return call()

    async with open_test_manager() as tasks:
        info = await end_of(tasks, call_async if is_async else call, name="rows", category=category)
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "TypeError")
        assert info.error == "rows returned a generator, which has not run; return a list or consume it"


async def test_a_task_that_gets_no_thread_fails_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            info = await end_of(tasks, add, 1)
        assert (info.status, info.error) == (TaskStatus.FAILED, "can't start new thread")
        assert await tasks.run(add, 1) == 1


async def test_threads_are_used_again() -> None:
    async with open_test_manager() as tasks:
        used = {await tasks.run(threading.get_ident) for _ in range(20)}
        assert len(used) == 1


async def test_as_many_threads_as_tasks_work_at_once() -> None:
    with ThreadGate() as gate:
        async with open_test_manager(settings(worker_threads=3)) as tasks:
            for number in range(5):
                await tasks.submit_task(gate, number)
            await gate.holds(3)
            assert len(set(gate.threads)) == 3
            assert tasks.status()["slots"]["thread"]["busy"] == 3
            assert tasks.status()["queue"]["depth"] == 2
            gate.open()
            await gate.holds(5)


async def test_a_loop_with_eager_tasks_changes_nothing() -> None:
    eager = getattr(asyncio, "eager_task_factory", None)
    if eager is None:
        pytest.skip("asyncio has eager tasks from 3.12 on")
    asyncio.get_running_loop().set_task_factory(eager)
    try:
        order: list[str] = []

        async def at_once() -> str:
            order.append("runs")
            return await asyncio.sleep(0, "value") if order.count("runs") > 1 else "value"

        async with open_test_manager() as tasks:
            task_id = await tasks.submit_task(at_once)
            order.append("submitted")
            assert (await tasks.wait_for_task(task_id)).result == "value"
            assert order == ["submitted", "runs"]
            assert await tasks.run(at_once) == "value"
    finally:
        asyncio.get_running_loop().set_task_factory(None)
