"""Which blocks of the work loop are worth a log line: of one culprit one a minute, with a count, and of all a few."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

_SECONDS: Final = 60.0  #: between two lines of one culprit
_LINES: Final = 5  # that may follow at once; then one in _LINE_SECONDS
_LINE_SECONDS: Final = 10.0
_MOST_CULPRITS: Final = 256  # that are remembered, those seen last


class BlockLines:
    """Counts what is held back. For one thread at a time."""

    def __init__(self) -> None:
        self._held_back: dict[Hashable, int] = {}  # the one seen last at the end
        self._told_at: dict[Hashable, float] = {}
        self._left = float(_LINES)
        self._left_at = float("-inf")

    def let(self, culprit: Hashable, now: float) -> int | None:
        """Return of how many blocks a line tells, with those that were held back; None to hold this one back too.

        Args:
            culprit: who it was, by what is the same the next time.
            now: seconds on any clock that never goes back.
        """
        self._left = min(_LINES, self._left + (now - self._left_at) / _LINE_SECONDS)
        self._left_at = now
        count = self._held_back.pop(culprit, 0) + 1
        if self._left < 1.0 or now - self._told_at.get(culprit, float("-inf")) < _SECONDS:
            self._held_back[culprit] = count
            self._forget(self._held_back)
            return None
        self._left -= 1.0
        self._told_at.pop(culprit, None)
        self._told_at[culprit] = now
        self._forget(self._told_at)
        return count

    def _forget(self, culprits: dict[Hashable, int] | dict[Hashable, float]) -> None:
        if len(culprits) > _MOST_CULPRITS:
            del culprits[next(iter(culprits))]
