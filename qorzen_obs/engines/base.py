"""What every engine does.

An engine starts an attempt and reports its end; it decides nothing. `ended` is called on the work loop, once for
each attempt that was started, when the callable's code has really ended, however late that is.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import Context
from typing import Any, Protocol, runtime_checkable

from qorzen_obs import foreign
from qorzen_obs.engines.traits import EngineTraits
from qorzen_obs.record import Attempt
from qorzen_obs.stacks import LiveStack

#: (attempt, value, error): `error` is None when the callable returned `value`.
Ended = Callable[[Attempt, object, BaseException | None], None]


class Engine(Protocol):
    """Runs the callables of one kind. All methods belong to the work loop; none blocks, except MainEngine's."""

    @property
    def traits(self) -> EngineTraits:
        """What the rest of the package knows about the engine. Fixed; promises only what it can keep on this system."""
        ...

    @property
    def slots(self) -> int | None:
        """How many attempts it can run at once; None leaves it to the manager's limits."""
        ...

    def start(self, attempt: Attempt, ended: Ended) -> None:
        """Run `attempt.record.func` in `attempt.context`; may call `ended` only later. `attempt.driver` is its handle.

        If this raises, for example because there is no thread, the attempt fails. The engine then keeps nothing of it:
        the callable does not run and `ended` is not called.
        """
        ...

    def interrupt(self, attempt: Attempt) -> None:
        """Do what the engine can to stop a started attempt; its token is set already. May be repeated."""
        ...

    def abandon(self, attempt: Attempt) -> None:
        """Note that nobody waits for this attempt any more: another one gets its place."""
        ...

    def close(self) -> None:
        """Release idle resources; attempts that still run end by themselves."""
        ...


@runtime_checkable
class KillingEngine(Protocol):
    """An engine that can end an attempt whatever its code does."""

    def kill(self, attempt: Attempt) -> bool:
        """Kill what runs the attempt; `ended` follows within milliseconds. May be repeated.

        False: it waits for something that cannot be killed, and the attempt must be abandoned.
        """
        ...


@runtime_checkable
class DetachingEngine(Protocol):
    """An engine whose attempts are asyncio tasks, which a program waits for when it ends."""

    def detach(self, attempt: Attempt) -> None:
        """Let the program end although an abandoned attempt still runs; nothing else changes for it."""
        ...


@runtime_checkable
class ThreadedEngine(Protocol):
    """An engine that runs attempts on threads of its own."""

    def keep_thread(self) -> None:
        """Keep at least one from now on: none may start while the interpreter exits (`exit_refuses`). From any thread.

        Raises:
            RuntimeError: the system has no more threads.
        """
        ...


def exit_refuses(error: RuntimeError) -> bool:
    """Return whether a thread could not be started because the interpreter exits, as in Python 3.12 and newer."""
    return "interpreter shutdown" in str(error)


@runtime_checkable
class StackEngine(Protocol):
    """An engine that can say where an attempt is right now."""

    def stack(self, attempt: Attempt) -> LiveStack | None:
        """Return it, None when its code has ended meanwhile; from any thread, in any state of the work loop.

        Raises:
            StackUnavailableError: the process that runs the attempt does not answer.
        """
        ...


@runtime_checkable
class AwaitingEngine(Protocol):
    """An engine that can say what an attempt awaits, cheaply enough to ask for many attempts at once."""

    def awaiting(self, attempt: Attempt) -> str | None:
        """Return it, None while the attempt's code runs; from any thread, in any state of the work loop."""
        ...


@runtime_checkable
class ForeignProcessEngine(Protocol):
    """An engine that runs attempts in other processes of this machine."""

    def pid(self, attempt: Attempt) -> int | None:
        """Return the id of the process that runs an attempt, None before and after; from any thread."""
        ...


@runtime_checkable
class ReportingEngine(Protocol):
    """An engine that adds to `TaskManager.status()`."""

    def status(self) -> Mapping[str, Any]:
        """Return its part, in JSON's types; from any thread."""
        ...


def make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None], attempt: Attempt
) -> asyncio.Task[None]:
    """Return an asyncio task for `coroutine` in the attempt's context, that begins at the loop's next turn.

    Does not use the loop's task factory: an eager one would begin, and perhaps end, the attempt before its start.
    """
    return asyncio.Task(coroutine, loop=loop, context=attempt.context)


def call_surely(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: Any, context: Context | None = None
) -> None:
    """Call `callback` in the loop's next turn, then a second time, which does nothing if the first did the work.

    The first call may be interrupted before its first line: by a lack of stack or memory, or by a signal handler.
    """
    loop.call_soon(callback, *args, context=context)
    with suppress(Exception):  # out of memory: it is called once
        loop.call_soon(callback, *args, context=context)


def without_engine(error: BaseException) -> BaseException:
    """Remove the frame of the engine that caught the error from its traceback, so that only user code remains.

    This also prevents a reference cycle between frame and error.
    """
    caught = foreign.traceback_of(error)
    if caught is not None:
        foreign.set_traceback(error, caught.tb_next)
    return error


def is_running(task: asyncio.Task[None] | None) -> bool:
    """Return whether `task` runs the calling code; False for a coroutine that is being garbage-collected."""
    try:
        return task is not None and asyncio.current_task() is task
    except RuntimeError:
        return False


def take_off(task: asyncio.Task[Any]) -> None:
    """Make asyncio forget a task that does not end: `asyncio.run` does not wait for it, and it is never destroyed.

    Closing its coroutine has no effect if that swallows GeneratorExit, and a coroutine that is collected after its
    loop was closed may spin for ever. So one reference to it is leaked on purpose.
    """
    if not task.done():
        asyncio.tasks._unregister_task(task)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a Task of asyncio's has it
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(task))
