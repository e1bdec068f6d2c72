"""What a collector that does not do its work costs the service: loop lag at a steady pace, and throughput at full load.

Every trace is kept and exported, against a collector that takes everything and against bad ones; first without
exporter. The variants take turns; the ratios within one run are the figures.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import inf

from qorzen_obs.app import Service
from qorzen_obs.host import SWITCH_SECONDS
from qorzen_obs.settings import Settings, TelemetrySettings
from qorzen_obs.telemetry import names
from tests.benchmarks.collector import collector
from tests.integration.telemetry.test_export_faults import MODES

ROUNDS = 3
STEADY_SECONDS = 3.0
TASKS_PER_SECOND = 300
TIMER_SECONDS = 0.005
FULL_TASKS = 4_000
OUTSTANDING = 100

ENVIRONMENT = {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}

COLLECTORS: dict[str, Callable[[], AbstractContextManager[str | None]]] = {
    "no exporter": nullcontext,
    "takes everything": collector,
    **MODES,
}


async def work() -> None:
    """The task."""
    await asyncio.sleep(0)


async def steady(service: Service) -> float:
    """Submit at a steady pace; return the p99 of how late a timer was, in seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + STEADY_SECONDS

    async def submit() -> None:
        while loop.time() < end:
            await service.tasks.submit_task(work)
            await asyncio.sleep(1 / TASKS_PER_SECOND)

    submitting = asyncio.create_task(submit())
    seen = []
    while (due := loop.time() + TIMER_SECONDS) < end:
        await asyncio.sleep(TIMER_SECONDS)
        seen.append(loop.time() - due)
    await submitting
    return statistics.quantiles(seen, n=100)[98]


async def full(service: Service) -> float:
    """Run FULL_TASKS as fast as they go; return tasks a second."""
    left = iter(range(FULL_TASKS))

    async def submit() -> None:
        for _ in left:
            await service.tasks.run(work)

    started = time.perf_counter()
    await asyncio.gather(*(submit() for _ in range(OUTSTANDING)))
    return FULL_TASKS / (time.perf_counter() - started)


async def measure(endpoint: str | None) -> tuple[float, float, float]:
    """Return lag, throughput, and the share of spans that arrived."""
    environment = dict(ENVIRONMENT)
    if endpoint is not None:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    os.environ.update(environment)  # the exporter reads it there
    telemetry = TelemetrySettings(log_level="off", traces_per_second=inf)
    service = Service(Settings(telemetry=telemetry), environment=environment)
    await service.start()
    lag, rate = await steady(service), await full(service)
    await service.stop()
    outcomes = service.parts.tracing.span_outcomes()
    return lag, rate, outcomes[names.SPAN_EXPORTED] / sum(outcomes.values())


def main() -> None:
    """Print the table."""
    sys.setswitchinterval(SWITCH_SECONDS)  # as serve and demo do
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in COLLECTORS}
    for _ in range(ROUNDS):
        for name, collect in COLLECTORS.items():
            with collect() as endpoint:
                seen[name].append(asyncio.run(measure(endpoint)))
    print(
        f"A service before a collector, {TASKS_PER_SECOND} tasks a second and at full load: "
        f"median of {ROUNDS} rounds"
    )
    print(f"{'':18}{'lag p99 ms':>11}{'added':>8}{'tasks/s':>9}{'ratio':>8}{'arrived':>9}")
    medians = {
        name: [statistics.median(column) for column in zip(*rounds, strict=True)]
        for name, rounds in seen.items()
    }
    base_lag, base_rate, _ = medians["takes everything"]
    for name, (lag, rate, arrived) in medians.items():
        added, ratio = (lag - base_lag) * 1e3, rate / base_rate
        print(f"{name:18}{lag * 1e3:>11.2f}{added:>8.2f}{rate:>9.0f}{ratio:>7.2f}x{arrived:>9.0%}")


if __name__ == "__main__":
    main()
