"""The code of the guide does what the guide says, and the plugin of pytest that it describes works with each runner."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.services.guide import GUIDE, PAGES, blocks_of, files_of
from tests.services.program import ROOT, environment, run_pytest, write_files
from tests.support import PATIENCE_SECONDS

TESTING = GUIDE / "testing.md"


def test_the_tests_of_the_page_about_testing_pass(tmp_path: Path) -> None:
    files = files_of(TESTING)
    assert len(files) == len(blocks_of(TESTING)), "a block does not name its file"
    write_files(tmp_path, files)
    ran = run_pytest(tmp_path)
    assert ran.returncode == 0, ran.stdout
    tests = sum(len(re.findall(r"^(?:async )?def test_", str(code), re.MULTILINE)) for code in files.values())
    assert ran.stdout.count(" PASSED") == tests > 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_does_what_the_page_says(page: Path, tmp_path: Path) -> None:
    write_files(tmp_path, files_of(page))
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.services.guide", page],
        cwd=tmp_path,
        env=environment({"PYTHONPATH": str(ROOT)}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_the_program_of_the_page_about_deploying_is_probed_and_stops_on_sigterm(tmp_path: Path) -> None:
    write_files(tmp_path, files_of(GUIDE / "deploying.md"))
    service = subprocess.Popen(
        [sys.executable, "-W", "error", "service.py"],
        cwd=tmp_path,
        env=environment({"PYTHONPATH": str(ROOT)}),
        stdout=subprocess.PIPE,
        text=True,
    )
    with service:
        assert service.stdout is not None
        url = service.stdout.readline().strip()
        for probe in ("startupz", "livez", "readyz"):
            with urlopen(f"{url}/{probe}") as answer:
                assert answer.read() == b"ok"
        service.terminate()
    assert service.returncode == 0


CONFTEST = 'pytest_plugins = ["qorzen_obs.pytest_plugin"]\n'

BY_ANYIO = """
import asyncio, pytest
from qorzen_obs.testing import VirtualTimeLoop

pytestmark = pytest.mark.anyio

@pytest.fixture(params=[{}, {"loop_factory": VirtualTimeLoop}])
def anyio_backend(request):
    return "asyncio", request.param

async def test_sums(qorzen_tasks, qorzen_logs):
    assert await qorzen_tasks.run(sum, [1, 2]) == 3
    assert len(qorzen_logs.of("task.finished")) == 1

async def test_sleeps(qorzen_tasks, anyio_backend):
    if anyio_backend[1]:
        await qorzen_tasks.run(asyncio.sleep, 299)
"""

BY_PYTEST_ASYNCIO = """
import pytest

@pytest.mark.asyncio
async def test_sums(qorzen_tasks, qorzen_events):
    task_id = await qorzen_tasks.submit_task(sum, [1, 2])
    assert (await qorzen_tasks.wait_for_task(task_id)).result == 3
    assert "task/submitted" in qorzen_events.of(task_id)
"""

BY_NOBODY = """
def test_sums(qorzen_tasks):
    raise AssertionError("it has none")
"""


def test_the_fixtures_are_on_the_loop_of_anyio_where_that_runs_a_test(tmp_path: Path) -> None:
    write_files(tmp_path, {"conftest.py": CONFTEST, "test_them.py": BY_ANYIO})
    for options in ((), ("-p", "no:asyncio")):
        ran = run_pytest(tmp_path, *options)
        assert ran.returncode == 0, ran.stdout
        assert ran.stdout.count(" PASSED") == 4


def test_the_fixtures_need_no_auto_mode_of_pytest_asyncio(tmp_path: Path) -> None:
    write_files(tmp_path, {"conftest.py": CONFTEST, "test_them.py": BY_PYTEST_ASYNCIO})
    ran = run_pytest(tmp_path, "-o", "asyncio_mode=strict", "-p", "no:anyio")
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.count(" PASSED") == 1


def test_without_a_runner_of_async_tests_the_fixture_says_what_is_missing(tmp_path: Path) -> None:
    write_files(tmp_path, {"conftest.py": CONFTEST, "test_them.py": BY_NOBODY})
    ran = run_pytest(tmp_path, "-p", "no:asyncio")
    assert ran.returncode == 1
    assert (
        "qorzen_tasks is for async tests: install pytest-asyncio, or mark the test with anyio" in ran.stdout
    )
