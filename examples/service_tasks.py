"""Tasks for a service of their own: `qorzen-obs serve examples.service_tasks`, from the folder above."""

import asyncio
import hashlib
import math
import shutil

from qorzen_obs import TaskCategory, TaskPriority, current_task, health_check, task, track


@task(category=TaskCategory.CORE)
def fingerprint(number: int) -> str:
    """Plain functions run on threads, so that the loop goes on."""
    return hashlib.pbkdf2_hmac("sha256", b"%d" % number, b"salt", 50_000).hex()


@task(category=TaskCategory.BACKGROUND, priority=TaskPriority.LOW)
async def tidy_up() -> None:
    """Async functions run on the loop."""
    for _ in track(range(10), message="tidying up"):
        await asyncio.sleep(0.01)


@task(name="opening", at_start=True, timeout=math.inf)
async def opening() -> int:
    """Runs once when the service has started; submits other tasks and waits for them without holding a slot."""
    manager = current_task().manager
    await manager.submit_task(tidy_up)
    values = await asyncio.gather(*(manager.run(fingerprint, number) for number in range(8)))
    return len(set(values))


@health_check(critical=True, timeout=2.0)
def disk() -> str:
    """/readyz asks it, at most every 5 s; it fails by raising. Async checks run on the loop, plain ones on threads."""
    free = shutil.disk_usage("/").free
    if free < 1_000_000:
        raise OSError("the disk is full")
    return f"{free / 1e9:.0f} GB are free"
