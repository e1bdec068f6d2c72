"""Where results go: standard output, in colours and fitted to the width on a terminal, plain and whole on a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH: Final = 10_000  #: no line of a table is cut

#: By status of a task or a check.
STYLES: Final = {
    "pending": "yellow",
    "running": "cyan",
    "completed": "green",
    "failed": "bold red",
    "cancelled": "magenta",
    "pass": "green",
    "warn": "yellow",
    "fail": "bold red",
    "ready": "green",
    "draining": "yellow",
}


def open_console() -> Console:
    """Return standard output; texts mean nothing but themselves there."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, emoji=False, highlight=False, width=_PIPE_WIDTH)
    return console


def print_lines(lines: Iterable[Text], console: Console | None = None) -> None:
    """Write lines; a terminal folds those that are too long."""
    console = console or open_console()
    for line in lines:
        console.print(line, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Text]], *, flexible: Sequence[str]) -> None:
    """Write a table, for a terminal's width at the cost of the `flexible` columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            Text(column), no_wrap=True, overflow="ellipsis", min_width=8 if column in flexible else None
        )
    for row in rows:
        table.add_row(*row)
    console = open_console()
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
