"""The handle of a task for the code that started it: `await tasks.start(…)` returns a typed TaskHandle."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import TracebackType
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from qorzen_obs import foreign
from qorzen_obs.errors import TaskCancelled, TaskFailedError, TaskTimeoutError
from qorzen_obs.record import TaskRecord, TaskState
from qorzen_obs.tasks import COMPLETED, TIMEOUT, TaskInfo, TaskProgress, TaskStatus

R_co = TypeVar("R_co", covariant=True)


class Holds(Protocol):
    """The parts of the manager that a handle uses (core/control.py)."""

    async def end_held(self, record: TaskRecord, end: asyncio.Future[TaskState]) -> TaskState:
        """Return the final state of the task when it has ended."""
        ...

    def cancel_held(self, record: TaskRecord, reason: str) -> bool:
        """Cancel the task, or ask it to stop; return False when it had ended."""
        ...


class TaskHandle(Generic[R_co]):
    """One task that you started: its value by `await`, its state, and the way to cancel it.

    The handle keeps the outcome of its task for as long as you keep the handle, whatever the manager's history keeps:
    also a large result that `tasks.keep_value_bytes` has released, or the result of a task that retention has evicted.
    A handle's task is always known. Dropping the handle neither cancels the task nor hides its failure, which log,
    metrics and trace show.

    `await` and `cancel` belong to the work loop and raise InvalidTaskError elsewhere. In another thread use
    `tasks.from_thread.wait(handle.task_id)` and `tasks.from_thread.cancel(handle.task_id)`. Everything else can be read
    from any thread. A handle cannot be pickled: pass the `task_id` to another process instead.
    """

    __slots__ = ("__weakref__", "_end", "_manager", "_record", "_traceback", "task_id")

    def __init__(self, manager: Holds, record: TaskRecord, end: asyncio.Future[TaskState]) -> None:
        self._manager = manager
        self._record = record
        self._end = end  # the final state, once there is one
        # The traceback of the task's exception, without the frames of the code that awaits it.
        self._traceback: TracebackType | None = None
        self.task_id: str = record.task_id  #: for logs, the page and other processes

    def __await__(self) -> Generator[Any, None, R_co]:
        """Wait for the end of the task, and return its value or raise as `TaskManager.run` does.

        You may await it as often as you like, before and after the end; each time gives the same value or exception.
        A task that awaits this lends its slot meanwhile. Cancelling the wait does not cancel the task, unlike with
        `run`: so `asyncio.timeout` limits the wait and not the task.

        Raises:
            TaskCancelled, TaskTimeoutError, TaskFailedError, or what the task raised: as `TaskManager.run`.
            InvalidTaskError: the caller is not on the work loop, or is the task itself or one that it waits for.
        """
        return self._value().__await__()

    async def _value(self) -> R_co:
        state = await self._manager.end_held(self._record, self._end)
        if state.status is COMPLETED:
            value: Any = state.result
            return value  # type: ignore[no-any-return]  # whatever the callable has returned
        error = error_of(self.task_id, state)
        if error is state.exception:
            if self._traceback is None:
                self._traceback = foreign.traceback_of(error)
            foreign.set_traceback(error, self._traceback)
        del state
        try:
            raise error
        finally:
            del error  # its traceback leads here, so it would keep itself and the callers' frames alive

    def cancel(self, *, reason: str = "TaskHandle.cancel") -> bool:
        """Cancel the task or ask it to stop, as `TaskManager.cancel_task`, without await; False when it had ended.

        How a running task ends is up to its code. `await handle` waits for that, and raises TaskCancelled where the
        task gives in.

        Raises:
            TaskNotCancellableError: it was submitted with cancellable=False.
            InvalidTaskError: the caller is not on the work loop.
        """
        return self._manager.cancel_held(self._record, reason)

    def info(self) -> TaskInfo[R_co | None]:
        """Return a snapshot of the task, with its result once it has completed; from any thread."""
        info = self._record.info()
        if self._end.done():
            # The history may have dropped it, but the handle has it.
            return info.replace(result=self._end.result().result, result_released=False)
        return info

    @property
    def progress(self) -> TaskProgress:
        """The task's own report of how far it is; from any thread."""
        return self._record.progress

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TaskHandle belongs to its process; pass handle.task_id")

    def __repr__(self) -> str:
        record = self._record
        return f"<TaskHandle {record.name!r} {self.task_id} {record.state.status.value}>"


def error_of(task_id: str, state: TaskState) -> Exception:
    """Return the exception to raise when the value of a failed or cancelled task is requested."""
    if state.status is TaskStatus.CANCELLED:
        return TaskCancelled(task_id, state.cancel_reason)
    raised = state.exception
    if foreign.is_a(raised, Exception) and not foreign.is_a(raised, StopIteration):
        return raised
    # An exception that ends a process, a coroutine or a generator was the task's, and must not end the caller.
    kind = TaskTimeoutError if state.error_type == TIMEOUT else TaskFailedError
    error = kind(task_id, state.error_type or "unknown", state.error or "")
    error.__cause__ = raised
    return error
