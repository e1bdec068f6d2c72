"""What is imported when: a name of the package brings what it needs, and nothing that was not asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.services.program import environment
from tests.support import PATIENCE_SECONDS

#: What takes long to import, and so comes only with what needs it.
HEAVY = {
    "aiohttp",
    "asyncio",
    "click",
    "cloudpickle",
    "msgspec",
    "opentelemetry",
    "opentelemetry.exporter",
    "opentelemetry.sdk",
    "opentelemetry.sdk.metrics",
    "prometheus_client",
    "qorzen_obs.cli",
    "qorzen_obs.server",
    "rich",
    "structlog",
    "uvloop",
}
MANAGER = {"asyncio", "msgspec", "opentelemetry", "opentelemetry.sdk", "prometheus_client", "structlog"}
STRUCTLOG_BRINGS = {"rich"}  # for its own tracebacks, where it is installed
RUN = """
import asyncio
async def main():
    async with qorzen_obs.open_task_manager() as tasks:
        await tasks.run(asyncio.sleep, 0)
asyncio.run(main())
"""


def heavy_after(program: str) -> set[str]:
    """Which of the heavy modules a program has imported that begins with `import qorzen_obs`."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import json, sys, qorzen_obs\n{program}\nprint(json.dumps(list(sys.modules)))",
        ],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return HEAVY & set(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "brings"),
    [
        ("", set()),
        ("qorzen_obs.current_task", set()),
        ("qorzen_obs.RetryLater", set()),
        ("qorzen_obs.TaskInfo", set()),
        ("qorzen_obs.task", {"msgspec"}),
        ("qorzen_obs.TaskManager", MANAGER | STRUCTLOG_BRINGS),
        ("qorzen_obs.open_task_manager", MANAGER | STRUCTLOG_BRINGS),
        (RUN, MANAGER | STRUCTLOG_BRINGS),
        ("qorzen_obs.create_app", MANAGER | STRUCTLOG_BRINGS | {"aiohttp", "qorzen_obs.server"}),
    ],
    ids=lambda value: value.strip().partition("\n")[0] if isinstance(value, str) else "",
)
def test_a_name_brings_what_it_needs_and_nothing_else(program: str, brings: set[str]) -> None:
    assert heavy_after(program) <= brings
