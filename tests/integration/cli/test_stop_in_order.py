"""F3: a service that is told to stop is gone within its grace and a little, whatever its tasks, its clients and its
collector do, and is asked what it does till the end."""

import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.services.program import Running, write_files
from tests.support import PATIENCE_SECONDS

pytestmark = pytest.mark.slow  # programs of their own, which no version of Python makes another

TASKS = """
import asyncio, math
from qorzen_obs import task

@task(at_start=True, timeout=math.inf)
async def {name}():
    print("begun", flush=True)
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
DRAINS = """
import asyncio, contextvars, math
from pathlib import Path
from qorzen_obs import current_task, task
from qorzen_obs.errors import TaskManagerClosedError

@task(at_start=True, timeout=math.inf)
async def drains():
    print("begun", flush=True)
    manager = current_task().manager
    while manager.state.value == "ready":
        await asyncio.sleep(0.01)
    try:  # as one that is no task of the manager's: those may have children while it drains
        await asyncio.create_task(manager.submit_task(drains), context=contextvars.Context())
    except TaskManagerClosedError as error:
        print("refused:", error.state, flush=True)
    while not Path("go").exists():
        await asyncio.sleep(0.01)
"""
EXECUTOR = """
import asyncio, math, threading
from qorzen_obs import task

def never_ends():
    print("begun", flush=True)
    threading.Event().wait()

@task(at_start=True, timeout=math.inf)
async def takes_all_threads():
    await asyncio.gather(*(asyncio.to_thread(never_ends) for _ in range(40)))
"""
MODULES = {
    "executor.py": EXECUTOR,
    "idle.py": TASKS.format(name="short", body=""),
    "busy.py": TASKS.format(name="long", body="await asyncio.Event().wait()"),
    "stuck_thread.py": THREAD.format(engine="thread"),
    "stuck_process.py": THREAD.format(engine="process"),
    "drains.py": DRAINS,
}
GRACES = {
    "QORZEN_TASKS__SHUTDOWN_GRACE_SECONDS": "0.2",
    "QORZEN_TASKS__CANCEL_GRACE_SECONDS": "0.2",
}


@pytest.fixture
def silent_collector() -> Iterator[str]:
    """Something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def unread(url: str, path: str, times: int) -> socket.socket:
    """Ask, so often that no buffer holds the answers, and read none of them."""
    where = urlsplit(url)
    asking = socket.socket()
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asking.connect((where.hostname, where.port))
    asking.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * times)
    return asking


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("module", "reader", "collector"),
    [
        ("idle", "none", "none"),
        ("busy", "none", "none"),
        ("stuck_thread", "none", "none"),
        ("stuck_process", "none", "none"),
        ("idle", "stuck", "none"),
        ("idle", "none", "silent"),
        ("busy", "stuck", "silent"),
        ("stuck_thread", "stuck", "silent"),
        ("stuck_process", "stuck", "silent"),
    ],
)
def test_f3_it_stops_in_order(
    module: str, reader: str, collector: str, number: signal.Signals, tmp_path: Path, silent_collector: str
) -> None:
    variables = dict(GRACES)
    if collector == "silent":
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = silent_collector
    with (
        Running("serve", module, cwd=write_files(tmp_path, MODULES), variables=variables) as service,
        ExitStack() as clients,
    ):
        url = service.line("serves").split()[-1]
        service.line("begun")
        if reader == "stuck":
            clients.enter_context(unread(url, "/metrics", 50))
            clients.enter_context(unread(url, "/api/events", 1))
        service.signal(number)
        assert service.wait() == 0, "the watchdog would have ended it with 1, at the latest after 5.2 s"

    states = [line["state"] for line in service.log() if line["event"] == "manager.state"]
    assert states == ["ready", "draining", "stopped"]


def test_f3_a_thread_that_asyncio_waits_for_is_named_and_keeps_the_process_no_longer(tmp_path: Path) -> None:
    with Running("serve", "executor", cwd=write_files(tmp_path, MODULES), variables=GRACES) as service:
        service.line("begun")
        service.signal(signal.SIGTERM)
        assert service.wait() == 1

    assert '"state":"stopped"' in service.errors()  # all that is the service's own ended in order
    assert "Timeout" in service.errors()
    assert "in never_ends\n" in service.errors()
    assert "shutdown_default_executor" in service.errors(), "what waits for them"


def test_f3_while_it_drains_it_is_alive_and_not_ready_refuses_work_and_lets_its_tasks_end(
    tmp_path: Path,
) -> None:
    folder = write_files(tmp_path, MODULES)
    with Running("serve", "drains", cwd=folder) as service:
        url = service.line("serves").split()[-1]
        service.line("begun")
        assert get(f"{url}readyz") == (200, "ok")
        service.signal(signal.SIGTERM)
        assert service.line("refused") == "refused: draining"
        assert get(f"{url}readyz") == (503, "failed: accepting")
        assert get(f"{url}livez") == get(f"{url}startupz") == (200, "ok")
        assert 'qorzen_service_state{qorzen_service_state="draining"} 1.0' in get(f"{url}metrics")[1]
        (folder / "go").touch()
        assert service.wait() == 0

    (end,) = (line for line in service.log() if line["event"] == "task.finished")
    assert end["status"] == "completed"


def test_f3_the_last_scrape_has_the_final_counts(tmp_path: Path, silent_collector: str) -> None:
    # It gives the collector a second to answer.
    variables = {**GRACES, "OTEL_EXPORTER_OTLP_ENDPOINT": silent_collector}
    with Running("serve", "busy", cwd=write_files(tmp_path, MODULES), variables=variables) as service:
        url = service.line("serves").split()[-1]
        service.line("begun")
        service.signal(signal.SIGTERM)
        last = ""
        while True:
            try:
                _, last = get(f"{url}metrics")
            except (urllib.error.URLError, ConnectionError):
                break
        assert service.wait() == 0

    assert 'qorzen_service_state{qorzen_service_state="stopped"} 1.0' in last
    assert 'qorzen_tasks{category="core",priority="normal",status="cancelled"} 1.0' in last
