"""Notifies the spans, the metrics and the log of attempts that have ended, a turn of the loop at a time.

A busy loop ends some twenty attempts in a turn. If the observers were notified of each on its own, all that they need
would go through the processor's caches once for each attempt. Notified of all, one observer after the other, it goes
through once. That makes full observation a fifth cheaper (docs/performance.md). A caller that waits for a task's end
wakes after the observers were notified of it.

A blocked loop notifies nobody, so the watchdog does it: `notify` is for any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from qorzen_obs import foreign
from qorzen_obs.core.runtime import Runtime
from qorzen_obs.record import End

OnEnds = Callable[[Sequence[End]], None]

#: Maximum number of ends kept until the loop's next turn; above it the observers are notified at once. A shutdown may
#: end a million pending tasks in one turn.
MAX_QUEUED: Final = 10_000


class Ends:
    """The ends of one manager of which the observers were not notified yet.

    Args:
        dismiss: called with the name of an observer that has raised, which is not called again, and its error.
        runtime: has the work loop.
    """

    def __init__(self, dismiss: Callable[[str, BaseException], None], runtime: Runtime) -> None:
        self._dismiss = dismiss
        self._runtime = runtime
        self._observers: tuple[tuple[str, OnEnds], ...] = ()
        self._queue: deque[End] = deque()
        # Held while they are notified. Re-entrant: an observer may be what ends another task.
        self._lock = threading.RLock()

    def observe(self, name: str, on_ends: OnEnds) -> None:
        """Call `on_ends` with all ends of a turn, after the observers that are there; it must return at once."""
        self._observers += ((name, on_ends),)

    def stop_observing(self, on_ends: OnEnds) -> None:
        """Take back an `observe`; of no effect without one."""
        self._observers = tuple(one for one in self._observers if not foreign.same(one[1], on_ends))

    def add(self, end: End) -> None:
        """Have the observers notified of it in the loop's next turn; on the loop.

        Beyond MAX_QUEUED they are notified now, after waiting for another thread that notifies them.
        """
        if not self._queue:
            self._runtime.work_loop.call_soon(self.notify)
        self._queue.append(end)
        if len(self._queue) > MAX_QUEUED:
            with self._lock:
                if self._queue:  # the other thread may have notified of these too
                    self._notify()

    def notify(self) -> None:
        """Notify the observers of what has ended until now; if another thread is doing so, it does this too."""
        while self._queue and self._lock.acquire(blocking=False):
            try:
                self._notify()
            finally:
                self._lock.release()

    def _notify(self) -> None:
        ends = [self._queue.popleft() for _ in range(len(self._queue))]
        for name, on_ends in self._observers:
            try:
                on_ends(ends)
            except BaseException as error:  # noqa: BLE001 - what observes must not break what it observes
                self.stop_observing(on_ends)
                self._dismiss(name, error)
