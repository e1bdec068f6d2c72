"""One timer for all deadlines: the loop holds the earliest, a heap holds the rest.

A timer for each task would cost the loop a heap of Python objects that it compares in Python.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from math import inf
from typing import Any, Final, Generic, TypeVar

from qorzen_obs.clock import Clock
from qorzen_obs.core.runtime import Timers
from qorzen_obs.scheduling.queue import RemovableHeap

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Calls `on_due(item)` once the clock has reached the item's deadline; never before."""

    def __init__(self, timers: Timers, clock: Clock, on_due: Callable[[T], None]) -> None:
        self._timers = timers
        self._clock = clock
        self._on_due = on_due
        self._heap: RemovableHeap[T] = RemovableHeap()
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = inf
        #: Remove a deadline by its entry; nothing happens when it has passed. The timer finds out when it fires.
        self.remove: Final[Callable[[list[Any]], bool]] = self._heap.remove

    def add(self, when: float, item: T) -> list[Any]:
        """Set a deadline at `when` (monotonic); return the entry that `remove` takes."""
        if when < self._armed_for:
            self._arm(when)
        return self._heap.push(when, next(self._numbers), item)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = when
        self._timer = self._timers.call_later(max(0.0, when - self._clock.monotonic()), self._fire)

    def _fire(self) -> None:
        self._armed_for, self._timer = inf, None
        now = self._clock.monotonic()
        while (first := self._heap.first_key) is not None and first <= now:
            self._on_due(self._heap.pop())
        if first is not None and first < self._armed_for:
            self._arm(first)
