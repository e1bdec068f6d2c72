"""The largest value since a moment, for any number of readers."""

from __future__ import annotations

from collections import deque
from itertools import dropwhile
from math import inf
from typing import Final

RECENT_SECONDS: Final = 60.0
_STEP_SECONDS: Final = 1.0


class Peaks:
    """Values of the last `seconds`; keeps only those that no later one reaches.

    `add` belongs to one thread, `since` to any. The kept values decrease from the oldest on, so the first one since a
    moment is the largest.
    """

    __slots__ = ("_kept", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept: deque[tuple[float, float]] = deque()

    def add(self, at: float, value: float) -> None:
        """Record a value; `at` must never decrease. Amortised O(1)."""
        kept = self._kept
        while kept and kept[-1][1] <= value:
            kept.pop()
        kept.append((at, value))
        while kept[0][0] <= at - self._seconds:
            kept.popleft()

    def since(self, at: float) -> float:
        """Return the largest value after `at`; 0.0 if there is none."""
        kept = list(self._kept)  # one step of the interpreter
        return next((value for _, value in dropwhile(lambda each: each[0] <= at, kept)), 0.0)


class RecentPeak:
    """The largest value of the last RECENT_SECONDS, for values that come with each task: most cost one comparison.

    `add` belongs to one thread, `since` to any. The largest value within a second represents all of them, as if it had
    come at the end of that second. So the result of `since` is never too small.
    """

    __slots__ = ("_before", "_until", "_value")

    def __init__(self) -> None:
        self._before = Peaks(RECENT_SECONDS + _STEP_SECONDS)
        self._value, self._until = 0.0, -inf

    def add(self, at: float, value: float) -> None:
        """Record a value."""
        if at >= self._until:
            if self._until > -inf:
                self._before.add(self._until, self._value)
            self._value, self._until = value, at + _STEP_SECONDS
        elif value > self._value:
            self._value = value

    def since(self, at: float) -> float:
        """Return the largest value after `at`, which is at most RECENT_SECONDS ago; 0.0 if there is none."""
        latest = self._value if self._until > at else 0.0
        return max(latest, self._before.since(at))
