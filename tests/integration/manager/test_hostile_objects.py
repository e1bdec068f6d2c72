"""F37: whatever a user's object does when it is looked at, its task ends at once and the service is well."""

import asyncio
import functools
import itertools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import structlog

from qorzen_obs import Retry, TaskManager, TaskStatus, retry, task
from qorzen_obs.app import Service
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.options import with_options
from qorzen_obs.settings import EngineSettings, ServerSettings, Settings
from qorzen_obs.tasks import EventKind, TaskInfo
from tests import hostile, process_tasks
from tests.hostile import ERROR_HOOKS, RAISED, VALUE_HOOKS, pairs
from tests.services.whole_service import logging_service, url_of
from tests.support import PATIENCE_SECONDS, until

#: The full matrix on one Python; None is its diagonal.
RAISED_HERE = RAISED if sys.version_info < (3, 12) else (None,)
every_raise = pytest.mark.parametrize(
    "raised", RAISED_HERE, ids=lambda one: one.__name__ if one else "diagonal"
)

Raised = type[BaseException] | None


@asynccontextmanager
async def observed_service() -> AsyncIterator[Service]:
    """A service that observes all it can: spans, metrics, its own log, an open stream, the ops plane."""
    every = Settings(
        server=ServerSettings(port=0), engines=EngineSettings(worker_threads=2, io_threads=2, processes=1)
    )
    async with logging_service(every) as (service, written):
        service.tasks.looks.event_ring.listen(written)
        yield service


def is_idle(tasks: TaskManager) -> bool:
    """No slot is held."""
    return not any(slots["busy"] for slots in tasks.status()["slots"].values())


async def is_well(tasks: TaskManager) -> None:
    """Nothing is left running, nothing was dismissed, and the next task runs."""
    await until(functools.partial(is_idle, tasks))
    assert tasks.healthy, tasks.looks.metrics.telemetry_errors
    assert await tasks.run(asyncio.sleep, 0, "next", timeout=5) == "next"
    assert await tasks.run(max, 1, 2, timeout=5) == 2


async def ended(tasks: TaskManager, func: Callable[..., Any], *args: Any, **options: Any) -> TaskInfo:
    return await tasks.wait_for_task(await tasks.submit_task(func, *args, **options), PATIENCE_SECONDS)


async def is_shown(service: Service, ids: list[str]) -> None:
    """The ops plane shows each of these tasks, and the list of all."""
    async with aiohttp.ClientSession(url_of(service)) as session:
        for path in ["/api/tasks?limit=500", "/metrics", *(f"/api/tasks/{task_id}" for task_id in ids)]:
            async with session.get(path) as response:
                assert response.status == 200, path
                await response.read()


async def raise_at_once(hook: str, raised: type[BaseException]) -> None:
    hostile.throw(hook, raised)


async def raise_after_an_await(hook: str, raised: type[BaseException]) -> None:
    await asyncio.sleep(0)
    hostile.throw(hook, raised)


async def raise_what_a_future_brings(hook: str, raised: type[BaseException]) -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_exception(hostile.error(hook, raised))
    await asyncio.sleep(0)
    await future


def raise_in_a_thread(hook: str, raised: type[BaseException]) -> None:
    hostile.throw(hook, raised)


@task(category="ui")
def raise_on_the_loops_thread(hook: str, raised: type[BaseException]) -> None:
    hostile.throw(hook, raised)


@pytest.mark.parametrize(
    "place",
    [
        raise_at_once,
        raise_after_an_await,
        raise_what_a_future_brings,
        raise_in_a_thread,
        raise_on_the_loops_thread,
        process_tasks.raise_hostile,
    ],
    ids=lambda place: place.__name__,
)
@every_raise
async def test_f37_a_task_that_raises_what_cannot_be_looked_at_fails_with_its_type(
    place: Callable[..., Any], raised: Raised
) -> None:
    ids = []
    async with observed_service() as service:
        for hook, kind in pairs(ERROR_HOOKS, raised):
            info = await ended(service.tasks, place, hook, kind, name=hook)
            ids.append(info.task_id)
            assert info.status is TaskStatus.FAILED, hook
            assert info.error_type is not None, hook
            assert type(info.error_type) is type(info.error) is type(info.traceback) is str, hook
            usual = {"syntax": "SyntaxError", "suggestions": "AttributeError"}.get(hook, "ValueError")
            expected: tuple[str, ...] = (
                ("Hostile", usual, "text") if hook in ERROR_HOOKS[-5:] else ("Hostile", "text")
            )
            if hook == "metaclass __subclasscheck__" or place is raise_what_a_future_brings:
                expected += (kind.__name__,)  # Python itself, or asyncio, looks at it before we do
            assert info.error_type.endswith(expected), (hook, info.error_type)
            assert not info.abandoned, hook
            with pytest.raises(BaseException):  # noqa: B017, PT011 - a worker's may not survive the journey
                await service.tasks.run(place, hook, kind)
        await is_well(service.tasks)
        await is_shown(service, ids)


async def return_at_once(hook: str, raised: type[BaseException]) -> object:
    return hostile.value(hook, raised)


async def return_after_an_await(hook: str, raised: type[BaseException]) -> object:
    await asyncio.sleep(0)
    return hostile.value(hook, raised)


def return_in_a_thread(hook: str, raised: type[BaseException]) -> object:
    return hostile.value(hook, raised)


def fails_later(raises: Callable[[], Any]) -> Callable[..., Any]:
    """A backoff that is well when its Retry tries it, and never after."""
    calls = itertools.count()
    return lambda *_: raises() if next(calls) else 0.0


@pytest.mark.parametrize(
    "place",
    [return_at_once, return_after_an_await, return_in_a_thread, process_tasks.return_hostile],
    ids=lambda place: place.__name__,
)
@every_raise
async def test_f37_a_task_that_returns_what_cannot_be_looked_at_ends(
    place: Callable[..., Any], raised: Raised
) -> None:
    ids = []
    async with observed_service() as service:
        for hook, kind in pairs(VALUE_HOOKS, raised):
            info = await ended(service.tasks, place, hook, kind, name=hook)
            ids.append(info.task_id)
            assert info.error_type != "lost", hook
            if place is not process_tasks.return_hostile:  # from a worker those come that can be pickled
                expected = TaskStatus.FAILED if hook == "close" else TaskStatus.COMPLETED
                assert info.status is expected, (hook, info.error)
        await is_well(service.tasks)
        await is_shown(service, ids)


@every_raise
async def test_f37_a_callback_that_raises_what_cannot_be_looked_at_is_dismissed_and_counted(
    raised: Raised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "DEFAULT_BACKOFF", lambda *_: 0.01)  # which takes the place of one that fails
    async with observed_service() as service:
        tasks = service.tasks
        errors = tasks.looks.metrics.telemetry_errors
        for hook, kind in pairs(ERROR_HOOKS, raised):
            callbacks = hostile.kind(hook if hook in VALUE_HOOKS else "__eq__", kind, object)

            def raises(*_: object, hook: str = hook, kind: type[BaseException] = kind) -> Any:
                hostile.throw(hook, kind)

            callbacks.__call__ = raises
            names = (f"events {hook}", f"ends {hook}")
            tasks.observe(names[0], callbacks(), [EventKind.COMPLETED])
            tasks._announcer.ends.observe(names[1], callbacks())
            always = with_options(raise_at_once, retry=Retry(max_attempts=2, backoff=fails_later(raises)))
            assert (await ended(tasks, always, hook, kind)).status is TaskStatus.FAILED
            assert (await ended(tasks, asyncio.sleep, 0)).status is TaskStatus.COMPLETED
            await until(functools.partial(is_idle, tasks))
            await until(lambda names=names: all(errors[name] for name in names))  # type: ignore[misc]
            assert [errors[name] for name in names] == [1, 1]
            assert await tasks.run(asyncio.sleep, 0, "next", timeout=5) == "next"


@every_raise
async def test_f37_metadata_and_options_that_cannot_be_looked_at_are_refused_and_nothing_is_left(
    raised: Raised,
) -> None:
    async with observed_service() as service:
        tasks = service.tasks
        for hook, kind in pairs(VALUE_HOOKS, raised):
            foreign = hostile.value(hook, kind)
            mapping = hostile.kind(hook, kind, dict)()
            dict.__setitem__(mapping, "key", 1)
            for option in (
                {"metadata": foreign},
                {"metadata": {"key": foreign}},
                {"metadata": mapping},
                {"name": foreign},
                {"plugin_id": foreign},
                {"category": foreign},
                {"priority": foreign},
                {"timeout": foreign},
                {"timeout": hostile.kind(hook, kind, float)(-1.0)},
                {"cancellable": foreign},
            ):
                try:
                    await ended(tasks, asyncio.sleep, 0, **option)
                except InvalidTaskError as refused:
                    assert str(refused)  # noqa: PT017 - some of them have nothing that is looked at
            with pytest.raises(InvalidTaskError):
                await tasks.submit_task(foreign)  # type: ignore[call-overload]  # it cannot be called
        await is_well(tasks)


@every_raise
async def test_f37_callables_arguments_and_context_that_cannot_be_looked_at_harm_no_task(
    raised: Raised,
) -> None:
    ids = []
    async with observed_service() as service:
        tasks = service.tasks
        for hook, kind in pairs(VALUE_HOOKS, raised):
            called = hostile.kind(hook, kind, object)
            called.__call__ = lambda _, value: "called"
            argument = hostile.value(hook, kind)
            with structlog.contextvars.bound_contextvars(foreign=argument, inside={"deep": [argument]}):
                for func in (called(), return_argument):
                    info = await ended(tasks, func, argument)
                    ids.append(info.task_id)
                    assert info.status is TaskStatus.COMPLETED, (hook, info.error)
                    failed = await ended(tasks, raise_in_a_thread, hook, kind)
                    assert failed.status is TaskStatus.FAILED, hook
        await is_well(tasks)
        await is_shown(service, ids)


def return_argument(argument: object) -> str:
    structlog.get_logger().info("said", foreign=argument)
    return "called"


@every_raise
async def test_f37_a_health_check_that_raises_what_cannot_be_looked_at_fails(raised: Raised) -> None:
    for hook, kind in pairs(ERROR_HOOKS, raised):
        async with observed_service() as service:

            async def on_the_loop(hook: str = hook, kind: type[BaseException] = kind) -> None:
                hostile.throw(hook, kind)

            def in_a_thread(hook: str = hook, kind: type[BaseException] = kind) -> None:
                hostile.throw(hook, kind)

            for check in (on_the_loop, in_a_thread):
                service.tasks.health.add(check)
            for made in service.tasks.health:
                await made.refresh()
                result = made.result()
                assert result is not None, hook
                assert not result.passed, hook
                assert "did not end" not in result.output, hook
            assert await service.tasks.run(asyncio.sleep, 0, "next", timeout=5) == "next"
