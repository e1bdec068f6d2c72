"""What is refused where it comes in: by a typed error that names the argument, with nothing accepted or changed."""

import asyncio
import math
from typing import Any

import pytest

from qorzen_obs import TaskStatus, task
from qorzen_obs.errors import InvalidTaskError, TaskNotFoundError
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
        info = await tasks.wait_for_task(await tasks.submit_task(two, 1))
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
