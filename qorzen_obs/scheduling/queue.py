"""A binary heap from which anything can be removed: the order of pending tasks (scheduler.py) and of deadlines
(core/deadlines.py).

`remove` marks an entry dead. A dead entry leaves when it reaches the top, or with all other dead ones when they are
the majority. So each operation is O(log n) amortised, and memory is proportional to the live entries.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_FEW: Final = 64  # with fewer dead entries than this, sweeping is not worth it


class RemovableHeap(Generic[T]):
    """Items by (key, sequence), lowest first. The sequence must be unique, so items are never compared.

    The first entry is always a live one, so that another thread may peek without changing anything.
    """

    __slots__ = ("_alive", "_entries")

    def __init__(self) -> None:
        self._entries: list[list[object]] = []  # [key, sequence, item]; item None is dead
        self._alive = 0

    def __len__(self) -> int:
        return self._alive

    def __iter__(self) -> Iterator[T]:
        """Yield the items in no particular order."""
        for entry in self._entries:
            if entry[2] is not None:
                yield entry[2]  # type: ignore[misc]  # as in peek

    def push(self, key: float, sequence: int, item: T) -> list[object]:
        """Add `item`; return the entry by which it can be removed. O(log n), O(1) for rising keys."""
        entry: list[object] = [key, sequence, item]
        heapq.heappush(self._entries, entry)
        self._alive += 1
        return entry

    def peek(self) -> T | None:
        """Return the first item, or None; from any thread."""
        entries = self._entries
        try:
            return entries[0][2]  # type: ignore[return-value]  # an entry holds a T at this place
        except IndexError:
            return None

    @property
    def first_key(self) -> float | None:
        """The key of the first item, or None; from any thread."""
        entries = self._entries
        try:
            return entries[0][0]  # type: ignore[return-value]  # an entry holds a float at this place
        except IndexError:
            return None

    def pop(self) -> T:
        """Remove and return the first item.

        Raises:
            IndexError: the heap is empty.
        """
        entries = self._entries
        entry = heapq.heappop(entries)
        item: T = entry[2]  # type: ignore[assignment]  # as in peek
        entry[2] = None
        self._alive -= 1
        while entries and entries[0][2] is None:  # twice, since a method costs a call for each task
            heapq.heappop(entries)
        return item

    def remove(self, entry: list[object]) -> bool:
        """Remove the item of `entry`; return False when it is gone already."""
        if entry[2] is None:
            return False
        entry[2] = None
        self._alive -= 1
        entries = self._entries
        dead = len(entries) - self._alive
        if dead > _FEW and dead > self._alive:
            self._entries = [entry for entry in entries if entry[2] is not None]
            heapq.heapify(self._entries)
        else:
            while entries and entries[0][2] is None:
                heapq.heappop(entries)
        return True
