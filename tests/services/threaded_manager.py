"""A task manager whose loop runs on a thread of its own, so that a test is any other thread."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from qorzen_obs import Settings, TaskManager
from qorzen_obs.testing import open_test_manager


@contextmanager
def threaded_manager(settings: Settings | None = None) -> Iterator[TaskManager]:
    """A manager on a loop of its own, until the end of the block."""
    started: Future[tuple[TaskManager, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        async with open_test_manager(settings) as tasks:
            started.set_result((tasks, stop))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="work loop")
    thread.start()
    tasks, stop = started.result()
    try:
        yield tasks
    finally:
        assert tasks.loop is not None
        tasks.loop.call_soon_threadsafe(stop.set)
        thread.join()
