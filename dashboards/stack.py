"""The demo with Prometheus and Alertmanager on this machine, without containers: `make stack`.

Uses the system's own packages, the configuration and the rules of docker-compose.yml, and a folder that is gone
afterwards. Everything listens on 127.0.0.1 only.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

HERE: Final = Path(__file__).parent
PROVISIONING: Final = HERE / "provisioning"
READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 40.0
LOG_LINES_SHOWN: Final = 15

#: The names that a program goes by, and the package of Debian and Ubuntu that brings it.
PROMETHEUS: Final = (("prometheus",), "prometheus")
ALERTMANAGER: Final = (("prometheus-alertmanager", "alertmanager"), "prometheus-alertmanager")


@dataclass(frozen=True, slots=True)
class Program:
    """One program of the stack."""

    name: str
    command: Sequence[str | Path]
    ready: str  #: an address that answers 200 once it works


class StackError(click.ClickException):
    """A program is missing, does not start or has ended by itself."""


def find_programs() -> tuple[str, str]:
    """Return where Prometheus and Alertmanager are.

    Raises:
        StackError: one is missing; it names the command that brings what is.
    """
    found = [next(filter(None, map(shutil.which, names)), None) for names, _ in (PROMETHEUS, ALERTMANAGER)]
    prometheus, alertmanager = found
    if prometheus is None or alertmanager is None:
        missing = [
            package
            for path, (_, package) in zip(found, (PROMETHEUS, ALERTMANAGER), strict=True)
            if path is None
        ]
        raise StackError(
            f"{' and '.join(missing)} cannot be found. On Debian and Ubuntu this brings it, and starts it as a "
            f"service, which takes its port:\n  sudo apt-get install --no-install-recommends {' '.join(missing)}\n"
            f"  sudo systemctl disable --now {' '.join(missing)}"
        )
    return prometheus, alertmanager


def lay_out(folder: Path, *, service: str, alertmanager: str, token: str) -> Path:
    """Put what Prometheus reads below `folder`, as its container has it; return its configuration file.

    The configuration and the rules are links, so an edit is there after a reload. `service` and `alertmanager` are
    host:port.
    """
    provisioning = PROVISIONING / "prometheus"
    (folder / "prometheus.yml").symlink_to(provisioning / "prometheus.yml")
    (folder / "rules").symlink_to(HERE / "rules")
    targets = folder / "targets"
    targets.mkdir()
    for name, target in (("qorzen", service), ("alertmanager", alertmanager)):
        (targets / f"{name}.yml").write_text(f"- targets: ['{target}']\n", encoding="utf-8")
    secret = folder / "token" / "token"
    secret.parent.mkdir(mode=0o700)
    secret.touch(mode=0o600)
    secret.write_text(f"{token}\n", encoding="utf-8")
    return folder / "prometheus.yml"


def prometheus_command(program: str, folder: Path, configuration: Path, listen: str) -> list[str]:
    """Return how Prometheus is started, with its data below `folder`."""
    return [
        program,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'prometheus-data'}",
        f"--web.listen-address={listen}",
        "--enable-feature=exemplar-storage",
    ]


def alertmanager_command(program: str, folder: Path, configuration: Path, listen: str) -> list[str]:
    """Return how Alertmanager is started, with its data below `folder`."""
    return [
        program,
        f"--config.file={configuration}",
        f"--storage.path={folder / 'alertmanager-data'}",
        f"--web.listen-address={listen}",
        "--cluster.listen-address=",  # one alone
    ]


@contextmanager
def running(program: Program, folder: Path, stop: threading.Event) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the end of the block; give it when it answers, or when `stop` is set before.

    Raises:
        StackError: it ended before it answered, or did not answer in time.
    """
    log = folder / f"{program.name}.log"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C in the terminal is for us alone, who stop the others in order.
        process = subprocess.Popen(
            [str(part) for part in program.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            for _ in range(int(READY_SECONDS / 0.1)):
                if process.poll() is not None:
                    raise StackError(f"{program.name} ended with status {process.returncode}:\n{_tail(log)}")
                if answers(program.ready) or stop.wait(0.1):
                    break
            else:
                raise StackError(f"{program.name} does not answer at {program.ready}:\n{_tail(log)}")
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@click.command()
@click.option("--port", default=8080, show_default=True, help="Of the service.")
@click.option("--prometheus-port", default=9090, show_default=True)
@click.option("--alertmanager-port", default=9093, show_default=True)
@click.argument("demo_options", nargs=-1, type=click.UNPROCESSED)
def main(port: int, prometheus_port: int, alertmanager_port: int, demo_options: tuple[str, ...]) -> None:
    """Start the demo, Prometheus and Alertmanager, and say which address shows what. Ctrl-C stops them.

    DEMO_OPTIONS, after a --, go to `qorzen-obs demo`.
    """
    prometheus, alertmanager = find_programs()
    service_at, prometheus_at, alertmanager_at = (
        f"127.0.0.1:{number}" for number in (port, prometheus_port, alertmanager_port)
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as parts:  # stops them in reverse
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="qorzen-stack-")))
        configuration = lay_out(
            folder, service=service_at, alertmanager=alertmanager_at, token=secrets.token_urlsafe(32)
        )
        programs = (
            Program(
                "demo",
                [sys.executable, "-m", "qorzen_obs", "demo", "--port", str(port), *demo_options],
                f"http://{service_at}/readyz",
            ),
            Program(
                "alertmanager",
                alertmanager_command(
                    alertmanager, folder, PROVISIONING / "alertmanager" / "alertmanager.yml", alertmanager_at
                ),
                f"http://{alertmanager_at}/-/ready",
            ),
            Program(
                "prometheus",
                prometheus_command(prometheus, folder, configuration, prometheus_at),
                f"http://{prometheus_at}/-/ready",
            ),
        )
        for program in programs:
            if answers(program.ready):
                raise StackError(
                    f"something answers at {program.ready} already; stop it or choose another port"
                )
        started = []
        for program in programs:
            click.echo(f"starting {program.name} …")
            started.append((program, parts.enter_context(running(program, folder, stop))))
            if stop.is_set():
                return
        click.echo(_map(service_at, prometheus_at, alertmanager_at, folder))
        while not stop.wait(0.5):
            for program, process in started:
                if process.poll() is not None:
                    log = _tail(folder / f"{program.name}.log")
                    raise StackError(f"{program.name} ended with status {process.returncode}:\n{log}")
        click.echo("stopping …")


def _map(service: str, prometheus: str, alertmanager: str, folder: Path) -> str:
    return f"""
  the live page              http://{service}/
  metrics, as scraped        http://{service}/metrics
  graphs of any metric       http://{prometheus}/graph?g0.expr=sum%20by%20(category%2C%20status)%20(qorzen_tasks)
  is it scraped              http://{prometheus}/targets
  objectives and alerts      http://{prometheus}/alerts
  what has fired             http://{alertmanager}/
  what they write            {folder}

Grafana is not among them: docs/operations.md says how to have the dashboards. Ctrl-C stops everything.
"""


def answers(url: str) -> bool:
    """Say whether something answers there, and well."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:])


if __name__ == "__main__":
    main()
