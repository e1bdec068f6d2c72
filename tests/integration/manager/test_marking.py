"""Where `@task` may stand, and on what: its options hold from there on, or the error says where to put it."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest

from qorzen_obs import TaskManager, task, with_options
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.testing import open_test_manager

marked = task(name="marked", timeout=7, priority="high")


class Marked:
    """Each method is marked."""

    @marked
    def method(self) -> str:
        return "ran"

    @marked
    @staticmethod
    def above_static() -> str:
        return "ran"

    @staticmethod
    @marked
    def below_static() -> str:
        return "ran"

    @marked
    @classmethod
    def above_class(cls) -> str:
        return "ran"

    @classmethod
    @marked
    def below_class(cls) -> str:
        return "ran"

    @marked
    @staticmethod
    async def async_static() -> str:
        return "ran"

    @marked
    @classmethod
    async def async_of_class(cls) -> str:
        return "ran"

    @marked
    @staticmethod
    @functools.cache
    def cached() -> str:
        return "ran"

    def __call__(self) -> str:
        return "ran"


@marked
@functools.lru_cache
def cached() -> str:
    return "ran"


METHODS = [name for name in vars(Marked) if not name.startswith("__")]


async def run_marked(tasks: TaskManager, func: Callable[..., Any]) -> None:
    info = await tasks.wait_for_task(await tasks.submit_task(func))
    assert (info.result, info.name, info.timeout_seconds, info.priority.label) == ("ran", "marked", 7, "high")


@pytest.mark.parametrize("name", METHODS)
async def test_the_options_of_a_marked_method_hold(name: str) -> None:
    async with open_test_manager() as tasks:
        await run_marked(tasks, getattr(Marked(), name))
        if name != "method":
            await run_marked(tasks, getattr(Marked, name))


async def test_the_options_of_other_marked_callables_hold() -> None:
    async with open_test_manager() as tasks:
        for func in (cached, marked(Marked()), marked(functools.partial(cached))):
            await run_marked(tasks, func)


async def test_a_staticmethod_itself_is_looked_through() -> None:
    async with open_test_manager() as tasks:
        await run_marked(tasks, vars(Marked)["above_static"])
        await run_marked(tasks, vars(Marked)["async_static"])


class Slots:
    __slots__ = ()

    def __call__(self) -> str:
        return "ran"

    def method(self) -> str:
        return "ran"


class Deaf:
    """Takes attributes, and has none of them."""

    def __setattr__(self, name: str, value: object) -> None: ...

    def __call__(self) -> str:
        return "ran"


class Rude:
    def __setattr__(self, name: str, value: object) -> None:
        raise ZeroDivisionError

    def __call__(self) -> str:
        return "ran"


@pytest.mark.parametrize(
    "func",
    [Marked().__call__, Slots(), Slots().method, Deaf(), Rude(), len, int, "".join],
    ids=["method", "slots", "method of slots", "deaf", "rude", "builtin", "type", "method of a builtin"],
)
async def test_what_keeps_no_options_is_refused_with_what_to_do(func: Callable[..., Any]) -> None:
    with pytest.raises(
        InvalidTaskError, match=r"put @task directly above its def, below .* or use with_options"
    ):
        marked(func)
    if func not in (len, int, "".join):
        async with open_test_manager() as tasks:
            await run_marked(tasks, with_options(func, name="marked", timeout=7, priority="high"))


@pytest.mark.parametrize(
    "descriptor",
    [
        property(len),
        functools.cached_property(len),
        functools.partialmethod(len),
        functools.singledispatchmethod(len),
    ],
    ids=lambda descriptor: type(descriptor).__name__,
)
def test_above_what_only_a_class_can_call_the_error_says_in_which_order(descriptor: Any) -> None:
    kind = type(descriptor).__name__
    with pytest.raises(InvalidTaskError, match=f"put @task directly above def, below @{kind}"):
        marked(descriptor)


async def test_below_it_the_options_hold() -> None:
    class Partial:
        @marked
        def whole(self, value: str) -> str:
            return value

        part = functools.partialmethod(whole, "ran")

    async with open_test_manager() as tasks:
        await run_marked(tasks, Partial().part)


@pytest.mark.parametrize("func", [None, 7, "text", asyncio], ids=str)
def test_what_cannot_be_called_is_refused_by_marking_too(func: Any) -> None:
    for mark in (marked, lambda value: with_options(value, timeout=5)):
        with pytest.raises(InvalidTaskError, match="is not callable"):
            mark(func)
