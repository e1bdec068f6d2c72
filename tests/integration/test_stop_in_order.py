"""F3: a service that is told to stop is gone within its grace and a little, whatever its tasks and its collector do."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.program import Running, write_files

TASKS = """
import asyncio, math, os, signal, time
from qorzen_obs import task

def begun():
    print("begun", flush=True)

@task(at_start=True, timeout=math.inf)
async def {name}():
    {body}
"""
THREAD = """
import math, time
from qorzen_obs import task

@task(at_start=True, engine="{engine}", timeout=math.inf)
def stuck():
    print("begun", flush=True)
    while True:
        time.sleep(60)

@task(at_start=True)
async def first():
    print("begun", flush=True)
"""
MODULES = {
    "idle.py": TASKS.format(name="short", body="begun()"),
    "busy.py": TASKS.format(name="long", body="begun(); await asyncio.Event().wait()"),
    "stuck_thread.py": THREAD.format(engine="thread"),
    "stuck_process.py": THREAD.format(engine="process"),
}


@pytest.fixture
def silent_collector() -> Iterator[str]:
    """Something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("module", ["idle", "busy", "stuck_thread", "stuck_process"])
@pytest.mark.parametrize("collector", ["none", "silent"])
def test_f3_it_stops_in_order(module: str, collector: str, tmp_path: Path, silent_collector: str) -> None:
    variables = {
        "QORZEN_TASKS__SHUTDOWN_GRACE_SECONDS": "0.2",
        "QORZEN_TASKS__CANCEL_GRACE_SECONDS": "0.2",
    }
    if collector == "silent":
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = silent_collector
    with Running("serve", module, cwd=write_files(tmp_path, MODULES), variables=variables) as service:
        service.line("begun")
        service.signal(signal.SIGTERM)
        assert service.wait(10) == 0, "the watchdog would have ended it with 1"

    states = [line["state"] for line in service.log() if line["event"] == "manager.state"]
    assert states == ["ready", "draining", "stopped"]
