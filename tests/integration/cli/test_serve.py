"""`qorzen-obs serve`: hosting a program's modules, and how the process stops."""

import json
import re
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.services.program import Running, json_lines, run, write_files
from tests.support import PATIENCE_SECONDS

SHOP = """
import asyncio, logging, math, structlog
from qorzen_obs import current_task, task

@task(category="io")
def fetch() -> int:
    logging.getLogger("shop").warning("fetched %d", 7)
    structlog.get_logger().warning("fetched too", amount=7)
    return 7

@task(at_start=True, name="open the shop")
async def open_the_shop():
    await current_task().manager.run(fetch)
    print("open", flush=True)

@task(name="for ever", timeout=math.inf)
async def for_ever():
    await asyncio.Event().wait()
"""
CAFE = """
import structlog, logging
from qorzen_obs import task

@task(at_start=True, name="öffnen")
async def open_it():
    logging.getLogger("shop").warning("größe %d", 7)
    structlog.get_logger().warning("café")
    print("open", flush=True)
"""
FAR = """
import logging, os
from qorzen_obs import current_task, task

@task(engine="process")
def far():
    print("from afar")
    logging.getLogger("shop").warning("from afar")

@task(at_start=True)
async def near():
    print("the descriptor is", os.readlink("/proc/self/fd/2"), flush=True)
    await current_task().manager.run(far)
    print("answered from afar", flush=True)
"""
LONG = """
import asyncio, math
from qorzen_obs import task

@task(at_start=True, timeout=math.inf)
async def long():
    print("begun", flush=True)
    await asyncio.Event().wait()
"""
WEDGED = """
import time
from qorzen_obs import task

@task(at_start=True)
async def wedged():
    print("begun", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_files(tmp_path, {"shop/tasks.py": SHOP, "long.py": LONG, "wedged.py": WEDGED})


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
        return json.load(response)


def refusal(url: str) -> str:
    """What a probe says, once it says no."""
    while True:
        try:
            urllib.request.urlopen(url, timeout=PATIENCE_SECONDS).close()
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()


def test_the_tasks_of_a_module_are_told_and_those_at_start_run_once(shop: Path) -> None:
    with Running("serve", "shop.tasks", cwd=shop) as service:
        url = service.line("serves").split()[-1]
        told = [service.line().strip() for _ in range(3)]
        service.line("open")
        status = get(f"{url}status")["tasks"]
        service.signal(signal.SIGTERM)
        assert service.wait() == 0

    assert told == ["fetch", "for ever", "open the shop, submitted at the start"]
    assert status["total"] == 2
    assert {line["task_name"] for line in service.log() if line["event"] == "task.finished"} == {
        "fetch",
        "open the shop",
    }


def test_a_program_s_own_log_lines_are_json_with_their_task(shop: Path) -> None:
    with Running("serve", "shop.tasks", cwd=shop) as service:
        service.line("open")
        service.signal(signal.SIGINT)
        assert service.wait() == 0

    lines = {line["event"]: line for line in service.log()}
    assert lines["fetched 7"]["logger_name"] == "shop"
    assert lines["fetched too"]["amount"] == 7
    for event in ("fetched 7", "fetched too"):
        assert lines[event]["task_name"] == "fetch"
        assert len(lines[event]["trace_id"]) == 32


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["PYTHONIOENCODING", "the C locale"],
)
def test_lines_are_json_in_utf_8_whatever_the_encoding_of_standard_error_is(
    variables: dict[str, str], tmp_path: Path
) -> None:
    write_files(tmp_path, {"cafe.py": CAFE})
    with Running("serve", "cafe", cwd=tmp_path, variables=variables) as service:
        service.line("open")
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        lines = json_lines(service.errors("utf-8"))
    assert {"größe 7", "café"} <= {line["event"] for line in lines}
    assert {line["task_name"] for line in lines if line["event"] == "task.finished"} == {"öffnen"}


def test_it_serves_without_a_standard_error_and_counts_its_lines_as_lost(tmp_path: Path) -> None:
    write_files(tmp_path, {"far.py": FAR})
    with Running("serve", "far", cwd=tmp_path, closes_stderr=True) as service:
        url = service.line("serves").split()[-1]
        assert service.line("the descriptor is") == "the descriptor is /dev/null"
        service.line("answered from afar")
        with urllib.request.urlopen(f"{url}metrics", timeout=PATIENCE_SECONDS) as response:
            metrics = response.read().decode()
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
    (lost,) = re.findall(r'qorzen_events_dropped_total{kind="log_line"} (\S+)', metrics)
    assert float(lost) >= 2


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)]
)
def test_f4_a_second_signal_cancels_what_the_first_let_end(
    first: signal.Signals, second: signal.Signals, shop: Path
) -> None:
    with Running("serve", "long", cwd=shop) as service:
        service.line("begun")
        service.signal(first)
        assert service.line("Stopping") == (
            "Stopping: 1 task has 30 s to end; a second signal cancels what is left"
        )
        service.signal(second)
        assert service.wait() == 0

    (end,) = (line for line in service.log() if line["event"] == "task.finished")
    assert (end["status"], end["cancel_reason"]) == ("cancelled", "shutdown")


def test_f3_what_does_not_end_within_the_grace_is_cancelled(shop: Path) -> None:
    with Running(
        "serve", "long", cwd=shop, variables={"QORZEN_TASKS__SHUTDOWN_GRACE_SECONDS": "0.2"}
    ) as service:
        service.line("begun")
        service.signal(signal.SIGTERM)
        assert service.wait() == 0

    assert service.log()[-1]["state"] == "stopped"


@pytest.mark.slow
def test_f3_a_stop_that_a_wedged_loop_keeps_back_ends_with_the_stacks_of_all_threads(shop: Path) -> None:
    with Running(
        "serve", "wedged", cwd=shop, variables={"QORZEN_TASKS__SHUTDOWN_GRACE_SECONDS": "0"}
    ) as service:
        url = service.line("serves").split()[-1]
        service.line("begun")
        assert get(f"{url}status")["tasks"]["by_status"]["running"] == 1
        service.signal(signal.SIGTERM)
        assert "[-]accepting failed: the service was told to stop" in refusal(f"{url}readyz?verbose")
        assert service.wait() == 1

    assert "Timeout" in service.errors()
    assert "Thread MainThread:\n" in service.errors()
    assert "in wedged\n    time.sleep(3600)\n" in service.errors()


@pytest.mark.parametrize(("module", "status"), [("nowhere", 2), ("broken", 1)])
def test_a_module_that_cannot_be_hosted_is_one_line_on_standard_error(
    module: str, status: int, tmp_path: Path
) -> None:
    done = run("serve", module, cwd=write_files(tmp_path, {"broken.py": "1 / 0"}))

    assert done.returncode == status
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: module '{module}' ")
