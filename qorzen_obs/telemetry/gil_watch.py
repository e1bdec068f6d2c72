"""The stack of code that lets no Python run: taken by faulthandler's timer, a thread in C that needs no lock.

There is one such timer in a process, so only a program that owns the process uses it (`serve`, `demo`), and
once that was asked to stop, the timer ends the process (host.py). Dumps go to a private file, read afterwards.

The timer's thread is not in a forked child, whose exit would wait for it: no fork happens while it is set.
"""

from __future__ import annotations

import faulthandler
import os
import tempfile
import threading
import time
import weakref
from typing import Final, TextIO

from qorzen_obs.stacks import Frames, parse_dump

AFTER_SECONDS: Final = 0.4
"""How long after it was last pushed back the timer fires."""
_PUSH_BACK_SECONDS: Final = 0.2  # each time costs a thread in C
_MAX_DUMP_BYTES: Final = 1_000_000


class GilWatch:
    """A timer that the watchdog pushes back as long as it runs. `push_back` and `read` belong to that thread."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._pushed_back = float("-inf")
        self._retired = False
        self._end: tuple[float, TextIO] | None = None  # when the process ends, monotonic
        self._forking = False
        # Of the reentrant kind, since a signal's handler may interrupt that of another, or a fork.
        self._lock = threading.RLock()
        if hasattr(os, "register_at_fork"):
            # Weak references, for what is registered stays for good.
            before = weakref.WeakMethod(self._before_fork)
            in_parent = weakref.WeakMethod(self._after_fork_in_parent)
            in_child = weakref.WeakMethod(self._after_fork_in_child)
            os.register_at_fork(
                before=lambda: (method := before()) and method(),
                after_in_parent=lambda: (method := in_parent()) and method(),
                after_in_child=lambda: (method := in_child()) and method(),
            )

    def push_back(self) -> None:
        """Let the timer fire in AFTER_SECONDS, unless it is pushed back again before."""
        now = time.monotonic()
        if now - self._pushed_back < _PUSH_BACK_SECONDS:
            return
        with self._lock:
            if self._retired:
                return
            if self._file is None:
                self._file = _private_file()
            faulthandler.cancel_dump_traceback_later()  # from here on nobody writes to the file
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            faulthandler.dump_traceback_later(AFTER_SECONDS, file=self._file)
            self._pushed_back = now

    def read(self, thread_id: int) -> Frames:
        """Return the stack of a thread when the timer last fired; empty when it has not since `push_back`."""
        if self._file is None:
            return ()
        return parse_dump(os.pread(self._file, _MAX_DUMP_BYTES, 0).decode(errors="replace"), thread_id)

    def end_process_in(self, seconds: float, file: TextIO) -> None:
        """Let the timer, from now on for good, write all stacks to `file` and end the process with status 1.

        From any thread or signal handler; another call moves the end.
        """
        with self._lock:
            self._retired = True
            self._end = (time.monotonic() + seconds, file)
            if not self._forking:
                self._set_end()

    def call_off_end(self) -> None:
        """Stop the timer that would end the process."""
        with self._lock:
            if self._end is not None:
                faulthandler.cancel_dump_traceback_later()
            self._end = None

    def _set_end(self) -> None:
        if self._end is not None:
            at, file = self._end
            left = max(at - time.monotonic(), 0.001)
            faulthandler.dump_traceback_later(left, exit=True, file=file)

    def _before_fork(self) -> None:
        self._lock.acquire()
        self._forking = True
        if self._end is not None or (self._file is not None and not self._retired):
            faulthandler.cancel_dump_traceback_later()

    def _after_fork_in_parent(self) -> None:
        if not self._forking:  # it was made while another thread was about to fork
            return
        self._pushed_back = float("-inf")  # so that the watchdog sets it again
        self._forking = False
        self._set_end()
        self._lock.release()

    def _after_fork_in_child(self) -> None:
        self._retired, self._end, self._forking = True, None, False
        self._lock = threading.RLock()

    def close(self) -> None:
        """Stop the timer, unless it is another's by now. Idempotent."""
        with self._lock:
            if not self._retired:
                faulthandler.cancel_dump_traceback_later()
            self._retired = True
            if self._file is not None:
                os.close(self._file)
                self._file = None


def _private_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("qorzen-stacks")
    descriptor, path = tempfile.mkstemp(prefix="qorzen-stacks-")
    os.unlink(path)  # noqa: PTH108 - it has no name from here on
    return descriptor
