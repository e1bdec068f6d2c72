"""`status`, `tasks`, `show`, `trace`, `submit`, `rerun`, `pause`, `resume`: a service asked from another terminal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

import pytest
from click.testing import CliRunner, Result

from qorzen_obs import current_task, task
from qorzen_obs.cli import cli
from qorzen_obs.client import Client, ClientError
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.server.app import OpsPlane
from qorzen_obs.settings import ServerSettings
from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus
from tests import process_tasks
from tests.services.http_server import give, http_server
from tests.services.ops_plane import SaidManager, managing, serving
from tests.services.process_service import process_service
from tests.support import until

EVIL = "[red]x[/red] \x1b[2J\u202e"


@task(name="double", category="io")
def double(value: int, *, times: int = 1) -> int:
    return value << times


@task(name="fail")
async def fail(message: str = "as always") -> None:
    raise ValueError(message)


@task(name="parent")
async def parent() -> None:
    with pytest.raises(ValueError, match="as always"):
        await current_task().manager.run(fail, name="child")


@pytest.fixture
async def manager() -> AsyncIterator[TaskManager]:
    async with managing(max_concurrent_tasks=2) as (manager, _):
        yield manager


@pytest.fixture
async def plane(manager: TaskManager) -> AsyncIterator[OpsPlane]:
    registry = TaskRegistry()
    for func in (double, fail):
        registry.add(func)
    settings = ServerSettings(port=0, allow_submit=True)
    async with serving(manager, tasks=registry, settings=settings) as plane:
        yield plane


async def ask(plane: OpsPlane, *arguments: str) -> Result:
    runner = CliRunner(env={"QORZEN_SERVER__TOKEN": None, "QORZEN_SERVER__TOKEN_FILE": None})
    return await asyncio.to_thread(runner.invoke, cli, [*arguments, "--url", plane.url])


async def test_status_tells_state_counts_queue_and_slots(manager: TaskManager, plane: OpsPlane) -> None:
    await manager.run(double, 1)
    await manager.pause("io")
    await manager.submit_task(double, 1)
    done = await ask(plane, "status")
    assert done.exit_code == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0].startswith("ready qorzen_obs ")
    for line in (
        "tasks 2 accepted, 0 refused",
        "pending 1 running 0 completed 1 failed 0 cancelled 0",
        "queue 1 of 10,000 places",
        "paused io",
    ):
        assert line in lines
    as_json = await ask(plane, "status", "--json")
    assert json.loads(as_json.stdout)["queue"]["paused"] == ["io"]


async def test_tasks_are_listed_filtered_and_followed_to_the_end(
    manager: TaskManager, plane: OpsPlane
) -> None:
    for number in range(5):
        await manager.run(double, number, name=f"double {number}")
    with pytest.raises(ValueError, match="as always"):
        await manager.run(fail, priority=TaskPriority.HIGH)

    done = await ask(plane, "tasks")
    head, *rows = done.stdout.splitlines()
    assert head.split()[:3] == ["ID", "NAME", "STATUS"]
    assert len(rows) == 6
    assert rows[0].split()[1:5] == ["fail", "failed", "core", "high"]
    assert rows[0].endswith("ValueError: as always")
    assert not [row for row in rows if row != row.rstrip()]

    for arguments, names in (
        (["--status", "failed"], ["fail"]),
        (["--priority", "high", "--status", "completed"], []),
        (["--category", "io", "--limit", "2"], ["double 4", "double 3"]),
        (["--name", "double 1", "--name", "double 2"], ["double 2", "double 1"]),
        (["-q", "ALWAYS"], ["fail"]),
        (["--order", "oldest", "--limit", "1"], ["double 0"]),
    ):
        found = await ask(plane, "tasks", "--json", *arguments)
        assert [item["name"] for item in json.loads(found.stdout)["items"]] == names, arguments

    some = await ask(plane, "tasks", "--limit", "2")
    assert "There are more than 2 tasks: list all with --all" in some.stderr


async def test_all_pages_are_one_list(
    manager: TaskManager, plane: OpsPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qorzen_obs.cli.tasks.PAGE", 2)
    for number in range(5):
        await manager.run(double, number, name=f"double {number}")
    done = await ask(plane, "tasks", "--all", "--json")
    document = json.loads(done.stdout)
    assert [item["name"][-1] for item in document["items"]] == list("43210")
    assert document["next_cursor"] is None


async def test_show_tells_everything_of_a_failed_task(manager: TaskManager, plane: OpsPlane) -> None:
    task_id = await manager.submit_task(fail, EVIL)
    await manager.wait_for_task(task_id)
    done = await ask(plane, "show", task_id)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == "fail  failed"
    for words in (
        task_id,
        "ValueError: [red]x[/red] \\u001b[2J",
        "raise ValueError(message)",
        "loop",
    ):
        assert words in done.stdout
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    as_json = await ask(plane, "show", task_id, "--json")
    document = json.loads(as_json.stdout)
    assert document["task"]["error_type"] == "ValueError"
    assert (document["why"], document["stack"]) == (None, None)


async def test_show_tells_where_a_running_task_is_and_why_another_is_pending(
    manager: TaskManager, plane: OpsPlane
) -> None:
    event = asyncio.Event()
    running = [await manager.submit_task(event.wait, name=f"waits {number}") for number in range(2)]
    pending = await manager.submit_task(event.wait)
    await until(lambda: manager.status()["tasks"]["by_status"]["running"] == 2)
    shown = await ask(plane, "show", running[0])
    assert (
        "Stack: waiting, awaits a future" in shown.stdout or "Stack: waiting, awaits asyncio" in shown.stdout
    )
    shown = await ask(plane, "show", pending)
    assert "held by tasks.max_concurrent_tasks; it is the next" in shown.stdout
    event.set()


async def test_a_worker_process_is_named_by_its_pid() -> None:
    async with process_service() as service, serving(service.tasks) as plane:
        task_id, pid = await service.start(process_tasks.sleep_for_ever)
        shown = await ask(plane, "show", task_id)
        assert f"Stack: running in the worker process {pid}" in shown.stdout
        status = await ask(plane, "status")
    (line,) = (line for line in status.stdout.splitlines() if line.startswith("  process "))
    assert pid in line.partition("pids ")[2].split()


async def test_what_is_unknown_is_status_1(plane: OpsPlane) -> None:
    for arguments in (["show", "nobody"], ["trace", "nobody"], ["trace", "0" * 32], ["rerun", "nobody"]):
        done = await ask(plane, *arguments)
        assert (done.exit_code, done.stdout) == (1, ""), arguments
        assert "Error: no " in done.stderr


async def test_the_beginning_of_an_id_is_enough_where_no_other_begins_so(
    manager: TaskManager, plane: OpsPlane
) -> None:
    task_id = await manager.submit_task(fail)
    await manager.wait_for_task(task_id)
    # A text of 31 characters may look like a secret, which the service does not search for.
    for length in (1, 8, 31):
        shown = await ask(plane, "show", task_id[:length].upper(), "--json")
        assert json.loads(shown.stdout)["task"]["task_id"] == task_id, shown.stderr
    again = await ask(plane, "rerun", task_id[:8])
    info = await manager.wait_for_task(again.stdout.strip())
    assert info.rerun_of == task_id
    refused = await ask(plane, "cancel", task_id[:8])
    assert refused.exit_code == 1
    assert "no task" not in refused.stderr, "it was found, and had ended"


async def test_a_beginning_that_several_ids_have_is_refused_with_their_names(
    manager: TaskManager, plane: OpsPlane
) -> None:
    # More than there are hexadecimal digits, so two begin with the same.
    ids = [await manager.submit_task(double, 1, name=f"double {number}") for number in range(17)]
    for task_id in ids:
        await manager.wait_for_task(task_id)
    first = [task_id[0] for task_id in ids]
    digit = next(one for one in first if first.count(one) > 1)
    refused = await ask(plane, "show", digit)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"the ids of several tasks begin with {digit}: " in refused.stderr
    named = [number for number, one in enumerate(first) if one == digit]
    assert all(f"{ids[number][:8]} double {number}" in refused.stderr for number in named[-5:])


async def test_an_address_needs_no_scheme(
    manager: TaskManager, plane: OpsPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QORZEN_URL", plane.url.removeprefix("http://"))
    done = await asyncio.to_thread(CliRunner().invoke, cli, ["status", "--json"])
    assert json.loads(done.stdout)["state"] == "ready"


async def test_a_trace_is_drawn_by_its_own_or_its_tasks_id() -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        task_id = await manager.submit_task(parent)
        info = await manager.wait_for_task(task_id)
        assert info.status is TaskStatus.COMPLETED, info.error
        by_task = await ask(plane, "trace", task_id, "--width", "100")
        assert info.trace_id is not None
        by_trace = await ask(plane, "trace", info.trace_id, "--width", "100")
        by_beginning = await ask(plane, "trace", info.trace_id[:12], "--width", "100")
        as_json = await ask(plane, "trace", task_id, "--json")
    head, _, *lines = by_task.stdout.splitlines()
    assert info.trace_id in head
    assert "1 failed" in head
    assert [line.split("  ")[0].strip() for line in lines[:1]] == [">run parent"]
    assert "✗ run child" in by_task.stdout
    assert "└ ValueError: as always" in by_task.stdout
    assert by_trace.stdout.replace("run parent", "") == by_task.stdout.replace(">run parent", " ")
    assert by_beginning.stdout == by_trace.stdout
    assert json.loads(as_json.stdout)["resourceSpans"]


async def test_the_trace_of_a_task_is_what_lies_below_it_unless_the_whole_is_asked_for() -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.wait_for_task(await manager.submit_task(parent))
        (child,) = await manager.get_tasks(status="failed")
        below = await ask(plane, "trace", child.task_id, "--width", "100")
        whole = await ask(plane, "trace", child.task_id, "--whole", "--width", "100")
    assert ">  ✗ run child" in below.stdout
    assert "run parent" not in below.stdout
    assert "run parent" in whole.stdout
    assert ">    ✗ run child" in whole.stdout


async def test_a_task_is_submitted_and_waited_for(manager: TaskManager, plane: OpsPlane) -> None:
    done = await ask(plane, "submit", "double", "[21]", '{"times": 1}', "--priority", "high")
    assert done.exit_code == 0
    info = await manager.wait_for_task(done.stdout.strip())
    assert (info.result, info.priority) == (42, TaskPriority.HIGH)

    waited = await ask(plane, "submit", "double", "[1]", "--category", "user", "--timeout", "inf", "--wait")
    assert waited.exit_code == 0
    task_id, head, *_ = waited.stdout.splitlines()
    assert head == "double  completed"
    found = await manager.get_task_info(task_id)
    assert found is not None
    assert (found.timeout_seconds, found.category) == (None, TaskCategory.USER)

    failed = await ask(plane, "submit", "fail", "--wait", "--json")
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["error"] == "as always"


async def test_a_repeat_with_the_same_key_is_the_same_task(plane: OpsPlane) -> None:
    first, second = [
        await ask(plane, "submit", "double", "[1]", "--idempotency-key", "once") for _ in range(2)
    ]
    assert first.stdout == second.stdout != ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing"], "no task is registered under this name; the service knows double, "),
        (["double"], "Error: "),
        (["double", '["x"]'], "Expected `int`"),
    ],
)
async def test_what_cannot_be_submitted_is_status_1(
    plane: OpsPlane, arguments: list[str], reason: str
) -> None:
    done = await ask(plane, "submit", *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert reason in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["double", "1"], "must be an array of positional arguments or an object"),
        (["double", "{x: 1}"], "is not valid JSON"),
        (["double", "[NaN]"], "is not valid JSON"),
        (["double", "[" * 100_000], "is not valid JSON"),
        (["double", "[]", "[]"], "is the second array"),
        (["double", "--timeout", "0"], "give a positive number"),
        (["double", "--timeout", "nan"], "give a positive number"),
        (["double", "--priority", "urgent"], "'urgent' is not one of"),
    ],
    ids=["number", "yaml", "not a number", "deep", "two arrays", "zero", "nan", "no such priority"],
)
async def test_wrong_use_of_submit_is_status_2(plane: OpsPlane, arguments: list[str], reason: str) -> None:
    done = await ask(plane, "submit", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert reason in done.stderr


async def test_a_failed_task_runs_again(manager: TaskManager, plane: OpsPlane) -> None:
    task_id = await manager.submit_task(fail)
    await manager.wait_for_task(task_id)
    done = await ask(plane, "rerun", task_id, "--wait")
    assert done.exit_code == 1, "it fails again"
    again = await manager.get_task_info(done.stdout.splitlines()[0])
    assert again is not None
    assert again.rerun_of == task_id
    completed = await manager.submit_task(double, 1)
    await manager.wait_for_task(completed)
    refused = await ask(plane, "rerun", completed)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "cannot be run again: it completed" in refused.stderr


async def test_a_category_is_paused_and_goes_on(manager: TaskManager, plane: OpsPlane) -> None:
    done = await ask(plane, "pause", "io")
    assert (done.exit_code, done.stdout) == (
        0,
        "io is paused: its pending tasks wait, running tasks continue\n",
    )
    assert manager.paused == {TaskCategory.IO}
    task_id = await manager.submit_task(double, 1)
    shown = await ask(plane, "show", task_id)
    assert "held by the pause of category io" in shown.stdout
    done = await ask(plane, "resume", "io")
    assert (done.exit_code, done.stdout) == (0, "io is resumed\n")
    await manager.wait_for_task(task_id)
    assert (await ask(plane, "pause", "shoes")).exit_code == 2


async def test_cancel_says_what_became_of_the_task(manager: TaskManager, plane: OpsPlane) -> None:
    task_id = await manager.submit_task(asyncio.sleep, 60)
    done = await ask(plane, "cancel", task_id, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["task_id"] == task_id
    assert (await manager.wait_for_task(task_id)).status is TaskStatus.CANCELLED
    assert (await ask(plane, "cancel", task_id)).exit_code == 1


async def test_the_client_reads_what_the_service_says(manager: TaskManager, plane: OpsPlane) -> None:
    client = Client(plane.url)
    task_id = await manager.submit_task(double, 1)
    info = await manager.wait_for_task(task_id)
    found = await asyncio.to_thread(client.task, task_id)
    assert found.created_at.timestamp() == pytest.approx(info.created_at)
    assert (found.name, found.ended, found.phases.keys()) == ("double", True, info.phases.keys())
    status = await asyncio.to_thread(client.status)
    health = await asyncio.to_thread(client.health)
    page = await asyncio.to_thread(client.tasks, {})
    assert (status.tasks.total, health.status, len(page.items)) == (1, "pass", 1)


async def test_an_error_of_the_client_tells_an_answer_from_none() -> None:
    async with serving(SaidManager()) as plane:
        client = Client(plane.url)
        with pytest.raises(ClientError) as refused:
            await asyncio.to_thread(client.task, "no/body")
        assert refused.value.status == HTTPStatus.NOT_FOUND
    with pytest.raises(ClientError, match="does not answer") as unanswered:
        await asyncio.to_thread(client.status)
    assert unanswered.value.status is None


@pytest.mark.parametrize("by", ["QORZEN_URL", "host and port", "port"])
@pytest.mark.parametrize(
    "command",
    [
        "status",
        "health",
        "tasks",
        "show x",
        "trace x",
        "submit x",
        "cancel x",
        "rerun x",
        "pause io",
        "resume io",
    ],
)
def test_every_command_asks_where_the_environment_says(command: str, by: str) -> None:
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked.append(handler.path)
        give(handler, 418)

    with http_server(answer) as url:
        port = url.rpartition(":")[2]
        environment = {
            "QORZEN_URL": {"QORZEN_URL": url, "QORZEN_SERVER__HOST": "nowhere.at.all"},
            "host and port": {"QORZEN_SERVER__HOST": "0.0.0.0", "QORZEN_SERVER__PORT": port},
            "port": {"QORZEN_URL": "", "QORZEN_SERVER__HOST": "", "QORZEN_SERVER__PORT": port},
        }[by]
        done = CliRunner(env=environment).invoke(cli, command.split())
    assert asked, done.output
    assert "the service answered 418" in done.stderr


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_port_that_nobody_can_be_asked_at_wants_an_address(port: str) -> None:
    done = CliRunner(env={"QORZEN_SERVER__PORT": port}).invoke(cli, ["status"])
    assert done.exit_code == 2
    assert "--url" in done.stderr
