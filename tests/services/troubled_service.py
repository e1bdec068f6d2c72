"""A service in which everything that a dashboard shows goes wrong, again and again; hosted by `qorzen-obs serve`."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from qorzen_obs import (
    Retry,
    TaskCategory,
    TaskManager,
    TaskPriority,
    current_task,
    exponential,
    task,
    with_options,
)
from qorzen_obs.errors import TaskQueueFullError
from qorzen_obs.tasks import TaskStatus

ROUND_SECONDS = 1.0
FLOOD = 150  # more than the test lets wait
BLOCK_SECONDS = 0.3


class UpstreamError(Exception):
    """What it calls is broken."""


@task(name="work")
def work() -> int:
    time.sleep(0.02)
    return sum(range(10_000))


@task(name="compute", engine="process")
def compute() -> int:
    return sum(range(100_000))


@task(name="fail", category="plugin")
async def fail() -> None:
    raise UpstreamError("it is broken")


@task(name="flaky", category="io", retry=Retry(max_attempts=2, backoff=exponential(0.05)))
async def flaky() -> None:
    raise UpstreamError("it is broken, every time")


@task(name="too slow", category="user", timeout=0.1)
async def too_slow() -> None:
    await asyncio.sleep(60)


@task(name="cancelled", category="background", timeout=math.inf)
async def to_be_cancelled() -> None:
    await asyncio.Event().wait()


@task(name="stubborn", category="background")
def stubborn() -> None:
    """Heed no token, so that it is abandoned, and end late."""
    time.sleep(1.0)


@task(name="block", category="core")
async def block() -> None:
    time.sleep(BLOCK_SECONDS)  # noqa: ASYNC251 - that is its purpose


@task(name="one at a time", category="io", max_concurrent=1)
async def one_at_a_time() -> None:
    await asyncio.sleep(0.01)


@task(name="one place", category="io", max_concurrent=1)
async def takes_the_place() -> None:
    await asyncio.sleep(0.5)


@task(at_start=True, name="trouble", category="core", priority="critical", timeout=math.inf)
async def trouble() -> None:
    """Go wrong, again and again."""
    manager: TaskManager = current_task().manager
    for number in itertools.count():
        if number % 2:
            await manager.pause(TaskCategory.USER)
        else:
            await manager.resume(TaskCategory.USER)
        await _go_wrong(manager)
        if number == 0:
            print("in trouble", flush=True)  # noqa: T201 - the test waits for it
        await asyncio.sleep(ROUND_SECONDS)


async def _go_wrong(manager: TaskManager) -> None:
    logging.getLogger("troubled").warning("here it comes again")
    gc.collect()
    for category, priority in itertools.product(TaskCategory, TaskPriority):
        await _submit(manager, work, category=category, priority=priority)
    jobs: tuple[Callable[..., Any], ...] = (compute, fail, flaky, too_slow, block, takes_the_place)
    for job in jobs:
        await _submit(manager, job)
    await _submit(manager, with_options(takes_the_place, deadline=0.1))  # which passes while the other has it
    unwanted: tuple[Callable[..., Any], ...] = (to_be_cancelled, stubborn)
    for job in unwanted:
        task_id = await _submit(manager, job, priority=TaskPriority.CRITICAL)
        if task_id is not None:
            await _until_running(manager, task_id)
            await manager.cancel_task(task_id)
    for _ in range(FLOOD):
        await _submit(manager, one_at_a_time, priority=TaskPriority.LOW)


async def _submit(manager: TaskManager, job: Callable[..., Any], **options: Any) -> str | None:
    """Submit it with a trace of its own, as that of `trouble` never ends; None where it is refused."""
    try:
        return await manager.submit_task(with_options(job, new_trace=True), **options)
    except TaskQueueFullError:
        return None


async def _until_running(manager: TaskManager, task_id: str) -> None:
    while (info := await manager.get_task_info(task_id)) and info.status is TaskStatus.PENDING:  # noqa: ASYNC110 - a start sets no Event
        await asyncio.sleep(0.01)
