"""Carries task events to the event bus, in order. No transition ever waits for a subscriber."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from opentelemetry.trace import format_trace_id

from qorzen_obs import foreign
from qorzen_obs.core.contained import ContainedCalls, outcome_of
from qorzen_obs.core.event_queue import EventQueue
from qorzen_obs.record import TaskEvent
from qorzen_obs.tasks import EventKind
from qorzen_obs.telemetry import names

CAPACITY: Final = 10_000
DEADLINE_SECONDS: Final = 10.0  #: how long a bus may spend on one event
_PROGRESS: Final = EventKind.PROGRESS.value


class EventFeed:
    """A bounded queue and the one task that empties it. When it is full, progress is dropped first, then events.

    Args:
        publish: awaited for each event, at most DEADLINE_SECONDS, with its type, its payload and a callable to call
            with the type if a subscriber lost it. If it raises, that event is lost.
        drain: awaited at the end with a number of seconds, so that published events arrive.
        before_publishing: called before each event is published.
    """

    def __init__(
        self,
        publish: Callable[[str, dict[str, Any], Callable[[str], None]], Awaitable[object]],
        logger: Any,
        dropped: Counter[str],
        *,
        drain: Callable[[float], Awaitable[object]] | None = None,
        before_publishing: Callable[[], object] = lambda: None,
    ) -> None:
        self._publish_one = publish
        self._drain = drain
        self._before_publishing = before_publishing
        self._logger = logger
        self._dropped = dropped
        self._queue: EventQueue[TaskEvent] = EventQueue(CAPACITY, _is_progress, self._drop)
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._complained = False
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to publish."""
        self._task = asyncio.get_running_loop().create_task(self._publish_all(), name="qorzen-event-feed")

    def on_event(self, event: TaskEvent) -> None:
        """Queue one event; O(1)."""
        self._empty.clear()
        if not self._arrived.is_set():  # in a turn of its own: on a deep stack its waiter could be lost
            asyncio.get_running_loop().call_soon(self._arrived.set)
        self._queue.put(event)  # last: if anything above is interrupted, the event was not queued

    async def stop(self, deadline_seconds: float) -> None:
        """Publish queued events for at most `deadline_seconds`; count the rest as dropped.

        A subscriber that ignores its cancellation gets the same time once more, then is left behind.
        """
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_seconds):
                await self._empty.wait()
                if self._drain is not None:
                    await outcome_of(deadline_seconds, self._drain, deadline_seconds)
        self._closing = True
        self._queue.drop_all()
        self._task.cancel()
        await asyncio.wait([self._task], timeout=deadline_seconds)
        self._task = None

    def _count_lost(self, event_type: str) -> None:
        """Count an event that a subscriber did not get, or failed to handle."""
        self._dropped["progress" if event_type == _PROGRESS else "event"] += 1

    def _drop(self, event: TaskEvent) -> None:
        self._count_lost(event.kind.value)

    async def _publish_all(self) -> None:
        calls = ContainedCalls(DEADLINE_SECONDS)
        try:
            while not self._closing:
                await self._arrived.wait()
                self._arrived.clear()
                calls.begin()
                while len(self._queue):
                    event = self._queue.take()
                    self._before_publishing()
                    await self._publish(event, calls)
                    del event  # or it would keep its task's result alive until the next one
                    await calls.let_others_run()
                self._empty.set()
                calls.rest()
        finally:
            calls.rest()

    async def _publish(self, event: TaskEvent, calls: ContainedCalls) -> None:
        try:
            error = await calls.outcome_of(
                self._publish_one, event.kind.value, _payload(event), self._count_lost
            )
        except asyncio.CancelledError:
            self._drop(event)
            raise
        if error is not None:
            self._drop(event)
            if not self._complained:  # logged once
                self._complained = True
                with contextlib.suppress(BaseException):  # the loss is counted already
                    self._logger.error(names.LOG_LISTENER_FAILED, error=foreign.shown(error))


def _is_progress(event: TaskEvent) -> bool:
    return event.kind is EventKind.PROGRESS


def _payload(event: TaskEvent) -> dict[str, Any]:
    """Return the payload for the bus: only texts and numbers, no object of the user's."""
    record, state, progress = event.record, event.state, event.progress
    span = record.span_of(state)
    payload: dict[str, Any] = {
        "task_id": record.task_id,
        "name": record.name,
        "category": record.category.value,
        "priority": record.priority.label,
        "plugin_id": record.plugin_id,
        "status": state.status.value,
        "progress": {"percent": progress.percent, "message": progress.message},
        "trace_id": None if span is None else format_trace_id(span.trace_id),
    }
    optional = {
        "started_at": state.started_at,
        "completed_at": state.completed_at,
        "duration": state.duration_seconds,
        "error": state.error,
    }
    payload.update({key: value for key, value in optional.items() if value is not None})
    return payload
