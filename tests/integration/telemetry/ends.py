"""Tasks that end in every way there is."""

import asyncio
from typing import Any

from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.tasks import TaskCategory, TaskPriority


async def fail() -> None:
    raise ValueError("on purpose")


async def overrun() -> None:
    await asyncio.sleep(10)


async def every_kind_of_end(tasks: TaskManager, times: int = 1) -> list[str]:
    """Submit tasks of every kind that complete, fail, time out, and are cancelled while they wait or run."""
    ids = []
    kinds = [(category, priority) for category in TaskCategory for priority in TaskPriority]
    for number in range(times * len(kinds)):
        category, priority = kinds[number % len(kinds)]
        options: dict[str, Any] = {"category": category, "priority": priority}
        ids += [
            await tasks.submit_task(asyncio.sleep, 0, **options),
            await tasks.submit_task(max, 1, 2, **options),
            await tasks.submit_task(fail, **options),
        ]
        if number % 8 == 0:
            ids.append(await tasks.submit_task(overrun, timeout=0.005, **options))
            ids.append(await tasks.submit_task(overrun, **options))
            await tasks.cancel_task(ids[-1])
    for task_id in ids:
        await tasks.wait_for_task(task_id)
    return ids
