"""What every history of ended tasks does. `tests/contracts/test_histories.py` holds each implementation to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from qorzen_obs.record import TaskRecord
from qorzen_obs.tasks import TaskInfo

#: Called with each record that the history no longer keeps whole; on the work loop.
OnEvicted = Callable[[TaskRecord], object]


class History(Protocol):
    """Remembers ended tasks: the newest whole, older ones as an outline that says `evicted`.

    Failed tasks have a quota of their own, of the number and half of the bytes, so that other tasks, however many end,
    evict none of them. The work loop writes; any thread reads. A task that was added is always found, whole or as an
    outline, until the oldest outlines are dropped.
    """

    #: How many failed records, and how many of the others, are kept whole at most; `shrink` applies a change.
    keep: int
    #: How many bytes all of them take at most, about; `shrink` applies a change.
    keep_bytes: float

    def __len__(self) -> int:
        """Return how many records are kept whole."""
        ...

    def add(self, record: TaskRecord) -> bool:
        """Remember an ended task whole; return whether more is kept than is allowed, so that `shrink` is due.

        Evicts nothing itself: the caller shrinks once for many additions.
        """
        ...

    def shrink(self) -> None:
        """Evict the oldest beyond `keep` and `keep_bytes`."""
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
