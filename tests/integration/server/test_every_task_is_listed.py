"""Whatever a task was submitted with, lists show it: no single record keeps the others from being seen."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from qorzen_obs import current_task, with_options
from qorzen_obs.clock import rfc_3339
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.server.documents import encode_json
from tests.event_stream import following
from tests.services.ops_plane import managing, serving

LISTS = (
    "/api/tasks",
    "/api/tasks?order=priority",
    "/api/tasks?order=oldest&limit=1000",
    "/api/tasks?order=ended",
)


class Text(str):
    """As numpy's str_: a text of another class."""

    __slots__ = ()


class Flag:
    """As numpy's bool_: of no class that JSON has."""

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value


class Seconds(float):
    """As numpy's float64."""


def nested(levels: int) -> dict[str, Any]:
    tree: dict[str, Any] = {"key": [1, None]}
    for _ in range(levels - 2):
        tree = {"key": tree}
    return tree


async def say(message: object = "") -> None:
    current_task().progress(Seconds(50), Text(message))
    await asyncio.sleep(0)


async def fail(message: object) -> None:
    raise ValueError(message)


def named(qualname: str) -> Callable[..., Any]:
    async def work() -> None: ...

    work.__qualname__ = qualname
    return work


LATE = datetime(9998, 12, 31, 23, 59, tzinfo=UTC)
SUBMISSIONS: dict[str, tuple[Callable[..., Any], Mapping[str, Any]]] = {
    "a name of another class": (say, {"name": Text("name")}),
    "a plugin of another class": (say, {"plugin_id": Text("plugin")}),
    "a category of another class": (say, {"category": Text("io")}),
    "a flag of another class": (say, {"cancellable": Flag(True)}),
    "a timeout of another class": (say, {"timeout": Seconds(5)}),
    "no limit": (say, {"timeout": math.inf}),
    "a limit beyond all measure": (say, {"timeout": 10**400}),
    "a far time": (with_options(say, run_at=LATE), {}),
    "a long past time": (with_options(say, run_at=datetime(1, 1, 1, tzinfo=UTC)), {}),
    "a long delay": (with_options(say, delay=Seconds(36_525 * 86_400)), {}),
    "a long deadline": (with_options(say, deadline=1e308), {}),
    "deep metadata": (say, {"metadata": nested(64)}),
    "half a character": (functools.partial(fail, "\udcff"), {}),
    "a message of another class": (functools.partial(say, Text("\udcff")), {}),
    "control characters": (named("\x1b[2K\u202e\udcff"), {}),
    "no name": (named(""), {}),
}


@pytest.mark.parametrize("odd", SUBMISSIONS)
async def test_a_task_is_listed_with_the_others_whatever_it_was_submitted_with(odd: str) -> None:
    func, options = SUBMISSIONS[odd]
    async with managing() as (manager, _), serving(manager) as plane, aiohttp.ClientSession() as session:
        async with following(plane.url) as follower:
            await follower.has("snapshot")
            task_id = await manager.submit_task(func, **options)
            ordinary = await manager.submit_task(asyncio.sleep, 0, name="ordinary")
            await manager.wait_for_task(ordinary)
            info = manager.find(task_id)
            assert info is not None
            if info.eligible_at is not None and info.eligible_at <= info.created_at:
                await manager.wait_for_task(task_id)
            await follower.reaches(manager.looks.event_ring.last)
        assert {task_id, ordinary} <= {info.task_id for info in await manager.get_tasks()}
        for path in LISTS:
            async with session.get(plane.url + path) as response:
                assert response.status == 200
                listed = {item["task_id"] for item in (await response.json())["items"]}
                assert listed == {task_id, ordinary} or "ended" in path
        async with session.get(f"{plane.url}/api/tasks/{task_id}") as response:
            assert response.status == 200
        async with following(plane.url) as late:
            snapshot = (await late.has("snapshot")).data
            assert {task_id, ordinary} == {one["task_id"] for one in snapshot["newest"]}


async def test_metadata_that_nobody_could_walk_down_is_refused() -> None:
    async with managing() as (manager, _):
        for levels in (65, 200):
            with pytest.raises(InvalidTaskError, match="nested more than 64 levels deep"):
                await manager.submit_task(say, metadata=nested(levels))
        flat = {"key": [[number] for number in range(500)]}
        assert await manager.submit_task(say, metadata=flat)


@pytest.mark.parametrize("at", [math.inf, -math.inf, math.nan, 1e18, -1e18, 253_402_300_800.0])
def test_a_moment_that_no_text_has_is_the_last_one(at: float) -> None:
    assert rfc_3339(at) == "9999-01-01T00:00:00.000000Z"


def test_a_value_that_json_has_no_form_for_has_a_stand_in() -> None:
    assert encode_json({"a": Text("text"), "b": Flag(True), "c": "\udcff"}) == (
        b'{"a":"text","b":"<Flag>","c":"\\\\udcff"}'
    )
