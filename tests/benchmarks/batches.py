"""What it costs to submit many tasks at once, beside one by one: `start_all`, `start` and `submit_task`.

Into a queue that nothing leaves, which is the cost of submitting alone, and from the first submission to the last end,
by a manager with all of its observation. In a round each way takes its turn, and a ratio is taken within the round.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from qorzen_obs import TaskManager
from qorzen_obs.settings import Settings, TaskSettings
from tests.performance.observed import observed

BATCHES: Final = (10, 100, 1_000, 10_000)
ROUNDS: Final = 15
SLOTS: Final = 100


async def no_op(number: int) -> None:
    """The task."""


async def submitted_one_by_one(tasks: TaskManager, number: int) -> list[str]:
    """The ids alone."""
    return [await tasks.submit_task(no_op, one, category="user") for one in range(number)]


async def started_one_by_one(tasks: TaskManager, number: int) -> list[str]:
    """A handle each."""
    handles = [await tasks.start(no_op, one, category="user") for one in range(number)]
    return [handle.task_id for handle in handles]


async def started_at_once(tasks: TaskManager, number: int) -> list[str]:
    """A handle each, all or nothing."""
    handles = await tasks.start_all([partial(no_op, one) for one in range(number)], category="user")
    return [handle.task_id for handle in handles]


Way = Callable[[TaskManager, int], Awaitable[list[str]]]
WAYS: Final[tuple[Way, ...]] = (submitted_one_by_one, started_one_by_one, started_at_once)


async def microseconds(tasks: TaskManager, way: Way, number: int, *, to_the_end: bool) -> float:
    """Return what a task takes one way."""
    if not to_the_end:
        await tasks.pause("user")
    gc.collect()
    gc.disable()
    started = time.perf_counter()
    ids = await way(tasks, number)
    if to_the_end:
        for task_id in ids:
            await tasks.wait_for_task(task_id)
    seconds = time.perf_counter() - started
    gc.enable()
    if not to_the_end:
        for task_id in ids:
            await tasks.cancel_task(task_id)
        await tasks.resume("user")
    return seconds / number * 1e6


async def measure(number: int, *, to_the_end: bool) -> list[list[float]]:
    """Return for each way what it took in each round."""
    settings = Settings(tasks=TaskSettings(max_concurrent_tasks=SLOTS, max_pending=2 * max(BATCHES)))
    with open(os.devnull, "w") as log:  # noqa: ASYNC230, PTH123 - never waits
        async with observed(settings, log) as tasks:
            rounds = [
                [await microseconds(tasks, way, number, to_the_end=to_the_end) for way in WAYS]
                for _ in range(ROUNDS + 1)
            ]
    return [list(way) for way in zip(*rounds[1:], strict=True)]  # the first one warms up


def main() -> None:
    """Print both tables."""
    for to_the_end, title in ((False, "To submit a task"), (True, "From its submission to its end")):
        print(f"{title}, µs a task, the median of {ROUNDS} (start_all / submit_task in the same round)")
        print(f"{'tasks':>10}{'submit_task':>16}{'start':>16}{'start_all':>22}")
        for number in BATCHES:
            one_by_one, handles, at_once = asyncio.run(measure(number, to_the_end=to_the_end))
            ratio = statistics.median(ours / theirs for ours, theirs in zip(at_once, one_by_one, strict=True))
            print(
                f"{number:>10,}{statistics.median(one_by_one):>16.1f}{statistics.median(handles):>16.1f}"
                f"{statistics.median(at_once):>14.1f} ({ratio:.2f}x)"
            )
        print()
