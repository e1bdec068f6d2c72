"""Carries task events to the event bus, in order, without any transition waiting for a subscriber."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.record import TaskEvent
from qorzen_obs.tasks import EventKind
from qorzen_obs.telemetry import names

CAPACITY: Final = 10_000


class EventFeed:
    """A bounded queue and the one task that empties it. When it is full, progress is dropped first, then events."""

    def __init__(
        self,
        publish: Callable[[str, dict[str, Any]], Awaitable[object]],
        logger: Any,
        dropped: Counter[str],
        *,
        before_publishing: Callable[[], object] = lambda: None,
    ) -> None:
        self._publish_one = publish
        self._before_publishing = before_publishing
        self._logger = logger
        self._dropped = dropped
        self._events: deque[TaskEvent] = deque()
        self._progress = 0  # of the queued events
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
        """Queue one event; O(1), unless the queue is full and holds progress."""
        if len(self._events) >= CAPACITY and not self._make_room(event):
            self._drop(event)
            return
        self._events.append(event)
        self._progress += event.kind is EventKind.PROGRESS
        self._empty.clear()
        self._arrived.set()

    async def stop(self, deadline_seconds: float) -> None:
        """Publish what is queued, for `deadline_seconds` at most; what is left counts as dropped.

        A subscriber that ignores its cancellation has as long once more, and is left behind then.
        """
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_seconds):
                await self._empty.wait()
        self._closing = True
        while self._events:
            self._drop(self._events.popleft())
        self._task.cancel()
        await asyncio.wait([self._task], timeout=deadline_seconds)
        self._task = None

    def _make_room(self, event: TaskEvent) -> bool:
        if event.kind is EventKind.PROGRESS or not self._progress:
            return False
        oldest = next(queued for queued in self._events if queued.kind is EventKind.PROGRESS)
        self._events.remove(oldest)
        self._progress -= 1
        self._drop(oldest)
        return True

    def _drop(self, event: TaskEvent) -> None:
        self._dropped["progress" if event.kind is EventKind.PROGRESS else "event"] += 1

    async def _publish_all(self) -> None:
        while not self._closing:
            await self._arrived.wait()
            self._arrived.clear()
            while self._events:
                event = self._events.popleft()
                self._progress -= event.kind is EventKind.PROGRESS
                self._before_publishing()
                await self._publish(event)
            self._empty.set()

    async def _publish(self, event: TaskEvent) -> None:
        try:
            await self._publish_one(event.kind.value, _payload(event))
        except (Exception, asyncio.CancelledError) as error:  # the bus is the user's, and may fail
            self._drop(event)
            if self._closing and foreign.is_a(error, asyncio.CancelledError):
                raise
            if not self._complained:  # told once
                self._complained = True
                with contextlib.suppress(Exception):  # the loss is counted already
                    self._logger.error(names.LOG_LISTENER_FAILED, error=foreign.shown(error))


def _payload(event: TaskEvent) -> dict[str, Any]:
    info = event.info
    payload: dict[str, Any] = {
        "task_id": info.task_id,
        "name": info.name,
        "category": info.category.value,
        "priority": info.priority.label,
        "plugin_id": info.plugin_id,
        "status": info.status.value,
        "progress": {"percent": info.progress.percent, "message": info.progress.message},
        "trace_id": info.trace_id,
    }
    optional = {
        "started_at": info.started_at,
        "completed_at": info.completed_at,
        "duration": info.duration_seconds,
        "error": info.error,
    }
    payload.update({key: value for key, value in optional.items() if value is not None})
    return payload
