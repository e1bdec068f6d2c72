"""Tells a scheduler that nobody asks what may start from one whose tasks wait for a slot.

Whoever looks at it sees, for a moment, a free slot before it is given away. So two looks count, with nothing started
between them.
"""

from __future__ import annotations

from collections.abc import Hashable


class StallWatch:
    """For how long the same has been startable. From any thread."""

    def __init__(self) -> None:
        self._seen: tuple[Hashable, float] | None = None

    def seconds(self, startable: Hashable | None, now: float) -> float:
        """Return since when `startable`, which is `Scheduler.startable`'s, has not changed; 0 when it is None."""
        seen = self._seen
        if startable is None or seen is None or seen[0] != startable:
            self._seen = None if startable is None else (startable, now)
            return 0.0
        return now - seen[1]
