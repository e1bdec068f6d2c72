"""What a forked child must do about a history that it has inherited: nothing, not even close its connection."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable


def call_in_child(method: Callable[[], object]) -> None:
    """Call a bound method in every forked child, for as long as its object lives."""
    if hasattr(os, "register_at_fork"):
        weak = weakref.WeakMethod(method)
        os.register_at_fork(after_in_child=lambda: (alive := weak()) and alive())


def keep_for_ever(value: object) -> None:
    """Never free an object.

    Freeing a connection closes it, and in a child that may wait for ever: another thread of the parent may have been
    inside of SQLite, and its lock was copied.
    """
    try:
        import ctypes  # noqa: PLC0415 - an interpreter may be built without it
    except ImportError:
        return
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
