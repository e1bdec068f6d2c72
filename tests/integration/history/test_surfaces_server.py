"""What the server and the command line say of tasks of earlier processes, read from a file that one has left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner, Result

from qorzen_obs.cli import cli
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.history.base import Loss, StoredTasks
from qorzen_obs.history.recorder import DurableHistory
from qorzen_obs.history.sqlite import StoredHistory
from qorzen_obs.server.app import OpsPlane
from qorzen_obs.tasks import FAILED, TaskCategory
from tests.histories import accepted, crash, end, event, progress, recording, run, storage, the_end
from tests.services.ops_plane import SaidManager, managing, serving
from tests.services.stored_tasks import BrokenStore, StoringManager

RUNNING = "0a" * 16
PENDING = "0b" * 16
BROKEN = "0c" * 16
LINES = [{"at": "2026-01-31T12:00:00.000000Z", "level": "info", "event": "said", "more": 1}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a process that was killed while a task ran and another was pending."""
    path = tmp_path / "state" / "history.sqlite"
    store = storage(path, "first")
    history = DurableHistory(store, lines_of=lambda _: LINES)
    history.start()
    running = run(accepted(RUNNING, name="copy", category=TaskCategory.IO))
    broken = end(
        run(accepted(BROKEN, name="broken")), FAILED, error="no", error_type="ValueError", traceback="line 1"
    )
    for one in (running, accepted(PENDING, name="next"), broken):
        history.on_event(event(accepted(one.task_id)) if one is broken else event(one))
    history.on_event(progress(running, 40.0, "four of ten"))
    history.on_ends([the_end(broken)])
    crash(history, store)
    return path


@pytest.fixture
def losses(path: Path) -> list[Loss]:
    """What the next process finds, which has ended in order."""
    with recording(path, "second") as history:
        return history.stored.losses()


@pytest.fixture
async def manager() -> AsyncIterator[TaskManager]:
    async with managing(max_concurrent_tasks=2) as (manager, _):
        yield manager


@pytest.fixture
async def plane(manager: TaskManager, path: Path, losses: list[Loss]) -> AsyncIterator[OpsPlane]:
    async with serving(StoringManager(manager, StoredHistory(path), losses)) as plane:
        yield plane


async def get(plane: OpsPlane, target: str, status: int = 200) -> Any:
    async with aiohttp.ClientSession() as session, session.get(plane.url + target) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json(content_type=None)


async def invoke(plane: OpsPlane, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, cli, [*arguments, "--url", plane.url])


async def test_what_was_lost_is_listed_with_what_it_was_doing(plane: OpsPlane) -> None:
    document = await get(plane, "/api/lost")
    (loss,) = document["losses"]
    assert (loss["instance"], loss["running"], loss["pending"]) == ("first", 1, 1)
    assert loss["by_category"] == {"io": 1, "core": 1}
    assert loss["last_seen_at"] <= loss["noticed_at"]
    assert loss["noticed_at"].endswith("Z")
    items = {item["task_id"]: item for item in document["items"]}
    assert set(items) == {RUNNING, PENDING}
    assert {(item["status"], item["error_type"], item["stored"]) for item in items.values()} == {
        ("failed", "lost", True)
    }
    assert items[RUNNING]["progress"]["message"] == "four of ten"


async def test_the_page_hears_of_the_losses_with_its_other_facts(plane: OpsPlane) -> None:
    (loss,) = (await get(plane, "/api/page"))["losses"]
    assert (loss["instance"], loss["running"], loss["pending"]) == ("first", 1, 1)


async def test_memory_has_lost_nothing(manager: TaskManager) -> None:
    async with serving(StoringManager(manager, None)) as plane:
        document = await get(plane, "/api/lost")
        done = await invoke(plane, "lost")
    assert (document["losses"], document["items"]) == ([], [])
    assert (done.exit_code, done.output) == (0, "nothing was lost\n")


async def test_a_task_of_an_earlier_process_has_its_traceback_and_log_and_takes_no_command(
    plane: OpsPlane,
) -> None:
    task = await get(plane, f"/api/tasks/{BROKEN}")
    assert (task["stored"], task["status"], task["traceback"]) == (True, "failed", "line 1")
    assert task["rerun"] == {"possible": False, "why_not": "it ran in an earlier process", "task_id": None}
    logs = await get(plane, f"/api/tasks/{BROKEN}/logs")
    assert logs == {"items": LINES, "dropped": 0, "missing": None}
    assert (await get(plane, "/api/tasks/unknown", 404))["status"] == 404


async def test_tasks_of_all_processes_are_one_list(manager: TaskManager, plane: OpsPlane) -> None:
    own = await manager.submit_task(asyncio.sleep, 0, name="own")
    await manager.wait_for_task(own)
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await get(plane, f"/api/tasks?limit=1&cursor={cursor}")
        assert page["history_unavailable"] is False
        found += page["items"]
        cursor = page["next_cursor"]
    assert [item["task_id"] for item in found] == [own, BROKEN, PENDING, RUNNING]
    assert [item["stored"] for item in found] == [False, True, True, True]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("instance=first", ["broken", "copy", "next"]),
        ("instance=none", []),
        ("error_type=lost", ["copy", "next"]),
        ("category=io", ["copy"]),
        ("q=OWN", ["own"]),
        ("status=completed&status=failed&order=ended", ["broken", "copy", "next", "own"]),
    ],
)
async def test_filters_hold_for_stored_tasks_too(
    manager: TaskManager, plane: OpsPlane, query: str, names: list[str]
) -> None:
    await manager.wait_for_task(await manager.submit_task(asyncio.sleep, 0, name="own"))
    found = await get(plane, f"/api/tasks?{query}")
    assert sorted(item["name"] for item in found["items"]) == names


async def test_the_own_instance_has_the_tasks_in_memory(manager: TaskManager, plane: OpsPlane) -> None:
    await manager.wait_for_task(await manager.submit_task(asyncio.sleep, 0, name="own"))
    found = await get(plane, f"/api/tasks?instance={manager.looks.event_ring.instance}")
    assert [item["name"] for item in found["items"]] == ["own"]


async def test_a_store_that_cannot_be_read_leaves_the_tasks_in_memory(manager: TaskManager) -> None:
    own = await manager.submit_task(asyncio.sleep, 0, name="own")
    await manager.wait_for_task(own)
    async with serving(StoringManager(manager, BrokenStore())) as plane:
        page = await get(plane, "/api/tasks")
        assert ([item["name"] for item in page["items"]], page["history_unavailable"]) == (["own"], True)
        assert (await get(plane, f"/api/tasks/{own}"))["stored"] is False
        for target in (
            f"/api/tasks/{BROKEN}",
            f"/api/tasks/{BROKEN}/logs",
            f"/api/tasks/{BROKEN}/trace",
            f"/api/traces/{BROKEN}",
            "/api/lost",
        ):
            assert "cannot be read now" in (await get(plane, target, 503))["detail"]


async def test_the_command_line_shows_what_was_lost(plane: OpsPlane) -> None:
    done = await invoke(plane, "lost")
    assert done.exit_code == 0, done.output
    first = done.output.splitlines()[0]
    assert first.startswith("instance first ended at ")
    assert "2 tasks were lost (1 running, 1 pending; " in first
    (line,) = (line for line in done.output.splitlines() if line.startswith(RUNNING))
    assert "four of ten" in line
    assert json.loads((await invoke(plane, "lost", "--json")).output)["losses"]


async def test_show_takes_the_beginning_of_a_stored_id(plane: OpsPlane) -> None:
    done = await invoke(plane, "show", BROKEN[:6])
    assert done.exit_code == 0, done.output
    assert ("ValueError: no" in done.output, "said" in done.output) == (True, True)


def sqlite_status(**facts: Any) -> dict[str, Any]:
    return {
        "kind": "sqlite",
        "durable": False,
        "when_broken": "refuse",
        "waiting": 3,
        "trouble": None,
        **facts,
    }


@pytest.mark.parametrize(
    ("stored", "history", "status", "ready", "words"),
    [
        (None, {"kind": "memory"}, "pass", 200, ""),
        (None, {"kind": "memory", "trouble": "tasks are only in memory"}, "warn", 200, "only in memory"),
        (BrokenStore(), sqlite_status(durable=True), "pass", 200, ""),
        (
            BrokenStore(),
            sqlite_status(trouble="the disk is full"),
            "warn",
            200,
            "the disk is full; new tasks are refused, 3 tasks wait",
        ),
        (
            BrokenStore(),
            sqlite_status(trouble="the disk is full", when_broken="undurable"),
            "fail",
            503,
            "the disk is full; a crash would lose",
        ),
    ],
)
async def test_health_says_whether_what_is_accepted_survives(
    stored: StoredTasks | None, history: dict[str, Any], status: str, ready: int, words: str
) -> None:
    manager = SaidManager(stored=stored, history=history)
    async with serving(manager) as plane, aiohttp.ClientSession() as session:
        async with session.get(plane.url + "/health") as answer:
            found = (await answer.json(content_type=None))["checks"]["history:durable"][0]
        async with session.get(plane.url + "/readyz") as answer:
            assert answer.status == ready
    assert found["status"] == status
    assert words in found.get("output", "")
