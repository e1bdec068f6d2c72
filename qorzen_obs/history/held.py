"""The changes that are not on disk yet, one for each task: its newest state. Belongs to the writer's thread.

A short task is written once, because its end replaces its submission and its start while they wait for a commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from qorzen_obs.history.intake import Change, Offer, Withdrawal
from qorzen_obs.history.rows import Row, version_of
from qorzen_obs.record import TaskEvent, TaskRecord, TaskState
from qorzen_obs.tasks import TaskProgress


class Waiter(NamedTuple):
    """Somebody who waits on a loop until a record is on disk."""

    future: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class Held(NamedTuple):
    """The newest known state of one task."""

    record: TaskRecord
    state: TaskState
    progress: TaskProgress
    at: float  #: Unix seconds
    waiters: tuple[Waiter, ...] = ()
    row: Row | None = None  #: made already, so that nothing of the user's is kept alive

    def after(self, earlier: Held) -> Held:
        """Return what is left of both: the later state, and everyone who waits."""
        newest = self if version_of(self.state) >= version_of(earlier.state) else earlier
        waiters = earlier.waiters + self.waiters
        return newest if newest.waiters == waiters else newest._replace(waiters=waiters)


class HeldChanges:
    """What the next commits write."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}  # the oldest first
        self.withdrawn: dict[str, None] = {}  #: ids of tasks whose rows are to be deleted
        self.number = 0  #: of tasks with a change; from any thread

    def __bool__(self) -> bool:
        return bool(self._held or self.withdrawn)

    def take(self, change: Change) -> str:
        """Take one change of the intake; return the id of its task."""
        record = change.record
        if isinstance(change, Withdrawal):
            self._drop(record.task_id)
            self.withdrawn[record.task_id] = None
            return record.task_id
        if isinstance(change, TaskEvent):
            held = Held(record, change.state, change.progress, change.at)
        elif isinstance(change, Offer):
            waiters = (Waiter(change.future, change.loop),)
            held = Held(record, record.state, record.progress, change.at, waiters)
        else:
            held = Held(record, change.state, record.progress, change.at)
        self.put(held)
        return record.task_id

    def compact(self, task_ids: Iterable[str], make_row: Callable[[Held], Row]) -> None:
        """Make the rows of these tasks now, and keep neither results nor arguments alive until they are written."""
        for task_id in task_ids:
            held = self._held.get(task_id)
            if held is not None and held.row is None:
                row, record, state = make_row(held), held.record.outline(), held.state.outline()
                self._held[task_id] = held._replace(row=row, record=record, state=state)

    def ids(self) -> list[str]:
        """Return the ids of all held tasks, the oldest first."""
        return list(self._held)

    def put(self, held: Held) -> None:
        """Hold the state of a task, unless a later one is held already."""
        task_id = held.record.task_id
        earlier = self._held.get(task_id)
        self._held[task_id] = held if earlier is None else held.after(earlier)
        self.number = len(self._held)

    def first(self, number: int) -> list[Held]:
        """Return the oldest."""
        return list(islice(self._held.values(), number))

    def written(self, batch: Iterable[Held], withdrawn: Iterable[str]) -> None:
        """Forget what is on disk now."""
        for held in batch:
            del self._held[held.record.task_id]
        for task_id in withdrawn:
            del self.withdrawn[task_id]
        self.number = len(self._held)

    def refuse(self) -> list[Waiter]:
        """Withdraw every record that somebody waits for; return those who wait."""
        waiting = [held for held in self._held.values() if held.waiters]
        for held in waiting:
            self._drop(held.record.task_id)
            self.withdrawn[held.record.task_id] = None  # the commit that failed may have reached the disk
        return [waiter for held in waiting for waiter in held.waiters]

    def release(self) -> list[Waiter]:
        """Return those who wait, and hold their records without them."""
        waiting = [held for held in self._held.values() if held.waiters]
        for held in waiting:
            self._held[held.record.task_id] = held._replace(waiters=())
        return [waiter for held in waiting for waiter in held.waiters]

    def shrink(self, most: int) -> int:
        """Drop the oldest beyond so many; return how many."""
        over = max(0, len(self._held) - most)
        for task_id in list(islice(self._held, over)):
            self._drop(task_id)
        return over

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    def _drop(self, task_id: str) -> None:
        self._held.pop(task_id, None)
        self.number = len(self._held)


def resolve(waiters: Sequence[Waiter], error: Callable[[], BaseException] | None = None) -> None:
    """Let those who wait go on, each on its loop: all of a loop in one step of it. From any thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiter in waiters:
        by_loop.setdefault(waiter.loop, []).append(waiter.future)
    for loop, futures in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(_settle, futures, error)


def _settle(futures: Iterable[asyncio.Future[None]], error: Callable[[], BaseException] | None) -> None:
    for future in futures:
        if future.done():  # the caller has given up
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error())
