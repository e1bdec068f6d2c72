"""How the service asks a worker process where it is, and reads the answer; from any thread.

The worker answers in a signal handler in C (`faulthandler.register`), which writes its main thread's stack to a
socket of its own. So it answers too while C code holds its interpreter, and nothing gets between frames.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from qorzen_obs.stacks import Frames, parse_dump

DEADLINE_SECONDS: Final = 1.0
_OUTERMOST: Final = b"in <module>\n"  # of the guardian's script, which every worker begins in
_CUT: Final = b"  ...\n"  # faulthandler's own limit of 100 frames


class Teller:
    """The service's end of one worker's socket for stacks; one question at a time."""

    def __init__(self) -> None:
        self._ours, self.far_end = socket.socketpair()
        self._ours.setblocking(False)
        self._lock = threading.Lock()

    def ask(self, tell: Callable[[], None]) -> Frames | None:
        """Call `tell`, which makes the worker write, and return the stack; None when it does not within a second."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        if not self._lock.acquire(timeout=DEADLINE_SECONDS):
            return None
        try:
            self._drain()
            tell()
            return self._receive(deadline)
        except (OSError, ValueError):  # it is gone, and the socket closed
            return None
        finally:
            self._lock.release()

    def _drain(self) -> None:
        """Take what came too late for an earlier question."""
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
