"""What every history of ended tasks does. `tests/contracts/test_histories.py` checks each implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from qorzen_obs.record import TaskRecord
from qorzen_obs.tasks import TaskInfo

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
