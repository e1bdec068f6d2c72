"""faulthandler's timer, which one program has once: pushed back, read, and handed over to who stops the process."""

import faulthandler
import threading
import time
from collections.abc import Iterator

import pytest

from qorzen_obs.stacks import parse_dump, users_frames
from qorzen_obs.telemetry import gil_watch
from qorzen_obs.telemetry.gil_watch import GilWatch


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[GilWatch]:
    monkeypatch.setattr(gil_watch, "AFTER_SECONDS", 0.02)
    monkeypatch.setattr(gil_watch, "_PUSH_BACK_SECONDS", 0.0)
    made = GilWatch()
    yield made
    made.close()
    faulthandler.cancel_dump_traceback_later()


def test_the_timer_leaves_a_stack_where_it_is_not_pushed_back(watch: GilWatch) -> None:
    watch.push_back()
    while not (frames := watch.read(threading.get_ident())):
        time.sleep(0.001)
    assert frames[-1].function == "test_the_timer_leaves_a_stack_where_it_is_not_pushed_back"
    assert watch.read(1) == ()
    watch.close()
    assert watch.read(threading.get_ident()) == ()


def test_who_stops_the_process_has_the_timer_for_good(
    watch: GilWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch.push_back()
    with watch.retired():
        pass
    touched: list[str] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: touched.append("set"))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: touched.append("cancelled"))
    watch.push_back()
    watch.close()
    assert touched == []


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
