"""A bounded queue of events, in order. When it is full, progress is dropped first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class EventQueue(Generic[T]):
    """A bounded queue. When it is full the oldest progress is dropped or, if it holds none, the new event.

    Every step is O(1), so a queue that nobody empties costs its publisher no more than one that is empty.

    Args:
        capacity: maximum number of waiting events.
        is_progress: whether an event only reports progress, which the next report replaces.
        on_drop: called with each event that is dropped.
    """

    def __init__(
        self, capacity: int, is_progress: Callable[[T], bool], on_drop: Callable[[T], object]
    ) -> None:
        self._capacity = capacity
        self._is_progress = is_progress
        self._on_drop = on_drop
        self._number = 0  # the last event's number
        # Each with its number, by which `take` restores the order.
        self._events: deque[tuple[int, T]] = deque()
        self._progress: deque[tuple[int, T]] = deque()

    def __len__(self) -> int:
        return len(self._events) + len(self._progress)

    def put(self, event: T) -> None:
        """Add one event, or drop one."""
        events, progress = self._events, self._progress
        is_progress = self._is_progress(event)
        if len(events) + len(progress) >= self._capacity:
            if is_progress or not progress:
                self._on_drop(event)
                return
            self._on_drop(progress.popleft()[1])
        self._number += 1
        (progress if is_progress else events).append((self._number, event))

    def take(self) -> T:
        """Remove the oldest event and return it; raise IndexError if there is none."""
        events, progress = self._events, self._progress
        oldest = progress if progress and (not events or progress[0][0] < events[0][0]) else events
        return oldest.popleft()[1]

    def drop_all(self) -> None:
        """Drop the waiting events."""
        while len(self):
            self._on_drop(self.take())
