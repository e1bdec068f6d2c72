"""Events within the process. Each subscriber has a queue and a deadline, so that none can delay the others."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.core.base import QorzenManager
from qorzen_obs.core.contained import ContainedCalls
from qorzen_obs.core.event_queue import EventQueue
from qorzen_obs.tasks import EventKind
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.log_limit import LogLimit

CAPACITY: Final = 10_000  #: most events that wait for one subscriber
DEADLINE_SECONDS: Final = 10.0  #: how long a subscriber may spend on one event
_CLOSE_SECONDS: Final = 0.5
_AGAIN_SECONDS: Final = 0.1  #: seconds after which a cancelled delivery is retried
_PROGRESS: Final = EventKind.PROGRESS.value


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: an `event_type` such as 'task/completed', its source, and its facts."""

    event_type: str  #: for a task: the value of an EventKind
    source: str  #: who published it; for a task: task_manager
    payload: dict[str, Any]  #: its facts, in JSON's types


Subscriber = Callable[[Event], Awaitable[None]]
#: Called with the type of an event that one subscriber did not get, or failed to handle.
OnLost = Callable[[str], object]
_Sent = tuple[Event, OnLost | None]


class EventBusManager(QorzenManager):
    """Delivers each event to its subscribers, in order; for one event loop.

    While events wait for a subscriber, it has an asyncio task of its own. At most CAPACITY events wait; beyond that
    progress is dropped first, then new events. A subscriber that spends more than DEADLINE_SECONDS on an event is
    cancelled. Whatever it raises, even SystemExit, is logged and goes no further.
    """

    def __init__(self, logger: Any = None) -> None:
        super().__init__("event_bus_manager")
        self._logger = logger
        self._subscriptions: list[_Subscription] = []
        self._publishers: list[tuple[Callable[[bool], None]]] = []

    async def initialize(self) -> None:
        self._become_ready()

    async def shutdown(self) -> None:
        """Deliver waiting events for at most half a second, then end every subscription."""
        await self.drain(_CLOSE_SECONDS)
        running = [task for one in self._subscriptions if (task := one.close()) is not None]
        self._subscriptions.clear()
        self._notify_publishers()
        if running:
            await asyncio.wait(running, timeout=_CLOSE_SECONDS)
        self._become_stopped()

    def subscribe(self, event_type: str, subscriber: Subscriber) -> Callable[[], None]:
        """Await `subscriber(event)` for each event of this type, or of any with '*'; return a callable that ends it.

        Events that still wait when it unsubscribes are not delivered. The subscriber runs in a copy of this call's
        context.
        """
        entry = _Subscription(event_type, subscriber, self._logger)
        self._subscriptions.append(entry)
        self._notify_publishers()

        def unsubscribe() -> None:
            if entry in self._subscriptions:
                self._subscriptions.remove(entry)
                entry.forget()
                self._notify_publishers()

        return unsubscribe

    def when_subscribed(self, on_change: Callable[[bool], None]) -> Callable[[], None]:
        """Call `on_change` with whether anybody subscribes, now and at each change. If nobody does, skip making events.

        Return a callable that ends these calls.
        """
        entry = (on_change,)
        self._publishers.append(entry)
        on_change(bool(self._subscriptions))

        def stop() -> None:
            self._publishers = [one for one in self._publishers if one is not entry]

        return stop

    async def publish(self, *, event_type: str, source: str, payload: dict[str, Any]) -> None:
        """Queue one event for its subscribers, without waiting for them."""
        await self.publish_watched(event_type=event_type, source=source, payload=payload)

    async def publish_watched(
        self, *, event_type: str, source: str, payload: dict[str, Any], on_lost: OnLost | None = None
    ) -> None:
        """As `publish`; also call `on_lost(event_type)` for each subscriber that did not get or failed on the event."""
        event = Event(event_type, source, payload)
        for subscription in list(self._subscriptions):
            if subscription.event_type in (event_type, "*"):
                subscription.offer((event, on_lost))

    async def drain(self, deadline_seconds: float) -> None:
        """Wait until every subscriber has had every event, at most `deadline_seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_seconds):
                while running := [task for one in self._subscriptions if (task := one.deliver()) is not None]:
                    await asyncio.wait(running)

    def _notify_publishers(self) -> None:
        for (on_change,) in list(self._publishers):
            on_change(bool(self._subscriptions))


class _Subscription:
    """One subscriber, its waiting events, and the asyncio task that delivers them while there are any."""

    def __init__(self, event_type: str, subscriber: Subscriber, logger: Any) -> None:
        self.event_type = event_type
        self._subscriber = subscriber
        self._logger = logger
        self._name = foreign.name_of(subscriber)
        self._context = contextvars.copy_context()
        self._queue: EventQueue[_Sent] = EventQueue(CAPACITY, _is_progress, _lost)
        self._limit = LogLimit()
        self._task: asyncio.Task[None] | None = None

    def offer(self, sent: _Sent) -> None:
        """Queue one event."""
        self._queue.put(sent)
        self.deliver()

    def deliver(self) -> asyncio.Task[None] | None:
        """Start delivering the waiting events; return the asyncio task that does so, None if nothing waits."""
        if self._task is None and len(self._queue):
            loop = asyncio.get_running_loop()
            name = f"event subscriber {self._name}"
            self._task = loop.create_task(self._deliver_all(), name=name, context=self._context.copy())
            self._task.add_done_callback(self._ended)
        return self._task

    def forget(self) -> None:
        """Deliver no more events; a running delivery may finish."""
        while len(self._queue):
            self._queue.take()

    def close(self) -> asyncio.Task[None] | None:
        """Drop the waiting events; cancel and return the running delivery."""
        self._queue.drop_all()
        if self._task is not None:
            self._task.cancel()
        return self._task

    async def _deliver_all(self) -> None:
        calls = ContainedCalls(DEADLINE_SECONDS)
        calls.begin()
        try:
            while len(self._queue):
                sent = self._queue.take()
                try:
                    error = await calls.outcome_of(self._subscriber, sent[0])
                except asyncio.CancelledError:
                    _lost(sent)
                    raise
                if error is not None:
                    _lost(sent)
                    self._log(sent[0], error)
                await calls.let_others_run()
        finally:
            calls.rest()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not len(self._queue):
            return
        if task.cancelled():  # as at the end of a program, when the timer never fires
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self.deliver)
        else:
            self.deliver()  # what came after it had found nothing more, and before it was over

    def _log(self, event: Event, error: BaseException) -> None:
        """Log a failure, once a minute at most."""
        suppressed = self._limit.let(asyncio.get_running_loop().time())
        if self._logger is None or suppressed is None:
            return
        fields: dict[str, Any] = {"suppressed": suppressed} if suppressed else {}
        with contextlib.suppress(BaseException):  # the loss is counted already
            self._logger.error(
                names.LOG_SUBSCRIBER_FAILED,
                event_type=event.event_type,
                subscriber=self._name,
                error=foreign.shown(error),
                **fields,
            )


def _is_progress(sent: _Sent) -> bool:
    return sent[0].event_type == _PROGRESS


def _lost(sent: _Sent) -> None:
    event, on_lost = sent
    if on_lost is not None:
        on_lost(event.event_type)
