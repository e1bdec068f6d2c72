"""Ends: what has ended is told together, once, and never to nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from qorzen_obs.core import ends as ends_module
from qorzen_obs.core.ends import Ends
from qorzen_obs.core.runtime import Runtime
from qorzen_obs.record import End
from qorzen_obs.tasks import EventKind, TaskStatus
from tests.support import PATIENCE_SECONDS, record


def end(name: str) -> End:
    one = record(name=name)
    return End(EventKind.COMPLETED, 1.0, one, one.state.but(status=TaskStatus.COMPLETED), None, None)


class Told:
    """An observer, and what it was told at once each time."""

    def __init__(self) -> None:
        self.turns: list[list[str]] = []
        self.errors: list[tuple[str, BaseException]] = []
        runtime = Runtime()
        runtime.begin(lambda: None)
        self.ends = Ends(lambda name, error: self.errors.append((name, error)), runtime)

    def add(self, one: End) -> None:
        self.ends.queue.append(one)
        self.ends.notify_soon()

    def on_ends(self, ends: Sequence[End]) -> None:
        self.turns.append([one.record.name for one in ends])


async def test_what_ends_in_one_turn_is_told_together_in_the_next_and_in_order() -> None:
    told = Told()
    told.ends.observe("told", told.on_ends)
    for name in ("a", "b", "c"):
        told.add(end(name))
    assert told.turns == []
    await asyncio.sleep(0)
    told.add(end("d"))
    await asyncio.sleep(0)
    assert told.turns == [["a", "b", "c"], ["d"]]


async def test_who_is_awakened_after_an_end_finds_it_told() -> None:
    told = Told()
    told.ends.observe("told", told.on_ends)
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def finish() -> None:
        told.add(end("a"))
        waiter.set_result(None)

    loop.call_soon(finish)
    await waiter
    assert told.turns == [["a"]]


async def test_an_observer_that_raises_is_told_no_more_and_the_next_one_is() -> None:
    told = Told()

    def broken(_: Sequence[End]) -> None:
        raise ValueError("on purpose")

    told.ends.observe("broken", broken)
    told.ends.observe("told", told.on_ends)
    for name in ("a", "b"):
        told.add(end(name))
        await asyncio.sleep(0)
    assert told.turns == [["a"], ["b"]]
    ((name, error),) = told.errors
    assert (name, str(error)) == ("broken", "on purpose")


async def test_what_ends_while_another_thread_tells_is_told_by_that_one() -> None:
    told = Told()
    inside, go_on = threading.Event(), threading.Event()

    def slow(ends: Sequence[End]) -> None:
        told.on_ends(ends)
        inside.set()
        go_on.wait(PATIENCE_SECONDS)

    told.ends.observe("slow", slow)
    told.add(end("a"))
    notifier = threading.Thread(target=told.ends.notify)
    notifier.start()
    assert inside.wait(PATIENCE_SECONDS)
    told.add(end("b"))
    told.ends.notify()  # does not wait for the other one
    assert told.turns == [["a"]]
    go_on.set()
    await asyncio.to_thread(notifier.join)
    assert told.turns == [["a"], ["b"]]


async def test_of_many_that_end_in_one_turn_few_are_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends_module, "MAX_QUEUED", 2)
    told = Told()
    told.ends.observe("told", told.on_ends)
    for name in "abcde":
        told.add(end(name))
    assert told.turns == [["a", "b", "c"]]
    await asyncio.sleep(0)
    assert told.turns == [["a", "b", "c"], ["d", "e"]]


async def test_the_loop_waits_for_a_thread_that_tells_rather_than_queue_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ends_module, "MAX_QUEUED", 2)
    told = Told()
    inside, go_on = threading.Event(), threading.Event()

    def slow(ends: Sequence[End]) -> None:
        inside.set()
        assert go_on.wait(PATIENCE_SECONDS)
        told.on_ends(ends)

    told.ends.observe("slow", slow)
    told.add(end("a"))
    notifier = threading.Thread(target=told.ends.notify)
    notifier.start()
    assert inside.wait(PATIENCE_SECONDS)
    threading.Timer(0.1, go_on.set).start()
    for name in "bcd":
        told.add(end(name))  # the last of them waits
    assert [name for turn in told.turns for name in turn] == ["a", "b", "c", "d"]
    await asyncio.to_thread(notifier.join)
    assert len(told.turns) == 2


def test_an_observer_that_is_interrupted_once_the_loop_is_closed_is_dismissed() -> None:
    """As in the watchdog's thread, which outlives the loop."""

    async def begin() -> Told:
        return Told()

    def interrupted(_: Sequence[End]) -> None:
        raise MemoryError

    told = asyncio.run(begin())
    told.ends.observe("interrupted", interrupted)
    told.ends.observe("told", told.on_ends)
    told.ends.queue.append(end("a"))
    told.ends.notify()
    assert told.turns == [["a"]]
    assert [name for name, _ in told.errors] == ["interrupted"]
