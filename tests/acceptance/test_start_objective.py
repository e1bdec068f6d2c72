"""The start objective of a service in which tasks die waiting, by promtool and by a real Prometheus."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from dashboards import budgets, rules
from qorzen_obs.monitoring import Site
from tests.conftest import require
from tests.panels import substitute
from tests.services.backends import PROMETHEUS_HINT, eventually, get_json, prometheus, query
from tests.services.program import Running, write_files
from tests.support import PATIENCE_SECONDS

pytestmark = pytest.mark.integration

#: One task holds the only slot. What has a deadline passes it in the queue.
SATURATED = """
import asyncio, math
from qorzen_obs import task

@task(name="hold", category="io", timeout=math.inf)
async def hold() -> None:
    await asyncio.Event().wait()

@task(name="impatient", category="io", priority="low", deadline=0.2)
async def impatient() -> None:
    pass

@task(name="patient", category="io", priority="low")
async def patient() -> None:
    pass
"""
SETTINGS = {"QORZEN_TASKS__MAX_CONCURRENT_TASKS": "1", "QORZEN_SERVER__ALLOW_SUBMIT": "true"}
DIE, CANCELLED = 20, 5
BAD = f'{rules.bad_share("5m")}{{category="io", slo="started"}}'


@dataclass(frozen=True)
class Saturated:
    """A service of which the only slot can be taken."""

    url: str

    def submit(self, name: str, times: int = 1) -> list[str]:
        """Submit a task so many times; return the ids."""
        body = json.dumps({"task": name}).encode()
        return [self._post("/api/tasks", body)["task_id"] for _ in range(times)]

    def cancel(self, task_id: str) -> None:
        self._post(f"/api/tasks/{task_id}/cancel", b"{}")

    def status_of(self, task_id: str) -> str:
        status: str = get_json(f"{self.url}/api/tasks/{task_id}")["status"]
        return status

    def saturate(self) -> str:
        """Let one task run, some die in the queue and some be cancelled there; return the id of the first."""
        (holder,) = self.submit("hold")
        eventually(lambda: self.status_of(holder) == "running")
        dying, unwanted = self.submit("impatient", DIE), self.submit("patient", CANCELLED)
        for task_id in unwanted:
            self.cancel(task_id)
        for task_id in dying:
            eventually(lambda task_id=task_id: self.status_of(task_id) == "failed")  # type: ignore[misc]  # no type for a default
        return holder

    def metrics(self) -> dict[str, float]:
        """Return what it shows, by series as PromQL writes it."""
        text = urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE_SECONDS).read().decode()
        return {
            f"{sample.name}{{{', '.join(f'{name}={json.dumps(value)}' for name, value in sample.labels.items())}}}": (
                sample.value
            )
            for family in parse(text)
            for sample in family.samples
        }

    def _post(self, path: str, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)


@contextmanager
def saturated_service(folder: Path) -> Iterator[Saturated]:
    """Run the service; nothing is submitted."""
    write_files(folder, {"saturated.py": SATURATED})
    with Running("serve", "saturated", cwd=folder, variables=SETTINGS) as program:
        yield Saturated(program.line("serves").rpartition(" ")[2].rstrip("/"))


def by_promtool(before: dict[str, float], after: dict[str, float], folder: Path) -> float:
    """Return the share of bad starts that the committed rules record of two scrapes."""
    series = [
        {
            "series": name.replace("{", '{job="qorzen", instance="a:1"' + (", " if name[-2] != "{" else "")),
            "values": f"{before.get(name, 0)}x1 {value}x5",
        }
        for name, value in after.items()
        if name.startswith(("qorzen_task", "qorzen_tasks")) and value < float("inf")
    ]
    expected = {"expr": BAD, "eval_time": "5m", "exp_samples": []}
    tests = {
        "rule_files": [str(rules.FILE)],
        "evaluation_interval": "30s",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [expected]}],
    }
    file = folder / "start.yml"
    file.write_text(yaml.safe_dump(tests))
    command = [require("promtool", PROMETHEUS_HINT), "test", "rules", str(file)]
    # It says what it computed where that is not expected: here it never is.
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    got = [line for line in (said.stdout + said.stderr).splitlines() if "got:" in line]
    assert got, said.stdout + said.stderr
    return float(got[0].rpartition(" ")[2].strip('"'))


def test_promtool_counts_tasks_that_die_waiting_and_no_cancelled_ones(tmp_path: Path) -> None:
    with saturated_service(tmp_path) as service:
        before = service.metrics()
        holder = service.saturate()
        after = service.metrics()
        assert by_promtool(before, after, tmp_path) == pytest.approx(DIE / (DIE + 1))
        service.cancel(holder)
        eventually(lambda: service.status_of(holder) == "cancelled")
        # Now nothing has started that was not cancelled.
        assert by_promtool(before, service.metrics(), tmp_path) == pytest.approx(1)


@pytest.mark.slow
def test_a_real_prometheus_sees_them_while_the_service_is_saturated(tmp_path: Path) -> None:
    hurried = rules.groups(Site())
    for group in hurried["groups"]:
        group["interval"] = "200ms"
    with saturated_service(tmp_path) as service:
        target = service.url.removeprefix("http://")
        with prometheus(target, tmp_path, hurried) as server:
            eventually(lambda: query(server, "sum(qorzen_task_queue_wait_seconds_count)") is not None)
            holder = service.saturate()
            late = eventually(lambda: _settled(server, BAD, DIE / (DIE + 1)))
            assert late == pytest.approx(DIE / (DIE + 1), rel=0.02)
            values = dict.fromkeys(("job", "instance", "category", "priority"), ".+") | {"__range": "5m"}
            in_time = query(server, substitute(budgets.started(), values))
            assert in_time == pytest.approx(1 - late, abs=0.02), (
                "a category where nothing was due is not shown"
            )
            service.cancel(holder)
            eventually(lambda: _settled(server, BAD, 1.0))


def _settled(server: str, expression: str, value: float) -> float | None:
    """Return what an expression is once it is about `value`: scrapes come between two tasks."""
    found = query(server, expression)
    return found if found is not None and abs(found - value) < 0.02 else None
