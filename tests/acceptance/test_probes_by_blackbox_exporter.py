"""The probes as Kubernetes would see them: Prometheus's blackbox exporter asks an idle, a busy, a draining and a wedged
service, with the kubelet's rule that any status from 200 to 399 is well.
"""

from __future__ import annotations

import signal
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import require
from tests.services.backends import eventually, free_port, program
from tests.services.program import Running, write_files
from tests.support import PATIENCE_SECONDS

pytestmark = pytest.mark.integration

BLACKBOX_HINT = "apt-get install prometheus-blackbox-exporter"
KUBELET = """
modules:
  kubelet:
    prober: http
    timeout: 5s
    http:
      preferred_ip_protocol: ip4
      valid_status_codes: [{statuses}]
"""
IDLE = """
from qorzen_obs import health_check, task

@task(at_start=True)
async def short():
    print("begun", flush=True)

@health_check(critical=True)
async def database():
    pass
"""
BUSY = """
import math, threading
from qorzen_obs import current_task, task

@task(timeout=math.inf)
def slow():
    threading.Event().wait()

@task(at_start=True)
async def first():
    for _ in range(200):
        await current_task().manager.submit_task(slow)
    print("begun", flush=True)
"""
DRAINING = """
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
DOWN = """
from qorzen_obs import health_check, task

@task(at_start=True)
async def short():
    print("begun", flush=True)

@health_check(critical=True)
def database():
    raise ConnectionError("no such host")
"""
MODULES = {"idle.py": IDLE, "busy.py": BUSY, "draining.py": DRAINING, "wedged.py": WEDGED, "down.py": DOWN}
PROBES = ("livez", "readyz", "startupz")


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A blackbox exporter; gives its address."""
    binary = require("prometheus-blackbox-exporter", BLACKBOX_HINT)
    configuration = tmp_path_factory.mktemp("blackbox") / "blackbox.yml"
    configuration.write_text(KUBELET.format(statuses=", ".join(map(str, range(200, 400)))))
    address = f"127.0.0.1:{free_port()}"
    with program(binary, f"--config.file={configuration}", f"--web.listen-address={address}"):
        url = f"http://{address}"
        eventually(lambda: urllib.request.urlopen(f"{url}/-/healthy", timeout=PATIENCE_SECONDS).read())
        yield url


def probe(exporter: str, target: str) -> tuple[bool, int]:
    """Whether a probe succeeds, by the exporter, and the status that it got."""
    query = urllib.parse.urlencode({"module": "kubelet", "target": target})
    with urllib.request.urlopen(f"{exporter}/probe?{query}", timeout=PATIENCE_SECONDS) as answer:
        text = answer.read().decode()
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return found["probe_success"] == 1, int(found["probe_http_status_code"])


@pytest.mark.parametrize(
    ("state", "statuses"),
    [
        ("idle", (200, 200, 200)),
        ("busy", (200, 200, 200)),  # slow tasks in every slot, and a queue of them
        ("draining", (200, 503, 200)),
        ("wedged", (503, 503, 200)),
        ("down", (200, 503, 200)),
    ],
)
def test_each_state_is_seen_by_the_probes_that_it_concerns(
    exporter: str, state: str, statuses: tuple[int, ...], tmp_path: Path
) -> None:
    variables = {"QORZEN_HEALTH__LOOP_BLOCKED_SECONDS": "0.5"} if state == "wedged" else {}
    folder = write_files(tmp_path, MODULES)
    with Running("serve", state, cwd=folder, variables=variables) as service:
        url = service.line("serves").split()[-1]
        service.line("begun")
        if state == "draining":
            service.signal(signal.SIGTERM)
        expected = [(status == 200, status) for status in statuses]
        eventually(lambda: [probe(exporter, url + name) for name in PROBES] == expected)


def test_a_service_that_is_gone_fails_every_probe(exporter: str) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/"
    assert [probe(exporter, nowhere + name) for name in PROBES] == [(False, 0)] * 3
