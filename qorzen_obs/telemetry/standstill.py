"""Measures how long a process could not run: because it was stopped, or because the machine was busy.

Such time must not be blamed on the code that happened to be running. Measured over two seconds: after SIGSTOP the
watchdog woke two seconds late and the process had used a millisecond; with `time.sleep(2)` on the loop it woke in
time; with a runaway regular expression it woke late and the process had used two seconds.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Final, NamedTuple

#: Oversleeping for this long is more than a wait for a processor on a busy machine.
HELD_SECONDS: Final = 0.15
#: The share of a stall in which the process must have computed; below it, it could not run.
SOME: Final = 0.25
#: The processor time of a stopped process: what it uses just before and after.
_NEXT_TO_NOTHING: Final = 0.05
_NANO: Final = 1e-9


class ThreadTimes(NamedTuple):
    """The system's figures for one thread, in seconds; None if it has none."""

    at: float  #: when this was read, monotonic
    cpu: float | None  #: processor time that it used
    delay: float | None  #: how long it was runnable without a processor, up to when it last got one


def stopped_seconds(overslept: float, own_delay: float | None, process_cpu: float) -> float:
    """Return how long the whole process was stopped, as by SIGSTOP or in a frozen container; 0 if it was not.

    Args:
        overslept: how much later than requested a thread woke.
        own_delay: how much of that it waited for a processor; None if the system does not say.
        process_cpu: what all threads used meanwhile.
    """
    if own_delay is None:
        return overslept if overslept >= HELD_SECONDS and process_cpu < SOME * overslept else 0.0
    stopped = overslept - own_delay
    return stopped if stopped >= HELD_SECONDS and process_cpu < _NEXT_TO_NOTHING * stopped else 0.0


def delayed_seconds(beat: ThreadTimes, before: ThreadTimes, now: ThreadTimes, *, waits: bool) -> float:
    """Return how long a thread had no processor since its last beat; 0 if the system does not say.

    Args:
        before: a reading after the beat, or the beat's own.
        waits: the thread runs now, or waits for a processor. The system adds a wait when it ends, so time since
            `before` that is not accounted for belongs to a wait that continues.
    """
    if (
        beat.delay is None
        or before.delay is None
        or now.delay is None
        or now.cpu is None
        or before.cpu is None
    ):
        return 0.0
    present = 0.0
    if waits:
        present = (now.at - before.at) - (now.cpu - before.cpu) - (now.delay - before.delay)
    return now.delay - beat.delay + max(0.0, present)


def is_overload(late: float, delayed: float, blocked_seconds: float) -> bool:
    """Return whether a late loop would not be blocked if its thread had always had a processor when it could run.

    Code that would block the loop on an idle machine is also blamed on a busy one, once it has run for that long.
    """
    return delayed >= SOME * late and late - delayed < blocked_seconds


class ThreadClock:
    """Reads the system's figures for one thread; create it while that thread runs. From any thread."""

    def __init__(self, thread: threading.Thread) -> None:
        find = getattr(time, "pthread_getcpuclockid", None)
        self._cpu_clock: int | None = None if find is None else find(thread.ident)
        folder = f"/proc/self/task/{thread.native_id}"
        self._schedstat = _open(f"{folder}/schedstat")
        self._stat = _open(f"{folder}/stat")

    def read(self) -> ThreadTimes:
        """Return the figures so far. Takes 4 µs."""
        return ThreadTimes(time.monotonic(), self._cpu(), self._delay())

    def waits(self) -> bool:
        """Return whether the thread runs, or waits only for a processor."""
        return _read(self._stat).rpartition(b")")[2][:2] == b" R"

    def _cpu(self) -> float | None:
        try:
            return None if self._cpu_clock is None else time.clock_gettime(self._cpu_clock)
        except OSError:  # the thread has ended
            return None

    def _delay(self) -> float | None:
        fields = _read(self._schedstat).split()
        return int(fields[1]) * _NANO if len(fields) == 3 else None

    def close(self) -> None:
        """Close the files. Idempotent."""
        files, self._schedstat, self._stat = (self._schedstat, self._stat), None, None
        for file in files:
            if file is not None:
                os.close(file)


def difference(now: float | None, before: float | None) -> float | None:
    """Return the increase; None if either value is unknown."""
    return None if now is None or before is None else now - before


def _open(path: str) -> int | None:
    with contextlib.suppress(OSError):  # another system, or a kernel without it
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return None


def _read(file: int | None) -> bytes:
    with contextlib.suppress(OSError):  # the thread has ended
        return b"" if file is None else os.pread(file, 1024, 0)
    return b""
