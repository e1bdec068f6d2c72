"""The last events of a manager, for readers on other threads.

The work loop writes an outline of each event. While nobody listens the ring is not an observer, so no event is made
for it. A reader takes slot by slot; the number in each slot shows whether the reader came too late. No slot keeps a
task's arguments, metadata or result alive.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Final

from qorzen_obs.counts import CountsView, TaskCounts
from qorzen_obs.record import TaskEvent

CAPACITY: Final = 8_192
_MOST_READINGS: Final = 1_000


class EventRing:
    """The last `capacity` events, and the exact counts after the newest one.

    While somebody listens it is the manager's first observer and gets every kind of event: nothing else may run between
    a transition and its event. The manager calls `begin` and `end`.

    Args:
        on_wanted: called, on any thread, whenever `wanted` may have changed.
    """

    def __init__(
        self,
        counts: TaskCounts,
        capacity: int = CAPACITY,
        *,
        on_wanted: Callable[[], object] = lambda: None,
        instance: str | None = None,
    ) -> None:
        #: distinguishes this manager's numbers from another's
        self.instance = instance or secrets.token_hex(4)
        self.streams = 0  #: open streams of all servers of this manager
        self.evicted = 0  #: streams that were cut off because their client did not read
        self._counts = counts
        self.capacity = capacity
        self._slots: list[TaskEvent | None] = [None] * capacity
        self._newest = (0, counts.version)  # in one object, so that a reader sees both or neither
        self._listeners: set[Hashable] = set()
        self._on_wanted = on_wanted
        self._begun: Future[None] = Future()

    @property
    def last(self) -> int:
        """The sequence of the newest event, 0 before the first; from any thread."""
        return self._newest[0]

    @property
    def wanted(self) -> bool:
        """Whether anybody listens; from any thread."""
        return bool(self._listeners)

    @property
    def keeps(self) -> bool:
        """Whether it has begun and not ended; from any thread."""
        return self._begun.done()

    def listen(self, listener: Hashable) -> Future[None]:
        """Ask for events, until everyone who listens has left; from any thread. It is done when they are kept."""
        self._listeners.add(listener)
        self._on_wanted()
        return self._begun

    def leave(self, listener: Hashable) -> None:
        """Undo one `listen`; from any thread."""
        self._listeners.discard(listener)
        self._on_wanted()

    def stream_opened(self) -> None:
        """Count one more open stream; on the server's loop, like the next two."""
        self.streams += 1

    def stream_closed(self) -> None:
        """Count one open stream less."""
        self.streams -= 1

    def stream_evicted(self) -> None:
        """Count a stream that was cut off."""
        self.evicted += 1

    def begin(self, sequence: int) -> None:
        """Keep every event from now on, numbered after `sequence`; for the work loop.

        Unseen events may have passed, so pass a `sequence` that no event has: a reader with an earlier number then
        learns that some are lost.
        """
        self._newest = (sequence, self._counts.version)
        self._begun.set_result(None)

    def end(self) -> None:
        """Stop keeping events; for the work loop."""
        self._begun = Future()
        self._slots = [None] * self.capacity

    def on_event(self, event: TaskEvent) -> None:
        """Keep one event in the place of the oldest; O(1)."""
        sequence = event.sequence
        self._slots[sequence % self.capacity] = event.outline()
        self._newest = (sequence, self._counts.version)

    def since(self, sequence: int, limit: int) -> list[TaskEvent] | None:
        """Return at most `limit` events after `sequence`, oldest first; None when one of them is gone.

        From any thread.
        """
        wanted = range(sequence + 1, min(sequence + limit, self.last) + 1)
        found = []
        for number in wanted:
            slot = self._slots[number % self.capacity]
            if slot is None or slot.sequence != number:
                return None
            found.append(slot)
        return found

    def counted(self) -> tuple[int, CountsView]:
        """Return the counts, and the sequence of the last event that they include; from any thread.

        Each transition is counted and announced without a pause. A reader that catches one half done reads again.
        """
        for _ in range(_MOST_READINGS if self.keeps else 0):
            sequence, version = self._newest
            counts = self._counts.read()
            if counts.version == version:
                return sequence, counts
            time.sleep(0)
        # No events arrive: it has not begun, or it failed and was dismissed.
        return self.last, self._counts.read()
