"""Coroutines on the work loop: one asyncio task for each attempt, in the attempt's own context."""

from __future__ import annotations

import asyncio
import threading
import types
from collections.abc import Awaitable, Coroutine, Generator
from contextvars import Context
from dataclasses import replace
from typing import Any

from qorzen_obs.current import CURRENT
from qorzen_obs.engines.base import Ended, is_running, make_task
from qorzen_obs.ledger import Meter
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
        if driver is None or driver.task.done():
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
        meter = attempt.meter
        assert record.func is not None, "a record keeps its callable until it ends"
        try:
            if meter is None:
                self.coroutine = record.func(*record.args, **attempt.kwargs)
                value = await self.coroutine
            else:
                meter.use_since = meter.clock()
                self.coroutine = record.func(*record.args, **attempt.kwargs)
                value = await _measured(_as_coroutine(self.coroutine), meter)
        except BaseException as caught:
            if isinstance(caught, GeneratorExit) and not is_running(self.task):
                raise  # the loop is gone and the coroutine is being collected
            error = _without_our_frame(caught)
        self.coroutine = None
        self._ended(attempt, value, error)

    def cancel(self) -> None:
        self.task.cancel()
        if (
            not self._entered
        ):  # asyncio will throw into a coroutine that has not begun: nobody else would report it
            self._entered = True
            self._ended(self._attempt, None, asyncio.CancelledError())


@types.coroutine
def _measured(coroutine: Coroutine[Any, Any, Any], meter: Meter) -> Generator[Any, Any, Any]:
    """Await `coroutine` step by step, and count the time of each step (tests/benchmarks/ledger_cost.py).

    A generator, since only one can yield what a coroutine waits for. What `await` does when it is resumed, thrown
    into or closed is PEP 380's; this is its text, with a clock.
    """
    clock, send = meter.clock, coroutine.send
    step: Any = send
    argument: Any = None
    began = (
        meter.use_since or clock()
    )  # the callable's own call counts, where it does more than make a coroutine
    try:
        while True:
            meter.use_since = began
            try:
                waits_for = step(argument)
            finally:
                meter.use_since = None  # first, or a reader might count the step twice
                meter.use_seconds += clock() - began
            step, argument = send, None
            try:
                argument = yield waits_for
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001 - all that is thrown in is for the coroutine
                step, argument = coroutine.throw, error
                if error.__traceback__ is not None:  # it has passed through here, and nobody needs to know
                    error.__traceback__ = error.__traceback__.tb_next
            began = clock()
    except StopIteration as end:
        return end.value


def _as_coroutine(awaitable: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
    if type(awaitable) is types.CoroutineType:
        return awaitable
    return _await(awaitable)


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _without_our_frame(error: BaseException) -> BaseException:
    """Take what measures out of the traceback: it shows the driver, then the user's code, measured or not."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_next.tb_frame.f_code in _OURS:
        trace.tb_next = trace.tb_next.tb_next
    return error


_OURS = frozenset((_measured.__code__, _await.__code__))
