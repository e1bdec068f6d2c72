"""The feed of the event bus: order, bounds, and an end in bounded time."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.core import contained, event_feed
from qorzen_obs.core.event_feed import EventFeed
from qorzen_obs.record import TaskEvent
from qorzen_obs.tasks import EventKind
from qorzen_obs.testing import CapturedLogs, virtual_time
from tests.support import record, turns
from tests.support import virtual_time as watched_virtual_time

FINISHED, PROGRESS = EventKind.COMPLETED, EventKind.PROGRESS


def event(number: int, kind: EventKind = FINISHED) -> TaskEvent:
    one = record(task_id=f"id {number}")
    return TaskEvent(number, kind, 0.0, one, one.state, one.progress)


class Bus:
    def __init__(self, *, blocked: bool = False) -> None:
        self.ids: list[str] = []
        self.open = asyncio.Event()
        if not blocked:
            self.open.set()

    async def publish(self, event_type: str, payload: dict[str, Any], on_lost: object) -> None:
        await self.open.wait()
        self.ids.append(payload["task_id"])


def feed(bus: Bus) -> tuple[EventFeed, Counter[str]]:
    dropped: Counter[str] = Counter()
    return EventFeed(bus.publish, CapturedLogs().get_logger("feed"), dropped), dropped


async def test_stop_is_safe_before_start_and_twice() -> None:
    unstarted, _ = feed(Bus())
    await unstarted.stop(1)
    started, _ = feed(Bus())
    started.start()
    await started.stop(1)
    await started.stop(1)


async def test_a_bus_that_never_waits_leaves_the_loop_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contained, "_SLICE_SECONDS", 0.0)
    bus = Bus()
    fed, _ = feed(bus)
    fed.start()
    for number in range(10):
        fed.on_event(event(number))
    counted = []
    while len(bus.ids) < 10:
        await asyncio.sleep(0)
        counted.append(len(bus.ids))
    assert set(counted) >= set(range(1, 10))
    await fed.stop(1)


async def test_everything_queued_is_published_in_order_before_stop_returns() -> None:
    bus = Bus()
    fed, dropped = feed(bus)
    fed.start()
    for number in range(100):
        fed.on_event(event(number))
    await fed.stop(1)
    assert bus.ids == [f"id {number}" for number in range(100)]
    assert not dropped


@watched_virtual_time
async def test_what_a_blocked_bus_leaves_at_the_deadline_is_counted_to_the_last() -> None:
    bus = Bus(blocked=True)
    fed, dropped = feed(bus)
    fed.start()
    for number in range(7):
        fed.on_event(event(number, PROGRESS if number % 2 else FINISHED))
    await turns()
    await fed.stop(2)
    assert asyncio.get_running_loop().time() == pytest.approx(2, abs=0.01)
    assert dropped == {"event": 4, "progress": 3}


async def test_progress_that_was_published_makes_no_room_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "CAPACITY", 3)
    bus = Bus()
    fed, dropped = feed(bus)
    fed.start()
    fed.on_event(event(0, PROGRESS))
    await turns()
    assert bus.ids == ["id 0"]
    for number in range(1, 6):
        fed.on_event(event(number))
    assert dropped == {"event": 2}
    await fed.stop(1)
    assert bus.ids == ["id 0", "id 1", "id 2", "id 3"]


kinds = st.sampled_from([FINISHED, PROGRESS])


@given(st.lists(kinds, max_size=40))
def test_a_full_queue_loses_progress_first_and_counts_all_that_it_loses(sent: list[EventKind]) -> None:
    capacity = 8

    @virtual_time
    async def main() -> None:
        bus = Bus(blocked=True)
        fed, dropped = feed(bus)
        for number, kind in enumerate(sent):
            fed.on_event(event(number, kind))
        fed.start()
        bus.open.set()
        await fed.stop(1)
        told = [sent[int(task_id.split()[1])] for task_id in bus.ids]
        assert bus.ids == sorted(bus.ids, key=lambda task_id: int(task_id.split()[1]))
        assert len(told) == min(capacity, len(sent))
        assert dropped.total() + len(told) == len(sent)
        assert told.count(FINISHED) == min(capacity, sent.count(FINISHED))
        if dropped["event"]:
            assert PROGRESS not in told

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_feed, "CAPACITY", capacity)
        main()


async def test_a_bus_and_a_logger_that_fail_together_lose_their_event_and_nothing_else() -> None:
    class Failing(Bus):
        async def publish(self, event_type: str, payload: dict[str, Any], on_lost: object) -> None:
            if payload["task_id"] == "id 0":
                raise OSError
            await super().publish(event_type, payload, on_lost)

    class Mute:
        def error(self, event: str, **fields: object) -> None:
            raise OSError

    bus, dropped = Failing(), Counter[str]()
    fed = EventFeed(bus.publish, Mute(), dropped)
    fed.start()
    for number in range(3):
        fed.on_event(event(number))
    await fed.stop(1)
    assert bus.ids == ["id 1", "id 2"]
    assert dropped == {"event": 1}
