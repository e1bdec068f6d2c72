"""An executor whose calls are tasks: `manager.executor(…)`, for libraries that take a concurrent.futures.Executor."""

from __future__ import annotations

import asyncio
import atexit
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar
from weakref import WeakSet

from qorzen_obs.arguments import check_timeout, parse_category, parse_priority
from qorzen_obs.core.calls import CallOptions, Calls
from qorzen_obs.core.task_future import TaskFuture, wait_for
from qorzen_obs.engines.traits import Place
from qorzen_obs.errors import ExecutorRefusedError, InvalidTaskError
from qorzen_obs.options import parse_engine
from qorzen_obs.tasks import TaskCategory, TaskPriority

P = ParamSpec("P")
T = TypeVar("T")

_SHUT_DOWN: Final = "cannot schedule new futures after shutdown"  # as Python's own executors say


def make_executor(
    calls: Calls,
    *,
    category: TaskCategory | str | None,
    engine: str | None,
    priority: TaskPriority | str | int | None,
    timeout: float | None,
) -> TaskExecutor:
    """Return an executor; see TaskManager.executor."""
    choice = calls.runtime.engine_choice
    options = CallOptions(
        category=None if category is None else parse_category(category),
        priority=None if priority is None else parse_priority(priority),
        timeout=check_timeout(timeout),
        engine=None if engine is None else choice.of_kind(parse_engine(engine)),
    )
    usual = options.engine or choice.for_sync[options.category or TaskCategory.CORE]
    if not usual.runs_sync:
        raise InvalidTaskError("engine", f"{usual.kind!r} runs no synchronous callables; use another one")
    if usual.place is not Place.THREAD:
        return TaskExecutor(calls, options)
    running = calls.runtime.engines.get(usual.kind)
    return ThreadTaskExecutor(calls, options, None if running is None else running.slots)


class TaskExecutor(Executor):
    """An executor whose calls are tasks of the manager. Made by `manager.executor(…)`.

    A call that a task submits is its child. The task lends its slot from the submission to the end of the call, so
    tasks that wait for calls do not keep these from starting. What a call returns or raises goes to its future and is
    not kept: `TaskInfo.result` of its task is None, and it cannot be run again. A function's `@task` options apply.

    A call of `Context.run`, such as asyncio.to_thread makes, becomes a task of the function passed to it, in a copy
    of that context.

    `shutdown`, the end of a `with` block and the exit of the interpreter wait for the calls. On the work loop, which
    the calls need, use `async with`. The manager's own shutdown ends them as it ends other tasks.
    """

    def __init__(self, calls: Calls, options: CallOptions) -> None:
        self._calls = calls
        self._options = options
        self._open = _OpenCalls()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]:
        """Submit a call from any thread, without waiting, and return its future.

        The future can be cancelled while the task is pending. `cancel_task(future.task_id)` also asks a running one to
        stop; its future raises TaskCancelled then.

        Raises:
            ExecutorRefusedError: a RuntimeError: after `shutdown`, where the manager takes no work, or where
                `tasks.max_pending` tasks are pending. If the queue fills up before acceptance, the future raises it.
            InvalidTaskError: `fn` is not callable, or async where the engine does not run async functions.
        """
        record = self._calls.check(self._options, fn, args, kwargs)
        future: TaskFuture[T] = TaskFuture(record.task_id, self._calls.runtime)
        self._open.add(future)
        try:
            self._calls.submit(record, future, self._open.discard)
        except BaseException:
            self._open.discard(future)
            raise
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. `cancel_futures` cancels the pending ones; `wait` waits for all others.

        Raises:
            InvalidTaskError: waiting would block the work loop, which the calls need.
        """
        self._open.refuse()
        left = self._open.left()
        if cancel_futures:
            for future in left:
                future.cancel()
        if not (wait and left):
            return
        if self._calls.runtime.runs_here:
            problem = "would block the work loop, which the calls need; use `async with`, or wait=False"
            raise InvalidTaskError("wait", problem)
        wait_for(left)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.refuse()
        left = [asyncio.wrap_future(future) for future in self._open.left()]
        await asyncio.gather(*left, return_exceptions=True)


class ThreadTaskExecutor(TaskExecutor, ThreadPoolExecutor):
    """As TaskExecutor, but also a ThreadPoolExecutor, as `loop.set_default_executor` requires.

    It has no threads of its own; the manager's engine runs the calls.
    """

    def __init__(self, calls: Calls, options: CallOptions, slots: int | None) -> None:
        # For libraries that look at its attributes; it starts no thread.
        ThreadPoolExecutor.__init__(self, slots)
        TaskExecutor.__init__(self, calls, options)


class _OpenCalls:
    """The futures of an executor's calls that have not ended; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: set[TaskFuture[Any]] = set()
        self._refuses = False
        _drain_at_exit()
        _OPEN.add(self)

    def add(self, future: TaskFuture[Any]) -> None:
        """Add the future of a call.

        Raises:
            ExecutorRefusedError: its executor takes no more calls.
        """
        with self._lock:
            if self._refuses:
                raise ExecutorRefusedError(_SHUT_DOWN)
            self._futures.add(future)

    def discard(self, future: TaskFuture[Any]) -> None:
        """Remove the future of a call that has ended."""
        with self._lock:
            self._futures.discard(future)

    def refuse(self) -> None:
        """Take no more calls."""
        with self._lock:
            self._refuses = True

    def left(self) -> list[TaskFuture[Any]]:
        """Return the futures of the calls that have not ended."""
        with self._lock:
            return list(self._futures)


#: One per executor. An executor that nobody references any more keeps its entry while its calls run.
_OPEN: Final[WeakSet[_OpenCalls]] = WeakSet()


@functools.cache
def _drain_at_exit() -> None:
    """Make the interpreter wait for the calls at exit, as it does for Python's own executors."""
    # Before the interpreter joins its threads, where that is possible: the work loop may run on one of them.
    register = getattr(threading, "_register_atexit", atexit.register)
    register(_drain)


def _drain() -> None:
    for calls in list(_OPEN):
        calls.refuse()
        wait_for(calls.left())
