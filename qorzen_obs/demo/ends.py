"""How a workload runs its tasks and counts their ends, which the demo compares with what the service says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qorzen_obs.core.current_task import current_task
from qorzen_obs.errors import TaskManagerClosedError
from qorzen_obs.tasks import TaskInfo, TaskStatus


@dataclass(slots=True)
class Ends:
    """The tasks of a workload that have ended. Belongs to the work loop."""

    tasks: Counter[TaskStatus] = field(default_factory=Counter)
    stopped: bool = False  #: the service stops, or took no more work before the workload was through

    def stop(self) -> None:
        """Have the workload begin nothing more."""
        self.stopped = True

    async def run(self, func: Callable[..., Any], *args: Any, **options: Any) -> TaskInfo | None:
        """Submit a task, wait, count it and return how it ended; None when the service stops and takes no more.

        Call it inside a task. When the caller is cancelled, so is the task that it waits for.
        """
        manager = current_task().manager
        try:
            task_id: str = await manager.submit_task(func, *args, **options)
        except TaskManagerClosedError:
            self.stop()
            return None
        try:
            info: TaskInfo = await manager.wait_for_task(task_id)
        except asyncio.CancelledError:
            await manager.cancel_task(task_id, reason="the task that waits for it was cancelled")
            raise
        self.tasks[info.status] += 1
        return info
