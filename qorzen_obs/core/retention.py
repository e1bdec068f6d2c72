"""What ended tasks keep alive, and for how long: records, results, and the calls of tasks that may run again.

A value of at most `tasks.keep_value_bytes` is kept as long as its record. A larger result is released when a waiter
has it, or earlier when newer ones need the room. Belongs to the work loop.
"""

from __future__ import annotations

from typing import Final

from qorzen_obs.core.runtime import Runtime
from qorzen_obs.core.task_table import TaskTable
from qorzen_obs.footprint import footprint_of
from qorzen_obs.record import TaskRecord
from qorzen_obs.tasks import COMPLETED

_size_of: Final = str.__sizeof__


class Retention:
    """The values and records of the ended tasks of one manager."""

    def __init__(self, runtime: Runtime, table: TaskTable) -> None:
        self._runtime = runtime
        self._history = table.history
        self._unclaimed = table.unclaimed
        self.shrinks = False  #: in the next turn of the loop

    def ended(self, record: TaskRecord) -> None:
        """Keep what a task that has ended may keep, and drop the rest; its result stays for this turn."""
        state, settings = record.state, self._runtime.settings
        held = 0 if record.metadata is None else footprint_of(record.metadata)
        if state.status is not COMPLETED:
            size = footprint_of((record.func, record.args, record.kwargs)) if settings.keep_arguments else 0
            keep_call = settings.keep_arguments and size <= settings.keep_value_bytes
            if keep_call:
                held += size
            texts = (text for text in (state.error, state.traceback) if text is not None)
            record.kept_bytes = held + sum(map(_size_of, texts))
            record.release(keep_call=keep_call)
            return
        size = footprint_of(state.result)
        if size <= settings.keep_value_bytes:
            record.kept_bytes = held + size
        else:
            record.kept_bytes = held
            self._unclaimed[record.task_id] = (record, size)
            if not self.shrinks and self._excess() > 0:
                self.shrink_soon()
        record.release()

    def result_taken(self, task_id: str) -> None:
        """Note that a waiter has the result of this task; release it here if it is large."""
        found = self._unclaimed.pop(task_id, None)
        if found is not None:
            record = found[0]
            record.state = record.state.but(result=None, result_released=True)

    def exception_taken(self, record: TaskRecord) -> None:
        """Prepare for a waiter that will raise what this task has raised.

        The waiter's frames will stand in its traceback, and would live as long as the record.
        """
        if record.state.exception is not None:
            record.state = record.state.but(exception=None)

    def handed_over(self, record: TaskRecord) -> None:
        """Release everything of the user's, since an executor's future has the outcome of this task."""
        self._unclaimed.pop(record.task_id, None)
        state = record.state
        if state.result is not None or state.exception is not None:
            is_released = state.result_released or state.result is not None
            record.state = state.but(result=None, exception=None, result_released=is_released)
        record.release()

    def shrink_soon(self) -> None:
        """Evict all records that a turn of the loop added beyond the limit, when ends are announced (core/ends.py)."""
        self._runtime.work_loop.call_soon(self._shrink)
        self.shrinks = True

    def _shrink(self) -> None:
        self.shrinks = False
        self._history.shrink()
        excess = self._excess()
        while excess > 0:
            record, size = next(iter(self._unclaimed.values()))
            self.result_taken(record.task_id)
            excess -= size

    def _excess(self) -> int:
        """The bytes by which large results that nobody has waited for exceed the limit."""
        settings = self._runtime.settings
        held = sum(size for _, size in self._unclaimed.values())
        share = settings.keep_value_bytes * settings.keep_completed_tasks
        return held - min(share, settings.keep_completed_bytes)
