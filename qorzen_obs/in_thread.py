"""Runs blocking code beside a loop, in a thread of ours that no exit waits for.

We never use asyncio's own pool: the program may occupy all of its threads, and closing the loop waits for them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from qorzen_obs import foreign

T = TypeVar("T")


async def run_in_daemon_thread(func: Callable[[], T], *, name: str) -> T:
    """Return what `func` returns in a new thread. When cancelled, the thread continues and its outcome is dropped.

    An exception that ends a process or a coroutine becomes a RuntimeError: it must not end the caller's loop.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        outcome.set_running_or_notify_cancel()  # a cancelled waiter must not cancel it any more
        try:
            outcome.set_result(func())
        except BaseException as error:  # noqa: BLE001 - a thread's top: the failure is the caller's
            outcome.set_exception(_harmless(error))

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(outcome)


def _harmless(error: BaseException) -> Exception:
    if foreign.is_a(error, Exception) and not foreign.is_a(error, StopIteration):
        return error
    instead = RuntimeError(f"a call in a thread raised {foreign.described(error)}")
    foreign.set_cause(instead, error)
    return instead
