"""What a forked child must renew: a fork copies locks in their present state, but not the threads that hold them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable


def call_in_child(method: Callable[[], object]) -> None:
    """Call a bound method in every forked child, for as long as its object lives."""
    if hasattr(os, "register_at_fork"):
        weak = weakref.WeakMethod(method)
        os.register_at_fork(after_in_child=lambda: (alive := weak()) and alive())


class ForkSafeLock:
    """Owns a re-entrant lock that a fork leaves free in the child: `with owner.lock`."""

    def __init__(self) -> None:
        self._renew()
        call_in_child(self._renew)

    def _renew(self) -> None:
        self.lock = threading.RLock()
