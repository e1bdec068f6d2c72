"""`cancel` and `rerun` for all tasks that filters select: first their count, then page by page until none is left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Self, TypeVar

import click
from msgspec.structs import replace

from qorzen_obs.cli.ids import whole_task_id
from qorzen_obs.cli.options import WrongUse, give_json
from qorzen_obs.cli.texts import number, printable
from qorzen_obs.client import BulkOutcome, Client, Query
from qorzen_obs.clock import rfc_3339
from qorzen_obs.tasks import TaskCategory, TaskPriority

F = TypeVar("F", bound=Callable[..., Any])

_PAGE: Final = 1000  #: the most that the service does at once
_FILTERS: Final = (
    "status",
    "category",
    "priority",
    "plugin_id",
    "name",
    "definition",
    "error_type",
    "parent_id",
    "below",
    "q",
)


class Words(NamedTuple):
    """How a command says what it does."""

    asks: str
    would_be: str
    done: str


CANCEL: Final = Words("Cancel", "would be cancelled or asked to stop", "cancelled or asked to stop")
RERUN: Final = Words("Run again", "would be run again", "run again")


def filter_options(statuses: list[str]) -> Callable[[F], F]:
    """Return what adds the filters to a command, and how it asks."""

    def add(command: F) -> F:
        for option in (
            click.option(
                "--yes", is_flag=True, help="Do not ask first. Without a terminal nothing is asked."
            ),
            click.option("--dry-run", is_flag=True, help="Show how many tasks it would be, and do nothing."),
            click.option(
                "-q",
                "q",
                multiple=True,
                metavar="TEXT",
                help="Only tasks with this text in their name, id or error.",
            ),
            click.option(
                "--below", multiple=True, metavar="ID", help="Only tasks that this task led to, at any depth."
            ),
            click.option(
                "--parent",
                "parent_id",
                multiple=True,
                metavar="ID",
                help="Only tasks that this task submitted.",
            ),
            click.option(
                "--error-type",
                multiple=True,
                metavar="TYPE",
                help="Only tasks with exactly this type of error.",
            ),
            click.option(
                "--definition",
                multiple=True,
                metavar="NAME",
                help="Only tasks of this definition or function.",
            ),
            click.option("--name", multiple=True, help="Only tasks with exactly this name."),
            click.option(
                "--plugin", "plugin_id", multiple=True, metavar="ID", help="Only tasks of this plugin."
            ),
            click.option(
                "--priority",
                multiple=True,
                type=click.Choice([priority.label for priority in TaskPriority], case_sensitive=False),
                help="Only tasks of this priority.",
            ),
            click.option(
                "--category",
                multiple=True,
                type=click.Choice([category.value for category in TaskCategory], case_sensitive=False),
                help="Only tasks of this category.",
            ),
            click.option(
                "--status",
                multiple=True,
                type=click.Choice(statuses, case_sensitive=False),
                help="Only tasks with this status. Repeat a filter to allow more values.",
            ),
        ):
            command = option(command)
        return command

    return add


class Filters(NamedTuple):
    """Which tasks a command is for, where no ID says so."""

    query: Mapping[str, tuple[str, ...]]
    is_dry: bool
    is_sure: bool

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Return what the options say."""
        query = {name: tuple(options[name]) for name in _FILTERS if options[name]}
        return cls(query, options["dry_run"], options["yes"])

    def chosen(self, task_id: str | None) -> bool:
        """Return whether filters choose the tasks; False where an ID does.

        Raises:
            WrongUse: both do, or neither does.
        """
        if task_id is not None and (self.query or self.is_dry):
            raise WrongUse("give the ID of one task, or filters; not both")
        if task_id is None and not self.query:
            raise WrongUse("say which tasks: give the ID of one, or filters such as --name")
        return task_id is None


def command_all(
    client: Client,
    filters: Filters,
    command: Callable[[Query], BulkOutcome],
    words: Words,
    *,
    as_json: bool,
) -> None:
    """Give a command for all tasks that the filters select, and say what became of them.

    Exit status 1 where it was refused for some.
    """
    query: dict[str, Any] = {**filters.query, "limit": _PAGE}
    for name in ("below", "parent_id"):
        if name in query:
            query[name] = [whole_task_id(client, given) for given in query[name]]
    first = command({**query, "dry_run": "true"})
    # Those that come meanwhile are left alone, such as those that were run again and have failed again.
    query["created_before"] = rfc_3339(first.at.timestamp())
    if filters.is_dry or not first.matching:
        outcome = _all_pages(command, {**query, "dry_run": "true"}, first)
    else:
        if not (filters.is_sure or as_json) and _is_a_person():
            click.confirm(f"{words.asks} {_tasks(first.matching)}?", abort=True, err=True)
        outcome = _all_pages(command, query, command(query))
    refused = sum(refusal["count"] for refusal in outcome["refused"])
    if as_json:
        give_json(outcome)
    else:
        _say(outcome, refused, words)
    if refused and not filters.is_dry:
        raise SystemExit(1)


def _all_pages(command: Callable[[Query], BulkOutcome], query: Query, page: BulkOutcome) -> dict[str, Any]:
    """Return what became of the tasks of a page and of those that follow it."""
    asked, done, task_ids = page.asked, page.done, list(page.task_ids)
    refused = {one.reason: one for one in page.refused}
    first = page
    while page.next_cursor is not None:
        page = command({**query, "cursor": page.next_cursor})
        asked, done = asked + page.asked, done + page.done
        task_ids += page.task_ids
        for one in page.refused:
            known = refused.get(one.reason)
            refused[one.reason] = one if known is None else replace(known, count=known.count + one.count)
    return {
        "dry_run": first.dry_run,
        "asked": asked,
        "done": done,
        "refused": [
            {"reason": one.reason, "count": one.count, "example": one.example} for one in refused.values()
        ],
        "task_ids": task_ids,
    }


def _is_a_person() -> bool:
    return sys.stdin.isatty()


def _say(outcome: Mapping[str, Any], refused: int, words: Words) -> None:
    if not outcome["asked"]:
        click.echo("No task fits.")
        return
    said = words.would_be if outcome["dry_run"] else words.done
    click.echo(f"{number(outcome['done'])} of {_tasks(outcome['asked'])} {said}")
    for one in outcome["refused"]:
        reason, example = printable(one["reason"]), printable(one["example"])
        click.echo(
            f"{number(one['count'])} refused: {reason} (such as {example})", err=not outcome["dry_run"]
        )


def _tasks(many: int) -> str:
    return f"{number(many)} task{'' if many == 1 else 's'}"
