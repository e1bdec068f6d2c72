"""The seam between the writer of a durable history and the place where it writes.

The writer knows what is to be stored and when; a storage knows how. `history/sqlite/` is one, and
tests/contracts/test_stored_histories.py holds it to what stands here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from qorzen_obs.history.base import Loss, StoredTasks
from qorzen_obs.history.rows import Row


class StorageError(Exception):
    """A storage could not do what it was asked for; the transaction changed nothing, or all of it."""

    def __init__(self, problem: str, *, is_busy: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.is_busy = is_busy  #: another program locks it, which may soon be over


class CorruptedError(StorageError):
    """What is stored cannot be read any more."""


class ReplacedError(Exception):
    """Another process owns the storage now; nothing was written."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """What one transaction writes."""

    rows: Iterable[Row] = ()  #: made while they are written, since that takes time
    withdrawn: Sequence[str] = ()  #: ids of tasks that were not accepted after all
    logs: Sequence[tuple[str, bytes]] = ()  #: task id, and its lines as a JSON array
    traces: Sequence[tuple[str, str, bytes]] = ()  #: trace id, task id, and the spans as a JSON array


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """What a process knows when it has become the owner."""

    epoch: int
    losses: list[Loss] = field(default_factory=list)  #: what dead owners left unfinished, the newest first
    set_aside: str | None = None  #: where a corrupted file is now, in whose place a new one was begun


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which ended tasks are kept. None means no limit. Live tasks are always kept."""

    max_age_days: float | None = None  #: since their end
    max_records: int | None = None  #: of all tasks


class Storage(Protocol):
    """Where tasks are stored. All methods but `stored` and `facts` belong to the writer's thread.

    Each raises StorageError where the storage is broken; `reopen` then makes a new attempt possible.
    """

    @property
    def name(self) -> str:
        """What people call it: the path of its file, or its address without secrets."""
        ...

    @property
    def epoch(self) -> int:
        """The epoch of the present ownership, which each row carries; 0 before the first."""
        ...

    @property
    def stored(self) -> StoredTasks:
        """The reading side."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what it adds to the status of the history; from any thread."""
        ...

    def own(self) -> Ownership | None:
        """Try once to become the owner; mark in the same transaction what dead owners left. None while another lives.

        Raises:
            HistoryError: no later attempt can succeed.
        """
        ...

    def holder(self) -> str:
        """Return who owns it, for an error message."""
        ...

    def renew(self) -> None:
        """Hold on to the lock; raises nothing."""
        ...

    def write(self, batch: Batch) -> None:
        """Store a batch for good, all of it or nothing.

        Raises:
            ReplacedError: another process has become the owner.
        """
        ...

    def prune(self, retention: Retention | None = None) -> int:
        """Drop up to 1,000 of the oldest ended tasks that need not be kept; return how many. Raises as `write`.

        Args:
            retention: what is to be kept this time; None means what the storage was made with.
        """
        ...

    def analyze(self) -> None:
        """Renew what its planner knows about the tasks, if that is due. Raises as `write`."""
        ...

    def reopen(self) -> None:
        """Connect again after an error."""
        ...

    def set_aside(self) -> str:
        """Put what is corrupted aside, begin anew as the owner, and return where the old is, "" if nothing is left."""
        ...

    def leave(self) -> None:
        """End the ownership for good. Raises as `write`."""
        ...

    def close(self) -> None:
        """Give everything back; raises nothing."""
        ...
