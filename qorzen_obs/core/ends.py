"""What is told of attempts that have ended: to their spans, the metrics and the log, a turn of the loop at a time.

A busy loop ends some twenty attempts in a turn. Told of each on its own, all that the observers need goes through the
processor's caches once for each attempt; told of all, one observer after the other, once for all of them. That makes
full observation a fifth cheaper (docs/performance.md). Whoever waits for a task's end wakes after it was told.

A loop that is blocked tells nothing, so the watchdog does: `tell` is for any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from qorzen_obs.core.runtime import Runtime
from qorzen_obs.record import End

OnEnds = Callable[[Sequence[End]], None]

#: Maximum number of ends kept for the end of the turn; above it they are announced at once. A shutdown may end a
#: million pending tasks in one turn.
MAX_UNTOLD: Final = 10_000


class Ends:
    """The ends of which nobody was told yet, of one manager.

    Args:
        dismiss: called with the name of an observer that has raised, which is not called again, and its error.
        runtime: has the work loop.
    """

    def __init__(self, dismiss: Callable[[str, Exception], None], runtime: Runtime) -> None:
        self._dismiss = dismiss
        self._runtime = runtime
        self._observers: tuple[tuple[str, OnEnds], ...] = ()
        self._untold: deque[End] = deque()
        # Held by whoever tells. Re-entrant: an observer may be what ends another task.
        self._lock = threading.RLock()

    def observe(self, name: str, on_ends: OnEnds) -> None:
        """Call `on_ends` with all ends of a turn, after the observers that are there; it must return at once."""
        self._observers += ((name, on_ends),)

    def stop_observing(self, on_ends: OnEnds) -> None:
        """Take back an `observe`; of no effect without one."""
        self._observers = tuple(one for one in self._observers if one[1] != on_ends)

    def add(self, end: End) -> None:
        """Have the observers told of it in the loop's next turn; on the loop.

        Beyond MAX_UNTOLD they are told now, after waiting for another thread that is at it.
        """
        if not self._untold:
            self._runtime.work_loop.call_soon(self.tell)
        self._untold.append(end)
        if len(self._untold) > MAX_UNTOLD:
            with self._lock:
                if self._untold:  # the other thread may have told of these too
                    self._tell()

    def tell(self) -> None:
        """Tell the observers of what has ended until now, unless another thread is at it: that one looks again."""
        while self._untold and self._lock.acquire(blocking=False):
            try:
                self._tell()
            finally:
                self._lock.release()

    def _tell(self) -> None:
        ends = [self._untold.popleft() for _ in range(len(self._untold))]
        for name, on_ends in self._observers:
            try:
                on_ends(ends)
            except Exception as error:  # noqa: BLE001 - what observes must not break what it observes
                self.stop_observing(on_ends)
                self._dismiss(name, error)
