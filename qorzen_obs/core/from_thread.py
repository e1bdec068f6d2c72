"""The way into the manager for other threads: blocking calls that run on the work loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, Protocol, TypeVar

from qorzen_obs.current import CURRENT
from qorzen_obs.errors import InvalidTaskError, TaskCancelled, TaskManagerClosedError
from qorzen_obs.record import Attempt
from qorzen_obs.tasks import TaskCategory, TaskInfo

T = TypeVar("T")


class WorkLoopCalls(Protocol):
    """What a TaskManager does on its work loop."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None: ...
    @property
    def state(self) -> Enum: ...

    async def submit_task(self, func: Callable[..., Any], *args: Any, **options: Any) -> str: ...
    async def run(self, func: Callable[..., Any], *args: Any, **options: Any) -> Any: ...
    async def wait_for_task(self, task_id: str, timeout: float | None = None) -> TaskInfo: ...
    async def cancel_task(self, task_id: str) -> bool: ...
    async def rerun(self, task_id: str) -> str: ...
    async def pause(self, category: TaskCategory | str) -> None: ...
    async def resume(self, category: TaskCategory | str) -> None: ...


class FromThread:
    """`manager.from_thread`: the manager's calls, for threads that are not its loop's.

    Inside a task on a worker thread the task is the submitter, as for a coroutine: spans and log lines belong
    together, and while it waits it lends its slot. When that task is asked to stop, the call raises TaskCancelled.
    """

    def __init__(self, manager: WorkLoopCalls) -> None:
        self._manager = manager

    def submit(self, func: Callable[..., Any], *args: Any, **options: Any) -> str:
        """As `submit_task`."""
        return self._call(self._manager.submit_task(func, *args, **options))

    def run(self, func: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """As `run`."""
        return self._call(self._manager.run(func, *args, **options))

    def wait(self, task_id: str, timeout: float | None = None) -> TaskInfo:
        """As `wait_for_task`."""
        return self._call(self._manager.wait_for_task(task_id, timeout))

    def cancel(self, task_id: str) -> bool:
        """As `cancel_task`."""
        return self._call(self._manager.cancel_task(task_id))

    def rerun(self, task_id: str) -> str:
        """As `rerun`."""
        return self._call(self._manager.rerun(task_id))

    def pause(self, category: TaskCategory | str) -> None:
        """As `pause`."""
        self._call(self._manager.pause(category))

    def resume(self, category: TaskCategory | str) -> None:
        """As `resume`."""
        self._call(self._manager.resume(category))

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        loop = self._manager.loop
        if loop is None or loop.is_closed():
            coroutine.close()
            raise TaskManagerClosedError(self._manager.state.value)
        if _runs_here(loop):
            coroutine.close()
            raise InvalidTaskError("thread", "is the work loop's own; await the manager's methods there")
        attempt = CURRENT.get()
        if not isinstance(attempt, Attempt):
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
        if attempt.cancelled:
            coroutine.close()
            raise TaskCancelled(attempt.task_id, attempt.reason)
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        attempt.when_asked(future.cancel)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise TaskCancelled(attempt.task_id, attempt.reason) from None
        finally:
            attempt.when_asked(None)


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
