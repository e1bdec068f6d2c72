"""The lock of a durable history: a file of its own that is opened once and stays open.

POSIX `lockf`, because a forked child that outlives its parent keeps `flock` and inherits no lockf. Its price: closing
any other descriptor of the file in this process drops the lock, so the owner takes it again and again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

_FLAGS: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)


class LockFile:
    """A lock between processes. Opens its file at once, with mode 0600.

    Raises:
        OSError: the file cannot be opened, or the system has no such locks.
    """

    def __init__(self, path: Path) -> None:
        try:
            import fcntl  # noqa: PLC0415 - Windows has none
        except ImportError as error:
            problem = (
                "this system has no POSIX locks, which a durable history needs; set history.url to memory"
            )
            raise OSError(problem) from error
        self._fcntl: Any = fcntl
        self.path = path
        self._descriptor: int | None = os.open(path, _FLAGS, 0o600)

    def take(self) -> bool:
        """Take the lock, or take it again; return whether this process has it.

        Raises:
            OSError: the file system has no locks to give.
        """
        if self._descriptor is None:
            return False
        try:
            self._fcntl.lockf(self._descriptor, self._fcntl.LOCK_EX | self._fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # another process has it
            return False
        return True

    def give_back(self) -> None:
        """Let others take the lock; the file stays open."""
        if self._descriptor is not None:
            self._fcntl.lockf(self._descriptor, self._fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, which gives the lock back."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
