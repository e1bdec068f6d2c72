"""A view of a snapshot as what rich shows, for any size. Pure; whatever the service says is text and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.table import Table
from rich.text import Text

from qorzen_obs.cli.account import log_lines, progress_bar, stack_lines, task_lines, why_lines
from qorzen_obs.cli.output import STYLES
from qorzen_obs.cli.texts import clock, number, printable, rate, seconds, share
from qorzen_obs.cli.top.figures import Gauges
from qorzen_obs.cli.top.poll import Opened, Snapshot, Trouble
from qorzen_obs.cli.top.view import COLUMNS, Column, Listing, Row, Tab, View
from qorzen_obs.cli.waterfall import MARK, running_note, waterfall

_WIDE: Final = 110  #: from here on there is room for bars and whole words
_BAR_WIDTH: Final = 12
_SHORT: Final = {"normal": "norm", "critical": "crit"}
_PRIORITIES: Final = ("critical", "high", "normal", "low")
_SAYS: Final = {Listing.RUNNING: "AWAITS", Listing.PENDING: "", Listing.FAILED: "ERROR", Listing.ENDED: "END"}
_ELAPSED: Final = {Listing.RUNNING: "ELAPSED", Listing.PENDING: "WAITS"}
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
    ("lag p99", "how late the loop runs timers, of the last seconds"),
    ("blocked", "the share of time in which somebody held the loop"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """Of the terminal."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a drawing is made of."""

    url: str
    view: View
    size: Size
    now: datetime  #: here
    monotonic: float  #: here
    rows: Sequence[Row] = ()
    snapshot: Snapshot | None = None
    trouble: Trouble | None = None

    @property
    def body_height(self) -> int:
        """The lines between head and foot."""
        return max(1, self.size.height - len(head_lines(self)) - 1)

    @property
    def list_height(self) -> int:
        """The tasks that there is room for."""
        return max(1, self.body_height - 1)


def draw(scene: Scene) -> RenderableType:
    """Return the whole screen."""
    head = head_lines(scene)
    layout = Layout()
    layout.split_column(
        Layout(_cut(head), size=len(head)),
        Layout(_body(scene), size=scene.body_height),
        Layout(_cut([_foot(scene)]), size=1),
    )
    return layout


def _cut(lines: Sequence[Text]) -> Group:
    for line in lines:
        line.no_wrap = True
        line.overflow = "ellipsis"
    return Group(*lines)


# ---------------------------------------------------------------------- head


def head_lines(scene: Scene) -> list[Text]:
    """Return what is said of the service as a whole."""
    lines = [_title(scene)]
    if scene.trouble is not None:
        lines.append(_banner(scene, scene.trouble))
    snapshot = scene.snapshot
    if snapshot is None:
        return lines
    lines += [_counts(snapshot), _loop(snapshot), _queue(snapshot), _slots(snapshot)]
    lines += [
        Text(printable(f"{finding.status}  {name}: {finding.output}"), STYLES[finding.status])
        for name, finding in snapshot.health.problems()
        if not name.startswith("work-loop:")  # the loop's own line says it
    ]
    return lines


def _title(scene: Scene) -> Text:
    text = Text.assemble(("qorzen-obs top ", "bold"), (printable(scene.url), "dim"))
    if scene.snapshot is not None:
        state, health = scene.snapshot.status.state, scene.snapshot.health.status
        text.append("  ").append(printable(state), STYLES.get(state, "bold red"))
        text.append("  health ").append(health, STYLES[health])
    text.append(f"  {clock(scene.now)}", "dim")
    if scene.view.paused:
        text.append("  paused", "reverse")
    return text


def _banner(scene: Scene, trouble: Trouble) -> Text:
    what = "refused" if trouble.answered else "no answer"
    waited = seconds(max(0.0, scene.monotonic - trouble.since))
    return Text(f"{what} for {waited}, retrying ... {printable(trouble.message)}", "bold white on red")


def _counts(snapshot: Snapshot) -> Text:
    text = _label("tasks")
    for status, count in snapshot.status.tasks.by_status.items():
        text.append(f"{printable(status)} ", "dim").append(
            number(count), STYLES.get(status, "") if count else ""
        )
        rises = snapshot.rates.get(status, 0.0)
        text.append(f" +{rate(rises)}" if rises > 0 else "").append("  ")
    return text


def _loop(snapshot: Snapshot) -> Text:
    text = _label("loop")
    text.append("lag p99 ", "dim").append("-" if snapshot.lag is None else seconds(snapshot.lag))
    if snapshot.blocked:
        text.append("  blocked ", "dim")
        text.append(
            ", ".join(
                f"{printable(category)} {_fine_share(part)}" for category, part in snapshot.blocked.items()
            ),
            "yellow",
        )
    for name, finding in snapshot.health.problems():
        if name.startswith("work-loop:"):
            text.append("  ").append(printable(finding.output), STYLES[finding.status])
    return text


def _fine_share(part: float) -> str:
    return share(part) if part >= 0.01 else "<1%"


def _queue(snapshot: Snapshot) -> Text:
    queue, gauges = snapshot.status.queue, snapshot.gauges or Gauges(0.0)
    used = queue.depth + queue.scheduled
    text = _label("queue").append(
        f"{number(used)} of {number(queue.limit)}", "bold red" if used >= 0.9 * queue.limit else ""
    )
    if queue.scheduled:
        text.append(f", {number(queue.scheduled)} for later")
    # The metrics are a little older, and nobody should wait in an empty queue.
    for priority in _PRIORITIES if used else ():
        if count := gauges.pending.get(priority, 0):
            text.append(f"  {priority} ", "dim").append(number(count), "yellow")
            text.append(f" oldest {seconds(gauges.oldest.get(priority))}")
    if queue.paused:
        text.append(f"  paused: {printable(', '.join(queue.paused))}", "bold yellow")
    return text


def _slots(snapshot: Snapshot) -> Text:
    text = _label("slots")
    for engine, slots in snapshot.status.slots.items():
        text.append(f"{printable(engine)} ", "dim")
        text.append(f"{slots.busy}/{slots.limit}", "yellow" if slots.busy >= slots.limit else "")
        text.append(f" {slots.lent} lent" if slots.lent else "")
        text.append(f" {slots.abandoned} abandoned" if slots.abandoned else "", "bold red").append("  ")
    return text


def _label(name: str) -> Text:
    return Text.assemble((f"{name:<7}", "bold"))


# ---------------------------------------------------------------------- body


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
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 1, 0, 0), header_style="reverse")
    table.add_column(_heading(view, Column.NAME), ratio=3, no_wrap=True, overflow="ellipsis")
    _narrow(table, _heading(view, Column.CATEGORY), 11 if wide else 10)
    _narrow(table, _heading(view, Column.PRIORITY, "PRIORITY" if wide else "PRI"), 9 if wide else 5)
    _narrow(table, _heading(view, Column.ENGINE), 8)
    columns = COLUMNS[view.listing]
    if Column.PROGRESS in columns:
        title = "PROGRESS" if wide else "PRG"
        _narrow(table, _heading(view, Column.PROGRESS, title), _BAR_WIDTH + 5 if wide else 4)
    _narrow(table, _heading(view, Column.ELAPSED, _ELAPSED.get(view.listing, "RAN")), 8, justify_right=True)
    if Column.BUSY in columns:
        _narrow(table, _heading(view, Column.BUSY), 5, justify_right=True)
    if Column.ENDED in columns:
        _narrow(table, _heading(view, Column.ENDED), 8)
    table.add_column(Text(_SAYS[view.listing]), ratio=2, no_wrap=True, overflow="ellipsis")
    for index, row in enumerate(scene.rows[view.offset : view.offset + scene.list_height], view.offset):
        table.add_row(*_cells(row, view.listing, wide), style="reverse" if index == view.index else "")
    if scene.rows:
        return table
    if scene.snapshot is not None and scene.snapshot.listing is not view.listing:
        return Group(table, Text("  asking ...", "dim"))
    what = "no task" if not view.filter else "no such task"
    return Group(
        table, Text(f"  {what} is {view.listing.value}" if view.listing.value != "ended" else f"  {what}")
    )


def _heading(view: View, column: Column, title: str | None = None) -> Text:
    mark = ("▼" if view.descending else "▲") if column is view.sort else ""
    return Text((title or column.value) + mark)


def _narrow(table: Table, heading: Text, width: int, *, justify_right: bool = False) -> None:
    table.add_column(
        heading,
        width=width,
        no_wrap=True,
        overflow="ellipsis",
        justify="right" if justify_right else "left",
    )


def _cells(row: Row, listing: Listing, wide: bool) -> list[Text]:
    task = row.task
    priority = task.priority if wide else _SHORT.get(task.priority, task.priority)
    name = Text(printable(task.name), STYLES.get(task.status, "") if listing is Listing.ENDED else "")
    cells = [name, *(Text(printable(text)) for text in (task.category, priority, task.engine))]
    columns = COLUMNS[listing]
    if Column.PROGRESS in columns:
        cells.append(_progress(row, wide))
    cells.append(Text(seconds(row.elapsed)))
    if Column.BUSY in columns:
        cells.append(Text("-" if row.busy is None else share(row.busy)))
    if Column.ENDED in columns:
        cells.append(Text("-" if task.completed_at is None else clock(task.completed_at)))
    cells.append(Text(printable(row.says), "red" if task.error_type else ""))
    return cells


def _progress(row: Row, wide: bool) -> Text:
    progress = row.task.progress
    if progress.updated_at is None:
        return Text("-", "dim")
    percent = Text(f"{progress.percent:.0f}%")
    if not wide:
        return percent
    return progress_bar(progress.percent, _BAR_WIDTH).append(" ").append_text(percent)


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
    room = scene.body_height - 1
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
                lines += log_lines(opened.logs) if opened.logs.items else [Text("it wrote no lines", "dim")]
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
        text.append(f"{key} ", "bold cyan").append(f"{what}  ")
    return text


def _how_many(snapshot: Snapshot, listing: Listing) -> str:
    """Return how many there are; of those that have ended it is not said how many are kept."""
    if listing in (Listing.RUNNING, Listing.PENDING):
        return number(snapshot.status.tasks.by_status.get(listing.value, 0))
    return "more"
