"""An alert of the committed rules goes from the service through Prometheus to whom Alertmanager tells, and back.

What one cause sets off arrives as one alert.

Everything is the real thing but its patience: what waits for minutes in the committed files waits for moments here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml

from dashboards import rules
from dashboards.stack import PROVISIONING, alertmanager_command, lay_out, prometheus_command
from qorzen_obs.monitoring import Site
from tests.conftest import require
from tests.services.backends import PROMETHEUS_HINT, eventually, free_port, get_json, program, query
from tests.services.http_server import give, http_server
from tests.support import PATIENCE_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ALERTMANAGER_HINT = "apt-get install --no-install-recommends prometheus-alertmanager"
TOKEN = "a-token-of-many-characters"
ALERT = "QorzenServiceDown"


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Where Alertmanager tells somebody; give its address and what it was told, an alert each."""
    told: list[dict[str, Any]] = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        told.extend(json.loads(body)["alerts"])
        give(handler, 200)

    with http_server(answer) as url:
        yield f"{url}/", told


def hurry_prometheus(folder: Path) -> None:
    """Put copies in place of the links: the same rules and targets, looked at all the time."""
    configuration = yaml.safe_load((folder / "prometheus.yml").read_text())
    # Not below a second: on a busy machine a scrape that is late would be a service that is down.
    configuration["global"].update(scrape_interval="1s", scrape_timeout="1s", evaluation_interval="200ms")
    configuration["scrape_configs"][0]["scrape_interval"] = "1s"
    (folder / "prometheus.yml").unlink()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    hurried = rules.groups(Site())
    for group in hurried["groups"]:
        group["interval"] = "200ms"
        for rule in group["rules"]:
            if rule.get("alert") == ALERT:
                rule["for"] = "0s"
    (folder / "rules").unlink()
    (folder / "rules").mkdir()
    (folder / "rules" / "qorzen.yml").write_text(yaml.safe_dump(hurried))


def hurried_alertmanager(folder: Path, tell: str) -> Path:
    configuration = yaml.safe_load((PROVISIONING / "alertmanager" / "alertmanager.yml").read_text())
    configuration["route"].update(group_wait="0s", group_interval="200ms")
    configuration["route"]["routes"][0]["group_wait"] = "0s"
    configuration["receivers"][0]["webhook_configs"] = [{"url": tell, "send_resolved": True}]
    file = folder / "alertmanager.yml"
    file.write_text(yaml.safe_dump(configuration))
    return file


def test_a_service_that_goes_down_is_told_of_and_so_is_its_return(tree: Path, tmp_path: Path) -> None:
    prometheus = require("prometheus", PROMETHEUS_HINT)
    alertmanager = require("prometheus-alertmanager", ALERTMANAGER_HINT)
    service, server, manager = (f"127.0.0.1:{free_port()}" for _ in range(3))
    configuration = lay_out(tmp_path, service=service, alertmanager=manager, token=TOKEN)
    hurry_prometheus(tmp_path)
    environment = {"QORZEN_SERVER__TOKEN_FILE": str(tmp_path / "token" / "token")}
    port = service.rpartition(":")[2]
    command = (
        sys.executable,
        "-m",
        "qorzen_obs",
        "demo",
        "--json",
        "--pause",
        "3600",
        "--path",
        tree,
        "--port",
        port,
    )

    def demo() -> AbstractContextManager[Popen[str]]:
        return program(*command, environment=environment)

    with (
        webhook() as (url, told),
        program(*alertmanager_command(alertmanager, tmp_path, hurried_alertmanager(tmp_path, url), manager)),
        ExitStack() as watching,
    ):
        with demo():
            eventually(lambda: urlopen(f"http://{service}/readyz", timeout=PATIENCE_SECONDS).close() is None)
            watching.enter_context(program(*prometheus_command(prometheus, tmp_path, configuration, server)))
            eventually(lambda: query(f"http://{server}", 'up{job="qorzen"}'))  # with the token, or it were 0
            assert told == []
        firing = eventually(lambda: [alert for alert in told if alert["status"] == "firing"])[0]
        known = get_json(f"http://{manager}/api/v2/alerts")
        with demo():
            resolved = eventually(lambda: [alert for alert in told if alert["status"] == "resolved"])[0]

    assert [alert["labels"]["alertname"] for alert in known] == [ALERT]
    assert firing["labels"] == resolved["labels"]
    assert firing["labels"] == {
        "alertname": ALERT,
        "severity": "critical",
        "job": "qorzen",
        "instance": service,
    }
    assert firing["annotations"]["summary"] == f"{service} does not answer"
    assert firing["annotations"]["runbook_url"].endswith("#qorzenservicedown")
    assert firing["annotations"]["dashboard_url"].endswith(
        f"/d/qorzen-overview?var-job=qorzen&var-instance={service}"
    )


def fire(manager: str, names: Iterable[str], instance: str) -> None:
    """Have alerts of an instance fire; a name is followed by its severity."""
    alerts = [
        {"labels": {"alertname": name, "severity": severity, "job": "qorzen", "instance": instance}}
        for name, severity in (text.split() for text in names)
    ]
    headers = {"Content-Type": "application/json"}
    urlopen(Request(f"{manager}/api/v2/alerts", json.dumps(alerts).encode(), headers)).close()


def shown(manager: str, instance: str) -> set[str] | None:
    """Return the alerts of an instance that are not held back; None until Alertmanager has looked at all of them."""
    known = [a for a in get_json(f"{manager}/api/v2/alerts") if a["labels"]["instance"] == instance]
    if not known or any(alert["status"]["state"] == "unprocessed" for alert in known):
        return None
    return {
        f"{alert['labels']['alertname']} {alert['labels']['severity']}"
        for alert in known
        if alert["status"]["state"] == "active"
    }


WAITING = ("QorzenOldestPending warning", "QorzenEngineSaturated warning")
#: By cause: what fires, of which the first is what somebody is told.
CAUSES = {
    "the service is gone": (
        "QorzenServiceDown critical",
        "QorzenServiceNotReady critical",
        "QorzenQueueAlmostFull critical",
        "QorzenLoopBlocked warning",
    ),
    "the loop is stuck": (
        "QorzenServiceNotLive critical",
        "QorzenServiceNotReady critical",
        "QorzenLoopBlocked warning",
        "QorzenQueueStalled warning",
        *WAITING,
    ),
    "tasks hang": ("QorzenQueueStalled warning", *WAITING),
    "too few slots": ("QorzenEngineSaturated warning", "QorzenOldestPending warning"),
    "the queue is full": ("QorzenQueueAlmostFull critical", "QorzenTasksRejected warning"),
    "the queue stays full": (
        "QorzenTasksRejected critical",
        "QorzenTasksRejected warning",
        "QorzenQueueAlmostFull critical",
    ),
    "the disk is full": (
        "QorzenHistoryNotDurable critical",
        "QorzenServiceNotReady critical",
        "QorzenTasksRejected critical",
        "QorzenTasksRejected warning",
    ),
    "the budget burns": ("QorzenCompletionBudgetBurn critical", "QorzenCompletionBudgetBurn warning"),
}


def test_one_cause_is_one_alert(tmp_path: Path) -> None:
    alertmanager = require("prometheus-alertmanager", ALERTMANAGER_HINT)
    address = f"127.0.0.1:{free_port()}"
    manager = f"http://{address}"
    committed = PROVISIONING / "alertmanager" / "alertmanager.yml"
    with program(*alertmanager_command(alertmanager, tmp_path, committed, address)):
        eventually(lambda: urlopen(f"{manager}/-/ready", timeout=PATIENCE_SECONDS).close() is None)
        for number, names in enumerate(CAUSES.values()):
            fire(manager, names, f"{number}:1")
        fire(manager, WAITING, "elsewhere:1")
        for number, (cause, names) in enumerate(CAUSES.items()):
            # Alertmanager knows an alert a moment before it knows what that holds back.
            eventually(lambda number=number, names=names: shown(manager, f"{number}:1") == {names[0]})  # type: ignore[misc]  # no type for a default
            assert shown(manager, f"{number}:1") == {names[0]}, cause
        assert shown(manager, "elsewhere:1") == {"QorzenEngineSaturated warning"}, "of its own causes"


def test_each_alert_that_is_held_back_or_holds_back_exists() -> None:
    known = {f"{alert.name} {alert.severity}" for alert in rules.alerts(Site())}
    assert {name for names in CAUSES.values() for name in names} <= known
    configuration = yaml.safe_load((PROVISIONING / "alertmanager" / "alertmanager.yml").read_text())
    named = set(re.findall(r"Qorzen\w+", str(configuration["inhibit_rules"])))
    assert named <= {alert.name for alert in rules.alerts(Site())}
