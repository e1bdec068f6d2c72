"""Distinguishes a stalled scheduler, which nobody asks what may start, from one whose tasks wait for a slot.

A reader may see, for a moment, a free slot that has not been given away yet. So a stall needs two looks without a
start between them.
"""

from __future__ import annotations

from collections.abc import Hashable


class StallWatch:
    """Measures for how long the same task could have started. From any thread."""

    def __init__(self) -> None:
        self._seen: tuple[Hashable, float] | None = None

    def seconds(self, startable: Hashable | None, now: float) -> float:
        """Return for how long `Scheduler.startable` has given the same answer `startable`; 0.0 when that is None."""
        seen = self._seen
        if startable is None or seen is None or seen[0] != startable:
            self._seen = None if startable is None else (startable, now)
            return 0.0
        return now - seen[1]
