"""Which tasks exist: live tasks, their running attempts, abandoned code that still runs, and the history.

The work loop writes. Other threads read `list(table.live.values())` and the methods here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from qorzen_obs.history.base import History, OnEvicted
from qorzen_obs.record import Attempt, TaskRecord
from qorzen_obs.tasks import COMPLETED, TaskInfo, TaskPriority

_sequence_of: Final = attrgetter("sequence")
_PRIORITIES: Final = sorted(TaskPriority, reverse=True)


class MayRerun(NamedTuple):
    """Whether a task can be run again, and whether it was."""

    why_not: str | None  #: None where it can
    rerun_as: str | None  #: the id of the last task that runs it again


class TaskTable:
    """The tasks of one manager, by id.

    Args:
        make_history: makes the history; its argument is a callable for each record that leaves the history.
        on_forgotten: each is called with the id of a task that the history no longer keeps whole.
    """

    def __init__(
        self,
        make_history: Callable[[OnEvicted], History],
        on_forgotten: Iterable[Callable[[str], object]] = (),
    ) -> None:
        self.live: dict[str, TaskRecord] = {}
        self.running: dict[str, Attempt] = {}
        self.abandoned: dict[Attempt, bool] = {}  #: still running; True: the attempt keeps its slot
        self.history = make_history(self._evicted)
        #: The ended tasks with a large result that nobody has waited for, and its size in bytes; the oldest end first.
        self.unclaimed: dict[str, tuple[TaskRecord, int]] = {}
        self.plugins: Counter[str] = Counter()  #: tasks, live and kept, by plugin
        #: Set when the last live task ends. Clear it before waiting for it.
        self.nothing_lives = asyncio.Event()
        self._on_forgotten = tuple(on_forgotten)

    def find(self, task_id: str) -> TaskInfo | None:
        """Return a snapshot of a live or remembered task; from any thread."""
        record = self.live.get(task_id)
        return record.info() if record is not None else self.history.info(task_id)

    def whole(self, task_id: str) -> TaskRecord | None:
        """Return the record of a live task or of one that is kept whole; from any thread."""
        return self.live.get(task_id) or self.history.record(task_id)

    def records(self) -> list[TaskRecord]:
        """Return the live and the kept records, newest first; from any thread."""
        records = {record.sequence: record for record in list(self.live.values())}
        records.update((record.sequence, record) for record in self.history.records())
        # The live ones, usually most of them, are in order already, which makes sorting cheap.
        return sorted(records.values(), key=_sequence_of, reverse=True)

    def abandoned_attempt(self, task_id: str) -> Attempt | None:
        """Return the last abandoned attempt of a task whose code still runs; from any thread."""
        found = [attempt for attempt in list(self.abandoned) if attempt.task_id == task_id]
        return found[-1] if found else None

    def why_not_again(self, record: TaskRecord | None) -> str | None:
        """Return why a task cannot be run again, None where it can; from any thread. None is one that is not whole."""
        if record is None:
            return "only its outline is kept; submit it again, and see tasks.keep_completed_tasks"
        status = record.state.status
        if not status.final:
            return f"it is {status.value}; wait for its end, or cancel it first"
        if status is COMPLETED:
            return "it completed; submit it again"
        if any(attempt.record is record for attempt in list(self.abandoned)):
            return "its code would not stop and still runs; wait for its end"
        if record.func is None:
            return "its arguments were not kept, see tasks.keep_arguments and tasks.keep_value_bytes; submit it again"
        return None

    def release_calls(self) -> None:
        """Drop the callables and arguments of all kept tasks."""
        for record in self.history.records():
            record.release()

    def _evicted(self, record: TaskRecord) -> None:
        if record.func is not None:
            record.release()
        self.unclaimed.pop(record.task_id, None)
        for forget in self._on_forgotten:
            forget(record.task_id)
        self.release_plugin(record)

    def release_plugin(self, record: TaskRecord) -> None:
        """Count one task less for its plugin, if any, since it is neither live nor kept whole any more."""
        if record.plugin_id is not None:
            self.plugins[record.plugin_id] -= 1
            if not self.plugins[record.plugin_id]:
                del self.plugins[record.plugin_id]


def by_priority(newest_first: Sequence[TaskRecord]) -> Iterator[TaskRecord]:
    """Yield the records, highest priority first, then oldest first, in one pass for each priority."""
    for priority in _PRIORITIES:
        for record in reversed(newest_first):
            if record.priority is priority:
                yield record
