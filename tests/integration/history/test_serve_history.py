"""`qorzen-obs serve` with a durable history: what a kill takes, the default file, and who else may use it."""

import asyncio
import json
import re
import signal
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

from qorzen_obs.durable import default_file
from qorzen_obs.history.base import TaskQuery
from qorzen_obs.history.sqlite import StoredHistory
from qorzen_obs.tasks import TaskInfo, TaskStatus
from tests.integration.history.managers import stored_service
from tests.services.program import Running, write_files
from tests.support import PATIENCE_SECONDS

MODULE = {
    "shop.py": """
import asyncio

from qorzen_obs import current_task, task


@task(at_start=True)
async def ship() -> None:
    current_task().progress(40, "4 of 10 parcels")
    print("ships", flush=True)
    await asyncio.Event().wait()


@task(at_start=True, delay=3600)
async def bill() -> None: ...
"""
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def get(url: str, path: str) -> Any:
    with urllib.request.urlopen(f"{url}{path}", timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)


def url_in(line: str) -> str:
    return line.split("serves ")[1].rstrip("/")


def stored(file: Path) -> dict[str, TaskInfo]:
    """The stored tasks by name."""
    return {info.name: info for info in StoredHistory(file).select(TaskQuery(), limit=100)}


def until_stored(file: Path, name: str, status: TaskStatus) -> None:
    """Wait until the running service has written that a task is in this state, with its progress if it runs."""

    async def look() -> None:
        while True:
            found = stored(file).get(name)
            if found and found.status is status and (status is TaskStatus.PENDING or found.progress.message):
                return
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(look(), PATIENCE_SECONDS))


def test_after_a_kill_the_next_start_says_what_was_lost_and_counts_it_apart(tmp_path: Path) -> None:
    write_files(tmp_path, MODULE)
    file, port = tmp_path / "history.sqlite", free_port()
    variables = {"QORZEN_HISTORY__URL": f"sqlite:{file}"}
    with Running("serve", "shop", "--port", str(port), cwd=tmp_path, variables=variables) as first:
        first.line("ships")
        until_stored(file, "ship", TaskStatus.RUNNING)
        until_stored(file, "bill", TaskStatus.PENDING)
        before = stored(file)
        first.signal(signal.SIGKILL)
        first.wait()
    with Running("serve", "shop", "--port", str(port), cwd=tmp_path, variables=variables) as second:
        url = url_in(second.line("serves"))
        said = second.line("lost")
        while (status := get(url, "/status"))["tasks"]["total"] < 2:
            time.sleep(0.01)
        with urllib.request.urlopen(f"{url}/metrics", timeout=PATIENCE_SECONDS) as answer:
            metrics = answer.read().decode()
        lost = get(url, "/api/lost")
        (told,) = get(url, "/api/page")["losses"]
        listed = {item["name"] for item in get(url, "/api/tasks?error_type=lost")["items"]}
        old_links = [get(url, f"/api/tasks/{info.task_id}")["status"] for info in before.values()]
        recovered = [line for line in second.log() if line["event"] == "history.recovered"]
        second.signal(signal.SIGTERM)
        assert second.wait() == 0
    assert re.search(
        r"  2 tasks were lost when the process ended at \S+ \S+; qorzen-obs lost shows which", said
    )
    assert lost["losses"] == [told]
    assert (told["running"], told["pending"], told["by_category"]) == (1, 1, {"core": 2})
    assert {item["name"] for item in lost["items"]} == listed == {"ship", "bill"}
    assert old_links == ["failed", "failed"]
    history = StoredHistory(file)
    for name, doing in (("ship", "progress 40 %: 4 of 10 parcels"), ("bill", "before the task had started")):
        found = history.find(before[name].task_id)
        assert found is not None
        assert (found.status, found.error_type) == (TaskStatus.FAILED, "lost")
        assert found.error is not None
        assert doing in found.error
    assert [(line["running"], line["pending"]) for line in recovered] == [(1, 1)]
    assert 'qorzen_tasks_lost_total{category="core"} 2.0' in metrics
    assert status["tasks"]["total"] == 2, "its own two"
    assert status["tasks"]["by_status"]["failed"] == 0


def test_without_a_url_the_file_is_in_the_state_folder_and_named_after_service_and_port(
    tmp_path: Path,
) -> None:
    write_files(tmp_path, MODULE)
    port, variables = free_port(), {"XDG_STATE_HOME": str(tmp_path / "state")}
    with Running("serve", "shop", "--port", str(port), cwd=tmp_path, variables=variables) as running:
        url = url_in(running.line("serves"))
        history = get(url, "/status")["history"]
        in_force = get(url, "/api/settings")["sections"]["history"]["url"]["value"]
    file = default_file("serve", port, variables)
    assert file == tmp_path / "state" / "qorzen-obs" / f"serve-{port}" / "history.sqlite"
    assert history["path"] == str(file)
    assert in_force == f"sqlite:{file}"


def test_a_service_on_any_free_port_stores_nothing(tmp_path: Path) -> None:
    write_files(tmp_path, MODULE)
    variables = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with Running("serve", "shop", "--port", "0", cwd=tmp_path, variables=variables) as running:
        assert get(url_in(running.line("serves")), "/status")["history"] == {"kind": "memory"}
    assert not (tmp_path / "state").exists()


def test_a_service_that_was_told_memory_stores_nothing(tmp_path: Path) -> None:
    write_files(tmp_path, MODULE)
    variables = {"XDG_STATE_HOME": str(tmp_path / "state"), "QORZEN_HISTORY__URL": "memory"}
    with Running("serve", "shop", "--port", str(free_port()), cwd=tmp_path, variables=variables) as running:
        assert get(url_in(running.line("serves")), "/status")["history"] == {"kind": "memory"}
    assert not (tmp_path / "state").exists()


def test_if_the_default_file_cannot_be_written_the_service_says_so_and_runs_on_memory(tmp_path: Path) -> None:
    write_files(tmp_path, {**MODULE, "state": "a file where a folder is needed"})
    variables = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with Running("serve", "shop", "--port", str(free_port()), cwd=tmp_path, variables=variables) as running:
        url = url_in(running.line("serves"))
        assert "tasks are only in memory" in running.line("memory")
        history = get(url, "/status")["history"]
    assert history["kind"] == "memory"
    assert "tasks are only in memory" in history["trouble"]


async def test_if_the_default_file_is_held_the_service_runs_on_memory(tmp_path: Path) -> None:
    write_files(tmp_path, MODULE)
    port, variables = free_port(), {"XDG_STATE_HOME": str(tmp_path / "state")}

    def serve() -> dict[str, Any]:
        with Running("serve", "shop", "--port", str(port), cwd=tmp_path, variables=variables) as running:
            history: dict[str, Any] = get(url_in(running.line("serves")), "/status")["history"]
            return history

    async with stored_service(default_file("serve", port, variables)):
        history = await asyncio.to_thread(serve)
    assert history["kind"] == "memory"
    assert "in use by" in history["trouble"]


async def test_a_file_that_the_user_gave_and_another_process_holds_stops_the_start(tmp_path: Path) -> None:
    write_files(tmp_path, MODULE)
    file = tmp_path / "history.sqlite"
    variables = {"QORZEN_HISTORY__URL": f"sqlite:{file}"}

    def serve() -> tuple[int, str]:
        with Running("serve", "shop", cwd=tmp_path, variables=variables) as running:
            return running.wait(), running.errors()

    async with stored_service(file):
        status, errors = await asyncio.to_thread(serve)
    assert status == 1
    assert f"history {file}: in use by" in errors
    assert "Traceback" not in errors
