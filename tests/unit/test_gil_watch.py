"""Timers of processor time and their signals: pushed back, noted by Python or dumped by C, and given back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qorzen_obs.stacks import parse_dump, users_frames
from qorzen_obs.telemetry import gil_watch
from qorzen_obs.telemetry.gil_watch import GilWatch
from tests.support import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[GilWatch]:
    monkeypatch.setattr(gil_watch, "PYTHON_SECONDS", 0.05)
    monkeypatch.setattr(gil_watch, "DUMP_SECONDS", 0.15)
    monkeypatch.setattr(gil_watch, "_PUSH_BACK_SECONDS", 0.0)
    made = GilWatch()
    yield made
    made.close()


def add_up_in_c() -> None:
    sum(range(20_000_000))


def count_in_python() -> None:
    end = time.process_time() + 0.4
    while time.process_time() < end:
        pass


@pytest.mark.parametrize("hold", [add_up_in_c, count_in_python])
def test_code_that_uses_a_processor_without_a_push_back_leaves_its_stack(
    watch: GilWatch, hold: Callable[[], None]
) -> None:
    watch.push_back()
    assert watch.read() == ()
    hold()
    assert hold.__name__ in [frame.function for frame in watch.read()]
    watch.push_back()
    assert watch.read() == ()


def test_time_that_goes_by_without_use_of_a_processor_fires_nothing(watch: GilWatch) -> None:
    watch.push_back()
    time.sleep(0.5)
    assert watch.read() == ()


def test_what_it_took_it_gives_back(watch: GilWatch) -> None:
    watch.push_back()
    watch.close()
    watch.close()
    assert signal.getsignal(signal.SIGVTALRM) is signal.SIG_DFL
    assert (signal.getitimer(signal.ITIMER_VIRTUAL), signal.getitimer(signal.ITIMER_PROF)) == ((0, 0), (0, 0))
    watch.push_back()
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)
    assert watch.read() == ()


def test_signals_that_a_program_uses_itself_are_left_to_it() -> None:
    before = signal.signal(signal.SIGVTALRM, lambda *_: None)
    try:
        theirs = signal.getsignal(signal.SIGVTALRM)
        watch = GilWatch()
        watch.push_back()
        assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)
        watch.close()
        assert signal.getsignal(signal.SIGVTALRM) is theirs
    finally:
        signal.signal(signal.SIGVTALRM, before)


OWNER = """
import os, sys, threading, time
from qorzen_obs.telemetry import gil_watch

gil_watch.PYTHON_SECONDS, gil_watch.DUMP_SECONDS, gil_watch._PUSH_BACK_SECONDS = 0.01, 0.05, 0.0
watch = gil_watch.GilWatch()
"""
FORK = """
watch.push_back()
if os.fork() == 0:
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
"""
STARVED = """
end = time.monotonic() + float(sys.argv[1])
watch.push_back()  # and nobody does so again
while time.monotonic() < end:
    sorted(range(5), key=lambda value: -value)
assert watch.read()
"""


def alone(program: str, *arguments: str) -> None:
    """Run a program that owns its process, and ends without closing the watch."""
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", OWNER + program, *arguments]
    subprocess.run(command, cwd=ROOT, check=True, timeout=PATIENCE_SECONDS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_f24_a_forked_child_ends_as_it_likes() -> None:
    alone(FORK)


def test_a_program_that_runs_python_and_starves_the_watchdog_lives() -> None:
    alone(STARVED, "1.5")


DUMP = """Timeout (0:00:00.400000)!
Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.11/selectors.py", line 468 in select
Thread 0x00007f0000000002 (most recent call first):
  File "/srv/shop.py", line 12 in match
  File "/srv/qorzen_obs/engines/loop.py", line 60 in run
  File "/usr/lib/python3.11/asyncio/events.py", line 80 in _run
  File "/usr/lib/python3.11/asyncio/base_events.py", line 1922 in _run_once
"""


def test_a_dump_is_read_by_thread_and_cut_to_the_user_s_own() -> None:
    frames = parse_dump(DUMP, 0x7F0000000002)
    assert [frame.function for frame in frames] == ["_run_once", "_run", "run", "match"]
    (own,) = users_frames(frames)
    assert (own.file, own.line, own.function, own.code) == ("/srv/shop.py", 12, "match", None)
    assert parse_dump(DUMP, 0x99) == ()
