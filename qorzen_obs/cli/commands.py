"""What changes something in a running service: `submit`, `cancel`, `rerun`, `pause`, `resume`."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from qorzen_obs.cli.account import task_lines
from qorzen_obs.cli.bulk import CANCEL, RERUN, Filters, command_all, filter_options
from qorzen_obs.cli.ids import whole_task_id
from qorzen_obs.cli.options import (
    WrongUse,
    client_options,
    give_json,
    json_option,
    make_client,
    refusals_shown,
)
from qorzen_obs.cli.output import print_lines
from qorzen_obs.cli.texts import printable
from qorzen_obs.client import Client, ClientError, Task
from qorzen_obs.tasks import TaskCategory, TaskPriority

_FIRST_LOOK_SECONDS: Final = 0.05
#: The pause between two looks for the end of a task doubles each time, up to this.
_LAST_LOOK_SECONDS: Final = 1.0


@click.command("submit")
@click.argument("name")
@click.argument("arguments", nargs=-1, metavar="[JSON]...")
@click.option("--priority", type=click.Choice([priority.label for priority in TaskPriority]))
@click.option("--category", type=click.Choice([category.value for category in TaskCategory]))
@click.option(
    "--timeout", type=float, metavar="SECONDS", help="Time limit of one attempt; inf means no limit."
)
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="Repeating the request with the same key returns the id of the first task.",
)
@click.option(
    "--wait", is_flag=True, help="Wait for the task to end; exit with status 1 unless it completed."
)
@json_option
@client_options
def submit_command(
    name: str,
    arguments: tuple[str, ...],
    url: str,
    token_file: Path | None,
    as_json: bool,
    wait: bool,
    timeout: float | None,
    **options: str | None,
) -> None:
    """Submit the task that is registered as NAME, and print its id.

    JSON is an array of positional arguments or an object of keyword arguments. You may give one of each.

    \b
    qorzen-obs submit resize '["a.png", "b.png"]' '{"width": 640}' --wait
    """
    document: dict[str, Any] = {"task": name, **_read_arguments(arguments)}
    document.update((option, value) for option, value in options.items() if value is not None)
    if timeout is not None:
        if not timeout > 0:
            raise WrongUse(f"--timeout {timeout:g}: give a positive number of seconds, or inf")
        document["timeout"] = timeout if math.isfinite(timeout) else "inf"
    client = make_client(url, token_file)
    with refusals_shown():
        task_id = _submit(client, document)
        _show_new_task(client, task_id, wait=wait, as_json=as_json)


def _submit(client: Client, document: dict[str, Any]) -> str:
    """Submit a task; where its name is unknown, say which are known."""
    try:
        return client.submit(document)
    except ClientError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        names = ", ".join(client.known_names()) or "no tasks"
        raise ClientError(
            f"no task is registered under this name; the service knows {names}", error.status
        ) from error


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"it has no {constant}")


def _read_arguments(texts: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        try:
            value = json.loads(text, parse_constant=_no_json)
        except (ValueError, RecursionError) as error:
            raise WrongUse(
                f"{text!r} is not valid JSON ({error}); quote it for the shell: '[1, \"two\"]'"
            ) from error
        match value:
            case list():
                kind = "args"
            case dict():
                kind = "kwargs"
            case _:
                raise WrongUse(
                    f"{text!r} must be an array of positional arguments or an object of keyword arguments"
                )
        if kind in found:
            raise WrongUse(
                f"{text!r} is the second {'array' if kind == 'args' else 'object'}; give one of each"
            )
        found[kind] = value
    return found


@click.command("rerun")
@click.argument("task_id", metavar="[ID]", required=False)
@filter_options(["failed", "cancelled"])
@click.option(
    "--wait",
    is_flag=True,
    help="With an ID: wait for the task to end; exit with status 1 unless it completed.",
)
@json_option
@client_options
def rerun_command(
    task_id: str | None, url: str, token_file: Path | None, wait: bool, as_json: bool, **options: Any
) -> None:
    """Run a failed or cancelled task again with the same arguments, and print the id of the new task.

    Without an ID: run again all failed tasks that the filters select; with --status cancelled, the cancelled ones.
    Tasks that were run again before are left out, so the command may be repeated.

    \b
    qorzen-obs rerun --status failed --name invoice.send --dry-run

    The exit status is 1 if a task neither failed nor was cancelled, or if its arguments are not kept.
    """
    filters, client = Filters.of(options), make_client(url, token_file)
    with refusals_shown():
        if filters.chosen(task_id):
            if wait:
                raise WrongUse("--wait needs the ID of one task")
            return command_all(client, filters, client.rerun_all, RERUN, as_json=as_json)
        new_id = client.rerun(whole_task_id(client, task_id or ""))
        return _show_new_task(client, new_id, wait=wait, as_json=as_json)


def _show_new_task(client: Client, task_id: str, *, wait: bool, as_json: bool) -> None:
    if not wait:
        return give_json({"task_id": task_id}) if as_json else click.echo(printable(task_id))
    if not as_json:
        click.echo(printable(task_id))
    task = _wait_for(client, task_id)
    if as_json:
        give_json(client.document(f"/api/tasks/{task_id}"))
    else:
        print_lines(task_lines(task, datetime.now(UTC)))
    raise SystemExit(0 if task.status == "completed" else 1)


def _wait_for(client: Client, task_id: str) -> Task:
    """Return a task once it has ended; interrupted, it says that the task goes on."""
    pause = _FIRST_LOOK_SECONDS
    try:
        while not (task := client.task(task_id)).ended:
            time.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK_SECONDS)
    except KeyboardInterrupt:
        click.echo("The task is still running; stop it with qorzen-obs cancel.", err=True)
        raise
    return task


@click.command("cancel")
@click.argument("task_id", metavar="[ID]", required=False)
@filter_options(["pending", "running"])
@json_option
@client_options
def cancel_command(
    task_id: str | None, url: str, token_file: Path | None, as_json: bool, **options: Any
) -> None:
    """Cancel a pending task, or ask a running task to stop. The first characters of its ID are enough.

    Without an ID: cancel all pending and running tasks that the filters select.

    \b
    qorzen-obs cancel --status pending --name invoice.send --dry-run
    qorzen-obs cancel --below ID

    The exit status is 1 if a task has ended already, may not be cancelled, or is unknown to the service.
    """
    filters, client = Filters.of(options), make_client(url, token_file)
    with refusals_shown():
        if filters.chosen(task_id):
            return command_all(client, filters, client.cancel_all, CANCEL, as_json=as_json)
        task = client.cancel(whole_task_id(client, task_id or ""))
    if as_json:
        return give_json({"task_id": task.task_id, "status": task.status})
    ended = task.status == "cancelled"
    return click.echo(printable(f"{task.name} {'is cancelled' if ended else 'was asked to stop'}"))


_category = click.argument("category", type=click.Choice([category.value for category in TaskCategory]))


@click.command("pause")
@_category
@client_options
def pause_command(category: str, url: str, token_file: Path | None) -> None:
    """Keep the pending tasks of a category waiting. Running tasks continue."""
    client = make_client(url, token_file)
    with refusals_shown():
        client.pause(category)
    click.echo(f"{category} is paused: its pending tasks wait, running tasks continue")


@click.command("resume")
@_category
@client_options
def resume_command(category: str, url: str, token_file: Path | None) -> None:
    """Let the pending tasks of a paused category start."""
    client = make_client(url, token_file)
    with refusals_shown():
        client.resume(category)
    click.echo(f"{category} is resumed")
