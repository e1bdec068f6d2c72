"""Coroutines on the work loop: one asyncio task for each attempt, in the attempt's own context."""

from __future__ import annotations

import asyncio
import threading
from contextvars import Context
from dataclasses import replace
from typing import Any

from qorzen_obs.current import CURRENT
from qorzen_obs.engines.base import Ended, is_running, make_task
from qorzen_obs.record import Attempt
from qorzen_obs.stacks import (
    MAX_TASKS,
    STARTING,
    AsyncioTask,
    LiveStack,
    asyncio_stack,
    asyncio_tasks_of,
    show_asyncio_task,
)
from qorzen_obs.tasks import EngineKind


class LoopEngine:
    """Runs async callables. Cancelling interrupts them at their next await."""

    kind = EngineKind.LOOP
    slots: int | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread_id = threading.get_ident()

    def start(self, attempt: Attempt, ended: Ended) -> None:
        driver = _Driver(attempt, ended)
        driver.task = make_task(self._loop, driver.run(), attempt)
        attempt.driver = driver

    def interrupt(self, attempt: Attempt) -> None:
        attempt.driver.cancel()

    def abandon(self, attempt: Attempt) -> None:
        pass

    def close(self) -> None:
        pass

    def stack(self, attempt: Attempt) -> LiveStack | None:
        """Return where the coroutine is, what it awaits, and the asyncio tasks that it has started."""
        driver = attempt.driver
        if driver.task.done():
            return None
        coroutine = driver.coroutine
        if coroutine is None:
            return LiveStack(STARTING)

        def is_of_attempt(context: Context) -> bool:
            return context.get(CURRENT) is attempt

        tasks: list[AsyncioTask] = []
        for task in asyncio_tasks_of(self._loop, is_of_attempt):
            if task is not driver.task and len(tasks) < MAX_TASKS:
                tasks.append(show_asyncio_task(task, self._thread_id))
        stack = asyncio_stack(driver.task, self._thread_id, coroutine)
        return replace(stack, tasks=tuple(tasks))


class _Driver:
    """The coroutine around the callable's own, and its asyncio task."""

    __slots__ = ("_attempt", "_ended", "_entered", "coroutine", "task")

    task: asyncio.Task[None]

    def __init__(self, attempt: Attempt, ended: Ended) -> None:
        self._attempt = attempt
        self._ended = ended
        self._entered = False
        self.coroutine: Any = None  #: the callable's own, or what else it gave to await, while it runs

    async def run(self) -> None:
        self._entered = True
        attempt, value, error = self._attempt, None, None
        record = attempt.record
        assert record.func is not None, "a record keeps its callable until it ends"
        try:
            self.coroutine = record.func(*record.args, **attempt.kwargs)
            value = await self.coroutine
        except BaseException as caught:
            if isinstance(caught, GeneratorExit) and not is_running(self.task):
                raise  # the loop is gone and the coroutine is being collected
            error = caught
        self.coroutine = None
        self._ended(attempt, value, error)

    def cancel(self) -> None:
        self.task.cancel()
        if (
            not self._entered
        ):  # asyncio will throw into a coroutine that has not begun: nobody else would report it
            self._entered = True
            self._ended(self._attempt, None, asyncio.CancelledError())
