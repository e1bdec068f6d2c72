"""Makes a worker process write its stack, and reads it; from any thread.

The worker writes its main thread's stack to a socket of its own. First a handler in Python tries, which runs between
two bytecodes. If the worker does not answer, it is in C code that lets no Python run; then faulthandler's handler in C
writes the stack. The handler in C cannot always be used: when it meets a half-made frame, it crashes the process
(measured on 3.11 to 3.13: once in a few thousand signals to code that calls functions all the time).
"""

from __future__ import annotations

import select
import socket
import threading
import time
from typing import Final, Protocol

from qorzen_obs.stacks import Frames, parse_dump

DEADLINE_SECONDS: Final = 1.0
_PYTHON_SECONDS: Final = 0.3  #: a thread that runs no Python for this long is stuck in C
_OUTERMOST: Final = b"in <module>\n"  # the guardian's script, in which every worker begins
_CUT: Final = b"  ...\n"  # faulthandler's own limit of 100 frames


class WriteStack(Protocol):
    """Makes the worker write its stack, by its handler in Python or the one in C."""

    def __call__(self, *, at_once: bool) -> None: ...


class StackReader:
    """The service's end of one worker's socket for stacks; one stack at a time."""

    def __init__(self) -> None:
        self._ours, self.far_end = socket.socketpair()
        self._ours.setblocking(False)
        self._lock = threading.Lock()

    def read(self, write_stack: WriteStack) -> Frames | None:
        """Return the stack that `write_stack` requests; None if none comes within a second."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        if not self._lock.acquire(timeout=DEADLINE_SECONDS):
            return None
        try:
            self._drain()
            write_stack(at_once=False)
            if frames := self._receive(time.monotonic() + _PYTHON_SECONDS):
                return frames
            write_stack(at_once=True)
            return self._receive(deadline)
        except (OSError, ValueError):  # it is gone, and the socket closed
            return None
        finally:
            self._lock.release()

    def _drain(self) -> None:
        """Drop stacks that came too late for an earlier call."""
        try:
            while self._ours.recv(65_536):
                pass
        except BlockingIOError:
            pass

    def _receive(self, deadline: float) -> Frames | None:
        poll = select.poll()
        poll.register(self._ours, select.POLLIN)
        text = b""
        while not text.endswith((_OUTERMOST, _CUT)):
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return None
            piece = self._ours.recv(65_536)
            if not piece:
                return None
            text += piece
        return parse_dump(text.decode(errors="replace"))

    def close(self) -> None:
        """Close our end. The worker's own was closed when it was spawned."""
        self._ours.close()
        self.far_end.close()
