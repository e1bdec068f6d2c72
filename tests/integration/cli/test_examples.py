"""Every program in examples/ runs and says what it should."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.program import ROOT, Running, environment
from tests.support import PATIENCE_SECONDS

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
OUTPUT = {
    "embedded": r"499999500000",
    "embedded_http": r"serving http://127\.0\.0\.1:\d+/\ntasks \{.*'running': 1, 'completed': 1,.*\}",
    "mounted": r"202 /ops/api/tasks\n5",
    "own_metrics": r"shop_orders_total 1\.0\nshop_open_carts 3\.0",
}
#: Those that serve; tests/integration/hosts/test_example_services.py runs the web services.
SERVED = {"service_tasks", "aiohttp_service", "fastapi_service"}


def test_each_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES} == OUTPUT.keys() | SERVED


@pytest.mark.parametrize("name", OUTPUT)
def test_the_program_prints_its_result(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / f"{name}.py"],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert re.fullmatch(OUTPUT[name], done.stdout.strip())


def test_the_module_is_served(tmp_path: Path) -> None:
    with Running(
        "serve", "examples.service_tasks", cwd=tmp_path, variables={"PYTHONPATH": str(ROOT)}
    ) as service:
        told = [service.line().strip() for _ in range(4)][1:]
        service.signal(signal.SIGTERM)
        assert service.wait() == 0

    assert told == ["fingerprint", "opening, submitted at the start", "tidy_up"]
    ends = [line["status"] for line in service.log() if line["event"] == "task.finished"]
    assert ends == ["completed"] * len(ends)
