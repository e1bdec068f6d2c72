"""The running task as code in a worker process sees it: the value of `current_task()` there."""

from __future__ import annotations

import math
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

from qorzen_obs.engines.processes.channel import CANCEL, FrameReader
from qorzen_obs.engines.processes.reports import Reports
from qorzen_obs.errors import InvalidTaskError, TaskCancelled, TaskError

if TYPE_CHECKING:
    from qorzen_obs.tasks import TaskCategory, TaskPriority

_LONGEST_WAIT_SECONDS: Final = 1e10  #: 300 years
_LONGEST_POLL_SECONDS: Final = 86_400  #: the system takes 2^31 milliseconds at most


class FarTask:
    """One call's task. Checking for the token is one system call and leaves it there for the next check."""

    __slots__ = ("_about", "_asked", "_over", "_reports", "_sock")

    def __init__(self, about: dict[str, Any], sock: socket.socket, reports: Reports) -> None:
        self._about = about
        self._sock = sock
        self._reports = reports
        self._asked = False
        self._over = False

    @property
    def task_id(self) -> str:
        return str(self._about["task_id"])

    @property
    def name(self) -> str:
        return str(self._about["name"])

    @property
    def category(self) -> TaskCategory:
        from qorzen_obs.tasks import TaskCategory  # noqa: PLC0415  # few tasks ask, and it takes 20 ms

        return TaskCategory(self._about["category"])

    @property
    def priority(self) -> TaskPriority:
        from qorzen_obs.tasks import TaskPriority  # noqa: PLC0415  # as above

        return TaskPriority(self._about["priority"])

    @property
    def number(self) -> int:
        return int(self._about["number"])

    @property
    def manager(self) -> NoReturn:
        raise TaskError(
            "the manager is in another process; submit further tasks from where this one was submitted"
        )

    @property
    def cancelled(self) -> bool:
        return self.wait(0.0)

    def raise_if_cancelled(self) -> None:
        if self.cancelled:
            raise TaskCancelled(self.task_id, self._reason())

    def wait(self, seconds: float) -> bool:
        if self._asked:
            return True
        if self._over or self._sock.fileno() < 0:  # the latter: in a forked child
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        left = min(seconds, _LONGEST_WAIT_SECONDS)
        deadline = time.monotonic() + left
        while left > _LONGEST_POLL_SECONDS and not poll.poll(_LONGEST_POLL_SECONDS * 1000):
            left = deadline - time.monotonic()
        self._asked = bool(poll.poll(math.ceil(max(0.0, min(left, _LONGEST_POLL_SECONDS)) * 1000)))
        return self._asked

    def progress(self, percent: object, message: str = "") -> None:
        if isinstance(percent, bool) or not isinstance(percent, (int, float)) or not math.isfinite(percent):
            raise InvalidTaskError("percent", f"{percent!r} is not a number from 0 to 100")
        self._reports.progress(float(percent), str(message)[:500])

    def keep_trace(self) -> None:
        self._reports.keep_trace()

    def asked(self) -> None:
        """Note that the service has asked, for code that cannot leave the token on the channel."""
        self._asked = True

    def end(self) -> None:
        """Keep code that outlives the call from reading the next call's frames."""
        self._over = True

    def _reason(self) -> str | None:
        """Read the reason without taking it off the channel."""
        try:
            waiting = self._sock.recv(4_096, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return None
        return peek_reason(waiting)


def peek_reason(waiting: bytes) -> str | None:
    """Return the reason in a CANCEL frame at the head of `waiting`."""
    frame = FrameReader.peek(waiting)
    return None if frame is None or frame.kind != CANCEL else frame.body.decode("utf-8", "replace")
