"""What a block comes to: which thread reads its stack, and what a late beat is booked as."""

import asyncio
import gc
import itertools
import linecache
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from qorzen_obs.clock import SystemClock
from qorzen_obs.record import Attempt
from qorzen_obs.stacks import Frames, Place
from qorzen_obs.telemetry import block_lines, names
from qorzen_obs.telemetry.culprit import NOBODY, Culprit
from qorzen_obs.telemetry.gil_watch import GilWatch
from qorzen_obs.telemetry.loop_monitor import INTERVAL_SECONDS, KEPT_BLOCKS, LoopMonitor
from qorzen_obs.telemetry.watchdog import CODE, NOT_RUNNING, Finding
from tests.support import PATIENCE_SECONDS, attempt, record, until


def fail(error: BaseException) -> None:
    raise error


def a_monitor(clock: SystemClock | None = None) -> LoopMonitor:
    return LoopMonitor(
        clock or SystemClock(), lambda _: None, log=lambda event, **fields: None, on_error=fail
    )


class Held:
    """A loop that an attempt of a task holds, and the watchdog's thread that has found it."""

    def __init__(self, dump: Callable[[], Frames] = tuple) -> None:
        self.monitor = a_monitor()
        self.monitor.due = time.monotonic() - 0.1
        self.attempt: Attempt = attempt(record())
        self.attempt.span = cast("Any", TracerProvider().get_tracer("test").start_span("task"))
        self.culprit = Culprit("task", self.attempt, [Place(Held.__init__.__code__, 30)], dump)
        finding = Finding(self.monitor.due, self.monitor.due, CODE, self.culprit)
        self.watchdog = threading.Thread(target=self.monitor._blocked, args=(finding,))

    def stacks(self) -> list[str]:
        """What the span's events show."""
        events = cast("ReadableSpan", self.attempt.span).events
        return [str((event.attributes or {})[names.STACKTRACE]) for event in events]


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that have read source."""
    threads: list[threading.Thread] = []

    def getline(file: str, line: int) -> str:
        threads.append(threading.current_thread())
        return "the source"

    monkeypatch.setattr(linecache, "getline", getline)
    return threads


def test_a_block_whose_line_is_suppressed_never_reads_source_on_the_loop_s_thread(
    monkeypatch: pytest.MonkeyPatch, readers: list[threading.Thread]
) -> None:
    monkeypatch.setattr(block_lines, "_LINES", 0)
    dumps: list[Frames] = [()]
    held = Held(dumps.pop)  # a second one would fail: the dump is gone by then
    held.watchdog.start()
    held.watchdog.join()
    held.monitor._turned(None)
    (stack,) = held.stacks()
    assert "the source" in stack
    assert set(readers) == {held.watchdog}
    (block,) = held.monitor.ended_blocks()
    assert (block.task_id, block.frames[0].code) == ("id", "the source")


def test_a_loop_that_turns_before_the_stack_is_read_leaves_the_span_to_the_watchdog(
    readers: list[threading.Thread],
) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def dump() -> tuple[()]:
        reading.set()
        go_on.wait(PATIENCE_SECONDS)
        return ()

    held = Held(dump)
    held.watchdog.start()
    assert reading.wait(PATIENCE_SECONDS)
    block = held.monitor.block
    held.monitor._turned(None)
    assert held.stacks() == []
    assert held.monitor.ended_blocks() == []
    go_on.set()
    held.watchdog.join()
    assert block is not None
    # As a loop does whose turn comes just after the watchdog has seen that it is over.
    held.monitor._report_end(block)
    (stack,) = held.stacks()
    assert "the source" in stack
    (ended,) = held.monitor.ended_blocks()
    assert (ended.task_id, ended.frames[0].code) == ("id", "the source")
    assert set(readers) == {held.watchdog}


def test_of_the_blocks_that_are_over_the_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_lines, "_LINES", 0)
    held, began = Held(), time.time()
    for _ in range(KEPT_BLOCKS + 3):
        held.monitor.due = due = time.monotonic() - 0.1
        held.monitor._blocked(Finding(due, due, CODE, held.culprit))
        held.monitor._turned(None)
    blocks = held.monitor.ended_blocks()
    assert len(blocks) == KEPT_BLOCKS
    assert blocks == sorted(blocks, key=lambda block: block.began)
    assert began - 1 < blocks[-1].began < time.time()
    assert blocks[-1].seconds >= 0.1


@pytest.mark.parametrize("turned", [False, True])
def test_a_span_that_ends_before_the_stack_is_read_shows_the_place_without_source(
    turned: bool, readers: list[threading.Thread]
) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def dump() -> tuple[()]:
        reading.set()
        go_on.wait(PATIENCE_SECONDS)
        return ()

    held = Held(dump)
    held.watchdog.start()
    assert reading.wait(PATIENCE_SECONDS)
    if turned:
        held.monitor._turned(None)
    held.monitor.on_attempt_ends(held.attempt)
    assert readers == []
    go_on.set()
    held.watchdog.join()
    assert held.stacks() == [f'File "{__file__}", line 30, in Held.__init__']


class Skipping(SystemClock):
    """A clock that can be set forward, which makes a beat late that the watchdog saw in time."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@pytest.mark.parametrize(
    ("late", "cpu", "cause"),
    [
        (0.1, 0.1, None),  # waiting one's turn
        (3.0, 0.3, "not_running"),  # the process was stopped, or starved
        (3.0, 1.0, "gil_held"),
    ],
)
async def test_a_stall_that_the_watchdog_did_not_see_is_blamed_on_code_only_where_the_process_computed(
    late: float, cpu: float, cause: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, lags = [0.0], list[float]()
    monkeypatch.setattr(time, "process_time", lambda: used[0])
    clock = Skipping()
    monitor = LoopMonitor(clock, lags.append, log=lambda event, **fields: None, on_error=fail)
    monitor.start()
    try:
        clock.ahead += late - INTERVAL_SECONDS
        used[0] += cpu
        await until(lambda: lags)
        assert [label for label, seconds in monitor.seconds_by_category().items() if seconds] == (
            [cause] if cause else []
        )
        assert [(block.cause, block.task_id) for block in monitor.ended_blocks()] == (
            [(cause, None)] if cause else []
        )
    finally:
        monitor.stop()


def test_what_a_scrape_saw_of_a_block_stays_counted_when_the_cause_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, ticks = Held(), itertools.count(time.monotonic(), 0.5)
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))
    due = held.monitor.due
    assert due is not None
    held.monitor._blocked(Finding(due, due, CODE, held.culprit))
    scraped = held.monitor.seconds_by_category()
    assert scraped[held.attempt.category.value] > 0
    held.monitor._blocked(Finding(due, due, NOT_RUNNING, Culprit(NOBODY, None, [])))
    later = held.monitor.seconds_by_category()
    assert {label for label, seconds in scraped.items() if later[label] < seconds} == set()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="looks for the file by its name")
def test_a_watchdog_whose_loop_was_closed_leaves_neither_hook_nor_timer_nor_file() -> None:
    def dumps() -> list[Path]:
        return [link for link in Path("/proc/self/fd").iterdir() if "qorzen-stacks" in os.path.realpath(link)]

    async def start_and_forget() -> None:
        monitor = LoopMonitor(
            SystemClock(),
            lambda _: None,
            log=lambda event, **fields: None,
            on_error=fail,
            gil_watch=GilWatch(),
        )
        monitor.start()
        await until(dumps)

    hooks, files = list(gc.callbacks), dumps()
    asyncio.run(start_and_forget())
    for thread in threading.enumerate():
        if thread.name == "qorzen-watchdog":
            thread.join(PATIENCE_SECONDS)
    # A thread cannot take a handler back. Nothing fires it any more, but the next test wants the signal.
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    assert gc.callbacks == hooks
    assert dumps() == files == []
