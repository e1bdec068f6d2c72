"""Takes the stack of code that lets no other thread run: by signals, which need no thread of ours.

Two timers count the processor time of the process, and the watchdog pushes both back as long as it runs. The first has
a handler in Python: if the main thread runs Python, or C code that checks for signals, the handler notes the stack and
pushes the timers back. The second has faulthandler's handler in C, for C code that does neither, so that its frames do
not change. faulthandler's own timer (`dump_traceback_later`) is unsuitable: it counts wall time, so it would read the
frames of a process that was only stopped or starved while they change, which crashes it (docs/decisions/0009).

A process has only one of each timer, so only a program that owns the process uses them (`serve`, `demo`). A forked
child has neither.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import signal
import tempfile
import threading
import time
from types import FrameType
from typing import Any, Final

from qorzen_obs.stacks import Frames, Place, parse_dump, places_of, shown

#: processor time after which the handler in Python notes the main thread's stack
PYTHON_SECONDS: Final = 0.15
DUMP_SECONDS: Final = 0.4  #: processor time after which the handler in C takes its stack
_PUSH_BACK_SECONDS: Final = 0.05
_MAX_DUMP_BYTES: Final = 1_000_000


class GilWatch:
    """Create it on the main thread, where the loop runs too; the watchdog calls `push_back` and `read`.

    Does nothing if the system has no such timers, or something else already uses their signals.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._pushed_back = float("-inf")
        self._seen: list[Place] = []
        self._before: Any = None  # the handler of SIGVTALRM
        self._lock = threading.RLock()
        if _is_free("SIGVTALRM") and _is_free("SIGPROF"):
            self._file = _private_file()
            self._before = signal.signal(signal.SIGVTALRM, self._note)
            signal.siginterrupt(signal.SIGVTALRM, False)
            faulthandler.register(signal.SIGPROF, file=self._file, all_threads=False)
            atexit.register(self.close)  # a timer must not outlive the handlers

    def push_back(self) -> None:
        """Let the timers fire only if their processor time passes without another call."""
        now = time.monotonic()
        if now - self._pushed_back < _PUSH_BACK_SECONDS:
            return
        with self._lock:
            if self._file is None:
                return
            _arm()
            self._pushed_back = now
            self._seen = []
            if os.lseek(self._file, 0, os.SEEK_CUR):
                os.ftruncate(self._file, 0)
                os.lseek(self._file, 0, os.SEEK_SET)

    def read(self) -> Frames:
        """Return the main thread's stack as a timer found it; empty when none fired since `push_back`."""
        with self._lock:
            if self._file is None:
                return ()
            text = os.pread(self._file, _MAX_DUMP_BYTES, 0).decode(errors="replace")
        return parse_dump(text) or shown(self._seen)

    def close(self) -> None:
        """Stop the timers and restore the signal handlers. Idempotent; from another thread than the main one the
        handler in Python stays, and does nothing.
        """
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            _disarm()
            faulthandler.unregister(signal.SIGPROF)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGVTALRM, self._before)
            os.close(file)
            atexit.unregister(self.close)

    def _note(self, _: int, frame: FrameType | None) -> None:
        """Note where the main thread is, between two bytecodes. Python runs, so the second timer is not needed."""
        if self._file is not None:
            _arm()
            if not self._seen:  # a later time may be after the code that held the interpreter
                self._seen = places_of(frame, lambda _: False)


def _arm() -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, PYTHON_SECONDS)
    signal.setitimer(signal.ITIMER_PROF, DUMP_SECONDS)


def _disarm() -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.setitimer(signal.ITIMER_PROF, 0)


def _is_free(name: str) -> bool:
    number = getattr(signal, name, None)
    return number is not None and signal.getsignal(number) is signal.SIG_DFL


def _private_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("qorzen-stacks")
    descriptor, path = tempfile.mkstemp(prefix="qorzen-stacks-")
    os.unlink(path)  # noqa: PTH108 - it has no name from here on
    return descriptor
