"""One timer for all deadlines: the loop holds the earliest, a heap holds the rest.

A timer for each task would cost the loop a heap of Python objects that it compares in Python. A deadline that is
removed leaves an empty entry, which goes when it is due or when such entries are the majority.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from qorzen_obs.clock import Clock
from qorzen_obs.core.runtime import Timers

T = TypeVar("T")

#: When, a number that keeps items from being compared, and the item; None in its place is an empty entry.
Entry = list[Any]

_FEW: Final = 64  # below this many sweeping is not worth it


class Deadlines(Generic[T]):
    """Calls `on_due(item)` once the clock has reached the item's deadline; never before."""

    def __init__(self, timers: Timers, clock: Clock, on_due: Callable[[T], None]) -> None:
        self._timers = timers
        self._clock = clock
        self._on_due = on_due
        self._heap: list[Entry] = []
        self._sweep_at = _FEW
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = float("inf")

    def __len__(self) -> int:
        """Return how many entries are held, empty ones included."""
        return len(self._heap)

    def add(self, when: float, item: T) -> Entry:
        """Set a deadline at `when` (monotonic); return the entry that `remove` takes."""
        entry = [when, next(self._numbers), item]
        heapq.heappush(self._heap, entry)
        if when < self._armed_for:
            self._arm(when)
        if len(self._heap) > self._sweep_at:
            self._sweep()
        return entry

    def remove(self, entry: Entry) -> None:
        """Forget a deadline; nothing happens when it has passed. The timer finds out when it fires."""
        entry[2] = None

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        """Drop empty entries: as many are added until the next time as are left, so it costs O(1) for each."""
        self._heap = [entry for entry in self._heap if entry[2] is not None]
        heapq.heapify(self._heap)
        self._sweep_at = max(_FEW, 2 * len(self._heap))

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = when
        self._timer = self._timers.call_later(max(0.0, when - self._clock.monotonic()), self._fire)

    def _fire(self) -> None:
        self._armed_for, self._timer = float("inf"), None
        now = self._clock.monotonic()
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2] is None):
            entry = heapq.heappop(self._heap)
            item, entry[2] = entry[2], None
            if item is not None:
                self._on_due(item)
        if self._heap and self._heap[0][0] < self._armed_for:
            self._arm(self._heap[0][0])
