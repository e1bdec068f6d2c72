"""`trace`: a task's trace as a waterfall in the terminal."""

from __future__ import annotations

import re
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import click

from qorzen_obs.cli.ids import whole_task_id, whole_trace_id
from qorzen_obs.cli.options import client_options, give_json, json_option, make_client, refusals_shown
from qorzen_obs.cli.output import open_console, print_lines
from qorzen_obs.cli.waterfall import TraceDocument, read_spans, running_note, waterfall
from qorzen_obs.client import Client, ClientError, task_path, trace_path

_TRACE_ID: Final = re.compile("[0-9a-fA-F]{32}")
_PIPE_WIDTH: Final = 120


@click.command("trace")
@click.argument("trace_or_task_id", metavar="ID")
@click.option(
    "--width",
    type=click.IntRange(min=40),
    help="Width in columns.  [default: that of the terminal; 120 on a pipe]",
)
@click.option("--whole", is_flag=True, help="The whole trace of a task, not only what lies below it.")
@json_option
@client_options
def trace_command(
    trace_or_task_id: str,
    url: str,
    token_file: Path | None,
    width: int | None,
    whole: bool,
    as_json: bool,
) -> None:
    """Draw the trace of a task as a waterfall. ID is the id of a task or a trace, or its first characters.

    For a task it shows the task and everything below it; for a trace, or with --whole, all spans of the trace.

    A thin line is time in the queue; a thick line is time running. Retries, failures, spans of worker processes and
    the task of this ID are marked. --json prints the trace as OTLP/JSON, which trace viewers import.
    """
    client = make_client(url, token_file)
    with refusals_shown():
        trace_or_task_id = _whole_id(client, trace_or_task_id)
        document = _find(client, trace_or_task_id, whole=whole)
        spans = read_spans(client.read(document, TraceDocument))
        running = None if as_json else _running(client, trace_or_task_id)
    if as_json:
        return give_json(document)
    console = open_console()
    columns = width or (console.width if console.is_terminal else _PIPE_WIDTH)
    print_lines(waterfall(spans, columns, trace_or_task_id), console)
    if running is not None:
        print_lines([running_note(running, trace_or_task_id)], console)
    return None


def _whole_id(client: Client, either_id: str) -> str:
    """Return the id that begins so: of a task, else of a trace."""
    task_id = whole_task_id(client, either_id)
    return task_id if task_id != either_id else whole_trace_id(client, either_id)


def _find(client: Client, either_id: str, *, whole: bool) -> Any:
    """Return the trace of a task, or the one with this id. Both look the same: a task is looked for first."""
    try:
        return client.document(task_path(either_id, "trace") + ("?whole=true" if whole else ""))
    except ClientError as error:
        if error.status != HTTPStatus.NOT_FOUND or not _TRACE_ID.fullmatch(either_id):
            raise
        try:
            return client.document(trace_path(either_id))
        except ClientError as second:
            raise (second if _is_unknown_task(client, either_id) else error) from None


def _is_unknown_task(client: Client, task_id: str) -> bool:
    try:
        client.task(task_id)
    except ClientError as error:
        return error.status == HTTPStatus.NOT_FOUND
    return False


def _running(client: Client, either_id: str) -> str | None:
    """Return the name of the task that still runs."""
    try:
        task = client.task(either_id)
    except ClientError:
        return None
    return task.name if task.status == "running" else None
