"""The last events of a manager, for whoever follows them on another thread.

The work loop writes: a tuple an event, and while nobody listens it is no observer, so that no event is made for it. A
reader takes slot by slot and knows by the number in each whether it came too late. No slot keeps a task's arguments,
metadata or result alive.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

from opentelemetry.trace import format_span_id, format_trace_id

from qorzen_obs.counts import CountsView, TaskCounts
from qorzen_obs.engines.traits import EngineTraits
from qorzen_obs.record import TaskEvent, TaskState
from qorzen_obs.tasks import (
    EventKind,
    TaskCategory,
    TaskInfo,
    TaskPriority,
    TaskProgress,
    TaskStatus,
)

CAPACITY: Final = 8_192
_MOST_READINGS: Final = 1_000


class EventOutline(NamedTuple):
    """What is kept of an event: what TaskEvent says, without the record."""

    sequence: int
    kind: EventKind
    at: float
    previous: TaskStatus | None
    state: TaskState  #: without result and exception
    progress: TaskProgress
    task_id: str
    name: str
    category: TaskCategory
    plugin_id: str | None
    priority: TaskPriority
    engine: EngineTraits
    created_at: float
    eligible_at: float  #: Unix seconds
    cancellable: bool
    timeout: float | None

    def info(self) -> TaskInfo:
        """Return the task as it was right after, without metadata, result and traceback."""
        state = self.state
        return TaskInfo(
            task_id=self.task_id,
            name=self.name,
            category=self.category,
            plugin_id=self.plugin_id,
            priority=self.priority,
            status=state.status,
            progress=self.progress,
            created_at=self.created_at,
            started_at=state.started_at,
            completed_at=state.completed_at,
            error=state.error,
            error_type=state.error_type,
            cancellable=self.cancellable,
            attempt=state.attempt,
            engine=self.engine.kind,
            cancel_guarantee=self.engine.cancel_guarantee.value,
            timeout_seconds=self.timeout,
            eligible_at=self.eligible_at,
            queue_wait_seconds=state.queue_wait_seconds,
            duration_seconds=state.duration_seconds,
            phases=dict(state.ledger.seconds) if state.ledger else {},
            cancel_reason=state.cancel_reason,
            abandoned=state.abandoned,
            trace_id=format_trace_id(state.span.trace_id) if state.span else None,
            span_id=format_span_id(state.span.span_id) if state.span else None,
        )


class EventRing:
    """The last `capacity` events, and the exact counts after the newest.

    While somebody listens it is the first observer of its manager, of every kind: between a transition and its event
    nothing else may run. The manager calls `begin` and `end`.

    Args:
        on_wanted: called, on any thread, whenever `wanted` may have changed.
    """

    def __init__(
        self,
        counts: TaskCounts,
        capacity: int = CAPACITY,
        *,
        on_wanted: Callable[[], object] = lambda: None,
    ) -> None:
        self.instance = secrets.token_hex(4)  #: tells the numbers of this manager from another's
        self.streams = 0  #: open streams of all servers of this manager
        self.evicted = 0  #: streams that were cut off, because their client did not read
        self._counts = counts
        self.capacity = capacity
        self._slots: list[tuple[Any, ...] | None] = [None] * capacity
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
        """Take `listen` back; from any thread."""
        self._listeners.discard(listener)
        self._on_wanted()

    def stream_opened(self) -> None:
        """Count one more open stream; on the server's loop, as the next two."""
        self.streams += 1

    def stream_closed(self) -> None:
        """Count one open stream less."""
        self.streams -= 1

    def stream_evicted(self) -> None:
        """Count a stream that was cut off."""
        self.evicted += 1

    def begin(self, sequence: int) -> None:
        """Keep every event from now on, which has a number after `sequence`; for the work loop.

        Events may have gone by unseen, so `sequence` is to be a number that no event has: whoever knows an earlier one
        is told that some are lost.
        """
        self._newest = (sequence, self._counts.version)
        self._begun.set_result(None)

    def end(self) -> None:
        """Keep nothing any more; for the work loop."""
        self._begun = Future()
        self._slots = [None] * self.capacity

    def on_event(self, event: TaskEvent) -> None:
        """Keep one event in the place of the oldest; O(1)."""
        sequence, record, state = event.sequence, event.record, event.state
        if state.result is not None or state.exception is not None or state.traceback is not None:
            state = state.but(result=None, exception=None, traceback=None)
        self._slots[sequence % self.capacity] = (
            sequence,
            event.kind,
            event.at,
            event.previous,
            state,
            event.progress,
            record.task_id,
            record.name,
            record.category,
            record.plugin_id,
            record.priority,
            record.engine,
            record.created_at,
            record.eligible_wall,
            record.cancellable,
            record.timeout,
        )
        self._newest = (sequence, self._counts.version)

    def since(self, sequence: int, limit: int) -> list[EventOutline] | None:
        """Return the events after `sequence`, `limit` at most, oldest first; None when one of them is gone.

        From any thread.
        """
        wanted = range(sequence + 1, min(sequence + limit, self.last) + 1)
        found = []
        for number in wanted:
            slot = self._slots[number % self.capacity]
            if slot is None or slot[0] != number:
                return None
            found.append(EventOutline._make(slot))
        return found

    def counted(self) -> tuple[int, CountsView]:
        """Return the counts, and the sequence of the last event that they contain; from any thread.

        Each transition is counted and announced in one straight line. A reader that met one half way reads again.
        """
        for _ in range(_MOST_READINGS if self.keeps else 0):
            sequence, version = self._newest
            counts = self._counts.read()
            if counts.version == version:
                return sequence, counts
            time.sleep(0)
        # No event comes: it has not begun, or it has failed and was dismissed.
        return self.last, self._counts.read()
