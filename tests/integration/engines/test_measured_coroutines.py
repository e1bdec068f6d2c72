"""Code on the loop cannot tell whether its steps are measured: what it sees, and what is seen of it, is the same."""

import asyncio
import traceback
import types
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any

import pytest

from qorzen_obs import TaskInfo, TaskManager, TaskStatus, current_task
from qorzen_obs.settings import Settings, TelemetrySettings
from qorzen_obs.testing import open_test_manager
from tests.support import turns

VARIABLE: ContextVar[int] = ContextVar("variable", default=0)

pytestmark = pytest.mark.parametrize("measured", [True, False], ids=["measured", "not measured"])


def manager(measured: bool) -> AbstractAsyncContextManager[TaskManager]:
    return open_test_manager(Settings(telemetry=TelemetrySettings(time_ledger=measured)))


async def end_of(measured: bool, func: Callable[..., Any], *args: Any) -> TaskInfo:
    async with manager(measured) as tasks:
        return await tasks.wait_for_task(await tasks.submit_async_task(func, *args, name="subject"))


async def numbers() -> AsyncIterator[int]:
    for number in range(3):
        await asyncio.sleep(0)
        yield number


async def test_values_come_and_go(measured: bool) -> None:
    async def subject() -> list[Any]:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, "value")
        return [
            await future,
            [number async for number in numbers()],
            await asyncio.gather(asyncio.sleep(0, 1)),
        ]

    assert (await end_of(measured, subject)).result == ["value", [0, 1, 2], [1]]


async def test_context_variables_stay_between_steps(measured: bool) -> None:
    async def subject() -> tuple[int, bool]:
        VARIABLE.set(7)
        await asyncio.sleep(0)
        return VARIABLE.get(), current_task().cancelled

    assert (await end_of(measured, subject)).result == (7, False)


class Iterated:
    """Waits by an iterator of its own, without send or throw."""

    def __await__(self) -> Any:
        return iter([None, None])


class Awaited:
    """Waits by a generator."""

    def __await__(self) -> Generator[None, None, str]:
        yield
        return "awaited"


@types.coroutine
def by_generator() -> Generator[None, None, str]:
    yield
    return "generated"


async def test_what_is_awaited_need_not_be_a_coroutine(measured: bool) -> None:
    async def subject() -> list[Any]:
        return [await Iterated(), await Awaited(), await by_generator()]

    assert (await end_of(measured, subject)).result == [None, "awaited", "generated"]


async def test_a_failure_shows_the_users_code_and_no_frame_of_the_engines(measured: bool) -> None:
    async def inner() -> None:
        await asyncio.sleep(0)
        raise ValueError("on purpose")

    async def subject() -> None:
        await asyncio.sleep(0)
        await inner()

    async with manager(measured) as tasks:
        with pytest.raises(ValueError, match="on purpose") as caught:
            await tasks.run(subject)
        frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert frames[-3:] == ["value_of", "subject", "inner"]
        (info,) = await tasks.get_tasks()
        assert info.traceback is not None
        assert [line.split(" in ")[-1] for line in info.traceback.splitlines() if ", line " in line] == [
            "subject",
            "inner",
        ]
        assert caught.value.__context__ is None


async def test_cancellation_arrives_where_it_waits_and_may_be_handled(measured: bool) -> None:
    seen: list[Any] = []

    async def inner() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            frames = traceback.extract_tb(error.__traceback__)
            seen.append((frames[0].name, "_go_on" in [frame.name for frame in frames], error.__context__))
            raise

    async def subject() -> str:
        try:
            await inner()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return "cleaned up"
        return ""

    async with manager(measured) as tasks:
        task_id = await tasks.submit_task(subject)
        await turns()
        await tasks.cancel_task(task_id)
        info = await tasks.wait_for_task(task_id)
        assert (info.status, info.result) == (TaskStatus.COMPLETED, "cleaned up")
        assert seen == [("inner", False, None)]


async def test_an_exception_of_what_it_waits_for_is_raised_inside(measured: bool) -> None:
    async def subject() -> str:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, OSError("broken"))
        try:
            await future
        except OSError as error:
            return str(error)
        return ""

    assert (await end_of(measured, subject)).result == "broken"


async def test_a_raised_stop_iteration_is_a_failure(measured: bool) -> None:
    async def subject() -> None:
        raise StopIteration(3)

    info = await end_of(measured, subject)
    assert (info.error_type, info.error) == ("RuntimeError", "coroutine raised StopIteration")
