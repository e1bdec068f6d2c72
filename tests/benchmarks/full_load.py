"""A service whose loop is never idle: what watching it adds to the lag of its loop, and what becomes of its spans.

Everything is observed as by default: each span is offered to the tail sampler, and what it keeps is exported. The
watchers and the collector are processes of their own, which take their share of the machine's processors too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from qorzen_obs.app import Service
from qorzen_obs.host import SWITCH_SECONDS
from qorzen_obs.settings import ServerSettings, Settings, TelemetrySettings
from tests.benchmarks.collector import collector
from tests.benchmarks.script import Measured, Script, no_op

CALLERS: Final = 16  #: so few that a turn of the loop is short, so many that none is idle
SCRAPES_PER_SECOND: Final = 20
STREAMS: Final = 4
TIMER_SECONDS: Final = 0.001
SLOW_SECONDS: Final = 0.5

#: Scrapes and follows the events, and says so once it does; says how much it got when its standard input ends. It takes
#: as little of the processors as it can: they are to be the service's.
_WATCHER: Final = """
import json, sys, threading, time, urllib.error, urllib.request
url, streams, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
got = {"scrapes": 0, "events": 0, "resets": 0}
def scrape():
    while True:
        urllib.request.urlopen(url + "/metrics").read()
        if not got["scrapes"]: print("ready", flush=True)
        got["scrapes"] += 1
        time.sleep(pause)
def follow():
    stream = urllib.request.urlopen(url + "/api/events")
    while part := stream.read1(65536):
        got["events"] += part.count(b"\\ndata: {")
        got["resets"] += part.count(b"event: reset")
for target in [follow] * streams + [scrape]:
    threading.Thread(target=target, daemon=True).start()
sys.stdin.read()
print(json.dumps(got))
"""


async def lag_alone(tasks: int) -> Measured:
    """Return how late a timer is at full load, p99 in milliseconds, while nobody watches."""
    with _as_a_program(None) as environment:
        async with _service(environment, TelemetrySettings().traces_per_second) as service:
            return Measured(await _lag_p99(service, tasks))


async def lag_watched(tasks: int) -> Measured:
    """Return the same while a process scrapes and follows the events, and a collector takes what is kept."""
    return await _lag_watched(tasks, TelemetrySettings().traces_per_second)


async def lag_all_kept(tasks: int) -> Measured:
    """Return the same with every trace kept and exported."""
    return await _lag_watched(tasks, math.inf)


async def _lag_watched(tasks: int, traces_per_second: float) -> Measured:
    with collector() as endpoint, _as_a_program(endpoint) as environment:
        async with _service(environment, traces_per_second, http=True) as service:
            assert service.ops is not None
            command = ["-c", _WATCHER, service.ops.url, str(STREAMS), str(1 / SCRAPES_PER_SECOND)]
            watcher = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,  # where there are no streams, it says so
            )
            assert watcher.stdout is not None
            await watcher.stdout.readline()
            lag = await _lag_p99(service, tasks)
            said, _ = await watcher.communicate(b"")  # without input, 3.11 would not close the pipe
        got: dict[str, Any] = json.loads(said)
        outcomes = service.parts.tracing.span_outcomes()
        return Measured(lag, facts={**got, "spans_exported": outcomes["exported"]})


async def spans_lost(tasks: int) -> Measured:
    """Return how many spans have no outcome, run at the full rate before a collector that cannot keep up."""
    with collector(SLOW_SECONDS) as endpoint, _as_a_program(endpoint) as environment:
        async with _service(environment, math.inf) as service:
            script = Script()
            await script.run(tasks, lambda: service.tasks.submit_task(script.task))
    outcomes = {name: n for name, n in service.parts.tracing.span_outcomes().items() if n}
    return Measured(tasks - sum(outcomes.values()), facts=outcomes)


@contextlib.asynccontextmanager
async def _service(
    environment: dict[str, str], traces_per_second: float, *, http: bool = False
) -> AsyncIterator[Service]:
    settings = Settings(
        server=ServerSettings(port=0), telemetry=TelemetrySettings(traces_per_second=traces_per_second)
    )
    with open(os.devnull, "w") as out:  # noqa: ASYNC230, PTH123 - never waits
        service = Service(settings, http=http, environment=environment, log_stream=out)
        await service.start()
        try:
            yield service
        finally:
            await service.stop()


@contextlib.contextmanager
def _as_a_program(endpoint: str | None) -> Iterator[dict[str, str]]:
    """Give the environment of a service, and let threads take turns as `serve` does."""
    environment = {} if endpoint is None else {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    os.environ.update(environment)  # the exporter reads it there
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield environment
    finally:
        sys.setswitchinterval(before)


async def _lag_p99(service: Service, tasks: int) -> float:
    left = iter(range(tasks))
    lags = []

    async def caller() -> None:
        for _ in left:
            await service.tasks.run(no_op)

    callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
    while not all(one.done() for one in callers):
        due = time.perf_counter() + TIMER_SECONDS
        await asyncio.sleep(TIMER_SECONDS)
        lags.append((time.perf_counter() - due) * 1e3)
    await asyncio.gather(*callers)
    return statistics.quantiles(lags, n=100)[98] if len(lags) > 1 else lags[0]
