"""How many bytes a task takes while it is pending and after its end, a trace that is kept, and all details of a task.

A program, run in a process of its own, that prints its figures as JSON. tracemalloc sees the memory that Python's
objects take, without the allocator's losses. Now and then a table grows meanwhile that has to do with the number of
tasks only in the long run, so each figure is the least of several.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import os
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TextIO

from opentelemetry.sdk.trace import TracerProvider

from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.settings import Settings, TaskSettings, TelemetrySettings
from qorzen_obs.telemetry.log_records import TaskLogHandler
from tests.performance.observed import observed

TASKS: Final = 1_000
WARM_UP: Final = 200
BATCH: Final = 100
TIMES: Final = 3
PENDING: Final = "pending task"
WHOLE: Final = "ended task, kept whole with its log line"
OUTLINE: Final = "ended task, its outline"
TRACE: Final = "kept trace of one span"
DETAILS: Final = "ended task with its span and three log lines"
WITH_DETAILS: Final = 9_000  #: 15 minutes at 10 a second

LOGGER: Final = logging.getLogger("shop")
NOTHING_KEPT: Final = TelemetrySettings(traces_per_second=0, watch_loop=False)
ALL_KEPT: Final = TelemetrySettings(
    traces_per_second=math.inf, keep_traces=2 * TASKS, keep_spans=2 * TASKS, watch_loop=False
)


async def no_op() -> None:
    """The task."""


async def wait_for_ever() -> None:
    """The task that keeps its slot."""
    await asyncio.Event().wait()


async def run(tasks: TaskManager, number: int) -> None:
    """Run tasks to their ends."""
    for _ in range(number // BATCH):
        task_id = ""
        for _ in range(BATCH):
            task_id = await tasks.submit_task(no_op)
        await tasks.wait_for_task(task_id)


async def only_queue(tasks: TaskManager, number: int) -> None:
    """Submit tasks of which the very first keeps the only slot."""
    for _ in range(number):
        await tasks.submit_task(wait_for_ever)


async def at_rest() -> int:
    """Return how many bytes are in use once events and log lines have gone on their way."""
    before, now = -1, 0
    while now != before:
        await asyncio.sleep(0.2)
        gc.collect()
        before, now = now, tracemalloc.get_traced_memory()[0]
    return now


async def growth(
    script: Callable[[TaskManager, int], Awaitable[None]],
    log: TextIO,
    settings: TaskSettings,
    telemetry: TelemetrySettings = NOTHING_KEPT,
    *,
    sampled: bool = False,
) -> float:
    """Return by how many bytes a task memory grows at least, of TIMES measurements."""
    return min([await _growth(script, log, settings, telemetry, sampled) for _ in range(TIMES)])


async def _growth(
    script: Callable[[TaskManager, int], Awaitable[None]],
    log: TextIO,
    settings: TaskSettings,
    telemetry: TelemetrySettings,
    sampled: bool,
) -> float:
    """Measure once; where it is `sampled`, with what the sampler remembers of a task."""
    provider = None if sampled else TracerProvider(shutdown_on_exit=False)
    every = Settings(tasks=settings, telemetry=telemetry)
    async with observed(every, log, tracer_provider=provider) as tasks:
        await script(tasks, WARM_UP)
        before = await at_rest()
        await script(tasks, TASKS)
        return (await at_rest() - before) / TASKS


async def three_lines(order: int) -> None:
    """A task that says what it does, as most do."""
    for step in ("order received", "payment confirmed", "parcel handed over"):
        LOGGER.info("%s", step, extra={"order": order, "customer": f"customer {order}", "amount": 19.99})


async def with_details(tasks: TaskManager, number: int) -> None:
    """Run such tasks to their ends."""
    for _ in range(number // BATCH):
        ids = [await tasks.submit_task(three_lines, order, name=f"order {order}") for order in range(BATCH)]
        for task_id in ids:
            await tasks.wait_for_task(task_id)


async def details(log: TextIO) -> float:
    """Return by how many bytes a task memory grows with the settings that hold where nothing is set.

    Raises:
        AssertionError: a task, its span or a line of it is gone.
    """
    telemetry = TelemetrySettings(traces_per_second=math.inf, watch_loop=False)
    handler = TaskLogHandler()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    async with observed(Settings(telemetry=telemetry), log) as tasks:
        await run(tasks, WARM_UP)
        before = await at_rest()
        await with_details(tasks, WITH_DETAILS)
        grown = await at_rest() - before
        looks = tasks.looks
        records = [record for record in looks.kept_records() if record.name.startswith("order")]
        assert len(records) == WITH_DETAILS
        assert {len(looks.log_of(record.task_id).items) for record in records} == {4}
        traces = looks.traces
        assert traces is not None
        spans = [traces.trace(record.info().trace_id or "") for record in records]
        assert all(spans)
        del spans
        # Whoever reads them keeps none of what was made to be read.
        assert await at_rest() - before < 1.1 * grown
    return grown / WITH_DETAILS


async def measure(log: TextIO) -> dict[str, int]:
    """Return the figures."""
    whole, outlines = TaskSettings(keep_completed_tasks=2 * TASKS), TaskSettings(keep_completed_tasks=0)
    dropped = await growth(run, log, outlines, sampled=True)
    kept = await growth(run, log, outlines, ALL_KEPT, sampled=True)
    return {
        PENDING: round(await growth(only_queue, log, TaskSettings(max_concurrent_tasks=1))),
        WHOLE: round(await growth(run, log, whole)),
        OUTLINE: round(await growth(run, log, outlines)),
        TRACE: round(kept - dropped),
        DETAILS: round(await details(log)),
    }


def main() -> None:
    """Print the figures."""
    tracemalloc.start()
    with Path(os.devnull).open("w") as log:
        json.dump(asyncio.run(measure(log)), sys.stdout)


if __name__ == "__main__":
    main()
