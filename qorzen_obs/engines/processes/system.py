"""What this system offers for keeping processes: a guardian for each worker if it has everything, else less.

It checks by calling: a function that exists may still be refused, in a container for example.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any, Final

from qorzen_obs.engines.processes.far_script import SCRIPT_RUNS
from qorzen_obs.engines.processes.keepers import GUARDIAN

_FAIL: Final = "tasks with engine='process' fail, use 'thread'"
_GET_PDEATHSIG: Final = 2
_SET_PDEATHSIG: Final = 1
_GET_CHILD_SUBREAPER: Final = 37
_SET_CHILD_SUBREAPER: Final = 36


def missing_for_guardians() -> str | None:
    """Return why workers have no guardian here, and what that means; None if they have one."""
    lacks = _first_missing()
    if lacks is None:
        return None
    return (
        f"this system has no {lacks}: a worker is killed with its process group, but children that left the "
        "group survive it, and a busy worker outlives a killed service until its call ends"
    )


def missing_for_workers() -> str | None:
    """Return why there can be no worker process here at all; None if there can."""
    if SCRIPT_RUNS.is_set():
        return (
            "a worker process is running the program's script to have its functions and classes; start the program "
            "only inside of `if __name__ == '__main__':`"
        )
    if not hasattr(os, "fork") or not _has_socket_pairs():
        return f"this system has no Unix sockets or no fork: {_FAIL}"
    if (problem := _problem_of_interpreter()) is not None:
        return f"no worker process can be started: {problem}; {_FAIL}"
    return None


def _has_socket_pairs() -> bool:
    try:
        for end in socket.socketpair():
            end.close()
    except (AttributeError, OSError):
        return False
    return True


def _problem_of_interpreter() -> str | None:
    """Return why no interpreter can run the guardian's script: a frozen program would start itself again."""
    if getattr(sys, "frozen", False) or "__compiled__" in globals():
        return "this is a frozen program, which has no Python interpreter to start"
    if not sys.executable or not os.access(sys.executable, os.X_OK):
        return f"sys.executable is {sys.executable!r}, which is not a Python interpreter to start"
    if "py" not in Path(sys.executable).name.lower():
        return f"sys.executable is {sys.executable!r}, which does not look like a Python interpreter"
    if not Path(GUARDIAN).is_file():
        return f"{GUARDIAN} is not a file, since the program is run from an archive"
    return None


def _first_missing() -> str | None:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return "pidfd_open (Linux 5.3)"
    if not Path(f"/proc/self/task/{threading.get_native_id()}/children").exists():
        return "/proc/self/task/*/children (CONFIG_PROC_CHILDREN)"
    return None if _has_prctl() else "prctl"


def _has_prctl() -> bool:
    """Set what a guardian and its worker will set, to its present values."""
    try:
        import ctypes  # noqa: PLC0415 - an interpreter may be built without it

        libc: Any = ctypes.CDLL(None)
        for get, put in ((_GET_PDEATHSIG, _SET_PDEATHSIG), (_GET_CHILD_SUBREAPER, _SET_CHILD_SUBREAPER)):
            value = ctypes.c_int()
            if libc.prctl(get, ctypes.byref(value), 0, 0, 0) or libc.prctl(put, value.value, 0, 0, 0):
                return False
    except (ImportError, OSError, AttributeError):
        return False
    return True
