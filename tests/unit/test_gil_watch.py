"""faulthandler's timer, which one program has once: pushed back, read, and handed over to who stops the process."""

import faulthandler
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from qorzen_obs.stacks import parse_dump, users_frames
from qorzen_obs.telemetry import gil_watch
from qorzen_obs.telemetry.gil_watch import GilWatch
from tests.program import ROOT


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[GilWatch]:
    monkeypatch.setattr(gil_watch, "AFTER_SECONDS", 0.02)
    monkeypatch.setattr(gil_watch, "_PUSH_BACK_SECONDS", 0.0)
    made = GilWatch()
    yield made
    made.close()
    made.call_off_end()


def test_the_timer_leaves_a_stack_where_it_is_not_pushed_back(watch: GilWatch) -> None:
    watch.push_back()
    while not (frames := watch.read(threading.get_ident())):
        time.sleep(0.1)  # in C all along: faulthandler may crash where it fires while Python runs
    assert frames[-1].function == "test_the_timer_leaves_a_stack_where_it_is_not_pushed_back"
    assert watch.read(1) == ()
    watch.close()
    assert watch.read(threading.get_ident()) == ()


def test_who_stops_the_process_has_the_timer_for_good(
    watch: GilWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch.push_back()
    assert sys.__stderr__ is not None
    watch.end_process_in(600, sys.__stderr__)
    touched: list[str] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: touched.append("set"))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: touched.append("cancelled"))
    watch.push_back()
    watch.close()
    assert touched == []
    watch.call_off_end()
    assert touched == ["cancelled"]


FORK = """
import faulthandler, os, sys, time
from qorzen_obs.telemetry.gil_watch import GilWatch

watch = GilWatch()
SET
child = os.fork()
if child == 0:
    sys.exit(0)
deadline = time.monotonic() + 10
while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
    time.sleep(0.01)
if ended == (0, 0):
    os.kill(child, 9)
    os.waitpid(child, 0)
print("ended" if ended == (child, 0) else "hung", flush=True)
watch.push_back()
AFTER
"""
LASTS = "time.sleep(60)"


def _run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_f24_a_child_forked_while_the_timer_is_set_ends_as_any_other_does() -> None:
    after = "while not watch.read(__import__('threading').get_ident()): time.sleep(1)\nprint('set again')"
    ran = _run(FORK.replace("SET", "watch.push_back()").replace("AFTER", after))
    assert (ran.returncode, ran.stdout) == (0, "ended\nset again\n"), ran.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_f24_a_fork_puts_off_neither_its_own_exit_nor_the_end_of_a_process_that_does_not_stop() -> None:
    ran = _run(FORK.replace("SET", "watch.end_process_in(1, sys.__stderr__)").replace("AFTER", LASTS))
    assert (ran.returncode, ran.stdout) == (1, "ended\n"), ran.stderr
    assert "Timeout" in ran.stderr


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
