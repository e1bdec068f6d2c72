"""What the observation of one no-op async task costs, part by part, next to a bare asyncio task in the same run.

Submits TASKS tasks with at most OUTSTANDING unfinished ones, and waits until the last event is delivered. The
variants take turns, so that a busy moment of the machine hits all of them; the median of the rounds counts, and the
ratios are the figures: to the same manager with that part off, and to a bare asyncio task.
"""

from __future__ import annotations

import asyncio
import io
import math
import statistics
import time
from collections.abc import Awaitable, Callable

from opentelemetry.trace import NoOpTracerProvider

from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.event_bus_manager import EventBusManager
from qorzen_obs.core.logger_manager import LoggerManager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.settings import Settings, TaskSettings, TelemetrySettings
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.setup import set_up_tracing

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


async def managed(
    *, metrics: bool = False, traces: float | None = None, logs: bool = False, ledger: bool = False
) -> float:
    """Run the tasks through a manager with these parts of its observation; return seconds.

    `traces` is how many are kept a second; None makes no spans.
    """
    telemetry = TelemetrySettings(traces_per_second=traces or 0.0, time_ledger=ledger)
    settings = Settings(tasks=TaskSettings(max_concurrent_tasks=OUTSTANDING), telemetry=telemetry)
    loggers = LoggerManager("info" if logs else "off", io.StringIO())
    concurrency, events, config = ConcurrencyManager(), EventBusManager(), ConfigManager(settings)
    for manager in (concurrency, events, loggers, config):
        await manager.initialize()
    tracing = set_up_tracing(telemetry, {}, set_global=False)
    tasks = TaskManager(
        concurrency,
        events,
        loggers,
        config,
        tracer_provider=NoOpTracerProvider() if traces is None else tracing.provider,
        telemetry=TelemetryParts(settings=telemetry),
    )
    await tasks.initialize()
    if not metrics:  # there is no setting that does without
        tasks.stop_observing(tasks.metrics.on_event)
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
    tracing.shutdown()
    return seconds


BARE = "bare asyncio.create_task"
OFF = "manager, nothing observed"
VARIANTS: dict[str, Callable[[], Awaitable[float]]] = {
    BARE: bare,
    OFF: managed,
    "+ metrics": lambda: managed(metrics=True),
    "+ spans, all kept": lambda: managed(traces=math.inf),
    "+ spans, sampled out": lambda: managed(traces=0.0),
    "+ log line": lambda: managed(logs=True),
    "+ time ledger": lambda: managed(ledger=True),
    "everything": lambda: managed(metrics=True, traces=math.inf, logs=True, ledger=True),
}


def main() -> None:
    """Print the table."""
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(ROUNDS):
        for name, run in VARIANTS.items():
            seconds[name].append(asyncio.run(_timed(run)))
    bare_seconds, off_seconds = (statistics.median(seconds[name]) for name in (BARE, OFF))
    print(
        f"Cost of a no-op async task: {TASKS:,} tasks, {OUTSTANDING:,} outstanding, median of {ROUNDS} rounds"
    )
    print(f"{'':28}{'µs a task':>10}{'to bare':>9}{'to off':>8}   spread to off")
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = f"{min(times) / off_seconds:.2f}x to {max(times) / off_seconds:.2f}x"
        ratios = f"{median / bare_seconds:>8.1f}x{median / off_seconds:>7.2f}x"
        print(f"{name:28}{median / TASKS * 1e6:>10.1f}{ratios}   {spread}")


async def _timed(run: Callable[[], Awaitable[float]]) -> float:
    return await run()
