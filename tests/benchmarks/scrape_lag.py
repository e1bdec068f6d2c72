"""What scrapes add to the lag of a busy work loop, and what the loop's watchdog costs.

The loop runs tasks all the time while a timer of a millisecond measures how late it is. The variants take turns; the
ratio of their p99 to that of the loop without scrapes is the figure. The scraper is a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from prometheus_client import generate_latest

from qorzen_obs.app import Service
from qorzen_obs.host import SWITCH_SECONDS
from qorzen_obs.settings import ServerSettings, Settings, TelemetrySettings
from qorzen_obs.telemetry.gil_watch import GilWatch

ROUNDS = 3
SECONDS = 2.0
SCRAPES_PER_SECOND = 20
IDLE_SECONDS = 5.0

_SCRAPER = """
import sys, time, urllib.request
while True:
    urllib.request.urlopen(sys.argv[1]).read()
    time.sleep(float(sys.argv[2]))
"""


@contextlib.asynccontextmanager
async def serving(*, watch_loop: bool = True, gil_watch: GilWatch | None = None) -> AsyncIterator[Service]:
    """A service as `serve` has it, without log lines."""
    telemetry = TelemetrySettings(log_level="off", watch_loop=watch_loop)
    settings = Settings(server=ServerSettings(port=0), telemetry=telemetry)
    service = Service(settings, http=True, environment={}, gil_watch=gil_watch)
    await service.start()
    try:
        yield service
    finally:
        await service.stop(grace_seconds=0)


async def lag_p99(service: Service) -> float:
    """Keep the loop busy for SECONDS; return the p99 of how late a timer was, in milliseconds."""
    busy = True

    async def work() -> None:
        sum(range(2_000))

    async def submit() -> None:
        while busy:
            await service.tasks.submit_task(work)
            await asyncio.sleep(0.001)

    submitting = asyncio.create_task(submit())
    lags = []
    until = time.monotonic() + SECONDS
    while (started := time.monotonic()) < until:
        await asyncio.sleep(0.001)
        lags.append((time.monotonic() - started - 0.001) * 1e3)
    busy = False
    await submitting
    return statistics.quantiles(lags, n=100)[98]


async def unscraped(*, watch_loop: bool = True) -> float:
    """Nobody scrapes."""
    async with serving(watch_loop=watch_loop) as service:
        return await lag_p99(service)


async def scraped() -> float:
    """A process scrapes the ops plane."""
    async with serving() as service:
        assert service.ops is not None
        command = [sys.executable, "-c", _SCRAPER, f"{service.ops.url}/metrics", str(1 / SCRAPES_PER_SECOND)]
        scraper = await asyncio.create_subprocess_exec(*command)
        try:
            return await lag_p99(service)
        finally:
            scraper.kill()
            await scraper.wait()


async def rendered_on_the_loop() -> float:
    """The work loop itself renders as often, as prometheus_client's own aiohttp handler does."""
    async with serving() as service:

        async def render() -> None:
            while True:
                generate_latest(service.parts.registry)
                await asyncio.sleep(1 / SCRAPES_PER_SECOND)

        rendering = asyncio.create_task(render())
        try:
            return await lag_p99(service)
        finally:
            rendering.cancel()


VARIANTS: dict[str, Callable[[], Awaitable[float]]] = {
    "no scrape": unscraped,
    "no scrape, no watchdog": lambda: unscraped(watch_loop=False),
    "scraped by the ops plane": scraped,
    "rendered on the work loop": rendered_on_the_loop,
}


async def watchdog_share(gil_watch: GilWatch | None) -> float:
    """Return the share of a processor that the watchdog of an idle service takes."""
    async with serving(gil_watch=gil_watch):
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "qorzen-watchdog")
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        started, used = time.monotonic(), time.clock_gettime(clock)
        await asyncio.sleep(IDLE_SECONDS)
        return (time.clock_gettime(clock) - used) / (time.monotonic() - started)


def main() -> None:
    """Print both tables."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        lags: dict[str, list[float]] = {name: [] for name in VARIANTS}
        for _ in range(ROUNDS):
            for name, run in VARIANTS.items():
                lags[name].append(asyncio.run(_timed(run)))
        shares = {
            "watchdog": asyncio.run(watchdog_share(None)),
            "watchdog and its timers": asyncio.run(watchdog_share(GilWatch())),
        }
    finally:
        sys.setswitchinterval(before)
    base = statistics.median(lags["no scrape"])
    print(f"Lag of a busy work loop: {SCRAPES_PER_SECOND} scrapes a second, median of {ROUNDS} rounds")
    print(f"{'':28}{'p99 ms':>10}{'ratio':>8}   spread")
    for name, values in lags.items():
        median = statistics.median(values)
        spread = f"{min(values) / base:.1f}x to {max(values) / base:.1f}x"
        print(f"{name:28}{median:>10.2f}{median / base:>7.1f}x   {spread}")
    print(f"Share of a processor that the watchdog of an idle service takes, over {IDLE_SECONDS:g} s")
    for name, share in shares.items():
        print(f"{name:36}{share:>8.3%}")


async def _timed(run: Callable[[], Awaitable[float]]) -> float:
    return await run()


if __name__ == "__main__":
    main()
