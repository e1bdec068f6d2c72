"""Runs what blocks beside the ops plane's loop, in a thread that no exit waits for, as it would for a pool's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def run_in_daemon_thread(func: Callable[[], T], *, name: str) -> T:
    """Return what `func` returns in a new thread. Cancelled, the thread goes on and its outcome is dropped."""
    outcome: Future[T] = Future()

    def run() -> None:
        outcome.set_running_or_notify_cancel()  # a waiter that is cancelled must not cancel it any more
        try:
            outcome.set_result(func())
        except Exception as error:  # noqa: BLE001 - a thread's top: the failure is the caller's
            outcome.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(outcome)
