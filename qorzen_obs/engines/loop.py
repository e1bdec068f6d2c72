"""Coroutines on the work loop, each in the attempt's own context and in an asyncio task of its own.

The tasks are eager: each takes its first step when it is created, and is cheap if it ends there. The engine creates
them in a callback of the loop, so that no attempt begins while it is being started. On Python 3.11 the engine takes the
first step itself; a loop other than asyncio's own, such as uvloop, takes it there in its next turn.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from dataclasses import replace
from typing import Any, Final

import msgspec

from qorzen_obs.current import CURRENT
from qorzen_obs.engines.base import Ended, is_running, take_off, without_engine
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

_EAGER: Final = sys.version_info >= (3, 12)
_SLICE_SECONDS: Final = 0.001  # then the loop gets its turn before the next attempt begins
_LOOK_SECONDS: Final = 0.05
_HIDDEN: Final = deque[Any]()
_MAX_HIDDEN: Final = 8  # attempts that begin in a turn when the engine cannot measure how long they take


class LoopEngine:
    """Runs async callables. Cancelling interrupts them at their next await."""

    traits = LOOP
    slots: int | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._ready: deque[_Run] = deque()  # they have no asyncio task yet
        self._called: asyncio.Handle | None = None  # the loop will take what is ready
        self._looks: tuple[asyncio.TimerHandle, ...] = ()  # calls that are still to come
        self._asleep: deque[tuple[Any, Any]] = deque()  # futures that are done, and the waiters of each
        #: The callbacks for the next turn of one of asyncio's own loops, newest last; other loops hide them.
        self._scheduled: deque[Any] = getattr(loop, "_ready", _HIDDEN)
        # asyncio's own loops read this clock too, but through a function in Python.
        own = getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time
        self._now: Callable[[], float] = time.monotonic if own else loop.time

    def start(self, attempt: Attempt, ended: Ended) -> None:
        if self._called is None:
            self._call()
        attempt.driver = run = _Run(attempt, ended)
        self._ready.append(run)

    def interrupt(self, attempt: Attempt) -> None:
        run: _Run = attempt.driver
        if run.task is not None:
            self._wake_again()
            waits_for: Any = getattr(run.task, "_fut_waiter", None)
            callbacks = getattr(waits_for, "_callbacks", None)
            try:
                run.task.cancel()
            except BaseException:
                # For example too little stack: asyncio has cancelled the future and lost its task.
                self._asleep.append((waits_for, callbacks or ()))
                raise
        else:
            run.end(None, asyncio.CancelledError())

    def abandon(self, attempt: Attempt) -> None:
        pass

    def detach(self, attempt: Attempt) -> None:
        for task in asyncio_tasks_of(self._loop, lambda context: context.get(CURRENT) is attempt):
            take_off(task)
        run: _Run | None = attempt.driver
        if run is not None and run.task is not None:
            take_off(run.task)

    def close(self) -> None:
        for look in self._looks:
            look.cancel()

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
        """Return what the coroutine ultimately awaits. Unlike `stack` it looks at no other asyncio task."""
        run: _Run | None = attempt.driver
        own, coroutine = (None, None) if run is None else (run.task, run.coroutine)
        if own is None or coroutine is None:
            return None
        return awaited_by(own, coroutine_places(coroutine))

    def _wake_again(self) -> None:
        """Wake the waiters that an interruption of `interrupt` kept from waking."""
        while self._asleep:
            future, callbacks = self._asleep[0]
            for callback, context in callbacks:
                self._loop.call_soon(callback, future, context=context)
            self._asleep.popleft()

    def _call(self) -> None:
        self._called = self._loop.call_soon(self._take, context=Context())
        if not self._looks:
            self._look_later(self._called)

    def _look_later(self, called: asyncio.Handle) -> None:
        """Check whether `called` was lost, once for all recent calls, and again in case the check itself is lost."""
        self._looks = tuple(
            self._loop.call_later(seconds, self._look, called, context=Context())
            for seconds in (_LOOK_SECONDS, 2 * _LOOK_SECONDS)
        )

    def _look(self, called: asyncio.Handle) -> None:
        """Schedule `_take` again if it was interrupted before its first line."""
        for look in self._looks:
            look.cancel()
        self._looks = ()
        if self._called is called:
            self._called = None
        if self._called is not None:  # a later one
            self._look_later(self._called)
        elif self._ready:
            self._call()

    def _take(self) -> None:
        """Begin what is ready, for the length of a slice; the rest waits for the loop's next turn."""
        ready = self._ready
        try:
            loop, now, scheduled, hidden = self._loop, self._now, self._scheduled, 0
            until = now() + _SLICE_SECONDS
            while ready:
                run = ready.popleft()
                if run.ended is None:  # it was withdrawn
                    continue
                try:
                    # Without the loop's task factory, which must not decide whether the task is eager.
                    driver, name, empty = _drive(run), run.attempt.record.name, Context()
                    if _EAGER:
                        run.task = asyncio.Task(driver, loop=loop, name=name, context=empty, eager_start=True)  # type: ignore[call-arg]  # since Python 3.12
                    else:
                        run.task = task = asyncio.Task(driver, loop=loop, name=name, context=empty)
                        handle = scheduled[-1] if scheduled else None
                        step = handle._callback if handle is not None else None
                        # take the first step here, as an eager task does
                        if handle is not None and getattr(step, "__self__", None) is task:
                            handle.cancel()  # not pop(): another thread may append a callback at any moment
                            empty.run(step)  # type: ignore[arg-type]  # it is the method of the task
                        else:
                            task.add_done_callback(run.never_began)
                            hidden += 1
                    if run.ended is not None and run.task.done():  # type: ignore[redundant-expr]  # it may have ended meanwhile
                        run.task.result()  # raises what interrupted it at its very first line
                except BaseException as error:  # asyncio could not create it, or not take the step
                    if run.ended is None:
                        raise
                    run.end(None, error)
                if now() >= until or hidden == _MAX_HIDDEN:
                    break
        finally:  # even when an end could not be reported: the others must not be lost with it
            self._called = None
            if ready:
                self._call()


class _Run(msgspec.Struct, eq=False):
    """One attempt in the engine."""

    attempt: Attempt
    ended: Ended | None  #: None once it has been called
    task: asyncio.Task[None] | None = None  #: the attempt's asyncio task
    #: the callable's coroutine, or one that awaits whatever else it returned, while it runs
    coroutine: Any = None

    def end(self, value: object, error: BaseException | None) -> None:
        """Report how it ended, once."""
        ended = self.ended
        if ended is not None:
            self.ended = self.coroutine = None
            ended(self.attempt, value, error)

    def never_began(self, _: object) -> None:
        """Handle that its asyncio task is done: it has reported its end, or was cancelled before it could begin."""
        self.end(None, asyncio.CancelledError())


async def _drive(run: _Run) -> None:
    """Run as the attempt's asyncio task: call its callable, take its steps, report its end.

    Any exception is the attempt's outcome and must not reach asyncio, which would let SystemExit through.
    """
    attempt = run.attempt
    if run.ended is None:  # it was about to begin, but could not be fully created
        return
    try:
        if _EAGER:  # it is still being created
            run.task = asyncio.current_task()
        if not attempt.begun:
            attempt.owner.begin(attempt)
        record, context, meter = attempt.record, attempt.context, attempt.meter
        waits_for: Any = _ENDED
        value, error, began, clock = None, None, 0.0, time.monotonic
        if meter is not None:
            clock = meter.clock  # CPython calls at once what a name holds
            meter.use_since = began = clock()
        try:
            coroutine = context.run(record.func, *record.args, **attempt.kwargs)  # type: ignore[arg-type]  # func is set while the attempt runs
            if type(coroutine) is not types.CoroutineType:
                coroutine = _await(coroutine)
            run.coroutine = coroutine
            waits_for = context.run(coroutine.send, None)
        except StopIteration as end:
            if run.coroutine is not None:
                value = end.value
            else:  # the callable has raised it
                error = without_engine(end)
        except BaseException as caught:  # noqa: BLE001 - the run boundary: a task's exception is data
            error = without_engine(caught)
        finally:
            if meter is not None:
                meter.use_since = None  # first, or a reader might count the step twice
                meter.use_seconds += clock() - began
        if waits_for is _ENDED:
            ended, run.ended, run.coroutine = run.ended, None, None  # as `end`, without a call
            ended(attempt, value, error)
            del value, error  # the exception's frames lead to this one, which would keep the exception alive
            return
        attempt.suspended()
        rest = _go_on(run, waits_for)
        del waits_for  # or its result would live as long as the attempt
        await rest
    except BaseException as error:
        # The report itself has failed, or the loop is gone and this is being garbage-collected.
        if run.ended is None or (type(error) is GeneratorExit and not is_running(run.task)):
            raise
        run.end(None, error)


@types.coroutine
def _go_on(run: _Run, waits_for: Any) -> Generator[Any, Any, None]:
    """Take the steps after the first, in the attempt's context, and count the time of each.

    A generator, since only a generator can yield what a coroutine waits for. PEP 380 defines what `await` does when
    it is resumed, thrown into or closed; this is its code, with a context and a clock
    (tests/benchmarks/ledger_cost.py).
    """
    attempt, coroutine = run.attempt, run.coroutine
    inside, meter, send = attempt.context.run, attempt.meter, coroutine.send
    step: Any
    began = 0.0
    while True:
        if type(waits_for) not in _ASYNCIOS_OWN:
            waits_for = _StandIn(waits_for)
        try:
            argument = yield waits_for
            step = send
        except GeneratorExit:
            inside(coroutine.close)
            raise
        except BaseException as thrown:  # noqa: BLE001 - everything thrown in is for the coroutine
            step, argument = coroutine.throw, without_engine(thrown)  # no caller needs to know of it
        if meter is not None:
            meter.use_since = began = meter.clock()
        value, error = None, None
        try:
            waits_for = inside(step, argument)
            continue
        except StopIteration as end:
            value = end.value
        except BaseException as caught:  # noqa: BLE001 - as above
            error = without_engine(caught)
        finally:
            if meter is not None:
                meter.use_since = None
                meter.use_seconds += meter.clock() - began
        run.end(value, error)
        del value, error, argument  # as in `_drive`
        return


class _StandIn(asyncio.Future[None]):
    """Awaited in place of a user's object that claims to be a future.

    What the object raises is raised in the coroutine. Raised in asyncio, it would end neither the wait nor the task.
    """

    def __init__(self, stands_for: Any) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(loop=loop)
        self._asyncio_future_blocking = True  # it is awaited
        self._stands_for = stands_for
        try:
            refused = _why_refused(stands_for, loop)
            if refused is None:
                stands_for._asyncio_future_blocking = False
                stands_for.add_done_callback(self._wake)
        except BaseException:  # noqa: BLE001 - it is the user's object
            refused = "what it waits for raised an exception when asyncio asked it"
        if refused is not None:
            self.set_exception(RuntimeError(refused))

    def cancel(self, msg: Any = None) -> bool:
        try:
            return not self.done() and bool(self._stands_for.cancel(msg=msg))
        except BaseException:  # noqa: BLE001 - as above
            return super().cancel(msg)

    def _wake(self, _: object) -> None:
        if not self.done():
            self.set_result(None)


def _why_refused(waits_for: Any, loop: asyncio.AbstractEventLoop) -> str | None:
    """Return why a coroutine cannot wait for this: asyncio's message, but without the object's own repr."""
    blocking = getattr(waits_for, "_asyncio_future_blocking", None)
    if type(blocking) is not bool:
        return "it waits for an object that is not a future"
    if not blocking:
        return "it waits by a yield; a future is awaited"
    if waits_for.get_loop() is not loop:
        return "it waits for a future of a different loop"
    return None


#: What nearly every coroutine ultimately waits for: None is the loop's next turn.
_ASYNCIOS_OWN: Final = frozenset(
    {asyncio.Future, asyncio.Task, getattr(asyncio.tasks, "_GatheringFuture", asyncio.Future), type(None)}
)
_ENDED: Final = object()


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
