"""A view of a snapshot as what rich shows, for any size. Pure; whatever the service says is text and nothing else.

The lines about the service as a whole are in head.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.table import Table
from rich.text import Text

from qorzen_obs.cli.account import log_lines, no_lines, progress_bar, stack_lines, task_lines, why_lines
from qorzen_obs.cli.output import STYLES
from qorzen_obs.cli.texts import clock, number, printable, progress, seconds, share
from qorzen_obs.cli.top.head import head_lines
from qorzen_obs.cli.top.poll import Opened, Snapshot
from qorzen_obs.cli.top.scene import Scene
from qorzen_obs.cli.top.view import COLUMNS, Column, Listing, Row, Tab, View
from qorzen_obs.cli.waterfall import MARK, running_note, waterfall

_WIDE: Final = 110  #: from here on there is room for bars and whole words
_FLEXIBLE: Final = 30  #: columns that the name of a task and what it awaits have at least
_BAR_WIDTH: Final = 12
_SHORT_PRIORITIES: Final = {"normal": "norm", "critical": "crit"}
_SHORT: Final = {Column.PRIORITY: "PRI", Column.PROGRESS: "PRG"}
_ORDER: Final = (
    Column.NAME,
    Column.CATEGORY,
    Column.PRIORITY,
    Column.ENGINE,
    Column.PROGRESS,
    Column.ELAPSED,
    Column.BUSY,
    Column.ENDED,
)
#: How wide each column is, up to _WIDE and from there on. A name takes what is left.
_WIDTHS: Final = {
    Column.NAME: (0, 0),
    Column.CATEGORY: (10, 11),
    Column.PRIORITY: (5, 9),
    Column.ENGINE: (8, 8),
    Column.PROGRESS: (4, _BAR_WIDTH + 5),
    Column.ELAPSED: (8, 8),
    Column.BUSY: (5, 5),
    Column.ENDED: (8, 8),
}
_FIGURES: Final = frozenset({Column.ELAPSED, Column.BUSY})
#: What is left out first where there is too little room.
_EXPENDABLE: Final = (
    Column.ENGINE,
    Column.PRIORITY,
    Column.CATEGORY,
    Column.ENDED,
    Column.PROGRESS,
    Column.BUSY,
    Column.ELAPSED,
)
_SAYS: Final = {Listing.RUNNING: "AWAITS", Listing.PENDING: "", Listing.FAILED: "ERROR", Listing.ENDED: "END"}
_TITLES: Final = {
    (Listing.PENDING, Column.ELAPSED): "WAITS",
    (Listing.FAILED, Column.ELAPSED): "RAN",
    (Listing.ENDED, Column.ELAPSED): "RAN",
}
_KEYS: Final = (
    ("q", "quit"),
    ("?", "help"),
    ("/", "filter"),
    ("s", "sort"),
    ("tab", "list"),
    ("enter", "open"),
    ("c", "cancel"),
    ("r", "rerun"),
    ("p", "pause"),
)
_OPENED_KEYS: Final = (
    ("esc", "back"),
    ("1-4 tab", "part"),
    ("j k", "scroll"),
    ("c", "cancel"),
    ("r", "rerun"),
    ("p", "pause"),
    ("?", "help"),
)
_HELP: Final = (
    ("q, Ctrl-C", "quit"),
    ("j k, arrows", "select a task; space and page keys by a screen, g G to the ends"),
    ("tab, left right", "running, pending, failed, all ended tasks"),
    ("/", "show only what has a text in name, id or error; esc ends that"),
    ("s, S", "sort by the next column; the other way round"),
    ("enter", "open the task: 1 all of it, 2 stack, 3 log, 4 trace"),
    ("c", "cancel it, after a question"),
    ("r", "run a failed or cancelled task again"),
    ("p", "stop asking the service, and go on"),
    ("", ""),
    ("BUSY", "the share of the last second on the loop or a processor"),
    ("AWAITS", "the task it waits for, else what it awaits, else its line"),
    ("pid", "the worker process that runs it"),
    ("lag p99", "how late the loop runs timers, of the last seconds"),
    ("blocked", "the share of time in which somebody held the loop"),
)


def draw(scene: Scene) -> RenderableType:
    """Return the whole screen."""
    head = head_lines(scene)
    layout = Layout()
    layout.split_column(
        Layout(_cut(head), size=len(head)),
        Layout(_body(scene), size=body_height(scene)),
        Layout(_cut([_foot(scene)]), size=1),
    )
    return layout


def _cut(lines: Sequence[Text]) -> Group:
    for line in lines:
        line.no_wrap = True
        line.overflow = "ellipsis"
    return Group(*lines)


# ---------------------------------------------------------------------- body


def body_height(scene: Scene) -> int:
    """Return the lines between head and foot."""
    return max(1, scene.size.height - len(head_lines(scene)) - 1)


def list_height(scene: Scene) -> int:
    """Return how many tasks there is room for."""
    return max(1, body_height(scene) - 1)


def _body(scene: Scene) -> RenderableType:
    view = scene.view
    if view.help:
        return _cut([Text(), *(Text.assemble((f"  {keys:<17}", "bold cyan"), what) for keys, what in _HELP)])
    if scene.snapshot is None:
        return Text("asking ..." if scene.trouble is None else "")
    if view.opened is not None:
        return _opened(scene, scene.snapshot)
    return _list(scene)


def _list(scene: Scene) -> RenderableType:
    view, wide = scene.view, scene.size.width >= _WIDE
    columns = _columns(scene)
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 1, 0, 0), header_style="reverse")
    for column in columns:
        title = _TITLES.get((view.listing, column)) or (
            column.value if wide else _SHORT.get(column, column.value)
        )
        if column is Column.NAME:
            table.add_column(_heading(view, column, title), ratio=3, no_wrap=True, overflow="ellipsis")
        else:
            table.add_column(
                _heading(view, column, title),
                width=_width(column, wide),
                no_wrap=True,
                overflow="ellipsis",
                justify="right" if column in _FIGURES else "left",
            )
    table.add_column(Text(_SAYS[view.listing]), ratio=2, no_wrap=True, overflow="ellipsis")
    for index, row in enumerate(scene.rows[view.offset : view.offset + list_height(scene)], view.offset):
        cells = [_cell(row, column, view.listing, wide) for column in columns]
        says = Text(printable(row.says), "red" if row.task.error_type else "")
        table.add_row(*cells, says, style="reverse" if index == view.index else "")
    if scene.rows:
        return table
    if scene.snapshot is not None and scene.snapshot.listing is not view.listing:
        return Group(table, Text("  asking ...", "dim"))
    what = "no task" if not view.filter else "no such task"
    return Group(
        table, Text(f"  {what} is {view.listing.value}" if view.listing.value != "ended" else f"  {what}")
    )


def _columns(scene: Scene) -> list[Column]:
    """Return the columns that there is room for; the one that the list is sorted by is never left out."""
    view, wide = scene.view, scene.size.width >= _WIDE
    columns = list(COLUMNS[view.listing])
    for column in _EXPENDABLE:
        taken = sum(_width(one, wide) + 1 for one in columns if one is not Column.NAME)
        if scene.size.width - taken >= _FLEXIBLE:
            break
        if column in columns and column is not view.sort:
            columns.remove(column)
    return sorted(columns, key=_ORDER.index)


def _width(column: Column, wide: bool) -> int:
    narrow_width, wide_width = _WIDTHS[column]
    return wide_width if wide else narrow_width


def _heading(view: View, column: Column, title: str) -> Text:
    mark = ("▼" if view.descending else "▲") if column is view.sort else ""
    return Text(title + mark)


def _cell(row: Row, column: Column, listing: Listing, wide: bool) -> Text:
    task = row.task
    match column:
        case Column.NAME:
            return Text(printable(task.name), STYLES.get(task.status, "") if listing is Listing.ENDED else "")
        case Column.CATEGORY:
            return Text(printable(task.category))
        case Column.PRIORITY:
            return Text(
                printable(task.priority if wide else _SHORT_PRIORITIES.get(task.priority, task.priority))
            )
        case Column.ENGINE:
            return Text(printable(task.engine))
        case Column.PROGRESS:
            return _progress(row, wide)
        case Column.ELAPSED:
            return Text(seconds(row.elapsed))
        case Column.BUSY:
            return Text("-" if row.busy is None else share(row.busy))
        case Column.ENDED:
            return Text("-" if task.completed_at is None else clock(task.completed_at))


def _progress(row: Row, wide: bool) -> Text:
    reported = row.task.progress
    if reported.updated_at is None:
        return Text("-", "dim")
    percent = Text(progress(reported.percent))
    if not wide:
        return percent
    return progress_bar(reported.percent, _BAR_WIDTH).append(" ").append_text(percent)


def _opened(scene: Scene, snapshot: Snapshot) -> RenderableType:
    """Return a part of the opened task, and let the view know with which of its lines that begins."""
    view, opened = scene.view, snapshot.opened
    if snapshot.opened_id != view.opened:
        return Text("asking ...", "dim")
    if opened is None:
        return Text("the service does not know this task any more", "yellow")
    tabs = Text()
    for key, tab in enumerate(Tab, 1):
        tabs.append(f" {key} {tab.value} ", "reverse" if tab is view.tab else "dim")
    tabs.append(f"  {printable(opened.task.name)}", "bold")
    lines, matters = opened_lines(opened, view.tab, scene.now, scene.size.width)
    room = body_height(scene) - 1
    first = matters - room // 3 if view.scroll is None else view.scroll
    view.first_line = max(0, min(first, len(lines) - room))
    return _cut([tabs, *lines[view.first_line : view.first_line + room]])


def opened_lines(opened: Opened, tab: Tab, now: datetime, width: int) -> tuple[list[Text], int]:
    """Return what a part of an opened task says, and which of the lines is to be seen first."""
    lines: list[Text] = []
    matters = 0
    match tab:
        case Tab.TASK:
            lines += task_lines(opened.task, now)
            lines += why_lines(opened.why) if opened.why is not None else ()
        case Tab.STACK:
            lines += stack_lines(opened.stack) if opened.stack is not None else ()
        case Tab.LOG:
            if opened.logs is not None:
                lines += log_lines(opened.logs) if opened.logs.items else [Text(no_lines(opened.logs), "dim")]
            matters = len(lines)
        case Tab.TRACE:
            task_id = opened.task.task_id
            lines += waterfall(opened.spans, width, task_id) if opened.spans is not None else ()
            matters = next((at for at, line in enumerate(lines) if line.plain.startswith(MARK)), 0)
            if opened.spans and not opened.task.ended:
                lines.append(running_note(opened.task.name, task_id))
    if opened.missing:
        lines.append(Text(printable(opened.missing), "yellow"))
    return lines or [Text("asking ...", "dim")], matters


# ---------------------------------------------------------------------- foot


def _foot(scene: Scene) -> Text:
    view = scene.view
    if view.to_cancel is not None:
        return Text(f"Cancel {printable(view.to_cancel.name)}?  y: yes, any other key: no", "bold yellow")
    if view.typing:
        return Text.assemble(
            ("/", "bold"), printable(view.filter), ("_", "blink"), ("  enter: keep, esc: all", "dim")
        )
    if view.notice:
        return Text(printable(view.notice), "bold")
    text = Text()
    if view.opened is None and scene.snapshot is not None:
        text.append(f"{view.listing.value} {number(len(scene.rows))}", "bold")
        if scene.snapshot.page.next_cursor is not None:
            text.append(f" of {_how_many(scene.snapshot, view.listing)}")
        text.append(f" with {printable(view.filter)!r}" if view.filter else "", "yellow").append("  ")
    for key, what in _KEYS if view.opened is None else _OPENED_KEYS:
        if text.cell_len + len(f"{key} {what}") <= scene.size.width:
            text.append(f"{key} ", "bold cyan").append(f"{what}  ")
    return text


def _how_many(snapshot: Snapshot, listing: Listing) -> str:
    """Return how many there are; of those that have ended it is not said how many are kept."""
    if listing in (Listing.RUNNING, Listing.PENDING):
        return number(snapshot.status.tasks.by_status.get(listing.value, 0))
    return "more"
