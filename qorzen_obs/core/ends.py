"""Notifies spans, metrics and log of attempts that have ended, once per turn of the loop.

A busy loop ends about twenty attempts in a turn. If each end notified every observer, the observers' code and data
would pass through the processor's caches once per attempt. Each observer gets all ends of the turn instead, so they
pass through once, which makes full observation a fifth cheaper (docs/performance.md). A caller that waits for a task's
end wakes after the observers were notified.

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

_PATIENCE: Final = 3  # retries of one observer, in consecutive turns of the loop

#: Maximum number of ends kept until the loop's next turn; above it the observers are notified at once. A shutdown may
#: end a million pending tasks in one turn.
MAX_QUEUED: Final = 10_000


class Resumption:
    """Retries in a later turn of the loop when too little stack or memory, or Ctrl-C, has interrupted an observer.

    On a deep stack every observer fails, although the caller that recurses is at fault.
    """

    def __init__(self, runtime: Runtime, go_on: Callable[[], object]) -> None:
        self._runtime = runtime
        self._go_on = go_on
        self.waits = False  #: the retry in that turn; until then no observer is notified
        self.repeated = 0  #: number of retries since all observers were last notified

    def of(self, error: BaseException) -> bool:
        """Return whether to notify the observer that raised `error` again, in the loop's next turn."""
        if self.repeated == _PATIENCE or not foreign.is_a(
            error, (RecursionError, MemoryError, KeyboardInterrupt)
        ):
            return False
        try:
            self._runtime.work_loop.call_soon_threadsafe(self._resume)
        except RecursionError:
            raise  # the stack is too deep for this too: the next call repeats it
        except RuntimeError:
            return False  # the loop is closed and has no next turn
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
    """The ends of one manager that its observers have not had yet.

    Args:
        dismiss: called with the name and the error of an observer that has raised, which is not called again.
        runtime: has the work loop.
    """

    def __init__(self, dismiss: Callable[[str, BaseException], None], runtime: Runtime) -> None:
        self._dismiss = dismiss
        self._runtime = runtime
        self._observers: tuple[tuple[str, OnEnds], ...] = ()
        #: Ends in order. Code that appends one on the loop then calls `notify_soon`.
        self.queue: deque[End] = deque()
        self._called = False  # `notify` is called in the loop's next turn
        self._resumption = Resumption(runtime, self.notify)
        self._ends: list[End] = []  # the ends that the observers are being notified of
        self._left: deque[tuple[str, OnEnds]] = deque()  # the observers that are still to be notified
        # Held while observers are notified. Re-entrant: an observer may end another task.
        self._lock = threading.RLock()

    def observe(self, name: str, on_ends: OnEnds) -> None:
        """Call `on_ends` with all ends of a turn, after the existing observers; it must return at once."""
        self._observers += ((name, on_ends),)

    def stop_observing(self, on_ends: OnEnds) -> None:
        """Undo an `observe`; without one, nothing changes."""
        self._observers = tuple(one for one in self._observers if not foreign.same(one[1], on_ends))

    def notify_soon(self) -> None:
        """Notify the observers in the loop's next turn; call this on the loop.

        Beyond MAX_QUEUED ends, notify them now, after waiting for any other thread that is notifying them.
        """
        if not self._called:
            self._runtime.work_loop.call_soon(self.notify)
            self._called = True
        elif len(self.queue) > MAX_QUEUED:
            with self._lock:
                if self.queue:  # the other thread may have handled these too
                    self._notify()

    def notify(self) -> None:
        """Notify the observers of all ends so far. If another thread is doing so, it handles these too."""
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
            except BaseException as error:  # noqa: BLE001 - observation must not break the observed
                self._left.appendleft((name, on_ends))
                if resumption.of(error):
                    return
                del self._left[0]
                self.stop_observing(on_ends)
                self._dismiss(name, error)
        self._ends = []
        if resumption.repeated:
            resumption.over()
