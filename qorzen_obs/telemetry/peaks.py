"""The largest of the values that came since a moment, for as many readers as there are."""

from __future__ import annotations

from collections import deque
from itertools import dropwhile


class Peaks:
    """Values of the last `seconds`, of which only those are kept that no later one reaches.

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
