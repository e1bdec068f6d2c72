"""How late a busy work loop runs its timers while it is scraped, next to no scrape and to rendering on that loop.

Scrapes come from another process, SCRAPES_PER_SECOND of them one after the other, far more than a Prometheus sends.
The scenarios take turns; the p99 of the lag within one run is the figure.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from prometheus_client.openmetrics.exposition import generate_latest

from qorzen_obs.app import Service
from qorzen_obs.host import SWITCH_SECONDS
from qorzen_obs.settings import ServerSettings, Settings, TelemetrySettings

SECONDS = 5.0
ROUNDS = 3
SCRAPES_PER_SECOND = 10
TIMER_SECONDS = 0.005
BUSY_TASKS = 20

CLIENT = """
import sys, time, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Accept": "application/openmetrics-text"})
while True:
    urllib.request.urlopen(request).read()
    time.sleep(1 / float(sys.argv[2]))
"""


@asynccontextmanager
async def nobody(service: Service) -> AsyncIterator[None]:
    """Let nobody scrape."""
    yield


@asynccontextmanager
async def by_the_ops_plane(service: Service) -> AsyncIterator[None]:
    """Scrape as Prometheus does."""
    assert service.ops is not None
    command = (sys.executable, "-c", CLIENT, f"{service.ops.url}/metrics", str(SCRAPES_PER_SECOND))
    client = await asyncio.create_subprocess_exec(*command)
    try:
        yield
    finally:
        client.kill()
        await client.wait()


@asynccontextmanager
async def on_the_work_loop(service: Service) -> AsyncIterator[None]:
    """Render where the tasks run, as a handler of the client library in the same application does."""

    async def render() -> None:
        while True:
            generate_latest(service.registry)  # type: ignore[no-untyped-call]  # theirs
            await asyncio.sleep(1 / SCRAPES_PER_SECOND)

    rendering = asyncio.create_task(render())
    try:
        yield
    finally:
        rendering.cancel()


async def lags(scrapes: Callable[[Service], AbstractAsyncContextManager[None]]) -> list[float]:
    """Return how late each timer was, in seconds, while tasks keep the loop busy."""
    settings = Settings(
        server=ServerSettings(port=0), telemetry=TelemetrySettings(log_level="off", traces_per_second=1.0)
    )
    service = Service(settings, http=True, environment={})
    await service.start()
    working = [asyncio.create_task(_work(service)) for _ in range(BUSY_TASKS)]
    seen = []
    async with scrapes(service):
        await asyncio.sleep(0.5)  # the client has started
        loop = asyncio.get_running_loop()
        end = loop.time() + SECONDS
        while (due := loop.time() + TIMER_SECONDS) < end:
            await asyncio.sleep(TIMER_SECONDS)
            seen.append(loop.time() - due)
    for one in working:
        one.cancel()
    await asyncio.gather(*working, return_exceptions=True)
    await service.stop(grace_seconds=0)
    return seen


async def _work(service: Service) -> None:
    while True:
        await service.tasks.run(_step)


async def _step() -> None:
    until = time.perf_counter() + 0.0002
    while time.perf_counter() < until:
        pass
    await asyncio.sleep(0.001)


SCENARIOS = {
    "no scrape": nobody,
    "through the ops plane": by_the_ops_plane,
    "rendered on the loop": on_the_work_loop,
}


def main() -> None:
    """Print the table."""
    sys.setswitchinterval(SWITCH_SECONDS)  # as serve and demo do
    p99: dict[str, list[float]] = {name: [] for name in SCENARIOS}
    median: dict[str, list[float]] = {name: [] for name in SCENARIOS}
    for _ in range(ROUNDS):
        for name, scrapes in SCENARIOS.items():
            seen = asyncio.run(lags(scrapes))
            median[name].append(statistics.median(seen))
            p99[name].append(statistics.quantiles(seen, n=100)[98])
    print(
        f"Lag of a busy work loop, {SCRAPES_PER_SECOND} scrapes a second: median of {ROUNDS} rounds of {SECONDS:g} s"
    )
    print(f"{'':24}{'p50 ms':>8}{'p99 ms':>8}{'added':>8}{'ratio':>8}")
    base = statistics.median(p99["no scrape"])
    for name in SCENARIOS:
        middle, high = statistics.median(median[name]), statistics.median(p99[name])
        print(
            f"{name:24}{middle * 1e3:>8.2f}{high * 1e3:>8.2f}{(high - base) * 1e3:>8.2f}{high / base:>7.2f}x"
        )


if __name__ == "__main__":
    main()
