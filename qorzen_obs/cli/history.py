"""`history check` and `history export`: read the file of a durable history, also while a service writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from qorzen_obs.cli.options import give_json
from qorzen_obs.cli.texts import number, printable
from qorzen_obs.errors import HistoryError
from qorzen_obs.history.sqlite import check, export
from qorzen_obs.history.storage import StorageError

_FILE: Final = click.argument(
    "path", metavar="PATH", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


@click.group("history")
def history_command() -> None:
    """Check or export the file of a durable history.

    Both only read, and need no running service: the file may be in use meanwhile.
    """


@history_command.command("check")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check_command(path: Path, as_json: bool) -> None:
    """Check the integrity of a history file; show its versions, tasks and owners.

    Reads the whole file, which may take long. The exit status is 1 if the file is damaged or cannot be read.
    """
    with _problems_shown(path):
        findings = check(path)
    if as_json:
        give_json(findings)
    else:
        click.echo("\n".join(map(printable, _described(findings))))
    raise SystemExit(0 if findings["ok"] else 1)


@history_command.command("export")
@_FILE
def export_command(path: Path) -> None:
    """Print each stored task as a line of JSON, the oldest first.

    Times are Unix seconds. A task's result is not stored, so it is not printed.
    """
    with _problems_shown(path):
        for document in export(path):
            click.echo(json.dumps(document))


@contextmanager
def _problems_shown(path: Path) -> Iterator[None]:
    try:
        yield
    except (StorageError, HistoryError) as error:
        raise click.ClickException(printable(f"{path}: {error}")) from error


def _described(findings: dict[str, Any]) -> Iterator[str]:
    yield f"{findings['path']}: {'ok' if findings['ok'] else 'damaged'}, {number(findings['bytes'])} bytes"
    for problem in findings["problems"]:
        yield f"  problem    {problem}"
    known = findings["known_schema_version"]
    yield f"  schema     {findings['schema_version']} (this program knows {known}), SQLite {findings['sqlite_version']}"
    counts = "  ".join(f"{status} {number(count)}" for status, count in findings["tasks"].items())
    yield f"  tasks      {counts or 'none'}"
    for owner in findings["owners"]:
        facts = "  ".join(f"{name} {value}" for name, value in owner.items() if value is not None)
        yield f"  owner      {facts}"
