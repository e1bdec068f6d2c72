"""Facts about processes for history/ownership.py: who this one is, and when another one started.

Linux tells all of them in /proc. Elsewhere they are unknown, and the lock decides by itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from qorzen_obs.history.ownership import Identity

_GONE: Final = frozenset("ZX")  # states in /proc/PID/stat of a process that has ended
_STATE, _START = 0, 19  # places in that file after the name, which may contain anything

#: The instances of this process that own a history. Only the process itself can tell that one has ended without a
#: goodbye, because its pid lives on. A forked child has another pid, so what it inherits here proves nothing.
_working: Final[set[str]] = set()


def this_process(instance: str, service: str, version: str) -> Identity:
    """Return the identity of this process for one of its managers."""
    pid = os.getpid()
    return Identity(
        instance=instance,
        service=service,
        version=version,
        boot_id=_text_of("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_target_of("/proc/self/ns/pid"),
        pid=pid,
        process_start=start_of(pid),
    )


def start_of(pid: int) -> int | None:
    """Return when the process with this pid started, in clock ticks since the boot; None if there is none.

    A process that has ended and that its parent has not reaped yet does not count.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if stat[_STATE].decode() in _GONE else int(stat[_START])
    except (OSError, ValueError, IndexError):
        return None


def begin_work(instance: str) -> None:
    """Note that this instance owns a history."""
    _working.add(instance)


def end_work(instance: str) -> None:
    """Note that this instance writes nothing any more."""
    _working.discard(instance)


def working() -> frozenset[str]:
    """Return the instances of this process that own a history."""
    return frozenset(_working)


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def _target_of(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
