"""One command for many tasks: POST /api/bulk/cancel and /api/bulk/rerun."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from qorzen_obs import current_task
from qorzen_obs.server.app import OpsPlane
from qorzen_obs.tasks import TaskStatus
from tests.services.ops_plane import get_json, managing, serving
from tests.support import Gate

JSON = {"Content-Type": "application/json"}


async def give(
    session: aiohttp.ClientSession, plane: OpsPlane, command: str, answer: int = 200, /, **query: str
) -> Any:
    """POST one of the commands; return its answer, which has this status."""
    async with session.post(f"{plane.url}/api/bulk/{command}", params=query, headers=JSON) as response:
        assert response.status == answer, await response.text()
        return json.loads(await response.read())


async def fail(*_: object) -> None:
    raise ValueError


async def fail_otherwise() -> None:
    raise KeyError


async def test_a_dry_run_says_what_would_be_cancelled_and_cancels_nothing(
    session: aiohttp.ClientSession,
) -> None:
    gate = Gate()
    async with managing(max_concurrent_tasks=1) as (manager, _), serving(manager) as plane:
        running = await manager.submit_task(gate, name="a, b")
        await gate.holds(1)
        pending = await manager.submit_task(gate, name="a, b")
        firm = await manager.submit_task(gate, name="a, b", cancellable=False)
        other = await manager.submit_task(gate, name="a")
        dry = await give(session, plane, "cancel", name="a, b", dry_run="true")
        refused = [{"reason": "it was submitted with cancellable=False", "count": 1, "example": firm}]
        assert (dry["dry_run"], dry["matching"], dry["asked"], dry["done"]) == (True, 3, 3, 2)
        assert (dry["task_ids"], dry["refused"], dry["next_cursor"]) == ([running, pending], refused, None)
        assert manager.status()["tasks"]["by_status"]["cancelled"] == 0

        done = await give(session, plane, "cancel", name="a, b")
        assert (done["dry_run"], done["done"], done["refused"]) == (False, 2, refused)
        for task_id in (running, pending):
            info = await manager.wait_for_task(task_id)
            assert (info.status, info.cancel_reason) == (TaskStatus.CANCELLED, "cancelled over HTTP")
        again = await give(session, plane, "cancel", name="a, b")
        assert (again["asked"], again["done"], again["refused"]) == (1, 0, refused)
        left = manager.find(other)
        assert left is not None
        assert not left.status.final, "a comma is a part of a name"
        gate.open()


async def test_all_that_a_task_led_to_is_cancelled_without_it(session: aiohttp.ClientSession) -> None:
    gate = Gate()

    async def middle() -> None:
        await current_task().manager.submit_task(gate)
        await gate()

    async def root() -> None:
        await current_task().manager.submit_task(middle)
        await gate()

    async with managing() as (manager, _), serving(manager) as plane:
        first = await manager.submit_task(root)
        unrelated = await manager.submit_task(gate)
        await gate.holds(4)
        done = await give(session, plane, "cancel", below=first)
        assert (done["matching"], done["done"]) == (2, 2)
        for task_id in done["task_ids"]:
            assert (await manager.wait_for_task(task_id)).status is TaskStatus.CANCELLED
        gate.open()
        for task_id in (first, unrelated):
            assert (await manager.wait_for_task(task_id)).status is TaskStatus.COMPLETED


async def test_a_group_of_failures_is_run_again_once(session: aiohttp.ClientSession) -> None:
    async with managing(keep_value_bytes=10_000) as (manager, _), serving(manager) as plane:
        failed = [await manager.submit_task(fail, number) for number in range(3)]
        failed.append(await manager.submit_task(fail, b"x" * 20_000))
        other = await manager.submit_task(fail_otherwise)
        for task_id in [*failed, other]:
            await manager.wait_for_task(task_id)
        (group,) = [
            one
            for one in (await get_json(session, f"{plane.url}/api/failures"))["items"]
            if one["definition"] == "fail"
        ]
        wanted = {"definition": group["definition"], "error_type": group["error_type"]}
        dry = await give(session, plane, "rerun", dry_run="true", **wanted)
        assert (dry["matching"], dry["done"], dry["task_ids"]) == (4, group["rerunnable"], failed[:3])
        assert [(one["count"], one["example"]) for one in dry["refused"]] == [(1, failed[3])]

        done = await give(session, plane, "rerun", created_before=dry["at"], **wanted)
        assert done["done"] == 3
        infos = [await manager.wait_for_task(task_id) for task_id in done["task_ids"]]
        assert [info.rerun_of for info in infos] == failed[:3]
        again = await give(session, plane, "rerun", created_before=dry["at"], **wanted)
        assert (again["asked"], again["done"], again["task_ids"]) == (4, 0, [])
        assert again["refused"][0]["reason"] == "it was run again before"
        assert again["refused"][0]["count"] == 3
        assert manager.status()["tasks"]["total"] == 8


async def test_pages_follow_each_other_to_the_last_task(session: aiohttp.ClientSession) -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        for _ in range(5):
            await manager.wait_for_task(await manager.submit_task(fail))
        page = await give(session, plane, "rerun", status="failed", limit="2")
        at, sizes = page["at"], [page["done"]]
        while page["next_cursor"] is not None:
            page = await give(
                session,
                plane,
                "rerun",
                status="failed",
                limit="2",
                cursor=page["next_cursor"],
                created_before=at,
            )
            sizes.append(page["done"])
        assert sizes == [2, 2, 1], "what was run again and failed again is left alone"


async def test_a_full_queue_refuses_the_rest_and_says_so(session: aiohttp.ClientSession) -> None:
    gate = Gate()
    async with managing(max_concurrent_tasks=1, max_pending=2) as (manager, _), serving(manager) as plane:
        for _ in range(4):
            await manager.wait_for_task(await manager.submit_task(fail))
        await manager.submit_task(gate)
        await gate.holds(1)
        done = await give(session, plane, "rerun", definition="fail")
        assert (done["asked"], done["done"]) == (4, 2)
        (refused,) = done["refused"]
        assert refused["reason"].startswith("the queue is full")
        assert refused["count"] == 2
        assert manager.status()["tasks"]["rejected"] == 1, "the first refusal is enough"
        gate.open()


async def test_cancelled_tasks_are_run_again_where_asked_for(session: aiohttp.ClientSession) -> None:
    gate = Gate()
    async with managing() as (manager, _), serving(manager) as plane:
        task_id = await manager.submit_task(gate)
        await gate.holds(1)
        await manager.cancel_task(task_id)
        await manager.wait_for_task(task_id)
        assert (await give(session, plane, "rerun", q="gate"))["matching"] == 0, "failed ones alone"
        done = await give(session, plane, "rerun", status="cancelled")
        assert done["done"] == 1
        gate.open()
        assert (await manager.wait_for_task(done["task_ids"][0])).rerun_of == task_id


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("cancel", {}),
        ("rerun", {"name": ""}),
        ("rerun", {"dry_run": "true"}),
        ("cancel", {"status": "failed"}),
        ("rerun", {"status": "pending"}),
        ("cancel", {"nmae": "x"}),
        ("cancel", {"status": "pending", "order": "newest"}),
        ("cancel", {"status": "pending", "dry_run": "yes"}),
        ("cancel", {"status": "pending", "limit": "1001"}),
        ("rerun", {"status": "failed", "cursor": "x"}),
    ],
)
async def test_what_could_mean_more_than_was_meant_is_refused(
    session: aiohttp.ClientSession, name: str, query: dict[str, str]
) -> None:
    gate = Gate()
    async with managing() as (manager, _), serving(manager) as plane:
        task_id = await manager.submit_task(gate)
        await gate.holds(1)
        await give(session, plane, name, 422, **query)
        info = manager.find(task_id)
        assert info is not None
        assert info.cancel_reason is None
        gate.open()


async def test_what_the_loop_has_no_time_for_is_said_and_can_be_asked_again(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qorzen_obs.server.bulk.DEADLINE_SECONDS", 1.5)
    gate = Gate()
    options = {"max_concurrent_tasks": 1, "max_pending": 2, "when_full": "wait"}
    async with managing(**options) as (manager, _), serving(manager) as plane:
        for _ in range(4):
            await manager.wait_for_task(await manager.submit_task(fail))
        await manager.submit_task(gate)
        await gate.holds(1)
        done = await give(session, plane, "rerun", definition="fail")  # waits for room that does not come
        assert (done["asked"], done["done"]) == (4, 2)
        assert [(one["reason"], one["count"]) for one in done["refused"]] == [
            ("the work loop did not answer in time; try again", 2)
        ]
        gate.open()
        for task_id in done["task_ids"]:
            await manager.wait_for_task(task_id)
        rest = await give(session, plane, "rerun", definition="fail", created_before=done["at"])
        assert (rest["done"], rest["refused"][0]["count"]) == (2, 2)
        await asyncio.sleep(0)
