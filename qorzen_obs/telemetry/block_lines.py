"""Limits log lines about blocks of the work loop: one a minute per culprit, with a count, and a few in all."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

_SECONDS: Final = 60.0  #: seconds between two lines about one culprit
_LINES: Final = 5  # lines that may follow at once; then one in _LINE_SECONDS
_LINE_SECONDS: Final = 10.0
_MOST_CULPRITS: Final = 256  # culprits remembered: those seen last


class BlockLines:
    """Counts the blocks that are held back. For one thread at a time."""

    def __init__(self) -> None:
        self._held_back: dict[Hashable, int] = {}  # in order of last sight
        self._told_at: dict[Hashable, float] = {}
        self._left = float(_LINES)
        self._left_at = float("-inf")

    def let(self, culprit: Hashable, now: float) -> int | None:
        """Return how many blocks a line covers, including those held back; None to hold this one back too.

        Args:
            culprit: a name of the culprit that stays the same.
            now: seconds on any clock that never goes backwards.
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
