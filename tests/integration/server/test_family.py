"""Which task submitted which, as /api/tasks and a task's own document show it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from qorzen_obs import current_task
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.server.family import ids_below
from qorzen_obs.tasks import TaskCategory, TaskInfo, TaskPriority, TaskProgress, TaskStatus
from tests.services.ops_plane import get_json, managing, serving
from tests.support import Gate, record

NONE = dict.fromkeys(("pending", "running", "completed", "failed", "cancelled"), 0)


async def grow(gate: Gate, depth: int) -> None:
    """Submit two more of itself, down to a depth, and stay."""
    manager: Any = current_task().manager
    if depth:
        for _ in range(2):
            await manager.submit_task(grow, gate, depth - 1)
    await gate(depth)


def from_a_thread(manager: TaskManager) -> str:
    """Submit a task from the thread that this one runs on."""
    return manager.from_thread.submit(asyncio.sleep, 0)


async def by_the_executor(manager: TaskManager) -> None:
    """Hand a call to an executor of the manager."""
    await asyncio.get_running_loop().run_in_executor(manager.executor(), print)


async def test_a_task_shows_its_parent_and_how_many_tasks_it_led_to(session: aiohttp.ClientSession) -> None:
    gate = Gate()
    async with managing() as (manager, _), serving(manager) as plane:
        root = await manager.submit_task(grow, gate, 2)
        other = await manager.submit_task(gate)
        await gate.holds(8)
        document = await get_json(session, f"{plane.url}/api/tasks/{root}")
        assert document["parent_id"] is None
        assert document["family"] == {
            "parent_name": None,
            "children": {"total": 2, "by_status": {**NONE, "running": 2}},
            "below": {"total": 6, "by_status": {**NONE, "running": 6}},
        }
        children = (await get_json(session, f"{plane.url}/api/tasks", parent_id=root))["items"]
        assert {child["parent_id"] for child in children} == {root}
        assert len(children) == 2
        child = await get_json(session, f"{plane.url}/api/tasks/{children[0]['task_id']}")
        assert child["family"]["parent_name"] == document["name"]
        below = (await get_json(session, f"{plane.url}/api/tasks", below=root))["items"]
        assert len(below) == 6
        assert not {root, other} & {task["task_id"] for task in below}
        assert (await get_json(session, f"{plane.url}/api/tasks", below=other))["items"] == []
        assert "family" not in children[0], "lists do without"
        gate.open()


async def test_what_threads_and_executors_submit_inside_a_task_has_it_as_its_parent() -> None:
    async with managing() as (manager, _):
        thread = await manager.submit_task(from_a_thread, manager)
        child = (await manager.wait_for_task(thread)).result
        info = await manager.wait_for_task(child)
        assert info.parent_id == thread
        caller = await manager.submit_task(by_the_executor, manager)
        await manager.wait_for_task(caller)
        assert [info.definition for info in await manager.get_tasks() if info.parent_id == caller] == [
            "print"
        ]


async def test_a_task_of_another_manager_is_no_parent() -> None:
    async with managing() as (one, _), managing() as (other, _):

        async def submit_there() -> str:
            return await other.submit_task(asyncio.sleep, 0)

        there = await one.run(submit_there)
        assert (await other.wait_for_task(there)).parent_id is None


async def test_a_parent_of_which_an_outline_is_left_still_leads_up(session: aiohttp.ClientSession) -> None:
    gate = Gate()
    async with managing(keep_completed_tasks=1) as (manager, _), serving(manager) as plane:

        async def middle() -> None:
            await manager.submit_task(gate)

        async def root() -> None:
            await manager.run(middle)

        first = await manager.submit_task(root)
        await manager.wait_for_task(first)
        for _ in range(3):
            await manager.run(asyncio.sleep, 0)
        gone = await get_json(session, f"{plane.url}/api/tasks/{first}")
        assert gone["evicted"]
        assert gone["family"]["children"]["total"] == 0
        assert gone["family"]["below"] == {"total": 1, "by_status": {**NONE, "running": 1}}
        gate.open()


def test_a_parent_that_nobody_knows_any_more_leads_nowhere() -> None:
    records = [record(task_id="child", parent_id="gone"), record(task_id="grandchild", parent_id="child")]
    assert ids_below(records, lambda task_id: None, ["root"]) == set()
    assert ids_below(records, lambda task_id: None, ["gone"]) == {"child", "grandchild"}
    above = TaskInfo(
        task_id="gone",
        name="gone",
        category=TaskCategory.CORE,
        plugin_id=None,
        priority=TaskPriority.NORMAL,
        status=TaskStatus.COMPLETED,
        progress=TaskProgress(),
        created_at=0.0,
        parent_id="root",
    )
    found = ids_below(records, lambda task_id: above if task_id == "gone" else None, ["root"])
    assert found == {"child", "grandchild"}


async def test_a_task_says_whether_it_can_be_run_again_and_why_not(session: aiohttp.ClientSession) -> None:
    async def fail(*_: object) -> None:
        raise ValueError

    async with managing(keep_value_bytes=10_000) as (manager, _), serving(manager) as plane:
        failed = await manager.submit_task(fail)
        large = await manager.submit_task(fail, b"x" * 20_000)
        done = await manager.submit_task(asyncio.sleep, 0)
        runs = await manager.submit_task(asyncio.sleep, 60)
        for ended in (failed, large, done):
            await manager.wait_for_task(ended)

        async def rerun_of(task_id: str) -> dict[str, Any]:
            document: dict[str, Any] = await get_json(session, f"{plane.url}/api/tasks/{task_id}")
            state: dict[str, Any] = document["rerun"]
            return state

        assert await rerun_of(failed) == {"possible": True, "why_not": None, "task_id": None}
        again = await manager.rerun(failed)
        assert await rerun_of(failed) == {"possible": True, "why_not": None, "task_id": again}
        for task_id, reason in (
            (large, "its arguments were not kept"),
            (done, "it completed"),
            (runs, "it is running"),
        ):
            state = await rerun_of(task_id)
            assert not state["possible"]
            assert state["why_not"].startswith(reason)
