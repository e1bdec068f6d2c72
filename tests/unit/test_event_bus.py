"""The event bus of this process: order, isolation, and taking a subscription back."""

from typing import Any

import pytest

from qorzen_obs.core.event_bus_manager import Event, EventBusManager
from qorzen_obs.testing import CapturedLogs


class Seen:
    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.events.append(event)


async def publish(bus: EventBusManager, kind: str, **payload: Any) -> None:
    await bus.publish(event_type=kind, source="test", payload=payload)


async def test_a_subscriber_gets_its_type_and_a_star_gets_all_before_publish_returns() -> None:
    bus, one, everything = EventBusManager(), Seen(), Seen()
    bus.subscribe("task/failed", one)
    bus.subscribe("*", everything)
    await publish(bus, "task/started", number=1)
    await publish(bus, "task/failed", number=2)
    assert one.events == [Event("task/failed", "test", {"number": 2})]
    assert [event.payload["number"] for event in everything.events] == [1, 2]


async def test_subscribers_are_awaited_in_order_of_subscription() -> None:
    bus, order = EventBusManager(), list[str]()

    for name in ("first", "second", "third"):

        async def note(_: Event, name: str = name) -> None:
            order.append(name)

        bus.subscribe("*", note)
    await publish(bus, "any")
    assert order == ["first", "second", "third"]


async def test_a_subscribers_failure_is_logged_and_goes_no_further() -> None:
    logs = CapturedLogs()
    bus, seen = EventBusManager(logs.get_logger("bus")), Seen()

    async def broken(_: Event) -> None:
        raise ValueError("theirs")

    bus.subscribe("*", broken)
    bus.subscribe("*", seen)
    await publish(bus, "any")
    assert len(seen.events) == 1
    (line,) = logs.of("event_bus.subscriber_failed")
    assert (line["event_type"], line["error"], line["level"]) == ("any", "ValueError('theirs')", "error")
    bus = EventBusManager()
    bus.subscribe("*", broken)
    await publish(bus, "any")


async def test_a_subscription_can_be_taken_back_even_from_within() -> None:
    bus, seen = EventBusManager(), Seen()

    async def once(_: Event) -> None:
        take_back()

    take_back = bus.subscribe("*", once)
    bus.subscribe("*", seen)
    await publish(bus, "any")
    take_back()
    await publish(bus, "any")
    assert len(seen.events) == 2


async def test_nobody_is_told_after_shutdown() -> None:
    bus, seen = EventBusManager(), Seen()
    await bus.initialize()
    bus.subscribe("*", seen)
    await bus.shutdown()
    await publish(bus, "any")
    assert seen.events == []
    assert not bus.initialized


def test_an_event_cannot_be_changed() -> None:
    event = Event("any", "test", {})
    with pytest.raises(AttributeError):
        event.source = "other"  # type: ignore[misc]  # on purpose
