"""Synchronous callables by way of a foreign concurrency manager, which has its own threads and tells us little."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from qorzen_obs.engines.base import Ended, is_running, make_task
from qorzen_obs.record import Attempt
from qorzen_obs.stacks import LiveStack, asyncio_stack
from qorzen_obs.tasks import EngineKind


class ExternalEngine:
    """Awaits a foreign `run_in_thread(func, *args, **kwargs)` for each attempt. Nothing can stop one once started."""

    kind = EngineKind.EXTERNAL
    slots: int | None = None

    def __init__(
        self, loop: asyncio.AbstractEventLoop, choose: Callable[[Attempt], Callable[..., Awaitable[Any]]]
    ) -> None:
        self._loop = loop
        self._choose = choose
        self._thread_id = threading.get_ident()

    def start(self, attempt: Attempt, ended: Ended) -> None:
        attempt.driver = make_task(self._loop, self._run(attempt, ended), attempt)

    def interrupt(self, attempt: Attempt) -> None:
        pass  # the foreign manager has no way to be told

    def abandon(self, attempt: Attempt) -> None:
        pass

    def close(self) -> None:
        pass

    def stack(self, attempt: Attempt) -> LiveStack | None:
        """Return where the foreign manager waits for its thread: which one that is it does not say."""
        task = attempt.driver
        return None if task is None or task.done() else asyncio_stack(task, self._thread_id)

    async def _run(self, attempt: Attempt, ended: Ended) -> None:
        record = attempt.record
        call = functools.partial(attempt.context.copy().run, record.func)  # type: ignore[arg-type]  # func is set while it runs
        value, error = None, None
        try:
            value = await self._choose(attempt)(call, *record.args, **attempt.kwargs)
        except BaseException as caught:
            if isinstance(caught, GeneratorExit) and not is_running(attempt.driver):
                raise  # the loop is gone and the coroutine is being collected
            error = caught
        ended(attempt, value, error)
