"""The event bus of this process: order, isolation, and taking a subscription back."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from qorzen_obs.core import contained, event_bus_manager
from qorzen_obs.core.event_bus_manager import DEADLINE_SECONDS, Event, EventBusManager
from qorzen_obs.testing import CapturedLogs
from tests.support import PATIENCE_SECONDS, turns, virtual_time


class Seen:
    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.events.append(event)


async def publish(bus: EventBusManager, kind: str, **payload: Any) -> None:
    """Return when the event has been delivered."""
    await bus.publish(event_type=kind, source="test", payload=payload)
    await bus.drain(PATIENCE_SECONDS)


async def test_a_subscriber_gets_its_type_and_a_star_gets_all() -> None:
    bus, one, everything = EventBusManager(), Seen(), Seen()
    bus.subscribe("task/failed", one)
    bus.subscribe("*", everything)
    await publish(bus, "task/started", number=1)
    await publish(bus, "task/failed", number=2)
    assert one.events == [Event("task/failed", "test", {"number": 2})]
    assert [event.payload["number"] for event in everything.events] == [1, 2]


@pytest.mark.parametrize("between", range(6))
async def test_an_event_that_comes_just_when_the_queue_was_emptied_is_delivered(between: int) -> None:
    bus, seen = EventBusManager(), Seen()
    bus.subscribe("*", seen)
    for number in range(2):
        await bus.publish(event_type="task/started", source="test", payload={"number": number})
        for _ in range(between):
            await asyncio.sleep(0)
    await turns(10)
    assert [event.payload["number"] for event in seen.events] == [0, 1]


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


class Hanging:
    """A subscriber that takes no event, and notes those that it was given."""

    def __init__(self) -> None:
        self.given: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.given.append(event)
        await asyncio.Event().wait()


class Stubborn(Hanging):
    """As Hanging, and ignores that it is cancelled until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()

    async def __call__(self, event: Event) -> None:
        self.given.append(event)
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                continue


class Watched(EventBusManager):
    """Counts what it says was lost."""

    def __init__(self, logs: CapturedLogs) -> None:
        super().__init__(logs.get_logger("bus"))
        self.lost: Counter[str] = Counter()

    async def publish(self, *, event_type: str, source: str, payload: dict[str, Any]) -> None:
        await self.publish_watched(
            event_type=event_type,
            source=source,
            payload=payload,
            on_lost=lambda lost: self.lost.update([lost]),
        )


def a_bus(logs: CapturedLogs | None = None) -> tuple[EventBusManager, Counter[str]]:
    """A bus and what it says was lost."""
    bus = Watched(logs or CapturedLogs())
    return bus, bus.lost


@pytest.mark.parametrize("hanging", [Hanging, Stubborn])
@virtual_time
async def test_a_subscriber_that_hangs_holds_up_no_other(hanging: type[Hanging]) -> None:
    bus, lost = a_bus()
    hung, seen = hanging(), Seen()
    bus.subscribe("*", hung)
    bus.subscribe("*", seen)
    for number in range(300):
        await bus.publish(event_type="any", source="test", payload={"number": number})
    await turns()
    assert [event.payload["number"] for event in seen.events] == list(range(300))
    assert len(hung.given) == 1
    await bus.shutdown()
    assert asyncio.get_running_loop().time() <= 1.1
    if isinstance(hung, Stubborn):
        hung.release.set()
        await turns()
    assert lost == {"any": 300}


@virtual_time
async def test_a_subscriber_that_hangs_is_cancelled_at_its_deadline_and_given_the_next_event() -> None:
    logs = CapturedLogs()
    bus, lost = a_bus(logs)
    hung = Hanging()
    bus.subscribe("*", hung)
    for _ in range(3):
        await bus.publish(event_type="any", source="test", payload={})
    await bus.drain(10 * DEADLINE_SECONDS)
    assert asyncio.get_running_loop().time() == pytest.approx(3 * DEADLINE_SECONDS)
    assert (len(hung.given), lost) == (3, {"any": 3})
    (line,) = logs.of("event_bus.subscriber_failed")  # one a minute
    assert (line["subscriber"], line["error"]) == (
        "Hanging",
        "TimeoutError('it took longer than 10 s and was cancelled')",
    )


class Unshowable(BaseException):
    def __repr__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), Unshowable(), OSError()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("at_once", [True, False], ids=["in its first step", "after an await"])
async def test_whatever_a_subscriber_raises_is_counted_and_goes_no_further(
    error: BaseException, at_once: bool
) -> None:
    logs = CapturedLogs()
    bus, lost = a_bus(logs)
    seen = Seen()

    async def broken(_: Event) -> None:
        if not at_once:
            await asyncio.sleep(0)
        raise error

    bus.subscribe("*", broken)
    bus.subscribe("*", seen)
    for _ in range(300):
        await bus.publish(event_type="any", source="test", payload={})
    await bus.drain(PATIENCE_SECONDS)
    assert (len(seen.events), lost) == (300, {"any": 300})
    assert len(logs.of("event_bus.subscriber_failed")) == 1


async def test_a_subscriber_that_is_no_coroutine_function_and_a_logger_that_exits_stop_nothing() -> None:
    class Logger:
        def error(self, *_: object, **__: object) -> None:
            raise SystemExit

    bus, seen = EventBusManager(Logger()), Seen()

    def plain(event: Event) -> None:
        raise SystemExit

    bus.subscribe("*", plain)  # type: ignore[arg-type]  # on purpose
    bus.subscribe("*", seen)
    for _ in range(3):
        await publish(bus, "any")
    assert len(seen.events) == 3


async def test_a_subscriber_that_cancels_its_own_asyncio_task_gets_the_next_event() -> None:
    bus, lost = a_bus()
    seen = Seen()

    async def cancels(event: Event) -> None:
        await seen(event)
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await asyncio.sleep(0)

    bus.subscribe("*", cancels)
    for _ in range(3):
        await bus.publish(event_type="any", source="test", payload={})
    await bus.drain(PATIENCE_SECONDS)
    assert (len(seen.events), lost) == (3, {"any": 3})


@virtual_time
async def test_events_that_wait_behind_a_cancelled_one_are_delivered_without_another() -> None:
    bus, lost = a_bus()
    seen = Seen()

    async def cancels_once(event: Event) -> None:
        await seen(event)
        if len(seen.events) == 1:
            current = asyncio.current_task()
            assert current is not None
            current.cancel()
            await asyncio.sleep(0)

    bus.subscribe("*", cancels_once)
    for _ in range(3):
        await bus.publish(event_type="any", source="test", payload={})
    await asyncio.sleep(1)
    assert (len(seen.events), lost) == (3, {"any": 1})


async def test_a_subscriber_that_never_waits_leaves_the_loop_its_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contained, "_SLICE_SECONDS", 0.0)
    bus, seen = EventBusManager(), Seen()
    bus.subscribe("*", seen)
    for _ in range(10):
        await bus.publish(event_type="any", source="test", payload={})
    counted = []
    while len(seen.events) < 10:
        await asyncio.sleep(0)
        counted.append(len(seen.events))
    assert len(set(counted)) == 10


async def test_of_a_full_queue_progress_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_bus_manager, "CAPACITY", 3)
    bus, lost = a_bus()
    seen = Seen()
    bus.subscribe("*", seen)
    for kind in ("one", "task/progress", "two", "three", "four", "task/progress"):
        await bus.publish(event_type=kind, source="test", payload={})
    await bus.drain(PATIENCE_SECONDS)
    assert [event.event_type for event in seen.events] == ["one", "two", "three"]
    assert lost == {"task/progress": 2, "four": 1}


def test_a_bus_that_is_shut_down_by_the_end_of_its_loop_leaves_nothing_behind() -> None:
    async def main() -> Hanging:
        bus, hung = EventBusManager(), Hanging()
        bus.subscribe("*", hung)
        for _ in range(3):
            await bus.publish(event_type="any", source="test", payload={})
        await turns()
        return hung

    assert len(asyncio.run(main()).given) == 1


def test_an_event_cannot_be_changed() -> None:
    event = Event("any", "test", {})
    with pytest.raises(AttributeError):
        event.source = "other"  # type: ignore[misc]  # on purpose
