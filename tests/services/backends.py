"""Programs started for a test and ended with it, on 127.0.0.1: the demo, Prometheus, a collector."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from tests.conftest import require
from tests.support import PATIENCE_SECONDS

T = TypeVar("T")

PROMETHEUS_HINT = "apt-get install prometheus"


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get_json(url: str) -> Any:
    """GET `url` and return its JSON."""
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)


def eventually(check: Callable[[], T | None], *, timeout_seconds: float = PATIENCE_SECONDS) -> T:
    """Return the first true value of `check`, which may fail to connect: other processes set the pace."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            value = check()
        except (urllib.error.URLError, ConnectionError) as error:
            value, problem = None, repr(error)
        else:
            problem = f"it says {value!r}"
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_seconds:g} s; {problem}"
        time.sleep(0.05)


@contextmanager
def program(
    *command: str | Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a program with its standard output on a pipe, and end it with the block."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


@contextmanager
def demo_after_one_round(
    tree: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Any]]:
    """Run the demo over `tree` until its first round is done; give its address and the round's summary."""
    port = free_port()
    command = (sys.executable, "-m", "qorzen_obs", "demo", "--json", "--pause", "3600")
    with program(*command, "--path", tree, "--port", str(port), environment=environment) as demo:
        assert demo.stdout is not None
        line = demo.stdout.readline()
        assert line, "the demo ended without a summary"
        yield f"http://127.0.0.1:{port}", json.loads(line)


@contextmanager
def prometheus(
    target: str, folder: Path, rules: Mapping[str, Any] | None = None, *, every: str = "200ms"
) -> Iterator[str]:
    """Run a Prometheus that scrapes `target` (host:port) so often, with these rules; give its address."""
    binary = require("prometheus", PROMETHEUS_HINT)
    configuration, rule_file = folder / "prometheus.yml", folder / "rules.json"
    rule_file.write_text(json.dumps(rules or {}))  # JSON is YAML
    configuration.write_text(
        f"global: {{scrape_interval: {every}, scrape_timeout: {every}}}\n"
        f"rule_files: ['{rule_file}']\n"
        f"scrape_configs: [{{job_name: demo, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    address = f"127.0.0.1:{free_port()}"
    options = (
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
    )
    with program(binary, *options):
        yield f"http://{address}"


def query(prometheus_url: str, expression: str) -> float | None:
    """Return the value of an instant query with one result; None while there is none."""
    encoded = urllib.parse.urlencode({"query": expression})
    result = get_json(f"{prometheus_url}/api/v1/query?{encoded}")["data"]["result"]
    return float(result[0]["value"][1]) if result else None


@contextmanager
def collector(forward_to: str, *, protocol: Literal["http", "grpc"] = "http") -> Iterator[str]:
    """Run rotel, an OpenTelemetry collector, in front of another receiver; give its endpoint for `protocol`."""
    http, grpc = free_port(), free_port()
    package = importlib.util.find_spec("rotel")
    assert package is not None
    assert package.origin is not None
    agent = Path(package.origin).parent / "rotel-agent"
    options = (
        f"--otlp-http-endpoint=127.0.0.1:{http}",
        f"--otlp-grpc-endpoint=127.0.0.1:{grpc}",
        "--exporter=otlp",
        f"--otlp-exporter-endpoint={forward_to}",
        "--otlp-exporter-protocol=http",
    )
    libraries = {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}  # it links this Python's library
    with program(agent, "start", *options, environment=libraries):
        port = {"http": http, "grpc": grpc}[protocol]
        eventually(lambda: _listens(port))
        yield f"http://127.0.0.1:{port}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
