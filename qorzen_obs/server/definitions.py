"""GET /api/definitions: how the tasks of each definition do, since the start of the service.

Counts and run times are those of the metrics, exact however much has ended. What they do not tell apart, such as the
waits, is read from the tasks that are live or kept.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from qorzen_obs.clock import rfc_3339
from qorzen_obs.in_thread import run_in_daemon_thread
from qorzen_obs.record import TaskRecord, TaskState
from qorzen_obs.server.documents import Moment, encode_json, now
from qorzen_obs.server.query import check_parameters
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import LOOKS, Looks
from qorzen_obs.server.tasks import ONE_LIST
from qorzen_obs.server.ticker import TICKER
from qorzen_obs.tasks import CANCELLED, COMPLETED, FAILED, PENDING, RUNNING
from qorzen_obs.telemetry.cells import OTHER
from qorzen_obs.telemetry.definitions import DefinitionReading
from qorzen_obs.telemetry.quantiles import bucket_quantile

RATE_SECONDS: Final = 60.0
MAX_TIMES: Final = 1000  #: how many of its last tasks make the quantiles of a definition's waits


class Quantiles(Struct, frozen=True, kw_only=True):
    """Seconds below which a half, 95 % and 99 % lie; null where there is nothing to say it of."""

    p50: float | None
    p95: float | None
    p99: float | None
    of: int  #: how many tasks say so


class LastFailure(Struct, frozen=True, kw_only=True):
    """The last kept task of a definition that failed."""

    task_id: str
    error_type: str | None
    at: Moment


class DefinitionDocument(Struct, frozen=True, kw_only=True):
    """The tasks of one definition, or of a function that has none."""

    definition: str
    count: int  #: tasks that have ended, the sum of the three below
    completed: int
    failed: int
    cancelled: int
    pending: int  #: now
    running: int  #: now
    rate: float | None  #: ends per second over the last minute; null before it is known
    run: Quantiles  #: of the last attempt of each ended task that has run
    wait: Quantiles  #: in the queue, of the last tasks that are live or kept
    usual_seconds: float | None  #: the median run of the kept completed ones
    share: Annotated[float, Meta(ge=0, le=1)] | None  #: of the time that all ended tasks have run
    last_failure: LastFailure | None


class DefinitionList(Struct, frozen=True, kw_only=True):
    """The definitions, the one that has taken most of the time first."""

    items: list[DefinitionDocument]
    limit: int  #: `telemetry.metrics_by_definition`: names beyond it are `_other`; 0: none is counted
    at: Moment


class EndRates:
    """How many tasks of each definition have ended lately. Read and sampled on the server's loop."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._samples: deque[tuple[float, dict[str, int]]] = deque()

    def sample(self) -> None:
        """Take note of the counts; those of more than a minute ago are dropped, but for the last of them."""
        at, counts = self._looks.clock.monotonic(), self._counts()
        self._samples.append((at, counts))
        while len(self._samples) > 1 and self._samples[1][0] <= at - RATE_SECONDS:
            self._samples.popleft()

    def read(self) -> dict[str, float]:
        """Return the ends per second by definition; empty before the first sample."""
        at = self._looks.clock.monotonic()
        if not self._samples or at <= self._samples[0][0]:
            return {}
        since, before = self._samples[0]
        return {name: (count - before.get(name, 0)) / (at - since) for name, count in self._counts().items()}

    def _counts(self) -> dict[str, int]:
        return {name: reading.total for name, reading in (self._looks.definitions() or {}).items()}


class _Seen:
    """What live and kept tasks say of one definition."""

    def __init__(self) -> None:
        self.pending = self.running = self.ended = 0
        self.runs: list[float] = []
        self.completed_runs: list[float] = []
        self.waits: list[float] = []
        self._failed: tuple[float, TaskRecord, TaskState] | None = None  # the last

    def add(self, record: TaskRecord, state: TaskState) -> None:
        """Take in a task; the newest first."""
        if state.queue_wait_seconds is not None and len(self.waits) < MAX_TIMES:
            self.waits.append(state.queue_wait_seconds)
        if state.status is PENDING:
            self.pending += 1
        elif state.status is RUNNING:
            self.running += 1
        else:
            self._add_ended(record, state)

    def _add_ended(self, record: TaskRecord, state: TaskState) -> None:
        self.ended += 1
        if state.duration_seconds is not None:
            self.runs.append(state.duration_seconds)
            if state.status is COMPLETED and len(self.completed_runs) < MAX_TIMES:
                self.completed_runs.append(state.duration_seconds)
        at = state.completed_at or 0.0
        if state.status is FAILED and (self._failed is None or at > self._failed[0]):
            self._failed = at, record, state

    @property
    def last_failure(self) -> LastFailure | None:
        """The last task that failed."""
        if self._failed is None:
            return None
        at, record, state = self._failed
        return LastFailure(task_id=record.task_id, error_type=state.error_type, at=rfc_3339(at))


def _look(newest_first: Iterable[TaskRecord], counted: Mapping[str, object], limit: int) -> dict[str, _Seen]:
    """Return what the records say, by the name that each counts under.

    A name of which no task has ended yet stands by itself as long as there is room for it.
    """
    by_name: dict[str, _Seen] = {}
    room = limit - len(counted.keys() - {OTHER})
    for record in newest_first:
        name = record.definition_name
        if name not in counted and name not in by_name:
            if room > 0:
                room -= 1
            else:
                name = OTHER
        seen = by_name.get(name)
        if seen is None:
            seen = by_name[name] = _Seen()
        seen.add(record, record.state)
    return by_name


def exact_quantiles(seconds: Sequence[float]) -> Quantiles:
    """Return the quantiles of known times, each one of them: the smallest that so many do not exceed."""
    ordered = sorted(seconds)

    def at(quantile: float) -> float | None:
        return ordered[math.ceil(quantile * len(ordered)) - 1] if ordered else None

    return Quantiles(p50=at(0.5), p95=at(0.95), p99=at(0.99), of=len(ordered))


def _run_quantiles(reading: DefinitionReading, seen: _Seen) -> Quantiles:
    """Return those of the very times where all that ended is kept, else those of the histogram."""
    ran = sum(reading.by_bucket)
    if seen.ended == reading.total and len(seen.runs) == ran:
        return exact_quantiles(seen.runs)
    p50, p95, p99 = (
        bucket_quantile(quantile, reading.bounds, reading.by_bucket) for quantile in (0.5, 0.95, 0.99)
    )
    return Quantiles(p50=p50, p95=p95, p99=p99, of=ran)


def describe(
    readings: Mapping[str, DefinitionReading],
    newest_first: Iterable[TaskRecord],
    rates: Mapping[str, float],
    limit: int,
) -> list[DefinitionDocument]:
    """Return what is known of each definition, the one that has taken most of the time first."""
    by_name = _look(newest_first, readings, limit)
    names = [*readings, *(name for name in by_name if name not in readings)]
    nothing = DefinitionReading({}, (), [], 0.0)
    total = sum(reading.seconds for reading in readings.values())
    documents = []
    for name in names:
        reading, seen = readings.get(name, nothing), by_name.get(name) or _Seen()
        documents.append(
            DefinitionDocument(
                definition=name,
                count=reading.total,
                completed=reading.ended.get(COMPLETED, 0),
                failed=reading.ended.get(FAILED, 0),
                cancelled=reading.ended.get(CANCELLED, 0),
                pending=seen.pending,
                running=seen.running,
                rate=rates.get(name),
                run=_run_quantiles(reading, seen),
                wait=exact_quantiles(seen.waits),
                usual_seconds=median(seen.completed_runs) if seen.completed_runs else None,
                share=min(1.0, reading.seconds / total) if total > 0 else None,
                last_failure=seen.last_failure,
            )
        )
    return sorted(documents, key=lambda one: (-(one.share or 0.0), -one.count, one.definition))


async def get_definitions(request: web.Request) -> web.Response:
    """Answer with how the tasks of each definition do."""
    check_parameters(request.query, [])
    looks, rates = request.app[LOOKS], request.app[RATES].read()

    def write() -> bytes:
        at, readings, limit = now(), looks.definitions(), 0
        items: list[DefinitionDocument] = []
        if readings is not None:
            limit = looks.definition_limit
            items = describe(readings, looks.records(), rates, limit)
        return encode_json(DefinitionList(items=items, limit=limit, at=at))

    async with request.app[ONE_LIST]:  # a walk over all tasks, as for a list
        document = await run_in_daemon_thread(write, name="qorzen-definitions")
    return web.Response(body=document, content_type="application/json")


RATES: Final = web.AppKey("definition_rates", EndRates)


def set_up(app: web.Application) -> None:
    """Let an application with a manager and a ticker know the rates of the last minute."""
    app[RATES] = EndRates(app[LOOKS])
    app[TICKER].add(app[RATES].sample)


ROUTES: Final = (
    Route(
        "/api/definitions",
        get_definitions,
        Access.READ,
        summary="How the tasks of each definition do: counts, rates, run times and waits.",
        tag=Tag.TASKS,
        description="Counts, run times and shares are of all tasks since the start. Waits and last failures are those "
        "of tasks that are live or kept. A function without a definition stands under its own name.",
        answers={200: Answer("The one that has taken most of the time first.", DefinitionList)},
    ),
)
