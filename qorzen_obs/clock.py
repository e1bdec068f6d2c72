"""Time as the package sees it: wall clock for stamps, monotonic clock for durations, deadlines and order.

Everything that needs the time is given a Clock, so that tests move it (`qorzen_obs.testing`).
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings of now."""

    def now(self) -> float:
        """Return Unix seconds; may jump."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never falls. It must tick with the running loop's `time()`."""
        ...


class SystemClock:
    """The operating system's clocks; `monotonic` is the one that asyncio's loops use."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
