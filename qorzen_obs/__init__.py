"""A task manager for asyncio services in which nothing runs unobserved.

async with open_task_manager(http=True) as tasks:
    value = await tasks.run(callable, argument)
"""

from qorzen_obs.app import open_task_manager
from qorzen_obs.core.base import QorzenManager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.current import current_task, track
from qorzen_obs.registry import task
from qorzen_obs.settings import Settings
from qorzen_obs.tasks import TaskCategory, TaskInfo, TaskPriority, TaskProgress, TaskStatus

__all__ = [
    "QorzenManager",
    "Settings",
    "TaskCategory",
    "TaskInfo",
    "TaskManager",
    "TaskPriority",
    "TaskProgress",
    "TaskStatus",
    "current_task",
    "open_task_manager",
    "task",
    "track",
]
