"""schemathesis against the served OpenAPI document: no server error, and no answer that is not documented."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qorzen_obs import task
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.settings import ServerSettings
from tests.services.ops_plane import managing, serving

TOKEN = "a-token-for-control"
#: Per operation, besides those that cover its schema; so a run has some 800 requests.
EXAMPLES = 3

#: Half of the time names that exist; the other half is made up.
CONFIGURATION = """
[checks]
enabled = true

[dictionaries.task_ids]
values = {task_ids}
[dictionaries.trace_ids]
values = {trace_ids}
[dictionaries.checks]
values = ["work-loop", "initialized", "accepting"]
[dictionaries.names]
values = ["add", "rest"]

[parameters]
"path.task_id" = {{ dictionary = "task_ids", probability = 0.5 }}
"path.trace_id" = {{ dictionary = "trace_ids", probability = 0.5 }}
"path.check" = {{ dictionary = "checks", probability = 0.5 }}
"body.task" = {{ dictionary = "names", probability = 0.5 }}

# A cursor is opaque: one that the document allows and the service has not given is refused.
[[operations]]
include-path = "/api/tasks"
include-method = "GET"
checks.positive_data_acceptance.enabled = false

# As there; and a command for many needs a filter, any of them.
[[operations]]
include-path = ["/api/bulk/cancel", "/api/bulk/rerun"]
checks.positive_data_acceptance.enabled = false

# What a task takes stands in /api/registry: no arguments fit all of them.
[[operations]]
include-path = "/api/tasks"
include-method = "POST"
checks.positive_data_acceptance.enabled = false
"""


@task(name="add", category="io")
def add(a: int, b: int = 1) -> int:
    return a + b


@task(name="rest", timeout=5)
async def rest(seconds: float = 0.01) -> None:
    await asyncio.sleep(min(seconds, 0.1))


async def failing() -> None:
    raise ValueError("as it always does")


@asynccontextmanager
async def busy(manager: TaskManager) -> AsyncIterator[None]:
    """Let tasks come and go meanwhile."""

    async def work() -> None:
        while True:
            for func in (failing, rest):
                await manager.wait_for_task(await manager.submit_task(func))
            await asyncio.sleep(0.02)

    working = asyncio.create_task(work())
    try:
        yield
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


@pytest.mark.slow
@pytest.mark.parametrize("with_token", [False, True], ids=["none", "control"])
async def test_no_request_is_answered_by_what_is_not_documented(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, with_token: bool
) -> None:
    registry = TaskRegistry()
    registry.add(add)
    registry.add(rest)
    # Open without one, so that all of it is reached; with one it is also asked without it, which must be refused.
    settings = ServerSettings(port=0, allow_submit=True, token=TOKEN if with_token else None)
    async with (
        managing(max_pending=100_000) as (manager, _),
        serving(manager, tasks=registry, settings=settings) as plane,
        busy(manager),
    ):
        kept = [await manager.submit_task(failing), await manager.submit_task(add, 1)]
        infos = [await manager.wait_for_task(task_id) for task_id in kept]
        kept += [await manager.submit_task(asyncio.sleep, 300), await manager.submit_task(failing)]
        configuration = tmp_path / "schemathesis.toml"
        trace_ids = [info.trace_id for info in infos]
        configuration.write_text(CONFIGURATION.format(task_ids=kept, trace_ids=trace_ids))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            str(configuration),
            "--no-color",
            "run",
            f"{plane.url}/openapi.json",
            "--phases",
            "coverage,fuzzing",
            "--max-examples",
            str(EXAMPLES),
            "--generation-deterministic",
            "--workers",
            "1",  # before 3.11.8 and 3.12.2, ast.parse in two threads can fail (python/cpython#106905)
            "--warnings",
            "off",
            "--exclude-path",
            "/api/events",  # its answer does not end
            *(("--header", f"Authorization: Bearer {TOKEN}") if with_token else ()),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert not caplog.records, "a request has written into the log"
    report = output.decode()
    assert process.returncode == 0, report
    counted = re.search(r"(\d+) generated, (\d+) passed", report)
    assert counted is not None, report
    assert int(counted[1]) == int(counted[2]) > 500, report
