"""Time in this package: wall clock for timestamps, monotonic clock for durations, deadlines and order.

Everything that needs the time gets a Clock, so that tests can move it (`qorzen_obs.testing`).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

MAX_WAIT_SECONDS: Final = 36_525 * 86_400.0  #: a hundred years: the longest delay of a task
#: Unix seconds; the year 9999, the last full year that RFC 3339 can show
END_OF_TIME: Final = 253_370_764_800.0


_MOMENT: Final = "%s.%06dZ"  # with %, which costs half as much as `format`


class Clock(Protocol):
    """Two readings of now."""

    def now(self) -> float:
        """Return Unix seconds, which may jump."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start, which never decrease. Must tick with the running loop's `time()`."""
        ...


class SystemClock:
    """The operating system's clocks; `monotonic` is the one that asyncio's loops use."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


def rfc_3339(at: float) -> str:
    """Format Unix seconds by RFC 3339, to the microsecond. A moment out of range becomes the last possible one.

    >>> rfc_3339(1.5)
    '1970-01-01T00:00:01.500000Z'
    >>> rfc_3339(1e300)
    '9999-01-01T00:00:00.000000Z'
    """
    try:
        second, microsecond = divmod(round(at * 1e6), 1_000_000)
        return _MOMENT % (_to_the_second(second), microsecond)
    except (ValueError, OverflowError, OSError):
        return "9999-01-01T00:00:00.000000Z"


@lru_cache(64)
def _to_the_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]
