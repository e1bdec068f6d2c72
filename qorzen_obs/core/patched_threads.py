"""Checks whether this process has real threads, or greenlets that a library has put in their place.

The manager needs threads that run while the event loop runs: for the ops plane, the watchdog, synchronous callables and
results of worker processes. With greenlets all of these would stop whenever the loop is blocked.
"""

from __future__ import annotations

import sys
from typing import Any, Final

_NEEDED: Final = ("threading", "thread", "select", "queue")


def problem_of_threads() -> str | None:
    """Return why a manager cannot work in this process; None if it can."""
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and any(map(gevent.is_module_patched, _NEEDED)):
        return _problem("gevent", "gevent.monkey.patch_all()")
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if eventlet is not None and any(map(eventlet.is_monkey_patched, _NEEDED)):
        return _problem("eventlet", "eventlet.monkey_patch()")
    return None


def _problem(library: str, call: str) -> str:
    return (
        f"{library} has replaced threads and select by greenlets, with which neither asyncio nor this manager works; "
        f"run it in a process without {call}"
    )
