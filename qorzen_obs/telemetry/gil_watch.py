"""The stack of code that lets no Python run: taken by faulthandler's timer, a thread in C that needs no lock.

There is one such timer in a process, so only a program that owns the process uses it (`serve`, `demo`), and
once that was asked to stop, the timer is its own (host.py). Dumps go to a private file, read afterwards.
"""

from __future__ import annotations

import faulthandler
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

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
        # Of the reentrant kind, since the handler of a second signal may interrupt that of the first.
        self._lock = threading.RLock()

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

    @contextmanager
    def retired(self) -> Iterator[None]:
        """Let go of the timer for good; in the block it is the caller's to set. From any thread or handler."""
        with self._lock:
            self._retired = True
            yield

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
