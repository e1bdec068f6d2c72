"""Where results go: standard output, in colours and fitted to the width on a terminal, plain and whole on a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH: Final = 10_000  #: no line of a table is cut
_GAP: Final = 2
_FLEXIBLE_WIDTH: Final = 16  #: at least

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


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Text]],
    *,
    flexible: Sequence[str],
    optional: Sequence[str],
) -> None:
    """Write a table. A terminal that is too narrow loses the `optional` columns, then cuts the `flexible` ones."""
    console = open_console()
    widths = {
        column: max([cell_len(column), *(row[index].cell_len for row in rows)])
        for index, column in enumerate(columns)
    }
    for column in flexible:
        widths[column] = _FLEXIBLE_WIDTH
    left_out = []
    for column in optional:
        if sum(widths.values()) + _GAP * len(widths) > console.width:
            left_out.append(column)
            del widths[column]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column, width in widths.items():
        table.add_column(Text(column), no_wrap=True, overflow="ellipsis", min_width=width)
    kept = [index for index, column in enumerate(columns) if column not in left_out]
    for row in rows:
        table.add_row(*(row[index] for index in kept))
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
