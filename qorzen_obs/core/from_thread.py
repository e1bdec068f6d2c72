"""Blocking calls to the manager from other threads; they run on the work loop.

A call always ends with its answer or an error, also while the loop stops and afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any, Final, ParamSpec, Protocol, TypeVar, TypeVarTuple, Unpack, overload

from qorzen_obs.core.runtime import ManagerState
from qorzen_obs.current import CURRENT
from qorzen_obs.errors import InvalidTaskError, TaskManagerClosedError
from qorzen_obs.options import SubmitOptions
from qorzen_obs.record import Attempt
from qorzen_obs.tasks import CategoryOrName, TaskInfo

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Call = Callable[[], Coroutine[Any, Any, T]]

#: How often a waiting thread checks that the loop still runs: a loop that just stops notifies nobody.
_LOOK_SECONDS: Final = 0.25


class WorkLoopCalls(Protocol):
    """The methods of a TaskManager that run on its work loop."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None: ...
    @property
    def state(self) -> ManagerState: ...

    def find(self, task_id: str) -> TaskInfo | None: ...
    async def submit_task(self, func: Callable[..., Any], /, *args: Any, **options: Any) -> str: ...
    async def run(self, func: Callable[..., Any], /, *args: Any, **options: Any) -> Any: ...
    async def wait_for_task(self, task_id: str, timeout: float | None = None) -> TaskInfo: ...
    async def cancel_task(self, task_id: str) -> bool: ...
    async def rerun(self, task_id: str) -> str: ...
    async def pause(self, category: CategoryOrName) -> None: ...
    async def resume(self, category: CategoryOrName) -> None: ...


class FromThread:
    """`manager.from_thread`: the manager's calls, for threads other than its loop's.

    Inside a task on a worker thread, the task is the submitter, as for a coroutine: spans and log lines belong
    together, and the task lends its slot while it waits. When that task is asked to stop, the call raises TaskCancelled
    in each of the task's threads. If the manager or its loop stops before the call has an answer, the call raises
    TaskManagerClosedError.
    """

    def __init__(self, manager: WorkLoopCalls) -> None:
        self._manager = manager
        self._running: set[asyncio.Task[None]] = set()  # calls on the work loop

    @overload
    def submit(self, func: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> str: ...
    @overload
    def submit(
        self, func: Callable[[*Ts], object], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> str: ...
    def submit(self, func: Callable[..., Any], /, *args: object, **options: object) -> str:
        """Submit a task as `TaskManager.submit_task` does, and return its id.

        Raises:
            InvalidTaskError: an argument is unusable, or the caller is on the work loop. All calls below check the
                latter.
            TaskQueueFullError, TaskManagerClosedError: as `TaskManager.submit_task`.
        """
        return self._call(partial(self._manager.submit_task, func, *args, **options))

    @overload
    def run(self, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(
        self,
        func: Callable[[*Ts], Coroutine[Any, Any, R]],
        /,
        *args: *Ts,
        **options: Unpack[SubmitOptions],
    ) -> R: ...
    @overload
    def run(self, func: Callable[[*Ts], R], /, *args: *Ts, **options: Unpack[SubmitOptions]) -> R: ...
    def run(self, func: Callable[..., Any], /, *args: object, **options: object) -> Any:
        """Submit a task, block until it ends, and return its value or raise, as `TaskManager.run` does."""
        return self._call(partial(self._manager.run, func, *args, **options))

    def wait(self, task_id: str, timeout: float | None = None) -> TaskInfo:
        """Block until a task ends, and return its snapshot, as `TaskManager.wait_for_task` does.

        It works after the shutdown too, for a task that has ended.
        """
        try:
            return self._call(lambda: self._manager.wait_for_task(task_id, timeout))
        except TaskManagerClosedError:
            info = self._manager.find(task_id)
            if info is None or not info.status.final:
                raise
            return info

    def cancel(self, task_id: str) -> bool:
        """Cancel a task or ask it to stop, as `TaskManager.cancel_task` does; return False when it had ended."""
        return self._call(lambda: self._manager.cancel_task(task_id))

    def rerun(self, task_id: str) -> str:
        """Submit an ended task again, as `TaskManager.rerun` does, and return the new task's id."""
        return self._call(lambda: self._manager.rerun(task_id))

    def pause(self, category: CategoryOrName) -> None:
        """Start no task of `category` until `resume`, as `TaskManager.pause` does."""
        self._call(lambda: self._manager.pause(category))

    def resume(self, category: CategoryOrName) -> None:
        """Let tasks of a paused category start again, as `TaskManager.resume` does."""
        self._call(lambda: self._manager.resume(category))

    def _call(self, call: Call[T]) -> T:
        """Run a call on the work loop, and wait for its answer."""
        loop = self._manager.loop
        if loop is not None and _runs_here(loop):
            raise InvalidTaskError("thread", "is the work loop's own; await the manager's methods there")
        task = CURRENT.get()
        attempt = task if isinstance(task, Attempt) else None
        answer: Future[T] = Future()
        with contextlib.nullcontext() if attempt is None else attempt.notifying(answer.cancel):
            self._wait(answer, call, loop)
        if not answer.cancelled():
            return answer.result()
        if attempt is not None:
            attempt.raise_if_cancelled()
        # In any state but the first, either the manager or the loop has stopped.
        state = self._manager.state
        raise TaskManagerClosedError((state if state is ManagerState.NEW else ManagerState.STOPPED).value)

    def _wait(self, answer: Future[T], call: Call[T], loop: asyncio.AbstractEventLoop | None) -> None:
        """Wait for the answer; cancel it if the loop does not run or has stopped."""
        ended = threading.Event()
        answer.add_done_callback(lambda _: ended.set())
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(self._begin, loop, call, answer)
        while not ended.is_set():
            if loop is None or not loop.is_running():
                answer.cancel()
            ended.wait(_LOOK_SECONDS)

    def _begin(self, loop: asyncio.AbstractEventLoop, call: Call[T], answer: Future[T]) -> None:
        """Begin a call on the work loop, but not after the stop: the loop may not turn often enough to end it."""
        if self._manager.state is ManagerState.STOPPED:
            answer.cancel()
        elif not answer.cancelled():
            running = loop.create_task(_give(call, answer), name="call from a thread")
            self._running.add(running)
            running.add_done_callback(self._running.discard)


async def _give(call: Call[T], answer: Future[T]) -> None:
    """Run a call on the work loop and give its outcome to the waiting thread, whose cancelling ends the call."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "it runs as one"

    def stop(answer: Future[T]) -> None:
        if answer.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(task.cancel)

    answer.add_done_callback(stop)
    with contextlib.suppress(InvalidStateError):  # nobody waits any more
        try:
            value = await call()
        except asyncio.CancelledError:
            answer.cancel()
            raise
        except BaseException as error:  # noqa: BLE001 - it is the caller's, and must not end the work loop
            answer.set_exception(error)
        else:
            answer.set_result(value)


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
