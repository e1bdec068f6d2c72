"""`status` and `health`: how a running service is."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click

from qorzen_obs.cli.options import client_options, give_json, json_option, make_client, refusals_shown
from qorzen_obs.cli.texts import number, printable, seconds
from qorzen_obs.client import Health, Status


@click.command("status")
@json_option
@client_options
def status_command(url: str, token_file: Path | None, as_json: bool) -> None:
    """Show what a running service does: state, counts, queue, slots, engines, settings."""
    client = make_client(url, token_file)
    with refusals_shown():
        if as_json:
            return give_json(client.document("/status"))
        status = client.status()
    click.echo("\n".join(_describe(status)))
    return None


def _describe(status: Status) -> Iterator[str]:
    version = status.versions.get("qorzen_obs", "")
    yield printable(f"{status.state}  qorzen_obs {version}, Python {status.versions.get('python', '')}")
    tasks, queue = status.tasks, status.queue
    yield _line("tasks", f"{number(tasks.total)} accepted, {number(tasks.rejected)} refused")
    yield _line("", _counted(tasks.by_status))
    yield _line("category", _counted(tasks.by_category))
    yield _line("priority", _counted(tasks.by_priority))
    scheduled = f", {number(queue.scheduled)} of them for later" if queue.scheduled else ""
    yield _line(
        "queue", f"{number(queue.depth + queue.scheduled)} of {number(queue.limit)} places{scheduled}"
    )
    if queue.depth and queue.oldest_pending_age_seconds is not None:
        yield _line("", f"the oldest waits for {seconds(queue.oldest_pending_age_seconds)}")
    if queue.paused:
        yield _line("paused", ", ".join(queue.paused))
    for index, (engine, slots) in enumerate(status.slots.items()):
        more = [f"{slots.lent} lent"] * bool(slots.lent) + [f"{slots.abandoned} abandoned"] * bool(
            slots.abandoned
        )
        yield _line("" if index else "slots", ", ".join([f"{engine:<9}{slots.busy} of {slots.limit}", *more]))
    for engine, facts in status.engines.items():
        yield _line(engine, _facts(facts))
    yield _line("settings", _facts(status.config))
    yield _line("telemetry", _facts(status.telemetry))
    yield _line("history", _facts(status.history))


def _counted(counts: dict[str, int]) -> str:
    return "  ".join(f"{name} {number(count)}" for name, count in counts.items())


def _facts(facts: dict[str, Any]) -> str:
    """Return the plain values and lists of numbers; what else is nested is for --json."""
    return "  ".join(f"{name} {text}" for name, value in facts.items() if (text := _plain(value)))


def _plain(value: object) -> str:
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return " ".join(map(str, value))
    return str(value) if isinstance(value, str | int | float) else ""


def _line(label: str, text: str) -> str:
    return printable(f"  {label:<11}{text}")


@click.command("health")
@json_option
@client_options
def health_command(url: str, token_file: Path | None, as_json: bool) -> None:
    """Show whether a running service is healthy, and if not, what is wrong.

    For containers and scripts: the exit status is 0 if the service works, even with warnings. It is 1 if the service
    fails or does not answer.
    """
    client = make_client(url, token_file)
    with refusals_shown():
        document = client.document("/health", also=(HTTPStatus.SERVICE_UNAVAILABLE,))
        health = client.read(document, Health)
    if as_json:
        give_json(document)
    else:
        click.echo("\n".join(_describe_health(health)))
    raise SystemExit(1 if health.status == "fail" else 0)


def _describe_health(health: Health) -> Iterator[str]:
    yield health.status
    for name, finding in health.problems():
        yield printable(f"  {finding.status}  {name}: {finding.output or 'no reason given'}")
