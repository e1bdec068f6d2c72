"""`current_task()`, with the type of its manager. Cheap to import, since worker processes do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from qorzen_obs.current import CurrentTask, running_task

if TYPE_CHECKING:
    from qorzen_obs.core.task_manager import TaskManager


class ManagedTask(CurrentTask, Protocol):
    """What a task may know about itself and its manager."""

    @property
    def manager(self) -> TaskManager:
        """The TaskManager that runs this task.

        Raises:
            TaskError: the task runs in another process than its manager.
        """
        ...


def current_task() -> ManagedTask:
    """Return the task that the calling code runs in.

    Raises:
        TaskError: the caller is not inside a task.
    """
    return cast("ManagedTask", running_task())
