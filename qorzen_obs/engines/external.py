"""Runs synchronous callables through a foreign concurrency manager, which has its own threads and reports little."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from qorzen_obs import foreign
from qorzen_obs.callables import traits_of
from qorzen_obs.engines.base import Ended, is_running, make_task, without_engine
from qorzen_obs.engines.choice import EngineChoice
from qorzen_obs.engines.traits import ENGINES, EXTERNAL, IO, MAIN
from qorzen_obs.record import Attempt, TaskRecord
from qorzen_obs.stacks import LiveStack, asyncio_stack
from qorzen_obs.tasks import TaskCategory

RunInThread = Callable[..., Awaitable[Any]]


class ExternalEngine:
    """Awaits a foreign `run_in_thread(func, *args, **kwargs)` for each attempt. Nothing can stop one once started.

    `run_io_task` and `run_on_main_thread` run what the engines `io` and `main` would run. Without
    `run_on_main_thread`, MainEngine is the default for UI callables.
    """

    slots: int | None = None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        run_in_thread: RunInThread,
        *,
        run_io_task: RunInThread | None = None,
        run_on_main_thread: RunInThread | None = None,
    ) -> None:
        self.traits = EXTERNAL
        if run_on_main_thread is None:
            self.traits = replace(EXTERNAL, default_for=EXTERNAL.default_for - {TaskCategory.UI})
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._wanted = EngineChoice(ENGINES.values())
        self._run_in_thread = run_in_thread
        self._ways = {IO.kind: run_io_task, MAIN.kind: run_on_main_thread}

    def start(self, attempt: Attempt, ended: Ended) -> None:
        def never_began(task: asyncio.Task[None]) -> None:
            """Report the end of an attempt that was interrupted at its first line, or cancelled before it."""
            ended(attempt, None, asyncio.CancelledError() if task.cancelled() else task.exception())

        attempt.driver = make_task(self._loop, self._run(attempt, ended, never_began), attempt)
        attempt.driver.add_done_callback(never_began)

    def interrupt(self, attempt: Attempt) -> None:
        pass  # there is no way to notify the foreign manager

    def abandon(self, attempt: Attempt) -> None:
        pass

    def close(self) -> None:
        pass

    def stack(self, attempt: Attempt) -> LiveStack | None:
        """Return where the foreign manager waits for its thread; it does not say which thread that is."""
        task = attempt.driver
        return None if task is None or task.done() else asyncio_stack(task, self._thread_id)

    def _way(self, record: TaskRecord) -> RunInThread:
        assert record.func is not None, "a record keeps its callable until it ends"
        wanted = self._wanted.engine_of(record.category, traits_of(record.func))
        return self._ways.get(wanted.kind) or self._run_in_thread

    async def _run(
        self, attempt: Attempt, ended: Ended, never_began: Callable[[asyncio.Task[None]], None]
    ) -> None:
        attempt.driver.remove_done_callback(never_began)
        record = attempt.record
        value, error = None, None
        try:
            # Bound to all its arguments, since the foreign manager's method has parameters of its own.
            call = functools.partial(attempt.context.copy().run, record.func, *record.args, **attempt.kwargs)  # type: ignore[arg-type]  # func is set while it runs
            value = await self._way(record)(call)
        except BaseException as caught:
            if foreign.is_a(caught, GeneratorExit) and not is_running(attempt.driver):
                raise  # the loop is gone and the coroutine is being collected
            error = without_engine(caught)
        ended(attempt, value, error)
        del value, error  # the exception's frames lead to this one, which would keep the exception alive
