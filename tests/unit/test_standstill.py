"""Whether a process ran: what the clocks of threads say, and what is made of it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from qorzen_obs.telemetry.standstill import (
    ThreadClock,
    ThreadTimes,
    delayed_seconds,
    is_overload,
    stopped_seconds,
)
from tests.support import PATIENCE_SECONDS

BLOCKED = 0.075


@pytest.mark.parametrize(
    ("overslept", "own_delay", "process_cpu", "stopped"),
    [
        pytest.param(0.0, 0.0, 0.0, 0.0, id="time.sleep(2) on the loop: the watchdog woke in time"),
        pytest.param(1.9, 0.01, 0.001, 1.89, id="SIGSTOP for two seconds"),
        pytest.param(1.9, 0.01, 1.9, 0.0, id="a regular expression that runs away"),
        pytest.param(1.9, 0.01, 0.24, 0.0, id="the same with an eighth of a processor"),
        pytest.param(1.9, 1.85, 0.001, 0.0, id="it waited for a processor"),
        pytest.param(1.9, None, 0.001, 1.9, id="SIGSTOP, on a system that does not tell"),
        pytest.param(1.9, None, 1.0, 0.0, id="it computed, on a system that does not tell"),
    ],
)
def test_a_process_that_was_stopped_is_told_by_a_thread_that_woke_late(
    overslept: float, own_delay: float | None, process_cpu: float, stopped: float
) -> None:
    assert stopped_seconds(overslept, own_delay, process_cpu) == pytest.approx(stopped)


@pytest.mark.parametrize(
    ("before", "now", "waits", "delayed"),
    [
        pytest.param((0.0, 0.0, 0.0), (0.3, 0.001, 0.002), False, 0.002, id="code that sleeps"),
        pytest.param((0.0, 0.0, 0.0), (0.3, 0.299, 0.001), True, 0.001, id="code that computes"),
        pytest.param((0.0, 0.0, 0.0), (0.3, 0.01, 0.2), False, 0.2, id="it waited for a processor"),
        pytest.param((0.2, 0.0, 0.1), (0.3, 0.0, 0.1), True, 0.2, id="it waits for one now"),
        pytest.param((0.0, 0.0, None), (0.3, 0.0, None), True, 0.0, id="the system does not tell"),
    ],
)
def test_what_a_thread_waited_for_a_processor_is_counted_since_the_last_beat(
    before: tuple[float, float, float | None],
    now: tuple[float, float, float | None],
    waits: bool,
    delayed: float,
) -> None:
    beat = ThreadTimes(0.0, 0.0, None if before[2] is None else 0.0)
    found = delayed_seconds(beat, ThreadTimes(*before), ThreadTimes(*now), waits=waits)
    assert found == pytest.approx(delayed)


@pytest.mark.parametrize(
    ("late", "delayed", "excused"),
    [
        pytest.param(0.08, 0.001, False, id="code on a free machine"),
        pytest.param(0.08, 0.01, False, id="code on a machine that is a little busy"),
        pytest.param(0.3, 0.29, True, id="nothing ran"),
        pytest.param(0.5, 0.44, True, id="code that computed for 60 ms, at an eighth of a processor"),
        pytest.param(0.7, 0.61, False, id="code that computed for 90 ms, at an eighth of a processor"),
    ],
)
def test_a_busy_machine_excuses_code_until_it_would_block_a_free_one_too(
    late: float, delayed: float, excused: bool
) -> None:
    assert is_overload(late, delayed, BLOCKED) is excused


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux tells")
def test_the_clock_of_a_thread_tells_computing_from_sleeping() -> None:
    clocks: list[ThreadClock] = []
    sleeps, wakes = threading.Event(), threading.Event()

    def use() -> None:
        clock = ThreadClock(threading.current_thread())
        clocks.append(clock)
        while (clock.read().cpu or 0.0) < 0.01:
            pass
        sleeps.set()
        wakes.wait(PATIENCE_SECONDS)

    thread = threading.Thread(target=use)
    thread.start()
    assert sleeps.wait(PATIENCE_SECONDS)
    (clock,) = clocks
    while clock.waits():  # it is on its way to sleep
        time.sleep(0.001)
    times = clock.read()
    assert times.cpu is not None
    assert times.delay is not None
    assert times.cpu >= 0.01
    assert times.delay >= 0
    wakes.set()
    thread.join()
    clock.close()
    clock.close()
    assert (clock.read().delay, clock.waits()) == (None, False)
