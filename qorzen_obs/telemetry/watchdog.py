"""The thread that notices an overdue loop while it is blocked, and finds the cause.

It sleeps until the loop would be late, so a loop that turns costs it about twelve wake-ups a second. Whether the
thread itself could run distinguishes ordinary code from code that held the interpreter. The garbage collector and the
processors' clocks show whether garbage was collected or the process could not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from qorzen_obs.stacks import Frames
from qorzen_obs.telemetry.culprit import ANOTHER_THREAD, NOBODY, THE_LOOP, Culprit, find_culprit
from qorzen_obs.telemetry.gil_watch import GilWatch
from qorzen_obs.telemetry.standstill import (
    HELD_SECONDS,
    SOME,
    ThreadClock,
    ThreadTimes,
    delayed_seconds,
    difference,
    is_overload,
    stopped_seconds,
)

#: A loop overdue for this long counts as blocked. With 25 ms between beats, that is within 100 ms of the start.
NOTICE_SECONDS: Final = 0.075
CODE: Final = "code"
GC: Final = "gc"
GIL_HELD: Final = "gil_held"
NOT_RUNNING: Final = "not_running"

_FOLLOW_SECONDS: Final = 0.05  # seconds between two looks at a blocked loop
_MOST: Final = 0.5
_NEARLY_ALL: Final = 0.8
_JOIN_SECONDS: Final = 1.0


class Finding(NamedTuple):
    """The result of one look at a blocked loop."""

    due: float  #: the beat that is overdue, monotonic
    since: float  #: from when on this applies, monotonic
    cause: str
    culprit: Culprit


class GcWatch:
    """Measures how long garbage was collected, with a hook that costs each collection half a microsecond."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        gc.callbacks.append(self._on_gc)

    def stop(self) -> None:
        with contextlib.suppress(ValueError):  # it was already removed
            gc.callbacks.remove(self._on_gc)

    def seconds(self) -> float:
        """Return the total time, including a collection that is running."""
        since = self._since
        return self._seconds + (0.0 if since is None else time.monotonic() - since)

    def _on_gc(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._since = time.monotonic()
        elif self._since is not None:
            self._seconds += time.monotonic() - self._since
            self._since = None


class _Reading(NamedTuple):
    """All clocks at one moment, in seconds."""

    at: float
    gc: float
    process_cpu: float
    loop: ThreadTimes
    own: ThreadTimes


class Pulse(Protocol):
    """The loop's side."""

    @property
    def due(self) -> float | None:
        """When the next beat should come, monotonic; None when the loop is not watched."""
        ...


class Watchdog:
    """Watches one loop. Made, started and stopped on the loop's own thread; one watchdog starts once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pulse: Pulse,
        on_blocked: Callable[[Finding], None],
        on_error: Callable[[BaseException], None],
        gil_watch: GilWatch | None,
    ) -> None:
        self._loop = loop
        self._pulse = pulse
        self._on_blocked = on_blocked
        self._on_error = on_error
        self._gil_watch = gil_watch
        self._dump: Callable[[], Frames] = tuple if gil_watch is None else gil_watch.read
        self._gc = GcWatch()
        self._loop_thread = threading.get_ident()
        self._loop_clock = ThreadClock(threading.current_thread())
        self._shows_callbacks = isinstance(loop, asyncio.BaseEventLoop)
        self._beat = self._loop_clock.read()
        self._own_clock: ThreadClock | None = None
        self._started = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="qorzen-watchdog", daemon=True)

    def start(self) -> None:
        self._gc.start()
        self._thread.start()
        self._own_clock = ThreadClock(self._thread)
        self._started.set()

    def stop(self) -> None:
        """Wait until the thread has ended, at most a second if a logger blocks it."""
        self._stop.set()
        self._thread.join(_JOIN_SECONDS)
        self._let_go()

    def _let_go(self) -> None:
        """Remove the hook and the timer. Idempotent."""
        self._gc.stop()
        if self._gil_watch is not None:
            self._gil_watch.close()

    def note_beat(self) -> None:
        """Note the loop thread's usage at a beat; on that thread."""
        self._beat = self._loop_clock.read()

    def delayed(self) -> float:
        """Return how long the loop's thread had no processor since the last beat; on that thread."""
        now = self._loop_clock.read()
        return delayed_seconds(self._beat, now, now, waits=False)

    def _run(self) -> None:
        self._started.wait()
        own_clock = self._own_clock
        assert own_clock is not None, "start made it"
        try:
            self._watch(own_clock)
        except BaseException as error:  # noqa: BLE001 - a thread's top: observation must not break the observed
            self._on_error(error)
        finally:
            own_clock.close()
            self._loop_clock.close()
            if self._loop.is_closed():  # silently, since no stop was requested
                self._let_go()

    def _watch(self, own_clock: ThreadClock) -> None:
        wait, before = NOTICE_SECONDS, self._read(own_clock)
        while not self._stop.wait(wait):
            if self._loop.is_closed():
                return
            now, due = self._read(own_clock), self._pulse.due
            late = 0.0 if due is None or not self._loop.is_running() else now.at - due
            if due is not None and late >= NOTICE_SECONDS:
                self._on_blocked(self._look(due, before, now, wait))
                wait = _FOLLOW_SECONDS
                now = self._read(own_clock)  # the look itself takes time
            else:
                wait = NOTICE_SECONDS - max(late, -NOTICE_SECONDS)
            before = now
            if self._gil_watch is not None:
                self._gil_watch.push_back()

    def _look(self, due: float, before: _Reading, now: _Reading, wait: float) -> Finding:
        since = max(due, before.at)
        used = now.process_cpu - before.process_cpu
        if now.gc - before.gc >= _MOST * (now.at - since):
            return Finding(due, since, GC, self._find())
        overslept, own_delay = now.at - before.at - wait, difference(now.own.delay, before.own.delay)
        stopped = stopped_seconds(overslept, own_delay, used)
        if stopped >= _MOST * (now.at - since):
            return Finding(due, since, NOT_RUNNING, Culprit(NOBODY, None, []))
        late = now.at - due
        delayed = min(late, stopped + self._delayed(before.loop, now.loop))
        if is_overload(late, delayed, NOTICE_SECONDS):
            return Finding(due, due, NOT_RUNNING, Culprit(NOBODY, None, []))
        since_code = due + delayed if delayed >= SOME * late else due
        kept_out = overslept - (own_delay or 0.0)  # delayed by the interpreter: it had a processor
        could_run = max(0.0, kept_out - delayed)
        if kept_out < HELD_SECONDS or used < SOME * could_run:
            culprit = self._find()
            # No code is running, and no thread that may have the interpreter computes: they are delayed.
            if culprit.name == THE_LOOP and self._shows_callbacks and used < _MOST * (now.at - before.at):
                return Finding(due, since, NOT_RUNNING, Culprit(NOBODY, None, []))
            return Finding(due, since_code, CODE, culprit)
        loop_used = difference(now.loop.cpu, before.loop.cpu)
        if loop_used is not None and loop_used < _MOST * used:
            if used < _NEARLY_ALL * could_run:
                return Finding(due, since_code, CODE, self._find())
            return Finding(due, since, GIL_HELD, Culprit(ANOTHER_THREAD, None, []))
        return Finding(due, since, GIL_HELD, self._find(self._dump))

    def _delayed(self, before: ThreadTimes, now: ThreadTimes) -> float:
        beat = self._beat
        last = beat if beat.at > before.at else before
        return delayed_seconds(beat, last, now, waits=self._loop_clock.waits())

    def _find(self, dump: Callable[[], Frames] = tuple) -> Culprit:
        return find_culprit(self._loop, self._loop_thread, dump)

    def _read(self, own_clock: ThreadClock) -> _Reading:
        own = own_clock.read()
        return _Reading(own.at, self._gc.seconds(), time.process_time(), self._loop_clock.read(), own)
