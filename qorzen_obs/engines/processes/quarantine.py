"""Which tasks must not run because tasks of their name have recently killed too many workers. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

DEATHS: Final = 3  #: deaths of workers under tasks of one name, within the window
_KEEP_NAMES: Final = 1_000


class Quarantine:
    """Deaths by task name; at most 1,000 names. The name with the oldest last death is dropped first."""

    def __init__(self, window_seconds: float) -> None:
        self._window = window_seconds
        self._deaths: OrderedDict[str, deque[float]] = OrderedDict()

    def record(self, name: str, now: float) -> bool:
        """Record a death; return whether the name is in quarantine from now on."""
        deaths = self._deaths.setdefault(name, deque(maxlen=DEATHS))
        deaths.append(now)
        self._deaths.move_to_end(name)
        if len(self._deaths) > _KEEP_NAMES:
            self._deaths.popitem(last=False)
        return self.seconds_left(name, now) > 0

    def seconds_left(self, name: str, now: float) -> float:
        """Return for how long tasks of this name must not run; 0 when they may.

        A quarantine lasts for one window after the last of DEATHS deaths within a window.
        """
        deaths = self._deaths.get(name)
        if deaths is None or len(deaths) < DEATHS or deaths[-1] - deaths[0] > self._window:
            return 0.0
        return max(0.0, deaths[-1] + self._window - now)

    def names(self, now: float) -> dict[str, float]:
        """Return the names in quarantine with the seconds that are left; from any thread."""
        left = {name: self.seconds_left(name, now) for name in list(self._deaths)}
        return {name: seconds for name, seconds in left.items() if seconds > 0}
