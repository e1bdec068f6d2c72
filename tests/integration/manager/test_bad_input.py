"""What is refused where it comes in: by a typed error that names the argument, with nothing accepted or changed."""

import asyncio
import contextlib
import functools
import math
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from qorzen_obs import TaskStatus, task, with_options
from qorzen_obs.errors import InvalidHealthCheckError, InvalidTaskError, TaskNotFoundError
from qorzen_obs.testing import open_test_manager

LONG = "n" * 201


def deep(levels: int) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for _ in range(levels):
        tree = {"a": tree}
    return tree


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("name", {"name": ""}),
        ("name", {"name": LONG}),
        ("name", {"name": "two\nlines"}),
        ("name", {"name": "\udcff"}),
        ("name", {"name": b"bytes"}),
        ("name", {"name": 7}),
        ("plugin_id", {"plugin_id": ""}),
        ("plugin_id", {"plugin_id": LONG}),
        ("plugin_id", {"plugin_id": "\x1b[31m"}),
        ("category", {"category": "nothing"}),
        ("category", {"category": 0}),
        ("category", {"category": ["io"]}),
        ("priority", {"priority": "urgent"}),
        ("priority", {"priority": 51}),
        ("priority", {"priority": True}),
        ("priority", {"priority": 1.5}),
        ("priority", {"priority": math.nan}),
        ("timeout", {"timeout": 0}),
        ("timeout", {"timeout": -1.5}),
        ("timeout", {"timeout": math.nan}),
        ("timeout", {"timeout": -math.inf}),
        ("timeout", {"timeout": True}),
        ("timeout", {"timeout": "10"}),
        ("metadata", {"metadata": [("a", 1)]}),
        ("metadata", {"metadata": "text"}),
        ("metadata", {"metadata": {"a": object()}}),
        ("metadata", {"metadata": {("a", "b"): 1}}),
        ("metadata", {"metadata": {"a": "\udcff"}}),
        ("metadata", {"metadata": {"a": "x" * 20_000}}),
        ("metadata", {"metadata": deep(100_000)}),
    ],
)
async def test_a_bad_option_is_refused_by_name_and_nothing_is_accepted(
    argument: str, options: dict[str, Any]
) -> None:
    async with open_test_manager() as tasks:
        with pytest.raises(InvalidTaskError) as caught:
            await tasks.submit_task(asyncio.sleep, 0, **options)
        assert caught.value.argument == argument
        assert len(str(caught.value)) < 300
        assert tasks.status()["tasks"]["total"] == 0
        assert await tasks.get_tasks() == []
        assert await tasks.run(asyncio.sleep, 0, "works") == "works"


@pytest.mark.parametrize("func", [None, "print", 7, asyncio.sleep(0)], ids=lambda func: type(func).__name__)
async def test_what_cannot_be_called_is_refused(func: Any) -> None:
    async with open_test_manager() as tasks:
        with pytest.raises(InvalidTaskError, match="is not callable; pass a function and its arguments"):
            await tasks.submit_task(func)
    if hasattr(func, "close"):
        func.close()


def plain_generator(value: int = 1) -> Iterator[int]:
    yield value


async def async_generator(value: int = 1) -> AsyncIterator[int]:
    yield value


@types.coroutine
def old_coroutine() -> Iterator[None]:
    yield


class Generators:
    def method(self) -> Iterator[int]:
        yield 1

    async def async_method(self) -> AsyncIterator[int]:
        yield 1

    @classmethod
    def of_class(cls) -> Iterator[int]:
        yield 1

    @staticmethod
    async def static() -> AsyncIterator[int]:
        yield 1


class CallableGenerator:
    def __call__(self) -> Iterator[int]:
        yield 1


GENERATORS = {
    "generator": plain_generator,
    "async generator": async_generator,
    "old coroutine": old_coroutine,
    "lambda": lambda: (yield 1),
    "method": Generators().method,
    "async method": Generators().async_method,
    "classmethod": Generators.of_class,
    "staticmethod": Generators.static,
    "object": CallableGenerator(),
    "partial": functools.partial(functools.partial(plain_generator), value=2),
    "partial of an object": functools.partial(CallableGenerator()),
}


@pytest.mark.parametrize("func", GENERATORS.values(), ids=GENERATORS.keys())
async def test_a_generator_function_is_refused_since_a_call_runs_none_of_its_lines(func: Any) -> None:
    async with open_test_manager() as tasks:
        for submit in (tasks.submit_task, tasks.run, tasks.submit_async_task):
            with pytest.raises(
                InvalidTaskError, match="is a generator function: a call runs none of its lines"
            ):
                await submit(func)
        assert tasks.status()["tasks"]["total"] == 0
        for refused in (
            lambda: task(func),
            lambda: task(timeout=5)(func),
            lambda: with_options(func, delay=1),
        ):
            with pytest.raises(InvalidTaskError, match="is a generator function"):
                refused()
        with pytest.raises(InvalidHealthCheckError, match="is a generator function"):
            tasks.health.add(func)


async def test_what_makes_a_function_of_a_generator_is_accepted() -> None:
    @contextlib.contextmanager
    def entered() -> Iterator[int]:
        yield 1

    async with open_test_manager() as tasks:
        with await tasks.run(entered) as value:
            assert value == 1


@pytest.mark.parametrize(
    ("qualname", "shown"),
    [
        ("", ""),
        ("two\nlines", "two\\nlines"),
        ("red\x1b[31m", "red\\x1b[31m"),
        ("left\u202egnp.exe", "left\\u202egnp.exe"),
        ("tag\U000e0001", "tag\\U000e0001"),
        ("half\udcff", "half\\udcff"),
        ("n" * 300, "n" * 200),
        ("日本", "日本"),
    ],
    ids=ascii,
)
async def test_what_a_callable_calls_itself_becomes_a_name_that_can_be_shown(
    qualname: str, shown: str
) -> None:
    class Text(str):
        """As numpy's str_."""

        __slots__ = ()

    async def coroutine() -> None: ...

    class Kind:
        def method(self) -> None: ...

        def __call__(self) -> None: ...

    coroutine.__qualname__ = qualname
    Kind.method.__qualname__ = Text(qualname)
    Kind.__qualname__ = qualname
    names: list[tuple[Callable[..., Any], str]] = [
        (coroutine, "function"),
        (functools.partial(coroutine), "function"),
        (Kind().method, "method"),
        (Kind(), "?"),
    ]
    async with open_test_manager() as tasks:
        for func, otherwise in names:
            info = await tasks.wait_for_task(await tasks.submit_task(func))
            assert info.name == (shown or otherwise)
            assert type(info.name) is str


async def test_the_extremes_of_what_is_allowed_are_accepted() -> None:
    async with open_test_manager() as tasks:
        extremes: tuple[dict[str, Any], ...] = (
            {"name": "n" * 200, "plugin_id": "日本"},
            {"timeout": 10**400},
            {"timeout": math.inf},
            {"timeout": 1e308},
            {"metadata": {}},
            {"priority": "200"},
            {"priority": "Critical"},
            {"metadata": {"a": None, "b": [1.5, math.nan], "c": {"d": True}}},
        )
        for options in extremes:
            info = await tasks.wait_for_task(await tasks.submit_task(asyncio.sleep, 0, **options))
            assert info.status is TaskStatus.COMPLETED


async def test_arguments_that_do_not_fit_the_callable_fail_its_task() -> None:
    def two(a: int, b: int) -> int:
        return a + b

    async with open_test_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(two, 1))  # type: ignore[arg-type]  # on purpose
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "TypeError")


@pytest.mark.parametrize(
    ("argument", "query"),
    [
        ("status", {"status": "done"}),
        ("status", {"status": ["failed", "done"]}),
        ("status", {"status": 7}),
        ("category", {"category": "nothing"}),
        ("category", {"category": [None]}),
        ("limit", {"limit": 0}),
        ("limit", {"limit": -1}),
    ],
)
async def test_a_bad_query_is_refused_by_name(argument: str, query: dict[str, Any]) -> None:
    async with open_test_manager() as tasks:
        with pytest.raises(InvalidTaskError) as caught:
            await tasks.get_tasks(**query)
        assert caught.value.argument == argument


@pytest.mark.parametrize("timeout", [0, -1, math.nan, True, "1"])
async def test_a_bad_wait_is_refused_and_leaves_the_task_alone(timeout: Any) -> None:
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(asyncio.sleep, 0, "value")
        with pytest.raises(InvalidTaskError, match="timeout"):
            await tasks.wait_for_task(task_id, timeout=timeout)
        assert (await tasks.wait_for_task(task_id, timeout=10**400)).result == "value"


async def test_a_wait_for_nobody_is_refused_even_when_it_is_bounded() -> None:
    async with open_test_manager() as tasks:
        with pytest.raises(TaskNotFoundError):
            await tasks.wait_for_task("", timeout=1)


async def test_a_callable_with_every_attribute_is_no_definition() -> None:
    class Proxy:
        """As a remote procedure's: asked for any attribute, it gives another proxy."""

        def __getattr__(self, name: str) -> "Proxy":
            return Proxy()

        def __call__(self, value: int) -> int:
            return value

    async with open_test_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(Proxy(), 7))
        assert (info.status, info.result, info.name) == (
            TaskStatus.COMPLETED,
            7,
            Proxy.__qualname__,
        )


async def test_another_event_loop_is_sent_to_from_thread() -> None:
    async with open_test_manager() as tasks:

        def elsewhere() -> str:
            async def submit() -> str:
                return await tasks.submit_task(asyncio.sleep, 0)

            return asyncio.run(submit())

        with pytest.raises(InvalidTaskError, match=r"use manager\.from_thread"):
            await asyncio.to_thread(elsewhere)
        assert tasks.status()["tasks"]["total"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"category": "x"},
        {"priority": 7},
        {"timeout": 0},
        {"engine": "x"},
        {"engine": "external"},
    ],
)
def test_a_bad_definition_is_refused_where_it_is_written(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidTaskError) as caught:
        task(**options)
    assert caught.value.argument == next(iter(options))
