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
        timer = self._timers.call_later(max(0.0, when - self._clock.monotonic()), self._fire)
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for, self._timer = when, timer

    def _fire(self) -> None:
        self._armed_for, self._timer = inf, None
        now = self._clock.monotonic()
        try:
            while (first := self._heap.first_key) is not None and first <= now:
                item = self._heap.pop()
                try:
                    self._on_due(item)
                except BaseException:
                    self.add(now, item)
                    raise
        finally:  # the other deadlines must be met even if one fails
            first = self._heap.first_key
            if first is not None and first < self._armed_for:
                self._arm(first)


class Alarm:
    """One timer that can be moved: calls `on_time()` once the clock has reached `at`."""

    def __init__(self, timers: Timers, clock: Clock, on_time: Callable[[], None]) -> None:
        self._timers = timers
        self._clock = clock
        self._on_time = on_time
        self._timer: asyncio.TimerHandle | None = None
        self.at: float | None = None  #: monotonic; None while it is off

    def set(self, at: float | None) -> None:
        """Ring at `at` and no earlier; None turns it off."""
        timer, before = None, self._timer
        if at is not None:
            timer = self._timers.call_later(max(0.0, at - self._clock.monotonic()), self._ring)
        self.at, self._timer = at, timer
        if before is not None:
            before.cancel()

    def _ring(self) -> None:
        self.at = self._timer = None
        try:
            self._on_time()
        except BaseException:
            self.set(self._clock.monotonic())
            raise
