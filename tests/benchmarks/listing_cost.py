"""What a list of tasks costs, with few and with many live: `get_tasks`, and a page of `GET /api/tasks`."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from qorzen_obs.server.tasks import Order, TaskFilter, select
from qorzen_obs.settings import Settings, TaskSettings
from qorzen_obs.tasks import TaskPriority
from qorzen_obs.testing import open_test_manager

LIVE = (1_000, 10_000, 30_000)
ROUNDS = 15


async def median_ms(call: Callable[[], Awaitable[object]]) -> float:
    """Return how much of the processor a call takes."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        await call()
        seconds.append(time.thread_time() - started)
    return statistics.median(seconds) * 1_000


async def measure(live: int) -> list[float]:
    """Return the milliseconds of each list with so many live tasks."""
    settings = Settings(tasks=TaskSettings(max_pending=live, max_concurrent_tasks=1))
    priorities = list(TaskPriority)
    async with open_test_manager(settings) as tasks:
        for number in range(live):
            await tasks.submit_task(asyncio.Event().wait, priority=priorities[number % len(priorities)])

        async def page(order: Order) -> None:
            select(tasks.looks.records(), TaskFilter(), order, None, 100)

        return [
            await median_ms(lambda: tasks.get_tasks(limit=1)),
            await median_ms(lambda: tasks.get_tasks(limit=100)),
            *[await median_ms(lambda order=order: page(order)) for order in (Order.NEWEST, Order.PRIORITY)],  # type: ignore[misc]  # a default is its argument
        ]


def main() -> None:
    """Print the table."""
    print("Milliseconds of processor time for a list, the median of 15")
    print(f"{'live':>10}{'get_tasks(1)':>16}{'get_tasks(100)':>16}{'page, newest':>16}{'page, priority':>16}")
    for live in LIVE:
        print(f"{live:>10,}" + "".join(f"{ms:>16.2f}" for ms in asyncio.run(measure(live))))
