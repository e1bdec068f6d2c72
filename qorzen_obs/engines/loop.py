"""Coroutines on the work loop, each in the attempt's own context, by asyncio tasks that the engine makes as needed.

An asyncio task takes what is ready, one attempt after the other, as long as each ends in its first step; most short
ones do, and cost the loop nothing. Once one waits for something, the asyncio task is its alone until it ends, and
others take what is left. So an attempt that has waited never shares its asyncio task.
"""

from __future__ import annotations

import asyncio
import threading
import types
from collections import deque
from collections.abc import Awaitable, Generator
from contextvars import Context
from dataclasses import replace
from typing import Any, Final

import msgspec

from qorzen_obs import foreign
from qorzen_obs.current import CURRENT
from qorzen_obs.engines.base import Ended
from qorzen_obs.engines.traits import LOOP
from qorzen_obs.record import Attempt
from qorzen_obs.stacks import (
    MAX_TASKS,
    STARTING,
    AsyncioTask,
    LiveStack,
    asyncio_stack,
    asyncio_tasks_of,
    awaited_by,
    coroutine_places,
    show_asyncio_task,
)

_SLICE_SECONDS: Final = 0.001  # then the loop gets its turn before the next attempt begins
_ENDED: Final = object()


class LoopEngine:
    """Runs async callables. Cancelling interrupts them at their next await."""

    traits = LOOP
    slots: int | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._ready: deque[_Run] = deque()
        self._takers: set[asyncio.Task[None]] = set()  # who will take what is ready, and has not begun
        self._taking = False  # one of them is at it
        self._waited = False  # the last attempt that began had to wait: the next may have to as well

    def start(self, attempt: Attempt, ended: Ended) -> None:
        attempt.driver = run = _Run(attempt, ended)
        self._ready.append(run)
        if self._waited or not (self._taking or self._takers):
            self._make_taker()

    def interrupt(self, attempt: Attempt) -> None:
        run: _Run = attempt.driver
        if run.task is not None:
            run.task.cancel()
        elif run in self._ready:
            self._ready.remove(run)
            run.ended(attempt, None, asyncio.CancelledError())

    def abandon(self, attempt: Attempt) -> None:
        pass

    def close(self) -> None:
        pass

    def stack(self, attempt: Attempt) -> LiveStack | None:
        """Return where the coroutine is, what it awaits, and the asyncio tasks that it has started."""
        run: _Run | None = attempt.driver
        if run is None:
            return None
        own, coroutine = run.task, run.coroutine
        if own is None or coroutine is None:
            return LiveStack(STARTING)

        def is_of_attempt(context: Context) -> bool:
            return context.get(CURRENT) is attempt

        tasks: list[AsyncioTask] = []
        for task in asyncio_tasks_of(self._loop, is_of_attempt):
            if len(tasks) < MAX_TASKS:
                tasks.append(show_asyncio_task(task, self._thread_id))
        return replace(asyncio_stack(own, self._thread_id, coroutine), tasks=tuple(tasks))

    def awaiting(self, attempt: Attempt) -> str | None:
        """Return what the coroutine awaits in the end. Unlike `stack` it looks at no other asyncio task."""
        run: _Run | None = attempt.driver
        own, coroutine = (None, None) if run is None else (run.task, run.coroutine)
        if own is None or coroutine is None:
            return None
        return awaited_by(own, coroutine_places(coroutine))

    def _make_taker(self) -> None:
        # Not by the loop's own task factory: an eager one would begin the attempt before it is started.
        taker = asyncio.Task(self._take(), loop=self._loop, context=Context())
        self._takers.add(taker)
        taker.add_done_callback(self._taker_ended)

    def _taker_ended(self, taker: asyncio.Task[None]) -> None:
        if taker in self._takers:  # somebody has cancelled it before it began
            self._takers.remove(taker)
            self._hand_over()

    def _hand_over(self) -> None:
        """Let what is ready be taken by others: by one for each where they may have to wait, else by one for all."""
        wanted = len(self._ready) if self._waited else min(1, len(self._ready))
        for _ in range(wanted - len(self._takers)):
            self._make_taker()

    async def _take(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "it is made to run this"
        self._takers.discard(task)
        until = self._loop.time() + _SLICE_SECONDS
        rest: Awaitable[None] | None = None
        self._taking = True
        try:
            while self._ready:
                run = self._ready.popleft()
                run.task = task
                waits_for = run.begin()
                self._waited = waits_for is not _ENDED
                if self._waited:
                    run.attempt.suspended()
                    rest = _go_on(run, waits_for)
                    del waits_for  # or what that gives would live as long as the attempt
                    break
                # Before Python 3.13 `uncancel` leaves the mark that lets the next wait be interrupted.
                if task.cancelling() or task._must_cancel or self._loop.time() >= until:  # type: ignore[attr-defined]  # nothing else tells it
                    break
        finally:  # also when an end could not be reported: the others are not to be lost with it
            self._taking = False
            self._hand_over()
        if rest is not None:
            await rest


class _Run(msgspec.Struct, eq=False):
    """One attempt on its way through the engine."""

    attempt: Attempt
    ended: Ended
    task: asyncio.Task[None] | None = None  #: that runs it, from its first step on
    coroutine: Any = None  #: the callable's own, or what awaits what else it gave, while it runs

    def begin(self) -> object:
        """Call the callable and take its first step; return what it waits for, _ENDED where it does not."""
        attempt = self.attempt
        if not attempt.begun:
            attempt.begin()
        record, context, meter = attempt.record, attempt.context, attempt.meter
        began = 0.0
        if meter is not None:
            meter.use_since = began = meter.clock()
        try:
            coroutine = context.run(record.func, *record.args, **attempt.kwargs)  # type: ignore[arg-type]  # func is set while the attempt runs
            if type(coroutine) is not types.CoroutineType:
                coroutine = _await(coroutine)
            self.coroutine = coroutine
        except BaseException as caught:  # noqa: BLE001 - the run boundary: a task's exception is data
            return self.end(None, _inside(caught))
        value, error = None, None
        try:
            return context.run(coroutine.send, None)
        except StopIteration as end:
            value = end.value
        except BaseException as caught:  # noqa: BLE001 - as above
            error = _inside(caught)
        finally:
            if meter is not None:
                meter.use_since = None  # first, or a reader might count the step twice
                meter.use_seconds += meter.clock() - began
        self.coroutine = None
        self.ended(attempt, value, error)
        return _ENDED

    def end(self, value: object, error: BaseException | None) -> object:
        """Report how it ended; return _ENDED."""
        self.coroutine = None
        self.ended(self.attempt, value, error)
        return _ENDED


@types.coroutine
def _go_on(run: _Run, waits_for: Any) -> Generator[Any, Any, None]:
    """Take the steps after the first, in the attempt's context, and count the time of each.

    A generator, since only one can yield what a coroutine waits for. What `await` does when it is resumed, thrown
    into or closed is PEP 380's; this is its text, with a context and a clock (tests/benchmarks/ledger_cost.py).
    """
    attempt, coroutine = run.attempt, run.coroutine
    inside, meter, send = attempt.context.run, attempt.meter, coroutine.send
    step: Any
    began = 0.0
    while True:
        try:
            argument = yield waits_for
            step = send
        except GeneratorExit:
            inside(coroutine.close)
            raise
        except BaseException as thrown:  # noqa: BLE001 - all that is thrown in is for the coroutine
            step, argument = coroutine.throw, thrown
            trace = foreign.traceback_of(thrown)
            if trace is not None:  # it has passed through here, and nobody needs to know
                foreign.set_traceback(thrown, trace.tb_next)
                del trace
        if meter is not None:
            meter.use_since = began = meter.clock()
        value, error = None, None
        try:
            waits_for = inside(step, argument)
            continue
        except StopIteration as end:
            value = end.value
        except BaseException as caught:  # noqa: BLE001 - as above
            error = _inside(caught)
        finally:
            if meter is not None:
                meter.use_since = None
                meter.use_seconds += meter.clock() - began
        run.end(value, error)
        return


def _inside(error: BaseException) -> BaseException:
    """Take the engine's frame off the traceback: it shows the user's code, and no cycle keeps its data alive."""
    trace = foreign.traceback_of(error)
    assert trace is not None, "it was caught here"
    foreign.set_traceback(error, trace.tb_next)
    return error


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
