"""The cost of one no-op async task, next to a bare asyncio task in the same run.

Submits TASKS tasks with at most OUTSTANDING unfinished ones, and waits until the last event is delivered. The
variants take turns, so that a busy moment of the machine hits all of them; the median of the rounds counts,
and the ratio to the bare task is the figure.
"""

from __future__ import annotations

import asyncio
import io
import statistics
import time
from collections.abc import Awaitable, Callable

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracerProvider

from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.event_bus_manager import EventBusManager
from qorzen_obs.core.logger_manager import LoggerManager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.settings import Settings, TaskSettings
from qorzen_obs.telemetry.span_store import SpanStore

TASKS = 20_000
OUTSTANDING = 1_000
ROUNDS = 3


async def no_op() -> None:
    """The task."""


async def bare() -> float:
    """Run the tasks with asyncio alone; return seconds."""
    gate = asyncio.Semaphore(OUTSTANDING)

    async def one() -> None:
        await no_op()
        gate.release()

    started = time.perf_counter()
    tasks = set()
    for _ in range(TASKS):
        await gate.acquire()
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return time.perf_counter() - started


async def managed(*, spans: bool, logs: bool) -> float:
    """Run the tasks through a manager, with exact metrics, and spans and lines as asked; return seconds."""
    settings = Settings(tasks=TaskSettings(max_concurrent_tasks=OUTSTANDING))
    loggers = LoggerManager("info" if logs else "off", io.StringIO())
    concurrency, events, config = ConcurrencyManager(), EventBusManager(), ConfigManager(settings)
    for manager in (concurrency, events, loggers, config):
        await manager.initialize()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SpanStore())
    tasks = TaskManager(
        concurrency,
        events,
        loggers,
        config,
        tracer_provider=provider if spans else NoOpTracerProvider(),
    )
    await tasks.initialize()
    gate = asyncio.Semaphore(OUTSTANDING)

    async def one() -> None:
        await no_op()
        gate.release()

    started = time.perf_counter()
    for _ in range(TASKS):
        await gate.acquire()
        await tasks.submit_task(one)
    await tasks.shutdown()  # waits for the tasks and for the event feed
    seconds = time.perf_counter() - started
    assert tasks.status()["tasks"]["by_status"]["completed"] == TASKS
    await concurrency.shutdown()
    return seconds


VARIANTS: dict[str, Callable[[], Awaitable[float]]] = {
    "bare asyncio.create_task": bare,
    "metrics only": lambda: managed(spans=False, logs=False),
    "metrics and log line": lambda: managed(spans=False, logs=True),
    "metrics and recorded span": lambda: managed(spans=True, logs=False),
    "full observation": lambda: managed(spans=True, logs=True),
}


def main() -> None:
    """Print the table."""
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(ROUNDS):
        for name, run in VARIANTS.items():
            seconds[name].append(asyncio.run(_timed(run)))
    base = statistics.median(seconds["bare asyncio.create_task"])
    print(
        f"Cost of a no-op async task: {TASKS:,} tasks, {OUTSTANDING:,} outstanding, median of {ROUNDS} rounds"
    )
    print(f"{'':28}{'µs a task':>10}{'ratio':>8}   spread")
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = f"{min(times) / base:.1f}x to {max(times) / base:.1f}x"
        print(f"{name:28}{median / TASKS * 1e6:>10.1f}{median / base:>7.1f}x   {spread}")


async def _timed(run: Callable[[], Awaitable[float]]) -> float:
    return await run()
