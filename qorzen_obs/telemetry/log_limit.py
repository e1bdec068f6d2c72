"""Limits a log line that may be due hundreds of times a second to one a minute, with a count."""

from __future__ import annotations

from typing import Final

_SECONDS: Final = 60.0


class LogLimit:
    """Lets one line a minute through. For one thread at a time."""

    __slots__ = ("_held_back", "_last_at")

    def __init__(self) -> None:
        self._last_at = float("-inf")
        self._held_back = 0

    def let(self, now: float) -> int | None:
        """Return how many lines were held back since the last one that passed; None to hold this one back.

        Args:
            now: seconds on any clock that never goes backwards.
        """
        if now - self._last_at < _SECONDS:
            self._held_back += 1
            return None
        self._last_at, held_back, self._held_back = now, self._held_back, 0
        return held_back
