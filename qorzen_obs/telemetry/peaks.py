"""The largest of the values that came since a moment, for as many readers as there are."""

from __future__ import annotations

from collections import deque
from itertools import dropwhile
from math import inf
from typing import Final

RECENT_SECONDS: Final = 60.0
_STEP_SECONDS: Final = 1.0


class Peaks:
    """The highest of the values of the last `seconds`: only those are kept that no later one reaches.

    `add` belongs to one thread, `since` to any. What is kept falls from the oldest on, so the first since a moment is
    the largest.
    """

    __slots__ = ("_kept", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept: deque[tuple[float, float]] = deque()

    def add(self, at: float, value: float) -> None:
        """Take note of a value; `at` never falls. A constant number of steps, over many calls."""
        kept = self._kept
        while kept and kept[-1][1] <= value:
            kept.pop()
        kept.append((at, value))
        while kept[0][0] <= at - self._seconds:
            kept.popleft()

    def since(self, at: float) -> float:
        """Return the largest value that came after `at`; 0.0 where none did."""
        kept = list(self._kept)  # one step of the interpreter
        return next((value for _, value in dropwhile(lambda each: each[0] <= at, kept)), 0.0)


class RecentPeak:
    """The largest of the values of the last RECENT_SECONDS, for what comes with each task: most cost a comparison.

    `add` belongs to one thread, `since` to any. Of the values within a second the largest stands for all, as if it had
    come at the end of that second. So what `since` says is never too small.
    """

    __slots__ = ("_before", "_until", "_value")

    def __init__(self) -> None:
        self._before = Peaks(RECENT_SECONDS + _STEP_SECONDS)
        self._value, self._until = 0.0, -inf

    def add(self, at: float, value: float) -> None:
        """Take note of a value."""
        if at >= self._until:
            if self._until > -inf:
                self._before.add(self._until, self._value)
            self._value, self._until = value, at + _STEP_SECONDS
        elif value > self._value:
            self._value = value

    def since(self, at: float) -> float:
        """Return the largest value that came after `at`, which is RECENT_SECONDS ago at most; 0.0 where none did."""
        latest = self._value if self._until > at else 0.0
        return max(latest, self._before.since(at))
