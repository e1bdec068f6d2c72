"""The future of a call that is a task: what an executor of the manager returns (core/executor.py)."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import wait as wait_for_futures
from math import inf
from typing import Any, Final, TypeVar

from qorzen_obs.core.runtime import ManagerState, Runtime
from qorzen_obs.current import CURRENT
from qorzen_obs.errors import (
    InvalidTaskError,
    TaskCancelled,
    TaskFailedError,
    TaskManagerClosedError,
    TaskTimeoutError,
)
from qorzen_obs.record import Attempt, TaskRecord
from qorzen_obs.tasks import COMPLETED, TIMEOUT, TaskStatus
from qorzen_obs.telemetry.own_log import OwnLog

logger = OwnLog(__name__)

T = TypeVar("T")

#: How often a waiting thread checks that the loop still runs, and that its own task was not asked to stop.
_LOOK_SECONDS: Final = 0.25


class TaskFuture(Future[T]):
    """The future of one call; `task_id` is its task's.

    `result` and `exception` also raise TaskCancelled once the waiting task was asked to stop, and
    TaskManagerClosedError once the work loop has stopped. On the work loop, which the call needs, they raise
    InvalidTaskError until the call is done: await asyncio.wrap_future(future) there.
    """

    def __init__(self, task_id: str, runtime: Runtime) -> None:
        super().__init__()
        self.task_id = task_id  #: the id of the call's task
        self._runtime = runtime
        self._began = False
        #: on the work loop; None once the task has ended
        self._cancel_task: Callable[[], object] | None = None

    def follow(self, cancel_task: Callable[[], object]) -> None:
        """Call `cancel_task` on the work loop when the future is cancelled; for the executor."""
        self._cancel_task = cancel_task

    def cancel(self) -> bool:
        """Cancel the call unless it runs or has ended; return whether it is cancelled."""
        is_cancelled, cancel_task = super().cancel(), self._cancel_task
        if is_cancelled and cancel_task is not None and self._runtime.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._runtime.loop.call_soon_threadsafe(cancel_task)
        return is_cancelled

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn` with the future when it is done: on the work loop, where its task ends.

        So it must return at once. An exception that it raises is logged.
        """
        super().add_done_callback(functools.partial(self._call_back, fn))

    def _call_back(self, fn: Callable[[Future[T]], object], future: Future[T]) -> None:
        try:
            fn(future)
        except Exception:
            raise  # Python's own future logs it
        except BaseException:  # SystemExit would end the work loop
            if not self._runtime.runs_here:
                raise
            logger.exception("the callback of a future failed")

    def result(self, timeout: float | None = None) -> T:
        """Wait for the end of the call, and return what it returned or raise what it raised.

        Raises:
            TimeoutError: `timeout` seconds went by, None means no limit; the call goes on.
            CancelledError: of concurrent.futures: the future was cancelled.
            TaskTimeoutError: the task passed its timeout.
            TaskCancelled, TaskManagerClosedError, InvalidTaskError: as the class says.
        """
        self.await_end(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end of the call, and return its exception, None if it returned. Raises as `result`."""
        self.await_end(timeout)
        return super().exception(0)

    def await_end(self, timeout: float | None = None) -> None:
        """Wait until it is done, at most `timeout` seconds."""
        if self.done() or (timeout is not None and timeout <= 0):
            return
        if self._runtime.runs_here:
            problem = "is the work loop's own, which the call needs; await asyncio.wrap_future(future) there"
            raise InvalidTaskError("thread", problem)
        attempt, until = CURRENT.get(), time.monotonic() + (inf if timeout is None else timeout)
        while (left := until - time.monotonic()) > 0:
            if wait_for_futures([self], min(_LOOK_SECONDS, left)).done:
                return
            if isinstance(attempt, Attempt):
                attempt.raise_if_cancelled()
            if self._runtime.loop is None or not self._runtime.loop.is_running():
                raise TaskManagerClosedError(ManagerState.STOPPED.value)

    def begin(self) -> bool:
        """Set the state to RUNNING; return False if it was cancelled. For the executor; needed only once."""
        if not self._began:
            self._began = True
            self.set_running_or_notify_cancel()
        return not self.cancelled()

    def end(self, record: TaskRecord) -> None:
        """Take the outcome of its task; if that has none, the manager stopped first."""
        self._cancel_task = None
        state = record.state
        if state.status is COMPLETED:
            self._settle(self.set_result, state.result)
        elif state.status is TaskStatus.CANCELLED and super().cancel():
            self.begin()
        else:
            self._settle(self.set_exception, _error_of(record))

    def fail(self, error: BaseException) -> None:
        """Take the reason why its task does not exist."""
        self._cancel_task = None
        self._settle(self.set_exception, error)

    def _settle(self, settle: Callable[[Any], object], outcome: object) -> None:
        try:
            settle(outcome)
        except InvalidStateError:
            if self.cancelled():
                self.begin()  # this notifies the waiters


def wait_for(futures: Iterable[TaskFuture[Any]]) -> None:
    """Wait until all are done or the work loop has stopped."""
    with contextlib.suppress(TaskManagerClosedError):
        for future in futures:
            future.await_end()


def _error_of(record: TaskRecord) -> BaseException:
    """Return the exception for the future of a task that did not complete."""
    state = record.state
    if state.status is TaskStatus.CANCELLED:
        return TaskCancelled(record.task_id, state.cancel_reason)
    if not state.status.final:
        return TaskManagerClosedError(ManagerState.STOPPED.value)
    if state.error_type == TIMEOUT:
        return TaskTimeoutError(record.task_id, TIMEOUT, state.error or "")
    if state.exception is not None:
        return state.exception
    return TaskFailedError(record.task_id, state.error_type or "unknown", state.error or "")
