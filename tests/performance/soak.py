"""Everything at once, for a long time, in a process of its own: nothing may grow, and all figures must agree (F26).

`python -m tests.performance.soak [SECONDS]`. The load stops now and then. What is read at such a moment does not
hang on what happens to run, so that a leak of one object in twenty tasks shows within a minute; memory as the
system sees it is judged by its slope.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import linecache
import math
import os
import statistics
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from qorzen_obs.app import Service
from qorzen_obs.core.event_bus_manager import Event
from qorzen_obs.history import memory
from qorzen_obs.server import series
from qorzen_obs.settings import EngineSettings, ServerSettings, Settings, TaskSettings, TelemetrySettings
from qorzen_obs.tasks import TaskStatus
from qorzen_obs.telemetry.trace_buffer import Bounds
from tests.performance.soak_tasks import GRACE_SECONDS, JOBS, RARE_JOBS, Job
from tests.services.process_service import guardians
from tests.support import PATIENCE_SECONDS, metric

USUAL_SECONDS: Final = 1_800.0
WARM_UP_SECONDS: Final = 10.0
FEWEST_READINGS: Final = 12  #: else one a minute
TICK_SECONDS: Final = 0.05
JOBS_A_TICK: Final = 4
MOST_LIVE: Final = 200  #: with more unfinished ones a tick is left out: the rate is bounded by the machine
REST_SECONDS: Final = 60.0
THREADS: Final = 4
OUTLINES: Final = 300
POINTS: Final = 6

PATHS: Final = (
    "/metrics",
    "/status",
    "/livez?verbose",
    "/readyz",
    "/health",
    "/api/tasks",
    "/api/tasks?status=failed",
    "/api/traces",
)

RSS_SLOPE: Final = 1e6 / 3600  #: bytes a second that are no growth, of a soak as long as the usual one
RSS_NOISE: Final = 5e6  #: bytes that are none in a shorter one: the allocator settles, 0.6 MB at a time
BLOCKS: Final = 5_000  #: of memory that are none: some are forgotten by the thousand
OBJECTS: Final = 100  #: of one type that are none
#: How many more count as none: the pools grow up to their limits, and a spare worker process comes and goes.
HELD: Final = {"descriptors": 10, "threads": 2, "asyncio tasks": 0, "worker processes": 1}

SETTINGS: Final = Settings(
    tasks=TaskSettings(
        keep_completed_tasks=100, cancel_grace_seconds=GRACE_SECONDS, max_pending=2 * MOST_LIVE
    ),
    engines=EngineSettings(
        io_threads=THREADS, worker_threads=THREADS, processes=2, process_tasks_per_worker=50
    ),
    server=ServerSettings(port=0),
    # All are kept, for the sampler remembers which it kept: with a budget that takes a quarter of an hour to be full.
    telemetry=TelemetrySettings(
        traces_per_second=math.inf, keep_traces=50, keep_spans=500, keep_log_lines=1_000
    ),
)


class Names(Counter[str]):
    """What was found, by name. The readings keep these, and so leave them out of what they count."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is in use at a moment of rest."""

    at: float  #: monotonic
    rss: int  #: bytes
    blocks: int  #: of memory, that Python has given to objects
    objects: Names  #: that the garbage collector knows, by type
    held: Mapping[str, Names]  #: the keys of HELD, each by name


class SpanCount(SpanProcessor):
    """Counts the spans of this process. Those of a worker process only end here."""

    def __init__(self) -> None:
        self.started = self.ended = 0
        self._open: set[int] = set()
        self._lock = threading.Lock()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        with self._lock:
            self.started += 1
            self._open.add(_id_of(span))

    def on_end(self, span: ReadableSpan) -> None:
        with self._lock:
            if _id_of(span) in self._open:
                self._open.remove(_id_of(span))
                self.ended += 1


def _id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    return 0 if context is None else context.span_id


class Soak:
    """One service under load, with the account of what has to come of it."""

    def __init__(self, service: Service, seconds: float) -> None:
        self.service = service
        self.tasks = service.tasks
        self.spans = SpanCount()
        assert isinstance(service.parts.tracing.provider, TracerProvider)
        service.parts.tracing.provider.add_span_processor(self.spans)
        service.parts.events.subscribe("*", self._on_event)
        self._seconds = seconds
        self._jobs = itertools.cycle(JOBS)
        self._rare_jobs = itertools.cycle(RARE_JOBS)
        self._ids: list[str] = [""]  # the newest task's
        self._events: Counter[str] = Counter()
        self._expected: Counter[str] = Counter()  # events, and `spans`

    async def run(self) -> list[Reading]:
        """Fill what is bounded, warm up, and read what is in use while the load goes on and off."""
        await self._fill()
        await asyncio.gather(*(self._run_job(job) for job in JOBS for _ in range(THREADS)))
        await self._load(WARM_UP_SECONDS)
        readings = [await self._rest()]
        loads = max(FEWEST_READINGS - 1, round(self._seconds / 60))
        for _ in range(loads):
            await self._load(self._seconds / loads)
            readings.append(await self._rest())
            reading, tasks = readings[-1], self._events["task/submitted"]
            say(
                f"{reading.at - readings[0].at:6.0f} s {tasks:9,} tasks {reading.rss / 1e6:7.2f} MB"
                f" {reading.blocks:9,} blocks {reading.objects.total():9,} objects"
                f" {', '.join(f'{names.total()} {what}' for what, names in reading.held.items())}"
            )
        return readings

    async def _fill(self) -> None:
        """Let as many traces be decided as are remembered; what else is bounded, the load fills."""
        tracer = self.service.parts.tracing.provider.get_tracer("tests.soak")
        for number in range(Bounds().decisions):
            tracer.start_span("soak.filler").end()
            if number % 1_000 == 0:
                await asyncio.sleep(0)
        self._expected["spans"] += Bounds().decisions

    async def _on_event(self, event: Event) -> None:
        self._events[event.event_type] += 1

    async def _load(self, seconds: float) -> None:
        """Submit at a steady rate, and ask the ops plane."""
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(self._ask, until))
            for tick in itertools.count():
                if time.monotonic() >= until:
                    break
                if tick % 20 == 0:
                    group.create_task(self._run_job(next(self._rare_jobs)))
                if self._live() < MOST_LIVE:
                    for _ in range(JOBS_A_TICK):
                        group.create_task(self._run_job(next(self._jobs)))
                await asyncio.sleep(TICK_SECONDS)

    async def _run_job(self, job: Job) -> None:
        """Submit one task, and cancel it where that is its end."""
        retries = max(0, job.attempts - 1)
        self._expected.update(
            {
                "task/submitted": 1 + job.children,
                "task/started": job.attempts + job.children,
                "task/retrying": retries,
                f"task/{job.status.value}": 1,
                "spans": job.attempts + job.spans + job.children,
            }
        )
        self._expected["task/completed"] += job.children
        task_id = self._ids[0] = await self.tasks.submit_task(job.func)
        if job.cancel:
            while job.attempts and self._is_pending(task_id):  # noqa: ASYNC110 - a start sets no Event
                await asyncio.sleep(0.005)
            await self.tasks.cancel_task(task_id)

    def _is_pending(self, task_id: str) -> bool:
        info = self.tasks.find(task_id)
        return info is not None and info.status is TaskStatus.PENDING

    def _live(self) -> int:
        by_status: dict[str, int] = self.tasks.status()["tasks"]["by_status"]
        return by_status["pending"] + by_status["running"]

    def _ask(self, until: float) -> None:
        """Read what the ops plane serves, one thing after the other."""
        while time.monotonic() < until:
            of_a_task = (
                f"/api/tasks/{self._ids[0]}{part}" for part in ("", "/trace", "/logs", "/why", "/stack")
            )
            for path in (*PATHS, *of_a_task):
                get(f"{self.tasks.ops_url}{path}")
                time.sleep(TICK_SECONDS)

    async def _rest(self) -> Reading:
        """Wait until nothing moves and all figures agree; read what is in use."""
        deadline = time.monotonic() + REST_SECONDS
        while problems := self._problems():
            if time.monotonic() > deadline:
                raise AssertionError("not at rest: " + "; ".join(problems))
            await asyncio.sleep(0.1)
        in_use: dict[str, Names] = {}
        while in_use != (in_use := held()):  # noqa: ASYNC110 - other threads close things, and set no Event
            await asyncio.sleep(0.2)
        linecache.clearcache()  # of whatever file a stack was shown: it ends with the program's text
        gc.collect()
        return Reading(
            time.monotonic(),
            resident_bytes(),
            sys.getallocatedblocks(),
            Names(type(one).__qualname__ for one in gc.get_objects() if type(one) is not Names),
            in_use,
        )

    def _problems(self) -> list[str]:
        """Return what is not as it has to be at rest."""
        status = self.tasks.status()
        expected, telemetry = self._expected, status["telemetry"]
        ends = {end: expected[f"task/{end}"] for end in ("completed", "failed", "cancelled")}
        by_metric = {
            name: int(metric(self.tasks.registry, "qorzen_tasks", status=name))
            for name in status["tasks"]["by_status"]
        }
        told = {kind: n for kind, n in self._events.items() if kind != "task/progress"}
        agree: dict[str, tuple[object, object]] = {
            "status()": (status["tasks"]["by_status"], {"pending": 0, "running": 0, **ends}),
            "metrics": (by_metric, status["tasks"]["by_status"]),
            "events": (told, {kind: n for kind, n in expected.items() if kind != "spans"}),
            "abandoned attempts": (sum(slots["abandoned"] for slots in status["slots"].values()), 0),
            "slots held": (sum(slots["busy"] for slots in status["slots"].values()), 0),
            "undecided traces": (telemetry["undecided_traces"], 0),
            "spans by their fate": (sum(telemetry["spans"].values()), expected["spans"]),
            "ended spans": (self.spans.ended, self.spans.started),
        }
        return [f"{what}: {is_} and not {ought}" for what, (is_, ought) in agree.items() if is_ != ought]


def held() -> dict[str, Names]:
    """Return what is held of all that a process can run out of, by name."""
    return {
        "descriptors": Names(map(target, Path("/proc/self/fd").iterdir())),
        "threads": Names(thread.name for thread in threading.enumerate()),
        "asyncio tasks": Names(task.get_name() for task in asyncio.all_tasks()),
        "worker processes": Names(map(str, guardians())),
    }


def target(descriptor: Path) -> str:
    """Return what a descriptor leads to, without the number that tells it from its like."""
    try:
        return str(descriptor.readlink()).partition("[")[0]
    except FileNotFoundError:  # of the listing itself
        return "closed"


def more(now: Mapping[str, Names], before: Mapping[str, Names]) -> list[str]:
    """Return a line for each of what is held of which there is more."""
    return [
        f"{what}: {names.total()} and before {before[what].total()}; new are {dict(names - before[what])}"
        for what, names in now.items()
        if names.total() > before[what].total()
    ]


def resident_bytes() -> int:
    """Return the memory of this process as the system counts it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def get(url: str) -> None:
    """Read an answer; a task that is gone or does not run is one."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        with error:
            if error.code not in (404, 409):
                raise


def growth(readings: Sequence[Reading], read: Callable[[Reading], float]) -> float:
    """Return by how much the median of the last third is above that of the first."""
    third = len(readings) // 3
    first, last = readings[:third], readings[-third:]
    return statistics.median(map(read, last)) - statistics.median(map(read, first))


def slope(readings: Sequence[Reading]) -> float:
    """Return by how many bytes a second memory grows: the median over all pairs of readings (Theil and Sen)."""
    pairs = itertools.combinations(readings, 2)
    return statistics.median((later.rss - earlier.rss) / (later.at - earlier.at) for earlier, later in pairs)


def grown(readings: Sequence[Reading]) -> list[str]:
    """Return a line for each thing of which there is more and more."""
    seconds = readings[-1].at - readings[0].at
    found = []
    if seconds >= USUAL_SECONDS:  # in its first half the allocator settles
        steep, allowed = slope(readings[len(readings) // 2 :]), RSS_SLOPE
    else:
        steep, allowed = slope(readings), RSS_NOISE / seconds
    if steep > allowed:
        found.append(f"memory: {steep * 3600 / 1e6:.2f} MB an hour")
    if (blocks := growth(readings, lambda reading: reading.blocks)) > BLOCKS:
        found.append(f"blocks of memory: {blocks:+,.0f}")
    for what, bound in HELD.items():
        if growth(readings, lambda reading, what=what: reading.held[what].total()) > bound:  # type: ignore[misc]  # a default binds the loop's variable
            found += more({what: readings[-1].held[what]}, readings[0].held)
    for kind in readings[-1].objects:
        objects = growth(readings, lambda reading, kind=kind: reading.objects[kind])  # type: ignore[misc]  # a default binds the loop's variable
        if objects > OBJECTS:
            found.append(f"objects of type {kind}: {objects:+,.0f}")
    return found


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def soak(seconds: float, log: Any) -> list[str]:
    """Run it; return what is wrong."""
    before = held()
    # A ring of 100,000 and an hour of points would grow for as long as the soak lasts. Where a bound is not heeded,
    # that shows.
    memory.MAX_OUTLINES = OUTLINES  # type: ignore[misc]  # Final is meant for the package
    series.MAX_POINTS = POINTS  # type: ignore[misc]  # as above
    service = Service(SETTINGS, http=True, environment={}, log_stream=log)
    await service.start()
    service.parts.loggers.stream.configure_structlog("info")
    try:
        readings = await Soak(service, seconds).run()
    finally:
        await service.stop()
    half = readings[len(readings) // 2 :]
    say(
        f"memory: {slope(readings) * 3600 / 1e6:+.2f} MB an hour, {slope(half) * 3600 / 1e6:+.2f} in the second half"
    )
    wrong = grown(readings)
    await asyncio.get_running_loop().shutdown_default_executor()
    wrong += [f"after the stop, {line}" for line in more(held(), before)]
    status = service.tasks.status()
    if status["telemetry"]["undecided_traces"] or status["state"] != "stopped":
        wrong.append(f"after the stop: {status}")
    return wrong


def main() -> int:
    """Return 1 when something grew or did not agree, and print it."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else USUAL_SECONDS
    with Path(os.devnull).open("w") as log:
        wrong = asyncio.run(soak(seconds, log))
    for line in wrong:
        say(f"GREW {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
