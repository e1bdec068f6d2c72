"""A service in which nothing goes wrong: some work of each category, well below what it could do."""

from __future__ import annotations

import asyncio
import math
import random
import time

from qorzen_obs import TaskManager, TaskPriority, current_task, task, with_options

PAUSE_SECONDS = 0.2


@task(name="look up", category="ui", priority="high")
async def look_up() -> None:
    await asyncio.sleep(random.uniform(0.005, 0.04))


@task(name="read file", category="io")
def read_file() -> None:
    time.sleep(random.uniform(0.01, 0.2))


@task(name="tidy up", category="background", priority="low")
async def tidy_up() -> None:
    await asyncio.sleep(random.uniform(0.2, 0.8))


@task(at_start=True, name="steady work", category="core", timeout=math.inf)
async def steady_work() -> None:
    """Submit a little, again and again."""
    manager: TaskManager = current_task().manager
    while True:
        for job in random.choices((look_up, read_file, tidy_up), (6, 3, 1), k=4):
            await manager.submit_task(with_options(job, new_trace=True))
        await manager.submit_task(
            with_options(sum, new_trace=True), range(10), priority=TaskPriority.CRITICAL
        )
        await asyncio.sleep(PAUSE_SECONDS)
