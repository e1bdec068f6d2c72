"""`rerun` and `cancel` for all tasks that filters select, and what `show` and `tasks` say of a task's family."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner, Result

from qorzen_obs import current_task, task
from qorzen_obs.cli import cli
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.server.app import OpsPlane
from qorzen_obs.tasks import TaskStatus
from tests.services.ops_plane import managing, serving
from tests.support import Gate


@task(name="fail")
async def fail(*_: object) -> None:
    raise ValueError


async def parent(gate: Gate) -> None:
    """Have a child that has one too."""
    await current_task().manager.submit_task(child, gate)
    await gate()


async def child(gate: Gate) -> None:
    await current_task().manager.submit_task(gate)
    await gate()


@pytest.fixture
async def manager() -> AsyncIterator[TaskManager]:
    async with managing(max_concurrent_tasks=10, keep_value_bytes=10_000) as (manager, _):
        yield manager


@pytest.fixture
async def plane(manager: TaskManager) -> AsyncIterator[OpsPlane]:
    async with serving(manager) as plane:
        yield plane


async def ask(plane: OpsPlane, *arguments: str) -> Result:
    runner = CliRunner(env={"QORZEN_SERVER__TOKEN": None, "QORZEN_SERVER__TOKEN_FILE": None})
    return await asyncio.to_thread(runner.invoke, cli, [*arguments, "--url", plane.url])


async def test_failed_tasks_are_run_again_after_a_dry_run_and_only_once(
    manager: TaskManager, plane: OpsPlane
) -> None:
    failed = [await manager.submit_task(fail, number, name="import") for number in range(3)]
    others = [await manager.submit_task(fail), await manager.submit_task(fail, b"x" * 20_000, name="import")]
    for task_id in [*failed, *others]:
        await manager.wait_for_task(task_id)
    filters = ("--status", "failed", "--name", "import")
    dry = await ask(plane, "rerun", *filters, "--dry-run")
    assert dry.exit_code == 0, dry.output
    first, second = dry.stdout.splitlines()
    assert first == "3 of 4 tasks would be run again"
    assert second.startswith("1 refused: its arguments were not kept")
    assert others[1] in second
    assert manager.status()["tasks"]["total"] == 5

    done = await ask(plane, "rerun", *filters, "--json")
    assert done.exit_code == 1, "one could not be run again"
    said = json.loads(done.stdout)
    assert (said["dry_run"], said["asked"], said["done"]) == (False, 4, 3)
    infos = [await manager.wait_for_task(task_id) for task_id in said["task_ids"]]
    assert [info.rerun_of for info in infos] == failed
    repeated = await ask(
        plane, "rerun", "--definition", "fail", "--error-type", "ValueError", "--name", "import"
    )
    assert repeated.stdout == "3 of 7 tasks run again\n", "those that have failed again"
    assert "3 refused: it was run again before" in repeated.stderr
    assert (await ask(plane, "rerun", "--name", "nobody")).stdout == "No task fits.\n"


async def test_pending_and_running_tasks_are_cancelled_by_filters(
    manager: TaskManager, plane: OpsPlane
) -> None:
    gate = Gate()
    ids = [await manager.submit_task(gate, name="a") for _ in range(12)]
    await gate.holds(10)
    kept = await manager.submit_task(gate, name="b")
    dry = await ask(plane, "cancel", "--name", "a", "--dry-run")
    assert (dry.exit_code, dry.stdout) == (0, "12 of 12 tasks would be cancelled or asked to stop\n")
    done = await ask(plane, "cancel", "--name", "a", "--status", "pending")
    assert (done.exit_code, done.stdout) == (0, "2 of 2 tasks cancelled or asked to stop\n")
    done = await ask(plane, "cancel", "--name", "a")
    assert (done.exit_code, done.stdout) == (0, "10 of 10 tasks cancelled or asked to stop\n")
    for task_id in ids:
        assert (await manager.wait_for_task(task_id)).status is TaskStatus.CANCELLED
    gate.open()
    assert (await manager.wait_for_task(kept)).status is TaskStatus.COMPLETED


async def test_more_tasks_than_a_page_holds_are_all_asked(
    manager: TaskManager, plane: OpsPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qorzen_obs.cli.bulk._PAGE", 2)
    for number in range(5):
        await manager.wait_for_task(await manager.submit_task(fail, number))
    dry = await ask(plane, "rerun", "--status", "failed", "--dry-run", "--json")
    assert (json.loads(dry.stdout)["done"], json.loads(dry.stdout)["dry_run"]) == (5, True)
    done = await ask(plane, "rerun", "--status", "failed")
    assert (done.exit_code, done.stdout) == (0, "5 of 5 tasks run again\n")


async def test_a_task_shows_its_family_and_all_below_it_is_cancelled(
    manager: TaskManager, plane: OpsPlane
) -> None:
    gate = Gate()
    root = await manager.submit_task(parent, gate)
    await gate.holds(3)
    lines = [" ".join(line.split()) for line in (await ask(plane, "show", root)).stdout.splitlines()]
    assert "children 1 running, 1 further down" in lines
    listed = json.loads((await ask(plane, "tasks", "--parent", root[:8], "--json")).stdout)["items"]
    assert [(one["definition"], one["parent_id"]) for one in listed] == [("child", root)]
    shown = [
        " ".join(line.split())
        for line in (await ask(plane, "show", listed[0]["task_id"])).stdout.splitlines()
    ]
    assert f"parent task {root}, parent" in shown
    below = json.loads((await ask(plane, "tasks", "--below", root, "--json")).stdout)["items"]
    assert len(below) == 2
    done = await ask(plane, "cancel", "--below", root[:8])
    assert done.stdout == "2 of 2 tasks cancelled or asked to stop\n"
    gate.open()
    assert (await manager.wait_for_task(root)).status is TaskStatus.COMPLETED


async def test_show_says_why_a_failed_task_cannot_be_run_again(manager: TaskManager, plane: OpsPlane) -> None:
    failed, large = [await manager.submit_task(fail, argument) for argument in (1, b"x" * 20_000)]
    for task_id in (failed, large):
        await manager.wait_for_task(task_id)
    again = await manager.rerun(failed)
    assert f"rerun as task {again}" in " ".join((await ask(plane, "show", failed)).stdout.split())
    assert "no rerun its arguments were not kept" in " ".join(
        (await ask(plane, "show", large)).stdout.split()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["cancel"],
        ["rerun"],
        ["cancel", "--dry-run"],
        ["cancel", "1", "--name", "x"],
        ["rerun", "1", "--dry-run"],
        ["rerun", "--name", "x", "--wait"],
        ["rerun", "--status", "running"],
        ["cancel", "--status", "failed"],
    ],
    ids=" ".join,
)
async def test_what_could_mean_more_than_was_meant_is_wrong_use(
    plane: OpsPlane, arguments: list[str]
) -> None:
    done = await ask(plane, *arguments)
    assert (done.exit_code, done.stdout) == (2, ""), done.output


async def test_a_person_is_asked_after_the_count_was_shown(
    manager: TaskManager, plane: OpsPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    for _ in range(2):
        await manager.submit_task(gate)
    await gate.holds(2)
    monkeypatch.setattr("qorzen_obs.cli.bulk._is_a_person", lambda: True)
    runner = CliRunner()
    command = ["cancel", "--status", "running", "--url", plane.url]
    refused = await asyncio.to_thread(runner.invoke, cli, command, input="n\n")
    assert refused.exit_code == 1
    assert "Cancel 2 tasks?" in refused.stderr
    assert manager.status()["tasks"]["by_status"]["running"] == 2
    sure = await asyncio.to_thread(runner.invoke, cli, [*command, "--yes"])
    assert sure.stdout == "2 of 2 tasks cancelled or asked to stop\n"
    gate.open()
