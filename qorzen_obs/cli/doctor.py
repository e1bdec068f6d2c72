"""`doctor`: what is set, reachable, exported and missing, on one screen."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from rich.table import Table
from rich.text import Text

from qorzen_obs.cli.collectors import connection_problem, named_collectors
from qorzen_obs.cli.options import client_options, give_json, json_option, make_client
from qorzen_obs.cli.output import open_console
from qorzen_obs.cli.texts import number, printable, seconds
from qorzen_obs.client import Client, ClientError, SettingsInForce, Status
from qorzen_obs.errors import SettingsError
from qorzen_obs.otel_variables import read_otel_environment
from qorzen_obs.settings import ENVIRONMENT_PREFIX, load_settings

_TIMEOUT_SECONDS: Final = 5.0
_SETTINGS_SHOWN: Final = 8
#: What an extra brings, by the module that tells whether it is installed, and what it is for.
_EXTRAS: Final = (
    ("otlp", "opentelemetry.exporter.otlp.proto.http", "export to a collector by HTTP"),
    ("otlp-grpc", "opentelemetry.exporter.otlp.proto.grpc", "export to a collector by gRPC"),
    ("speed", "uvloop", "a faster event loop"),
)


class Mark(Enum):
    """What a finding means."""

    OK = "ok"
    WARN = "warn"  #: somebody should look
    FAIL = "fail"  #: it does not work; exit status 1
    UNSET = "-"  #: not there, and nobody said that it has to be


class Finding(NamedTuple):
    """One line."""

    section: str
    mark: Mark
    text: str


_STYLES: Final = {Mark.OK: "green", Mark.WARN: "yellow", Mark.FAIL: "bold red", Mark.UNSET: "dim"}


@click.command("doctor")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also check this settings file before a service uses it.",
)
@json_option
@client_options
def doctor_command(url: str, token_file: Path | None, config: Path | None, as_json: bool) -> None:
    """Show on one screen what is set, reachable, exported and missing.

    doctor queries the service at --url and reads the variables of this terminal. If the service does not answer, it
    shows what it can find out without it. The exit status is 1 if something does not work.
    """
    client = make_client(url, token_file, variables_checked=False, timeout_seconds=_TIMEOUT_SECONDS)
    findings = list(examine(client, os.environ, config))
    if as_json:
        give_json([{**one._asdict(), "mark": one.mark.value} for one in findings])
    else:
        _print(findings)
    raise SystemExit(any(one.mark is Mark.FAIL for one in findings))


def examine(client: Client, environment: Mapping[str, str], config: Path | None = None) -> Iterator[Finding]:
    """Yield everything that there is to say, section by section."""
    status: Status | None = None
    begun = time.monotonic()
    try:
        status = client.status()
    except ClientError as error:
        yield Finding("service", Mark.FAIL, str(error))
    else:
        took = time.monotonic() - begun
        yield from _service(client, status, took)
    yield from _set(client if status else None, environment, config)
    yield from _reachable(client, environment)
    if status is not None:
        yield from _exported(status.telemetry)
    yield from _missing(status)


# ---------------------------------------------------------------------- sections


def _service(client: Client, status: Status, took: float) -> Iterator[Finding]:
    versions = ", ".join(f"{name} {version}" for name, version in status.versions.items())
    mark = Mark.OK if status.state == "ready" else Mark.WARN
    yield Finding("service", mark, f"{client.url} is {status.state}; {versions}; answers in {seconds(took)}")
    try:
        problems = list(client.health().problems())
    except ClientError as error:
        yield Finding("service", Mark.FAIL, str(error))
        return
    for name, finding in problems:
        yield Finding("service", Mark(finding.status), f"{name}: {finding.output or 'no reason given'}")
    for engine, facts in status.engines.items():
        if facts.get("degraded"):
            yield Finding("service", Mark.WARN, f"engine {engine}: {facts['degraded']}")


def _set(client: Client | None, environment: Mapping[str, str], config: Path | None) -> Iterator[Finding]:
    changed: list[str] = []
    if client is not None:
        try:
            sections = client.get("/api/settings", SettingsInForce).sections
        except ClientError as error:
            yield Finding("set", Mark.FAIL, str(error))
        else:
            changed = [
                f"{section}.{name} = {setting.value}"
                for section, settings in sections.items()
                for name, setting in settings.items()
                if not setting.default
            ]
            yield from (Finding("set", Mark.OK, text) for text in changed[:_SETTINGS_SHOWN])
            if len(changed) > _SETTINGS_SHOWN:
                more = len(changed) - _SETTINGS_SHOWN
                yield Finding("set", Mark.OK, f"and {more} more; /api/settings has all of them")
            if not changed:
                yield Finding("set", Mark.UNSET, "every setting of the service has its default")
    yield from _set_here(environment, config)


def _set_here(environment: Mapping[str, str], config: Path | None) -> Iterator[Finding]:
    """Yield what is wrong with the variables of this terminal, by which a service that starts here would go."""
    names = [
        name
        for name in sorted(environment)
        if name.startswith((ENVIRONMENT_PREFIX, "OTEL_")) and environment[name]
    ]
    if names:
        yield Finding("set", Mark.OK, f"in this terminal: {', '.join(names)}")
    else:
        yield Finding("set", Mark.UNSET, "no QORZEN_* or OTEL_* variable in this terminal")
    try:
        load_settings(config, environment)
    except SettingsError as error:
        yield Finding("set", Mark.FAIL, f"no service starts with the settings here: {error}")
    else:
        if config is not None:
            yield Finding("set", Mark.OK, f"{config} holds settings that a service can start with")
    for warning in read_otel_environment(environment).warnings:
        yield Finding("set", Mark.WARN, f"{warning.variable} {warning.problem}: {warning.instead}")


def _reachable(client: Client, environment: Mapping[str, str]) -> Iterator[Finding]:
    for path in ("/readyz", "/metrics"):
        try:
            answer = client.text(path, also=(HTTPStatus.SERVICE_UNAVAILABLE,))
        except ClientError as error:
            if error.status is None:
                return  # the service does not answer at all, which was said
            yield Finding("reachable", Mark.FAIL, f"{path}: {error}")
            continue
        if path == "/metrics":
            samples = sum(1 for line in answer.splitlines() if line and not line.startswith("#"))
            yield Finding("reachable", Mark.OK, f"{path}, for Prometheus: {number(samples)} samples")
        else:
            well = answer.strip() == "ok"
            yield Finding(
                "reachable", Mark.OK if well else Mark.WARN, f"{path}: {'ok' if well else 'not ready'}"
            )
    for collector in named_collectors(environment):
        problem = connection_problem(collector)
        mark, how = (Mark.OK, "takes connections") if problem is None else (Mark.FAIL, problem)
        yield Finding("reachable", mark, f"collector {collector} from here: {how}")


def _exported(telemetry: Mapping[str, Any]) -> Iterator[Finding]:
    spans = telemetry.get("spans") or {}
    exporters = telemetry.get("exporters") or []
    lost = sum(spans.get(name) or 0 for name in ("export_failed", "dropped_queue_full", "dropped_shutdown"))
    if exporters:
        account = {
            "exported": spans.get("exported"),
            "lost": lost,
            "last_export_at": telemetry.get("last_export_at"),
        }
        yield _account(f"spans by {', '.join(map(str, exporters))}", account)
    for what, name in (("log lines", "log_export"), ("metrics", "metric_export")):
        if telemetry.get(name):
            yield _account(what, telemetry[name])
    for trouble in telemetry.get("trouble") or ():
        yield Finding("exported", Mark.WARN, str(trouble))
    for variable in telemetry.get("variables") or ():
        text = "{variable} {problem}: {instead}".format_map(variable)
        yield Finding("exported", Mark.WARN, f"the service's {text}")


def _account(what: str, account: Mapping[str, Any]) -> Finding:
    exported, lost, last = (
        account.get("exported") or 0,
        account.get("lost") or 0,
        account.get("last_export_at"),
    )
    ago = "nothing yet" if last is None else f"the last {seconds(_ago(last))} ago"
    mark = Mark.WARN if lost else Mark.OK
    return Finding("exported", mark, f"{what}: {number(exported)} sent, {number(lost)} lost, {ago}")


def _ago(moment: str) -> float:
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


def _missing(status: Status | None) -> Iterator[Finding]:
    for extra, module, purpose in _EXTRAS:
        if not _is_installed(module):
            text = f"{purpose}: pip install 'qorzen-obs[{extra}]' (looked for in this environment)"
            yield Finding("missing", Mark.UNSET, text)
    if status is None:
        return
    telemetry = status.telemetry
    if not telemetry.get("exporters"):
        yield Finding("missing", Mark.UNSET, "spans stay in memory; OTEL_EXPORTER_OTLP_ENDPOINT sends them")
    if telemetry.get("log_export", True) is None:
        yield Finding(
            "missing", Mark.UNSET, "log lines go to standard error; OTEL_LOGS_EXPORTER=otlp sends them too"
        )
    if telemetry.get("metric_export", True) is None:
        yield Finding("missing", Mark.UNSET, "metrics are scraped; OTEL_METRICS_EXPORTER=otlp sends them too")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


# ---------------------------------------------------------------------- on the terminal


def _print(findings: list[Finding]) -> None:
    console = open_console()
    table = Table.grid(padding=(0, 2, 0, 0))
    section = ""
    for finding in findings:
        label = finding.section if finding.section != section else ""
        section = finding.section
        mark, text = finding.mark, printable(finding.text)
        table.add_row(Text(label, "bold"), Text(mark.value, _STYLES[mark]), Text(text, overflow="fold"))
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
