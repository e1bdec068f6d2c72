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

_PATIENCE: Final = 3  # resumptions of one observer, in turns of the loop that follow each other

#: Maximum number of ends kept until the loop's next turn; above it the observers are notified at once. A shutdown may
#: end a million pending tasks in one turn.
MAX_QUEUED: Final = 10_000


class Resumption:
    """Goes on in a later turn of the loop where want of stack or of memory, or Ctrl-C, has interrupted an observer.

    On a deep stack every observer fails, and none of them is at fault: it is the caller who recurses.
    """

    def __init__(self, runtime: Runtime, go_on: Callable[[], object]) -> None:
        self._runtime = runtime
        self._go_on = go_on
        self.waits = False  #: for that turn; until then no observer is notified
        self.repeated = 0  #: how often, since all observers were last notified

    def of(self, error: BaseException) -> bool:
        """Return whether the observer that raised `error` is to be notified once more, in the loop's next turn."""
        if self.repeated == _PATIENCE or not foreign.is_a(
            error, (RecursionError, MemoryError, KeyboardInterrupt)
        ):
            return False
        try:
            self._runtime.work_loop.call_soon_threadsafe(self._resume)
        except RecursionError:
            raise  # the stack is too deep for this too: the next call repeats it
        except RuntimeError:
            return False  # the loop is closed, and has no next turn
        self.repeated += 1
        self.waits = True
        return True

    def over(self) -> None:
        """All observers were notified."""
        self.repeated = 0

    def _resume(self) -> None:
        self.waits = False
        self._go_on()


class Ends:
    """The ends of one manager that its observers were not notified of yet.

    Args:
        dismiss: called with the name of an observer that has raised, which is not called again, and its error.
        runtime: has the work loop.
    """

    def __init__(self, dismiss: Callable[[str, BaseException], None], runtime: Runtime) -> None:
        self._dismiss = dismiss
        self._runtime = runtime
        self._observers: tuple[tuple[str, OnEnds], ...] = ()
        #: Ends in their order. What appends one on the loop calls `notify_soon` afterwards.
        self.queue: deque[End] = deque()
        self._called = False  # `notify` is called in the loop's next turn
        self._resumption = Resumption(runtime, self.notify)
        self._ends: list[End] = []  # that the observers are being notified of
        self._left: deque[tuple[str, OnEnds]] = deque()  # those that were not yet
        # Held while they are notified. Re-entrant: an observer may be what ends another task.
        self._lock = threading.RLock()

    def observe(self, name: str, on_ends: OnEnds) -> None:
        """Call `on_ends` with all ends of a turn, after the observers that are there; it must return at once."""
        self._observers += ((name, on_ends),)

    def stop_observing(self, on_ends: OnEnds) -> None:
        """Take back an `observe`; of no effect without one."""
        self._observers = tuple(one for one in self._observers if not foreign.same(one[1], on_ends))

    def notify_soon(self) -> None:
        """Have the observers notified in the loop's next turn; on the loop.

        Beyond MAX_QUEUED ends they are notified now, after waiting for another thread that notifies them.
        """
        if not self._called:
            self._runtime.work_loop.call_soon(self.notify)
            self._called = True
        elif len(self.queue) > MAX_QUEUED:
            with self._lock:
                if self.queue:  # the other thread may have notified of these too
                    self._notify()

    def notify(self) -> None:
        """Notify the observers of what has ended so far; if another thread is doing so, that thread takes these too."""
        self._called = False
        resumption = self._resumption
        while (self.queue or self._left) and not resumption.waits and self._lock.acquire(blocking=False):
            try:
                self._notify()
            finally:
                self._lock.release()

    def _notify(self) -> None:
        resumption = self._resumption
        if resumption.waits:
            return
        if not self._left:  # else something has interrupted this: go on
            self._left.extend(self._observers)
            queue = self.queue
            number = len(queue)
            self._ends = [queue.popleft()] if number == 1 else [queue.popleft() for _ in range(number)]
        ends = self._ends
        while self._left:
            name, on_ends = self._left.popleft()
            try:
                on_ends(ends)
            except BaseException as error:  # noqa: BLE001 - what observes must not break what it observes
                self._left.appendleft((name, on_ends))
                if resumption.of(error):
                    return
                del self._left[0]
                self.stop_observing(on_ends)
                self._dismiss(name, error)
        self._ends = []
        if resumption.repeated:
            resumption.over()
