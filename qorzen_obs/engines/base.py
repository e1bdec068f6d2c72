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
    """Runs the callables of one kind. All methods belong to the work loop; none blocks, but for MainEngine's."""

    @property
    def traits(self) -> EngineTraits:
        """What is known of it elsewhere. Fixed, and no more than it can keep on this system."""
        ...

    @property
    def slots(self) -> int | None:
        """How many attempts it can run at once; None leaves it to the manager's limits."""
        ...

    def start(self, attempt: Attempt, ended: Ended) -> None:
        """Run `attempt.record.func` in `attempt.context`; may call `ended` only later. `attempt.driver` is its handle.

        Whatever it raises, such as for want of a thread, fails the attempt. Then it keeps nothing of it: the callable
        does not run and `ended` is not called.
        """
        ...

    def interrupt(self, attempt: Attempt) -> None:
        """Do what the engine can to stop a started attempt; its token is set already. May be repeated."""
        ...

    def abandon(self, attempt: Attempt) -> None:
        """Learn that nobody waits for this attempt any more: its place is given to another."""
        ...

    def close(self) -> None:
        """Let idle resources go; attempts that still run are left to end by themselves."""
        ...


@runtime_checkable
class KillingEngine(Protocol):
    """An engine that can end an attempt whatever its code does."""

    def kill(self, attempt: Attempt) -> bool:
        """Kill what runs the attempt; `ended` follows within milliseconds. May be repeated.

        False: what it waits for cannot be killed, and the attempt has to be abandoned.
        """
        ...


@runtime_checkable
class DetachingEngine(Protocol):
    """An engine whose attempts are asyncio tasks, for which the end of a program would wait."""

    def detach(self, attempt: Attempt) -> None:
        """Let the program end although an abandoned attempt still runs; nothing else changes for it."""
        ...


@runtime_checkable
class ThreadedEngine(Protocol):
    """An engine that runs attempts on threads of its own."""

    def keep_thread(self) -> None:
        """Have at least one from now on: while the interpreter exits, none may start (`exit_refuses`). From any thread.

        Raises:
            RuntimeError: the system gives none.
        """
        ...


def exit_refuses(error: RuntimeError) -> bool:
    """Return whether a thread could not be started since the interpreter exits, as in Python 3.12 and newer."""
    return "interpreter shutdown" in str(error)


@runtime_checkable
class StackEngine(Protocol):
    """An engine that can say where an attempt is right now."""

    def stack(self, attempt: Attempt) -> LiveStack | None:
        """Return it, None when its code has ended meanwhile; from any thread, while the work loop does what it does.

        Raises:
            StackUnavailableError: what runs the attempt does not answer.
        """
        ...


@runtime_checkable
class AwaitingEngine(Protocol):
    """An engine that can say what an attempt awaits, at a price that many of them can be asked at once."""

    def awaiting(self, attempt: Attempt) -> str | None:
        """Return it, None while code of it runs; from any thread, while the work loop does what it does."""
        ...


@runtime_checkable
class ForeignProcessEngine(Protocol):
    """An engine that runs attempts in other processes of this machine."""

    def pid(self, attempt: Attempt) -> int | None:
        """Return the process that an attempt was given to, None before and after; from any thread."""
        ...


@runtime_checkable
class ReportingEngine(Protocol):
    """An engine that has something to say in `TaskManager.status()`."""

    def status(self) -> Mapping[str, Any]:
        """Return it, as JSON shows it; from any thread."""
        ...


def make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None], attempt: Attempt
) -> asyncio.Task[None]:
    """Return an asyncio task for `coroutine` in the attempt's context, that begins at the loop's next turn.

    Not by the loop's own task factory: an eager one would begin, and perhaps end, the attempt before it is started.
    """
    return asyncio.Task(coroutine, loop=loop, context=attempt.context)


def call_surely(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: Any, context: Context | None = None
) -> None:
    """Call `callback` in the loop's next turn, and again behind that, which it takes for nothing where it did its work.

    The first call may be interrupted before its first line: for want of stack or memory, or by a signal's handler.
    """
    loop.call_soon(callback, *args, context=context)
    with suppress(Exception):  # for want of memory: it is called once
        loop.call_soon(callback, *args, context=context)


def without_engine(error: BaseException) -> BaseException:
    """Take the frame of the engine that has caught it off the traceback: what remains is the user's code.

    So no cycle leads from the frame to the error and back.
    """
    caught = foreign.traceback_of(error)
    if caught is not None:
        foreign.set_traceback(error, caught.tb_next)
    return error


def is_running(task: asyncio.Task[None] | None) -> bool:
    """Return whether the calling code is run by `task`; a coroutine that is being collected is not."""
    try:
        return task is not None and asyncio.current_task() is task
    except RuntimeError:
        return False


def take_off(task: asyncio.Task[Any]) -> None:
    """Have asyncio forget a task that does not end: neither `asyncio.run` waits for it, nor is it ever destroyed.

    Closing its coroutine ends nothing where that swallows GeneratorExit, and one that is collected after its loop was
    closed may spin for ever. So one reference to it is never given back.
    """
    if not task.done():
        asyncio.tasks._unregister_task(task)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a Task of asyncio's has it
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(task))
