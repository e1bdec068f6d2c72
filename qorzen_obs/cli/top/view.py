"""What a person has chosen to see, and what each key changes. Pure: knows neither a terminal nor a service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final, NamedTuple, TypeVar

from qorzen_obs.cli.account import USE_PHASES, WAIT_PHASES
from qorzen_obs.cli.texts import short_id
from qorzen_obs.client import Task

T = TypeVar("T")

_PRIORITIES: Final = {"low": 0, "normal": 1, "high": 2, "critical": 3}
MAX_FILTER: Final = 100  #: characters


class Listing(Enum):
    """Which tasks are listed; `tab` goes to the next."""

    RUNNING = "running"
    PENDING = "pending"
    FAILED = "failed"
    ENDED = "ended"


class Column(Enum):
    """What a list can be sorted by; `s` goes to the next."""

    NAME = "NAME"
    CATEGORY = "CATEGORY"
    PRIORITY = "PRIORITY"
    ENGINE = "ENGINE"
    PROGRESS = "PROGRESS"
    ELAPSED = "ELAPSED"
    BUSY = "BUSY"
    ENDED = "ENDED"


_ALWAYS: Final = (Column.NAME, Column.CATEGORY, Column.PRIORITY, Column.ENGINE)
#: The columns of each list; it is first sorted by the last one.
COLUMNS: Final[Mapping[Listing, tuple[Column, ...]]] = {
    Listing.RUNNING: (*_ALWAYS, Column.PROGRESS, Column.BUSY, Column.ELAPSED),
    Listing.PENDING: (*_ALWAYS, Column.ELAPSED),
    Listing.FAILED: (*_ALWAYS, Column.ELAPSED, Column.ENDED),
    Listing.ENDED: (*_ALWAYS, Column.ELAPSED, Column.ENDED),
}
#: Sorted from a to z; the other columns start with the largest.
_TEXTS: Final = frozenset({Column.NAME, Column.CATEGORY, Column.ENGINE})


class Tab(Enum):
    """What is shown of an opened task; `tab` and the arrows go to the next."""

    TASK = "task"
    STACK = "stack"
    LOG = "log"
    TRACE = "trace"


class Row(NamedTuple):
    """One task in the list."""

    task: Task
    elapsed: float | None  #: seconds: it runs, waits, or ran for
    busy: float | None  #: the share of its time in which it used the loop or a processor
    says: str  #: what it awaits; of one that has ended, how


class Shown(NamedTuple):
    """What is on the screen while a key is pressed."""

    rows: Sequence[Row]
    height: int  #: lines of the list, or of the opened task
    opened: Task | None = None  #: once it has been answered


class CommandKind(Enum):
    """What a key may ask for besides another view."""

    QUIT = "quit"
    CANCEL = "cancel"
    RERUN = "rerun"


class Command(NamedTuple):
    """What is to be done, and to which task."""

    kind: CommandKind
    task_id: str = ""


@dataclass(slots=True)
class View:
    """What is chosen. A selection stays with its task while the list moves."""

    listing: Listing = Listing.RUNNING
    sort: Column = Column.ELAPSED
    descending: bool = True
    filter: str = ""
    typing: bool = False  #: the filter is being typed
    paused: bool = False
    help: bool = False
    selected: str | None = None  #: the id of a task
    index: int = 0  #: its place in the list
    offset: int = 0  #: the first line that is shown
    opened: str | None = None  #: the id of the task that is shown by itself
    tab: Tab = Tab.TASK
    scroll: int | None = None  #: of the opened task; None until somebody scrolls: what matters most is shown
    first_line: int = 0  #: of it that is shown; the drawing knows where it ends
    to_cancel: Task | None = None  #: asked whether to cancel it
    notice: str = ""  #: what became of the last command; until the next key

    def keep_selection(self, rows: Sequence[Row], height: int) -> None:
        """Keep the selection on its task, or on its place when that has gone, and within the `height` lines shown."""
        ids = [row.task.task_id for row in rows]
        if self.selected in ids:
            self.index = ids.index(self.selected)
        self.index = max(0, min(self.index, len(ids) - 1))
        self.selected = ids[self.index] if ids else None
        height = max(height, 1)
        self.offset = max(0, min(self.offset, len(ids) - height))
        self.offset = min(max(self.offset, self.index - height + 1), self.index)

    def press(self, key: str, shown: Shown) -> Command | None:
        """Change the view as a key says; return what is to be done, if anything."""
        self.notice = ""
        if self.to_cancel is not None:
            task_id, self.to_cancel = self.to_cancel.task_id, None
            return Command(CommandKind.CANCEL, task_id) if key in ("y", "Y") else None
        if self.typing:
            self._type(key)
            return None
        if self.help:
            self.help = False
            return None
        if key == "?":
            self.help = True
            return None
        if key == "p":
            self.paused = not self.paused
            return None
        return self._press_list(key, shown) if self.opened is None else self._press_opened(key, shown)

    def _type(self, key: str) -> None:
        if key == "enter":
            self.typing = False
        elif key == "escape":
            self.typing, self.filter = False, ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter = (self.filter + key)[:MAX_FILTER]

    def _press_list(self, key: str, shown: Shown) -> Command | None:
        rows = shown.rows
        if key == "q":
            return Command(CommandKind.QUIT)
        if key in (moves := _moves(shown.height)):
            self._select(self.index + moves[key], rows)
        elif key in ("home", "g"):
            self._select(0, rows)
        elif key in ("end", "G"):
            self._select(len(rows) - 1, rows)
        elif key == "/":
            self.typing = True
        elif key == "escape":
            self.filter = ""
        elif key == "s":
            self._sort_by(_next(COLUMNS[self.listing], self.sort, 1))
        elif key == "S":
            self.descending = not self.descending
        elif key in ("tab", "right", "backtab", "left"):
            self.listing = _next(tuple(Listing), self.listing, 1 if key in ("tab", "right") else -1)
            self._sort_by(COLUMNS[self.listing][-1])
            self.index = self.offset = 0
            self.selected = None
        elif rows:
            return self._press_task(key, rows[min(self.index, len(rows) - 1)].task)
        return None

    def _press_task(self, key: str, task: Task) -> Command | None:
        if key == "enter":
            self.opened, self.scroll = task.task_id, None
        elif key == "c":
            self._ask_to_cancel(task)
        elif key == "r":
            return Command(CommandKind.RERUN, task.task_id)
        return None

    def _ask_to_cancel(self, task: Task) -> None:
        if task.ended:
            self.notice = "it has ended"
        elif not task.cancellable:
            self.notice = "it was submitted with cancellable=False"
        else:
            self.to_cancel = task

    def _press_opened(self, key: str, shown: Shown) -> Command | None:
        assert self.opened is not None
        if key in ("escape", "q", "backspace"):
            self.opened = None
        elif key in (moves := _moves(shown.height)):
            self.scroll = max(0, self.first_line + moves[key])
        elif key in ("home", "g"):
            self.scroll = 0
        elif key in ("end", "G"):
            self.scroll = _THE_END
        elif key in ("tab", "right", "enter", "backtab", "left"):
            self._open_tab(_next(tuple(Tab), self.tab, -1 if key in ("backtab", "left") else 1))
        elif key in _TAB_KEYS:
            self._open_tab(_TAB_KEYS[key])
        elif key == "c" and shown.opened is not None:
            self._ask_to_cancel(shown.opened)
        elif key == "r":
            return Command(CommandKind.RERUN, self.opened)
        return None

    def _sort_by(self, column: Column) -> None:
        self.sort, self.descending = column, column not in _TEXTS

    def _open_tab(self, tab: Tab) -> None:
        self.tab, self.scroll = tab, None

    def _select(self, index: int, rows: Sequence[Row]) -> None:
        self.index = max(0, min(index, len(rows) - 1))
        self.selected = rows[self.index].task.task_id if rows else None


_THE_END: Final = 1_000_000  # lines; the drawing knows how many there are
_TAB_KEYS: Final = dict(zip("1234", Tab, strict=True))


def _next(choices: Sequence[T], present: T, step: int) -> T:
    return choices[(choices.index(present) + step) % len(choices)]


def _moves(page: int) -> dict[str, int]:
    return {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -page, "pagedown": page, " ": page}


# ---------------------------------------------------------------------- rows


def rows_of(
    view: View,
    tasks: Sequence[Task],
    at: datetime,
    *,
    busy: Mapping[str, float],
    places: Mapping[str, str],
    names: Mapping[str, str],
) -> list[Row]:
    """Return the tasks that fit the filter, sorted as chosen. `at` is the service's time; `names` are others'."""
    names = {**names, **{task.task_id: task.name for task in tasks}}
    rows = [
        Row(task, _elapsed(task, at), busy.get(task.task_id), _says(task, places, names))
        for task in tasks
        if _fits(task, view.filter.lower())
    ]
    rows.sort(key=lambda row: row.task.task_id)
    rows.sort(key=lambda row: _sort_key(view.sort, row), reverse=view.descending)
    return rows


def _fits(task: Task, text: str) -> bool:
    """As the service's own parameter `q`, which also finds what is not on this page."""
    fields = (task.name, task.task_id, task.plugin_id, task.error_type, task.error)
    return text in "\n".join(filter(None, fields)).lower()


def _elapsed(task: Task, at: datetime) -> float | None:
    if task.ended:
        return task.duration_seconds
    since = task.started_at if task.status == "running" else task.eligible_at or task.created_at
    return None if since is None else max(0.0, (at - since).total_seconds())


def _says(task: Task, places: Mapping[str, str], names: Mapping[str, str]) -> str:
    if task.error_type is not None:
        return f"{task.error_type}: {(task.error or '').partition(chr(10))[0]}"
    if task.ended:
        return task.cancel_reason or task.status
    if task.waiting_for is not None:
        return f"task {names.get(task.waiting_for) or short_id(task.waiting_for)}"
    return places.get(task.task_id, "")


def _sort_key(column: Column, row: Row) -> Any:
    task = row.task
    match column:
        case Column.NAME:
            return task.name.lower()
        case Column.CATEGORY:
            return task.category
        case Column.PRIORITY:
            return _PRIORITIES.get(task.priority, -1)
        case Column.ENGINE:
            return task.engine
        case Column.PROGRESS:
            return task.progress.percent
        case Column.ELAPSED:
            return row.elapsed or 0.0
        case Column.BUSY:
            return row.busy or 0.0
        case Column.ENDED:
            return 0.0 if task.completed_at is None else task.completed_at.timestamp()


def busy_share(phases: Mapping[str, float], before: Mapping[str, float]) -> float | None:
    """Return the share of its running time in which a task used the loop or a processor, since `before`.

    >>> busy_share({"queued": 9.0, "loop": 3.0, "await": 2.0}, {"loop": 2.0, "await": 1.0})
    0.5
    """
    used = sum(seconds - before.get(phase, 0.0) for phase, seconds in phases.items() if phase in USE_PHASES)
    waited = sum(
        seconds - before.get(phase, 0.0) for phase, seconds in phases.items() if phase in WAIT_PHASES
    )
    return min(max(used / (used + waited), 0.0), 1.0) if used + waited > 0 else None
