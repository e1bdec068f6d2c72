"""What askers get, and what they add to the lag of a busy work loop: scrapes, lists of tasks, 100 event streams.

The same routes are served by the ops plane and, beside it, on the work loop itself (`create_app`). The loop runs tasks
all the time while a timer of a millisecond measures how late it is. Askers are processes of their own: wrk, and one
client that reads every event and notes how old it is. `--small` is a quick look.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from qorzen_obs.app import Service
from qorzen_obs.host import SWITCH_SECONDS
from qorzen_obs.server.app import create_app
from qorzen_obs.settings import ServerSettings, Settings, TelemetrySettings

STREAMS: Final = 100
IDLE_STREAMS: Final = 300
CONNECTIONS: Final = 4
TASK_EVERY_SECONDS: Final = 0.005
ROUTES: Final = ("/metrics", "/api/tasks")
_UNITS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}

_FOLLOWER: Final = """
import datetime, json, sys, time, urllib.request
ages, until = [], time.monotonic() + float(sys.argv[2])
for line in urllib.request.urlopen(sys.argv[1]):
    if line.startswith(b'data: {"kind"'):
        at = datetime.datetime.fromisoformat(json.loads(line[6:])["at"])
        ages.append(time.time() - at.timestamp())
    if time.monotonic() > until:
        break
ages.sort()
print(json.dumps([len(ages), ages[int(len(ages) * 0.99)] * 1e3 if ages else 0.0]))
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run has shown."""

    lag_ms: float  #: p99 of the work loop
    per_second: float = 0.0  #: answers, or events of one stream
    p99_ms: float = 0.0  #: of an answer, or the age of an event when it arrives


@contextlib.asynccontextmanager
async def service(*, http: bool) -> AsyncIterator[Service]:
    """A service as `serve` has it, without log lines."""
    settings = Settings(server=ServerSettings(port=0), telemetry=TelemetrySettings(log_level="off"))
    running = Service(settings, http=http, environment={})
    await running.start()
    try:
        yield running
    finally:
        await running.stop(grace_seconds=0)


@contextlib.asynccontextmanager
async def ops_plane() -> AsyncIterator[tuple[Service, str]]:
    """Served by a thread with a loop of its own."""
    async with service(http=True) as running:
        assert running.ops is not None
        yield running, running.ops.url


@contextlib.asynccontextmanager
async def work_loop() -> AsyncIterator[tuple[Service, str]]:
    """Served by the loop that runs the tasks."""
    async with service(http=False) as running:
        runner = web.AppRunner(create_app(running.tasks), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield running, f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


PLANES: Final[dict[str, Callable[[], AbstractAsyncContextManager[tuple[Service, str]]]]] = {
    "ops plane": ops_plane,
    "work loop": work_loop,
}


async def busy_lag(running: Service, seconds: float) -> float:
    """Run a task every TASK_EVERY_SECONDS; return the p99 of how late a timer was, in milliseconds."""
    busy = True

    async def work() -> None:
        sum(range(2_000))

    async def submit() -> None:
        while busy:
            await running.tasks.submit_task(work)
            await asyncio.sleep(TASK_EVERY_SECONDS)

    submitting = asyncio.create_task(submit())
    lags = []
    until = time.monotonic() + seconds
    while (started := time.monotonic()) < until:
        await asyncio.sleep(0.001)
        lags.append((time.monotonic() - started - 0.001) * 1e3)
    busy = False
    await submitting
    return statistics.quantiles(lags, n=100)[98]


async def wrk(url: str, connections: int, seconds: float) -> str:
    """Ask all the time, from so many connections; return what wrk says."""
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{seconds:g}s", url]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    return (await process.communicate())[0].decode()


async def follow(url: str, seconds: float) -> tuple[int, float]:
    """Read every event of one stream; return how many there were, and the p99 of their age in milliseconds."""
    command = [sys.executable, "-c", _FOLLOWER, url, str(seconds)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    events, age = json.loads((await process.communicate())[0])
    return events, age


async def nobody(plane: str, seconds: float) -> Figures:
    """Only the tasks."""
    async with PLANES[plane]() as (running, _):
        return Figures(await busy_lag(running, seconds))


async def asked(plane: str, route: str, seconds: float) -> Figures:
    """A route is asked for without a pause."""
    async with PLANES[plane]() as (running, url):
        await busy_lag(running, 0.5)  # so that there is something to list
        asking = asyncio.create_task(wrk(url + route, CONNECTIONS, max(1.0, seconds)))
        lag = await busy_lag(running, seconds)
        said = await asking
    (rate,) = re.findall(r"Requests/sec:\s+([\d.]+)", said)
    ((p99, unit),) = re.findall(r"99%\s+([\d.]+)(us|ms|s)", said)
    return Figures(lag, float(rate), float(p99) * _UNITS[unit])


async def streamed(plane: str, seconds: float) -> Figures:
    """STREAMS clients follow; one of them tells how old the events are."""
    async with PLANES[plane]() as (running, url):
        crowd = asyncio.create_task(wrk(f"{url}/api/events", STREAMS - 1, max(1.0, seconds) + 1))
        one = asyncio.create_task(follow(f"{url}/api/events", seconds))
        lag = await busy_lag(running, seconds + 0.5)
        events, age = await one
        await crowd
        evicted = running.tasks.looks.event_ring.evicted
    if evicted:
        print(f"({evicted} of the streams on the {plane} were cut off: this machine cannot read them all)")
    return Figures(lag, events / seconds, age)


async def idle_share(seconds: float) -> float:
    """Return the share of a processor that the ops plane's thread takes for IDLE_STREAMS that nothing is told."""
    async with ops_plane() as (running, url):
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "qorzen-ops")
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        crowd = asyncio.create_task(wrk(f"{url}/api/events", IDLE_STREAMS, seconds + 2))
        while running.tasks.looks.event_ring.streams < IDLE_STREAMS:  # noqa: ASYNC110 - counted on another thread
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        started, used = time.monotonic(), time.clock_gettime(clock)
        await asyncio.sleep(seconds)
        share = (time.clock_gettime(clock) - used) / (time.monotonic() - started)
        await crowd
        return share


def main(*, rounds: int = 3, seconds: float = 3.0) -> None:
    """Print the tables: the median of some rounds, in which the variants take turns."""
    if shutil.which("wrk") is None:
        print("wrk is missing: apt-get install wrk")
        return
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    found: dict[tuple[str, str], list[Figures]] = {}
    try:
        for _ in range(rounds):
            for plane in PLANES:
                found.setdefault((plane, "nobody asks"), []).append(asyncio.run(nobody(plane, seconds)))
                for route in ROUTES:
                    found.setdefault((plane, route), []).append(asyncio.run(asked(plane, route, seconds)))
                streams = asyncio.run(streamed(plane, seconds))
                found.setdefault((plane, f"{STREAMS} event streams"), []).append(streams)
        share = asyncio.run(idle_share(seconds))
    finally:
        sys.setswitchinterval(before)
    print(
        f"A busy service that is asked, median of {rounds} rounds of {seconds:g} s; lag is that of the work loop"
    )
    print(f"{'':34}{'per second':>12}{'p99 ms':>10}{'lag p99 ms':>12}{'added ms':>10}")
    for (plane, what), runs in found.items():
        base = statistics.median(run.lag_ms for run in found[plane, "nobody asks"])
        lag, rate, p99 = (
            statistics.median(getattr(run, name) for run in runs)
            for name in ("lag_ms", "per_second", "p99_ms")
        )
        asked_for = f"{rate:>12.0f}{p99:>10.1f}" if rate else " " * 22
        print(f"{plane:12}{what:22}{asked_for}{lag:>12.2f}{lag - base:>10.2f}")
    print(
        "Of streams: events a second that each client gets, and their age when it has them; batches are 100 ms."
    )
    print(f"Share of a processor that {IDLE_STREAMS} idle streams take: {share:.2%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="one round of a second")
    if parser.parse_args().small:
        main(rounds=1, seconds=1.0)
    else:
        main()
