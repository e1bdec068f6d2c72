"""An alert of the committed rules goes from the service through Prometheus to whom Alertmanager tells, and back.

Everything is the real thing but its patience: what waits for minutes in the committed files waits for moments here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.request import urlopen

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
