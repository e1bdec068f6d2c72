"""What this system offers for keeping processes: with everything a guardian for each worker, else less."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from pathlib import Path


def missing_for_guardians() -> str | None:
    """Return why workers go without a guardian here, and what that means; None when they have one."""
    lacks = _first_missing()
    if lacks is None:
        return None
    return (
        f"this system has no {lacks}: a worker is killed with its process group, but children that left the "
        "group survive it, and a busy worker outlives a killed service until its call ends"
    )


def missing_for_workers() -> str | None:
    """Return why there can be no worker process here at all; None when there can."""
    if not hasattr(socket, "AF_UNIX") or not hasattr(os, "fork"):
        return "this system has no Unix sockets or no fork: tasks with engine='process' fail; use 'thread'"
    return None


def _first_missing() -> str | None:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return "pidfd_open (Linux 5.3)"
    if not Path(f"/proc/self/task/{threading.get_native_id()}/children").exists():
        return "/proc/self/task/*/children (CONFIG_PROC_CHILDREN)"
    if not hasattr(ctypes.CDLL(None), "prctl"):
        return "prctl"
    return None
