"""One timer for all deadlines: the loop holds the earliest, a heap holds the rest.

A timer for each task would cost the loop a heap of Python objects that it compares in Python. A deadline that has
become meaningless stays until it passes or until such ones are the majority: forgetting one costs nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from qorzen_obs.clock import Clock

T = TypeVar("T")

_FEW: Final = 64  # below this many sweeping is not worth it


class Deadlines(Generic[T]):
    """Calls `on_due(item)` once the clock has reached the item's deadline, never before, unless `is_over(item)`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        on_due: Callable[[T], None],
        is_over: Callable[[T], bool],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._on_due = on_due
        self._is_over = is_over
        self._heap: list[tuple[float, int, T]] = []  # the number keeps items from being compared
        self._sweep_at = _FEW
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = float("inf")

    def __len__(self) -> int:
        """Return how many deadlines are held, those of items that are over included."""
        return len(self._heap)

    def add(self, when: float, item: T) -> None:
        """Set a deadline at `when` (monotonic)."""
        heap = self._heap
        heapq.heappush(heap, (when, next(self._numbers), item))
        if when < self._armed_for:
            self._arm(when)
        if len(heap) > self._sweep_at:
            self._sweep()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        """Drop what is over: as much is added until the next time as is left, so it costs O(1) for each."""
        self._heap = [entry for entry in self._heap if not self._is_over(entry[2])]
        heapq.heapify(self._heap)
        self._sweep_at = max(_FEW, 2 * len(self._heap))

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = when
        self._timer = self._loop.call_later(max(0.0, when - self._clock.monotonic()), self._fire)

    def _fire(self) -> None:
        self._armed_for, self._timer = float("inf"), None
        now = self._clock.monotonic()
        while self._heap and (self._heap[0][0] <= now or self._is_over(self._heap[0][2])):
            _, _, item = heapq.heappop(self._heap)
            if not self._is_over(item):
                self._on_due(item)
        if self._heap and self._heap[0][0] < self._armed_for:
            self._arm(self._heap[0][0])
