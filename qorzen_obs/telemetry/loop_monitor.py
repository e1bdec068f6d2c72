"""The work loop's pulse: a timer that should run every 100 ms, and how late it is.

Written on the work loop, read from the ops plane: a loop that is blocked cannot say so itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from qorzen_obs.clock import Clock

INTERVAL_SECONDS: Final = 0.1


class LoopMonitor:
    """Measures how late the running loop runs a timer."""

    def __init__(self, clock: Clock, on_lag: Callable[[float], None]) -> None:
        self._clock = clock
        self._on_lag = on_lag
        self._due: float | None = None  # monotonic
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._schedule(asyncio.get_running_loop())

    def stop(self) -> None:
        """Stop watching; safe before start and when done twice."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._due = None

    def blocked_seconds(self) -> float:
        """Return for how long the loop has been overdue; 0 when it turns or is not watched. From any thread."""
        due = self._due
        return 0.0 if due is None else max(0.0, self._clock.monotonic() - due)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = self._clock.monotonic() + INTERVAL_SECONDS
        self._timer = loop.call_later(INTERVAL_SECONDS, self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._on_lag(self.blocked_seconds())
        self._schedule(loop)
