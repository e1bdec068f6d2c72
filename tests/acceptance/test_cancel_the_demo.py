"""A batch of the running demo is cancelled from another terminal, with all that it waits for."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.services.backends import eventually, free_port, get_json, program

pytestmark = pytest.mark.integration


def running(url: str, text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get_json(f"{url}/api/tasks?status=running&q={text}")["items"]
    return found


def test_a_batch_is_stopped_from_another_terminal() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with program(sys.executable, "-m", "qorzen_obs", "demo", "--json", "--port", str(port)):
        eventually(lambda: running(url, "parse"))
        batch = eventually(lambda: running(url, "batch"))[0]
        cancel = (sys.executable, "-m", "qorzen_obs", "cancel", batch["task_id"], "--url", url)
        asked = subprocess.run(cancel, capture_output=True, text=True, check=False)
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout.startswith(batch["name"])

        stopped = eventually(lambda: ended(url, batch["task_id"]))
        assert (stopped["status"], stopped["cancel_reason"]) == ("cancelled", "cancelled over HTTP")
        trace = get_json(f"{url}/api/tasks/{batch['task_id']}/trace")
        assert trace["resourceSpans"], "what it had done is still to be seen"
        assert get_json(f"{url}/status")["tasks"]["by_status"]["cancelled"] > 1, "its children with it"
        eventually(lambda: running(url, "batch"))  # the others go on


def ended(url: str, task_id: str) -> dict[str, Any] | None:
    task: dict[str, Any] = get_json(f"{url}/api/tasks/{task_id}")
    return None if task["status"] == "running" else task
