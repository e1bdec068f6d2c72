"""GET /api/running: how the running tasks are doing right now. What they are stands in /api/tasks and the stream."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import islice
from statistics import median
from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from qorzen_obs.record import Attempt
from qorzen_obs.server.documents import Moment, json_response, now
from qorzen_obs.server.query import BAD_PARAMETER, LIMIT, check_parameters, read_limit
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import LOOKS, Looks
from qorzen_obs.tasks import COMPLETED

USUAL_FOR_SECONDS: Final = 1.0  #: how long a computed median is used again
MAX_READ: Final = 10_000  #: how many kept tasks are read for the medians, those that ended last
MAX_RUNS: Final = 100  #: how many runs of one name make its median, the last ones


class RunningTask(Struct, frozen=True, kw_only=True):
    """How one running attempt is doing."""

    task_id: str
    elapsed_seconds: float  #: of this attempt
    usual_seconds: float | None  #: the median of the kept completed runs of its name
    #: The share of the elapsed time that it used the loop, or a processor.
    busy_share: Annotated[float, Meta(ge=0, le=1)] | None
    awaiting: str | None  #: what its innermost await is for
    waiting_for: str | None  #: the task that it waits for
    waiting_for_name: str | None  #: its name, while it is known
    pid: int | None  #: of the worker process that runs it


class RunningTasks(Struct, frozen=True, kw_only=True):
    """The running tasks, longest running first."""

    items: list[RunningTask]
    total: int  #: how many run, those past the limit too
    at: Moment


class UsualSeconds:
    """How long a run usually takes, by the task's name."""

    def __init__(self, looks: Looks, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._looks = looks
        self._monotonic = monotonic
        self._known: Mapping[str, float] = {}
        self._until = float("-inf")

    def read(self) -> Mapping[str, float]:
        """Return the median of the kept completed runs by name, as it was a second ago at most."""
        now = self._monotonic()
        if now >= self._until:
            self._known, self._until = self._medians(), now + USUAL_FOR_SECONDS
        return self._known

    def _medians(self) -> dict[str, float]:
        runs: defaultdict[str, list[float]] = defaultdict(list)
        for record in islice(reversed(self._looks.kept_records()), MAX_READ):
            state = record.state
            seconds = runs[record.name]
            if state.status is COMPLETED and state.duration_seconds is not None and len(seconds) < MAX_RUNS:
                seconds.append(state.duration_seconds)
        return {name: median(seconds) for name, seconds in runs.items() if seconds}


def busy_share(attempt: Attempt, now: float) -> float | None:
    """Return the share of its time that an attempt was on the loop or on a processor; None where nobody knows yet.

    A worker process tells what a call has used when it has ended, and a foreign engine tells nothing.
    """
    meter, engine, elapsed = attempt.meter, attempt.record.engine, now - attempt.started_at
    if meter is None or elapsed <= 0:
        return None
    # A probe is there once a call has begun, where the system can tell.
    if not engine.use_is_live and meter.probe is None:
        return None
    return meter.phases(engine, elapsed, now).get(engine.use_phase, 0.0) / elapsed


def _name_of(looks: Looks, task_id: str | None) -> str | None:
    found = None if task_id is None else looks.find(task_id)
    return None if found is None else found.name


async def get_running(request: web.Request) -> web.Response:
    """Answer with the running tasks, longest running first."""
    check_parameters(request.query, [LIMIT.name])
    limit = read_limit(request.query)
    looks, usual = request.app[LOOKS], request.app[USUAL].read()
    at, moment, attempts = now(), looks.clock.monotonic(), looks.attempts()
    items = [
        RunningTask(
            task_id=attempt.task_id,
            elapsed_seconds=round(max(0.0, moment - attempt.started_at), 6),
            usual_seconds=usual.get(attempt.name),
            busy_share=None if (share := busy_share(attempt, moment)) is None else round(share, 4),
            awaiting=looks.awaiting(attempt),
            waiting_for=attempt.waiting_for,
            waiting_for_name=_name_of(looks, attempt.waiting_for),
            pid=looks.pid_of(attempt),
        )
        for attempt in attempts[:limit]
    ]
    return json_response(RunningTasks(items=items, total=len(attempts), at=at))


USUAL: Final = web.AppKey("usual", UsualSeconds)

ROUTES: Final = (
    Route(
        "/api/running",
        get_running,
        Access.READ,
        summary="How the running tasks are doing right now, longest running first.",
        tag=Tag.TASKS,
        description="For each: how long it runs against what is usual, how busy it is, and what it awaits.",
        parameters=(LIMIT,),
        answers={
            200: Answer("Elapsed and usual time, busy share, and what each awaits.", RunningTasks),
            422: BAD_PARAMETER,
        },
    ),
)
