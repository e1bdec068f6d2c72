"""`make stack`: everything comes up, says where it is, and is gone after Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from dashboards import stack
from tests.acceptance.test_alerts_in_alertmanager import ALERTMANAGER_HINT
from tests.conftest import require
from tests.services.backends import PROMETHEUS_HINT, eventually, free_port, get_json, program
from tests.support import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


@pytest.mark.integration
@pytest.mark.slow
def test_the_stack_comes_up_watches_the_demo_and_ends_in_order(tree: Path) -> None:
    require("prometheus", PROMETHEUS_HINT)
    require("prometheus-alertmanager", ALERTMANAGER_HINT)
    service, prometheus, alertmanager = (free_port() for _ in range(3))
    ports = ("--port", service, "--prometheus-port", prometheus, "--alertmanager-port", alertmanager)
    command: tuple[str | Path, ...] = (
        sys.executable,
        "-m",
        "dashboards.stack",
        *map(str, ports),
        "--",
        "--pause",
        "3600",
        "--path",
        tree,
    )
    with program(*command, environment={"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}) as running:
        assert running.stdout is not None
        said = []
        for line in running.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        text = "".join(said)
        for port in (service, prometheus, alertmanager):
            assert f"http://127.0.0.1:{port}/" in text
        api = f"http://127.0.0.1:{prometheus}/api/v1"
        (target,) = eventually(
            lambda: [t for t in get_json(f"{api}/targets")["data"]["activeTargets"] if t["health"] == "up"]
        )
        assert target["labels"] == {"job": "qorzen", "instance": f"127.0.0.1:{service}"}
        groups = get_json(f"{api}/rules")["data"]["groups"]
        assert {group["name"] for group in groups} == {"qorzen-objectives", "qorzen-alerts"}
        (known,) = eventually(lambda: get_json(f"{api}/alertmanagers")["data"]["activeAlertmanagers"])
        assert known["url"] == f"http://127.0.0.1:{alertmanager}/api/v2/alerts"
        running.send_signal(signal.SIGINT)
        assert running.stdout.read().split() == ["stopping", "…"]
        assert running.wait(PATIENCE_SECONDS) == 0
    for port in (service, prometheus, alertmanager):
        assert not stack.answers(f"http://127.0.0.1:{port}/")
    folder = Path(text.partition("what they write")[2].split()[0])
    assert not folder.exists()


def test_a_missing_program_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = CliRunner().invoke(stack.main)
    assert done.exit_code == 1
    assert "apt-get install --no-install-recommends prometheus prometheus-alertmanager" in done.stderr


def test_a_program_that_ends_at_once_is_shown_with_the_end_of_its_log(tmp_path: Path) -> None:
    broken = stack.Program("broken", ["sh", "-c", "echo it is Monday; exit 3"], "http://127.0.0.1:1/")
    with (
        pytest.raises(stack.StackError, match=r"broken ended with status 3:\n  it is Monday"),
        stack.running(broken, tmp_path, threading.Event()),
    ):
        pass


def test_a_program_is_ended_also_when_stopping_is_asked_for_while_it_starts(tmp_path: Path) -> None:
    asked = threading.Event()
    asked.set()
    slow = stack.Program("slow", ["sleep", "60"], "http://127.0.0.1:1/")
    with stack.running(slow, tmp_path, asked) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM


def test_what_prometheus_reads_is_linked_and_the_token_is_for_its_owner_alone(tmp_path: Path) -> None:
    configuration = stack.lay_out(
        tmp_path, service="a:1", alertmanager="b:2", token="a-token-of-many-characters"
    )
    assert configuration.resolve() == stack.PROVISIONING / "prometheus" / "prometheus.yml"
    assert (tmp_path / "rules" / "qorzen.yml").exists()
    token = tmp_path / "token" / "token"
    assert token.stat().st_mode & 0o077 == 0
    promtool = require("promtool", PROMETHEUS_HINT)
    done = subprocess.run([promtool, "check", "config", configuration], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
