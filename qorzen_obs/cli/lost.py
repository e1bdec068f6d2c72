"""`lost`: what earlier processes of a service took along when they died."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from rich.text import Text

from qorzen_obs.cli.options import client_options, give_json, json_option, make_client, refusals_shown
from qorzen_obs.cli.output import STYLES, print_lines, print_table
from qorzen_obs.cli.texts import moment, number, printable, progress
from qorzen_obs.client import Loss, Lost, Task

_COLUMNS = ("ID", "NAME", "CATEGORY", "CREATED", "ATTEMPT", "PROGRESS", "WAS DOING")
_OPTIONAL = ("CREATED", "CATEGORY", "ATTEMPT")


@click.command("lost")
@json_option
@client_options
def lost_command(url: str, token_file: Path | None, as_json: bool) -> None:
    """Show which tasks were lost when earlier processes of a running service died.

    Needs a durable history. The table has the newest 100 lost tasks; `tasks --error-type lost --all` lists all of them.
    """
    client = make_client(url, token_file)
    with refusals_shown():
        document = client.document("/api/lost")
        lost = client.read(document, Lost)
    if as_json:
        return give_json(document)
    if not lost.losses and not lost.items:
        click.echo("nothing was lost")
        return None
    print_lines(map(loss_line, lost.losses))
    if lost.items:
        click.echo()
        print_table(
            _COLUMNS,
            [tuple(_row(task)) for task in lost.items],
            flexible=("NAME", "WAS DOING"),
            optional=_OPTIONAL,
        )
    return None


def loss_line(loss: Loss) -> Text:
    """Return a loss in one line."""
    when = f"instance {loss.instance} ended at {moment(loss.last_seen_at)}"
    if not loss.tasks:
        return Text(printable(f"{when} without a goodbye; no tasks were lost"), "dim")
    kinds = ", ".join(f"{number(count)} {name}" for name, count in loss.by_category.items() if count)
    tasks = f"{number(loss.tasks)} task{'s were' if loss.tasks > 1 else ' was'} lost"
    states = f"{number(loss.running)} running, {number(loss.pending)} pending"
    return Text(printable(f"{when}: {tasks} ({states}; {kinds})"), STYLES["failed"])


def _row(task: Task) -> Iterator[Text]:
    yield Text(printable(task.task_id))
    yield Text(printable(task.name))
    yield Text(printable(task.category))
    yield Text(moment(task.created_at), "dim")
    yield Text(str(task.attempt), justify="right")
    reported = task.progress.updated_at is not None
    says = f"{progress(task.progress.percent)} {task.progress.message}" if reported else ""
    yield Text(printable(says))
    yield Text(printable((task.error or "").partition("\n")[0]), "red")
