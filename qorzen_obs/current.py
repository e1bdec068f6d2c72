"""The running task, as the code inside it sees it, and `track()`.

Works in every engine, since the task travels in the context variables of the call. `current_task()` stands in
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
    """What a task may know of itself and say about itself."""

    @property
    def task_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def category(self) -> TaskCategory: ...
    @property
    def priority(self) -> TaskPriority: ...
    @property
    def number(self) -> int:
        """The attempt, from 1."""
        ...

    @property
    def manager(self) -> Any:
        """The TaskManager that runs this task."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether this task was asked to stop, by `cancel_task`, by its timeout or by shutdown."""
        ...

    def raise_if_cancelled(self) -> None:
        """Raise TaskCancelled once this task was asked to stop."""
        ...

    def wait(self, seconds: float) -> bool:
        """Sleep in a thread until asked to stop; return whether it was. Not for coroutines."""
        ...

    def progress(self, percent: float, message: str = "") -> None:
        """Report progress: clamped to 0-100, never falls, coalesced, from any thread."""
        ...

    def keep_trace(self) -> None:
        """Have this attempt's trace kept, whatever the rate at which traces are sampled; from any thread."""
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
    """Yield from `items`, reporting the share that is done as the current task's progress.

    `total` is the number of items where `items` has no length; without either, only the message is reported.
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
