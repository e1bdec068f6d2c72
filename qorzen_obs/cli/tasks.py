"""`tasks` and `show`: which tasks a running service has, and everything of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from rich.text import Text

from qorzen_obs.cli.account import log_lines, stack_lines, task_lines, why_lines
from qorzen_obs.cli.ids import whole_task_id
from qorzen_obs.cli.options import client_options, give_json, json_option, make_client, refusals_shown
from qorzen_obs.cli.output import STYLES, print_lines, print_table
from qorzen_obs.cli.texts import moment, number, printable, progress, seconds
from qorzen_obs.client import Client, ClientError, LogLines, Stack, Task, TaskPage, Why, task_path
from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus

T = TypeVar("T")

PAGE: Final = 1000  #: the most that the service gives at once
COLUMNS: Final = (
    "ID",
    "NAME",
    "STATUS",
    "CATEGORY",
    "PRIORITY",
    "ENGINE",
    "CREATED",
    "WAITED",
    "RAN",
    "SAYS",
)
STATUSES: Final = [status.value for status in TaskStatus]
CATEGORIES: Final = [category.value for category in TaskCategory]
PRIORITIES: Final = [priority.label for priority in TaskPriority]


def _choice(name: str, choices: list[str], help_text: str) -> Callable[[Any], Any]:
    return click.option(name, multiple=True, type=click.Choice(choices, case_sensitive=False), help=help_text)


@click.command("tasks")
@_choice("--status", STATUSES, "Only tasks with this status. Repeat a filter to allow more values.")
@_choice("--category", CATEGORIES, "Only tasks of this category.")
@_choice("--priority", PRIORITIES, "Only tasks of this priority.")
@click.option("--plugin", "plugin_id", multiple=True, metavar="ID", help="Only tasks of this plugin.")
@click.option("--name", multiple=True, help="Only tasks with exactly this name.")
@click.option(
    "--definition", multiple=True, metavar="NAME", help="Only tasks of this definition or function."
)
@click.option(
    "--error-type", multiple=True, metavar="TYPE", help="Only tasks with exactly this type of error."
)
@click.option(
    "--parent", "parent_id", multiple=True, metavar="ID", help="Only tasks that this task submitted."
)
@click.option("--below", multiple=True, metavar="ID", help="Only tasks that this task led to, at any depth.")
@click.option(
    "--instance", multiple=True, metavar="ID", help="Only tasks that this start of the service accepted."
)
@click.option(
    "-q", "q", multiple=True, metavar="TEXT", help="Only tasks with this text in their name, id or error."
)
@click.option(
    "--order",
    type=click.Choice(["newest", "oldest", "ended"]),
    default="newest",
    show_default=True,
    help="Which tasks come first; ended: the ones that ended last.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, PAGE),
    default=50,
    show_default=True,
    help="Maximum number of tasks to list.",
)
@click.option("--all", "everything", is_flag=True, help="List all of them, whatever their number.")
@json_option
@client_options
def tasks_command(
    url: str, token_file: Path | None, as_json: bool, everything: bool, limit: int, **query: Any
) -> None:
    """List the live, kept and stored tasks of a running service.

    --json prints the service's own document. With --all it joins the items of all pages.
    """
    client = make_client(url, token_file)
    with refusals_shown():
        for name in ("parent_id", "below"):
            query[name] = [whole_task_id(client, given) for given in query[name]]
        pages = [client.document("/api/tasks", {**query, "limit": PAGE if everything else limit})]
        typed = [client.read(pages[0], TaskPage)]
        while everything and (cursor := typed[-1].next_cursor) is not None:
            pages.append(client.document("/api/tasks", {**query, "limit": PAGE, "cursor": cursor}))
            typed.append(client.read(pages[-1], TaskPage))
    if as_json:
        return give_json({**pages[-1], "items": [item for page in pages for item in page["items"]]})
    if any(page.history_unavailable for page in typed):
        click.echo("Stored tasks are missing: the history cannot be read now.", err=True)
    print_table(
        COLUMNS,
        [_row(task, page.at) for page in typed for task in page.items],
        flexible=("NAME", "SAYS"),
        optional=("CREATED", "ENGINE", "WAITED", "PRIORITY", "CATEGORY"),
    )
    if typed[-1].next_cursor is not None:
        click.echo(
            f"There are more than {number(limit)} tasks: list all with --all, or add a filter.", err=True
        )
    return None


def _row(task: Task, at: datetime) -> tuple[Text, ...]:
    ran = task.duration_seconds
    if task.status == "running" and task.started_at is not None:
        ran = (at - task.started_at).total_seconds()
    waited = task.queue_wait_seconds
    if task.status == "pending" and task.eligible_at is not None:
        waited = max(0.0, (at - task.eligible_at).total_seconds())
    return (
        Text(printable(task.task_id)),
        Text(printable(task.name)),
        Text(printable(task.status) + ("*" if task.still_runs else ""), STYLES.get(task.status, "")),
        Text(printable(task.category)),
        Text(printable(task.priority)),
        Text(printable(task.engine)),
        Text(moment(task.created_at), "dim"),
        Text(seconds(waited), justify="right"),
        Text(seconds(ran), justify="right"),
        Text(_says(task), "red" if task.error_type else ""),
    )


def _says(task: Task) -> str:
    """Return the most telling thing about a task, on one line."""
    if task.error_type is not None:
        return printable(f"{task.error_type}: {(task.error or '').partition(chr(10))[0]}")
    if task.cancel_reason is not None:
        return printable(task.cancel_reason)
    if task.progress.updated_at is not None and not task.ended:
        return printable(f"{progress(task.progress.percent)} {task.progress.message}")
    return ""


@click.command("show")
@click.argument("task_id", metavar="ID")
@click.option(
    "--lines", type=click.IntRange(min=0), default=10, show_default=True, help="Maximum number of log lines."
)
@json_option
@client_options
def show_command(task_id: str, url: str, token_file: Path | None, lines: int, as_json: bool) -> None:
    """Show everything about one task. The first characters of its ID are enough if no other ID starts with them.

    This is where its time went, its error, its progress and its last log lines; for a pending task why it waits; for a
    running task its stack now. --json prints an object with task, why, stack and logs.
    """
    client = make_client(url, token_file)
    with refusals_shown():
        task_id = whole_task_id(client, task_id)
        parts: dict[str, Any] = {"task": client.document(task_path(task_id)), "why": None, "stack": None}
        task = client.read(parts["task"], Task)
        if task.status == "pending":
            parts["why"] = _if_any(lambda: client.document(task_path(task_id, "why")))
        if task.status == "running" or task.still_runs:
            parts["stack"] = _if_any(lambda: client.document(task_path(task_id, "stack")))
        parts["logs"] = _if_any(lambda: client.document(task_path(task_id, "logs")))
        account = list(_account(client, parts, lines))
    if as_json:
        return give_json(parts)
    return print_lines(account)


def _account(client: Client, parts: dict[str, Any], lines: int) -> Iterator[Text]:
    """Yield everything of a task that the service had an answer to."""
    yield from task_lines(client.read(parts["task"], Task), datetime.now(UTC))
    if parts["why"] is not None:
        yield from why_lines(client.read(parts["why"], Why))
    if parts["stack"] is not None:
        yield Text()
        yield from stack_lines(client.read(parts["stack"], Stack))
    if parts["logs"] is not None:
        logs = client.read(parts["logs"], LogLines)
        yield from [Text()] if logs.items else []
        yield from log_lines(logs, lines)


#: What a part of the answer may be refused with, while the rest is worth showing: the task has ended meanwhile, or the
#: work loop or a worker process does not answer.
_MAY_BE_MISSING: Final = frozenset(
    {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)


def _if_any(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except ClientError as error:
        if error.status not in _MAY_BE_MISSING:
            raise
        with suppress(OSError):
            click.echo(f"Left out: {printable(str(error))}", err=True)
        return None
