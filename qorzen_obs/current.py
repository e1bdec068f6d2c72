"""The running task as its own code sees it, and `track()`.

Works in every engine, since the task travels in the context variables of the call. `current_task()` is in
core/current_task.py, which knows the type of its manager.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from qorzen_obs.errors import TaskError

if TYPE_CHECKING:
    from qorzen_obs.tasks import TaskCategory, TaskPriority

T = TypeVar("T")


class CurrentTask(Protocol):
    """What a task can read and report about itself."""

    @property
    def task_id(self) -> str:
        """The task's id, which its submitter has too."""
        ...

    @property
    def name(self) -> str:
        """The name that the task was submitted with."""
        ...

    @property
    def category(self) -> TaskCategory:
        """The task's category."""
        ...

    @property
    def priority(self) -> TaskPriority:
        """The task's priority."""
        ...

    @property
    def number(self) -> int:
        """The number of this attempt, from 1."""
        ...

    @property
    def manager(self) -> Any:
        """The TaskManager that runs this task."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether this task was asked to stop: by `cancel_task`, its timeout or a shutdown."""
        ...

    def raise_if_cancelled(self) -> None:
        """Raise TaskCancelled if this task was asked to stop; otherwise return at once.

        Code in a thread or a process cannot be interrupted, so it calls this wherever it can stop.

        Raises:
            TaskCancelled: the task was asked to stop, by `cancel_task`, by its timeout or by shutdown.
        """
        ...

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds`, or until this task is asked to stop; return whether it was.

        It blocks, so use it in threads and processes. A coroutine awaits `asyncio.sleep`, which a cancel interrupts.
        """
        ...

    def progress(self, percent: float, message: str = "") -> None:
        """Report how far this task is, from any thread.

        `percent` is clamped to 0 to 100 and never decreases. If reports come fast, only the last may be announced.
        """
        ...

    def keep_trace(self) -> None:
        """Keep this attempt's trace, whatever the sampling rate; from any thread."""
        ...


#: Set in the context of each attempt. The telemetry and the manager read it too.
CURRENT: ContextVar[CurrentTask | None] = ContextVar("qorzen_current_task", default=None)


def running_task() -> CurrentTask:
    """Return the task that the calling code runs in.

    Raises:
        TaskError: the caller is not inside a task.
    """
    task = CURRENT.get()
    if task is None:
        raise TaskError(
            "current_task() was called outside a task; call it from a callable that was submitted"
        )
    return task


@overload
def track(items: Iterable[T], *, total: int | None = None, message: str = "") -> Iterator[T]: ...
@overload
def track(items: AsyncIterable[T], *, total: int | None = None, message: str = "") -> AsyncIterator[T]: ...
def track(
    items: Iterable[T] | AsyncIterable[T], *, total: int | None = None, message: str = ""
) -> Iterator[T] | AsyncIterator[T]:
    """Yield from `items`, and report the finished share as the current task's progress.

    `total` is the number of items if `items` has no length. Without either, the percentage stays at 0, and the
    message is the number of finished items. `message` replaces that.

    Raises:
        TaskError: the caller is not inside a task.
    """
    task = running_task()
    if total is None and isinstance(items, Sized):
        total = len(items)

    def report(done: int) -> None:
        if total:
            task.progress(100.0 * done / total, message or f"{done}/{total}")
        else:
            task.progress(0.0, message or str(done))

    if isinstance(items, AsyncIterable):
        return _track_async(items, report)
    return _track(items, report)


def _track(items: Iterable[T], report: Callable[[int], None]) -> Iterator[T]:
    done = 0
    for item in items:
        report(done)
        yield item
        done += 1
    report(done)


async def _track_async(items: AsyncIterable[T], report: Callable[[int], None]) -> AsyncIterator[T]:
    done = 0
    async for item in items:
        report(done)
        yield item
        done += 1
    report(done)
