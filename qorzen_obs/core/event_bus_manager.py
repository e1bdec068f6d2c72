"""Events within the process: whoever subscribes is awaited, one subscriber's failure is not another's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from qorzen_obs import foreign
from qorzen_obs.core.base import QorzenManager


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: `event_type` such as 'task/completed', who says so, and its facts."""

    event_type: str
    source: str
    payload: dict[str, Any]


Subscriber = Callable[[Event], Awaitable[None]]


class EventBusManager(QorzenManager):
    """Delivers each event to its subscribers, in order of subscription, before `publish` returns."""

    def __init__(self, logger: Any = None) -> None:
        super().__init__("event_bus_manager")
        self._logger = logger
        self._subscribers: list[tuple[str, Subscriber]] = []
        self._publishers: list[Callable[[bool], None]] = []

    async def initialize(self) -> None:
        self._become_ready()

    async def shutdown(self) -> None:
        self._subscribers.clear()
        self._notify_publishers()
        self._become_stopped()

    def subscribe(self, event_type: str, subscriber: Subscriber) -> Callable[[], None]:
        """Await `subscriber(event)` for each event of this type, or of any with '*'; return what unsubscribes it."""
        entry = (event_type, subscriber)
        self._subscribers.append(entry)
        self._notify_publishers()

        def unsubscribe() -> None:
            if entry in self._subscribers:
                self._subscribers.remove(entry)
                self._notify_publishers()

        return unsubscribe

    def when_subscribed(self, on_change: Callable[[bool], None]) -> None:
        """Call `on_change` with whether anybody subscribes, now and at each change: else events need not be made."""
        self._publishers.append(on_change)
        on_change(bool(self._subscribers))

    def _notify_publishers(self) -> None:
        for on_change in self._publishers:
            on_change(bool(self._subscribers))

    async def publish(self, *, event_type: str, source: str, payload: dict[str, Any]) -> None:
        """Deliver one event. A subscriber's exception is logged and goes no further."""
        if not self._subscribers:
            return
        event = Event(event_type, source, payload)
        for wanted, subscriber in list(self._subscribers):
            if wanted in (event_type, "*"):
                try:
                    await subscriber(event)
                except Exception as error:  # noqa: BLE001 - theirs, not the publisher's
                    if self._logger is not None:
                        self._logger.error(
                            "event_bus.subscriber_failed", event_type=event_type, error=foreign.shown(error)
                        )
