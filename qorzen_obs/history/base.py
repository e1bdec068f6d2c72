"""The two seams of what is remembered: `History` of this process, and `Recorder`, which survives it.

`tests/contracts/test_histories.py` checks each History. The core records through a Recorder and asks it nothing that
could block the work loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from qorzen_obs.record import End, TaskEvent, TaskRecord
from qorzen_obs.tasks import TaskCategory, TaskInfo, TaskPriority, TaskStatus

#: Called with each record that the history no longer keeps whole; on the work loop.
OnEvicted = Callable[[TaskRecord], object]


class History(Protocol):
    """Remembers ended tasks: the newest whole, older ones as an outline that says `evicted`.

    Failed tasks have a quota of their own, in number and half of the bytes, so that any number of other tasks evicts
    none of them. The work loop writes; any thread reads. A task that was added is always found, whole or as an outline,
    until the oldest outlines are dropped.
    """

    #: Maximum number of failed records, and of all other records, kept whole; `shrink` applies a change.
    keep: int
    #: About how many bytes all of them may take; `shrink` applies a change.
    keep_bytes: float

    def __len__(self) -> int:
        """Return how many records are kept whole."""
        ...

    def add(self, record: TaskRecord) -> bool:
        """Remember an ended task whole; return whether more is kept than allowed and `shrink` is due.

        Evicts nothing itself: the caller shrinks once for many additions.
        """
        ...

    def shrink(self) -> None:
        """Evict the oldest records beyond `keep` and `keep_bytes`."""
        ...

    def record(self, task_id: str) -> TaskRecord | None:
        """Return the record while it is kept whole; from any thread."""
        ...

    def records(self) -> list[TaskRecord]:
        """Return the records that are kept whole, oldest end first; from any thread."""
        ...

    def info(self, task_id: str) -> TaskInfo | None:
        """Return a snapshot of a task that is kept whole or as an outline; from any thread."""
        ...


TaskOrder = Literal["newest", "oldest", "priority", "ended"]

#: More than a timestamp ever is, so that a higher priority comes first, whenever it was accepted.
_PRIORITY_SECONDS: Final = 1e10


def sort_value(info: TaskInfo, order: TaskOrder) -> float:
    """Return what an order sorts stored tasks by before their id: rising for `oldest` and `priority`, else falling."""
    return sort_value_of(order, info.created_at, info.priority, info.completed_at)


def sort_value_of(order: TaskOrder, created_at: float, priority: int, completed_at: float | None) -> float:
    """Return what `sort_value` returns for a task with these values."""
    if order == "ended":
        return completed_at or 0.0
    if order == "priority":
        return created_at - priority * _PRIORITY_SECONDS
    return created_at


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """Which stored tasks to list: in each field one of the values must fit; an empty field fits always."""

    statuses: frozenset[TaskStatus] = frozenset()
    categories: frozenset[TaskCategory] = frozenset()
    priorities: frozenset[TaskPriority] = frozenset()
    plugin_ids: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    definitions: frozenset[str] = frozenset()
    error_types: frozenset[str] = frozenset()
    parent_ids: frozenset[str] = frozenset()
    instances: frozenset[str] = frozenset()
    #: In lower case; parts of the name, an id or the error, in the newest 50,000 tasks.
    texts: tuple[str, ...] = ()
    created_after: float | None = None  #: Unix seconds; at that moment or later
    created_before: float | None = None
    lost_by_crash: bool = False  #: only those that a crash took
    order: TaskOrder = "newest"  #: as `sort_value` says; `ended` finds only tasks that have ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What the last end of an earlier process took along."""

    instance: str  #: of the process that died
    started_at: float  #: Unix seconds
    last_seen_at: float  #: when it wrote last
    noticed_at: float  #: when this process found out
    running: int
    pending: int
    by_category: dict[TaskCategory, int]


class StoredTasks(Protocol):
    """Reads what is stored. Blocks for a disk: call it on the ops plane's threads, never on the work loop."""

    def find(self, task_id: str) -> TaskInfo | None:
        """Return one stored task of any process, None if it is not stored."""
        ...

    def select(
        self, query: TaskQuery, *, limit: int, after: tuple[float, str] | None = None
    ) -> list[TaskInfo]:
        """Return up to `limit` tasks behind the position `after` in the order of the query: (sort value, task id)."""
        ...

    def logs(self, task_id: str) -> Sequence[dict[str, Any]]:
        """Return the stored log lines of an ended task."""
        ...

    def spans(self, trace_id: str) -> Sequence[dict[str, Any]]:
        """Return the stored spans of a trace, by its id in hexadecimal digits, as OTLP/JSON has them."""
        ...

    def losses(self) -> list[Loss]:
        """Return what crashes took, the newest first."""
        ...


class Recorder(Protocol):
    """Stores what happens to the tasks of one manager. Its methods belong to the work loop unless they say otherwise.

    None of them blocks, and the observers raise nothing: if the storage fails, `refusal` and `status` say so.
    """

    #: Whether a submission waits until its record is on disk.
    commits_first: bool

    def refusal(self) -> str | None:
        """Return why no new task can be accepted now and what to do; None if it can."""
        ...

    async def wait_for_room(self) -> None:
        """Wait until `refusal` is None because the writer has caught up; returns at once if it is broken."""
        ...

    def offer(self, record: TaskRecord) -> asyncio.Future[None]:
        """Store a checked record before it is accepted; the future is done once it is on disk.

        Its exception is HistoryUnavailableError where it could not be stored.
        """
        ...

    def withdraw(self, record: TaskRecord) -> None:
        """Forget an offered record that was not accepted after all."""
        ...

    def on_event(self, event: TaskEvent) -> None:
        """Take a submission, a start, a retry or progress, as an observer of the announcer."""
        ...

    def on_ends(self, ends: Sequence[End]) -> None:
        """Take the ends of a turn of the loop, as an observer of ends."""
        ...

    def status(self) -> dict[str, Any]:
        """Return the history's part of `status()`; from any thread."""
        ...
