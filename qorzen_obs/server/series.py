"""GET /api/series: the last hour in points of ten seconds, kept in memory for those without Prometheus.

What was counted between two readings of the very counters and histograms that /metrics shows. Reading them is all it
costs; tasks do nothing for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from math import inf
from typing import Final, NamedTuple

from aiohttp import web
from msgspec import Struct

from qorzen_obs.clock import rfc_3339
from qorzen_obs.counts import PRIORITIES
from qorzen_obs.server.documents import Moment, json_response
from qorzen_obs.server.query import BAD_PARAMETER, MomentChoice, check_parameters, read_moment
from qorzen_obs.server.routes import Access, Answer, Parameter, Route, Tag
from qorzen_obs.server.sources import LOOKS, Looks
from qorzen_obs.server.ticker import TICKER
from qorzen_obs.tasks import CANCELLED, COMPLETED, FAILED, PENDING, RUNNING, TaskPriority, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.metrics import Load
from qorzen_obs.telemetry.quantiles import bucket_quantile

MAX_POINTS: Final = 360
_QUANTILE: Final = 0.95


class Point(NamedTuple):
    """The stretch of time that ends at `at`."""

    at: float  #: Unix seconds
    submitted: float  #: per second, as all that ends
    completed: float
    failed: float
    cancelled: float
    running: int  #: at its end
    pending: int
    queue_wait_p95: dict[TaskPriority, float | None]
    loop_lag_p95: float | None  #: None where no beat came, as while the loop is blocked
    loop_lag_max: float


class Series:
    """The last points, oldest first."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._before: Load | None = None
        self._points: deque[Point] = deque(maxlen=MAX_POINTS)

    def sample(self) -> None:
        """Read everything; from the second time on this makes a point."""
        before = self._before
        load = self._looks.load(float("-inf") if before is None else before.at)
        if before is not None and load.at > before.at:
            self._points.append(_point(self._looks.clock.now(), before, load))
        self._before = load

    def after(self, at: float | None) -> list[Point]:
        """Return the points after the one that ended `at`; all of them without it.

        Where there is none that ended then, those that ended later.
        """
        points = list(self._points)
        if at is None:
            return points
        # From the end: where the wall clock was set back, a moment may come twice.
        for index in reversed(range(len(points))):
            if points[index].at == at:
                return points[index + 1 :]
        return [point for point in points if point.at > at]


def _point(at: float, before: Load, now: Load) -> Point:
    seconds = now.at - before.at
    statuses, statuses_before = now.counts.by_status(), before.counts.by_status()

    def rate(status: TaskStatus) -> float:
        return (statuses[status] - statuses_before[status]) / seconds

    return Point(
        at=round(at, 6),  # as it is shown, so that it is known again
        submitted=(now.counts.total - before.counts.total) / seconds,
        completed=rate(COMPLETED),
        failed=rate(FAILED),
        cancelled=rate(CANCELLED),
        running=statuses[RUNNING],
        pending=statuses[PENDING],
        queue_wait_p95={
            priority: bucket_quantile(
                _QUANTILE,
                now.wait_buckets,
                _difference(before.queue_waits[priority], now.queue_waits[priority]),
                now.longest_waits.get(priority, inf),
            )
            for priority in PRIORITIES
        },
        loop_lag_p95=bucket_quantile(
            _QUANTILE, names.LOOP_LAG.buckets, _difference(before.loop_lags, now.loop_lags)
        ),
        loop_lag_max=now.worst_lag,
    )


def _difference(before: Sequence[int], now: Sequence[int]) -> list[int]:
    return [after - earlier for earlier, after in zip(before, now, strict=True)]


class LastHour(Struct, frozen=True, kw_only=True):
    """The points as columns; each value is of the stretch that ends at the `at` of the same index."""

    step_seconds: float  #: between two points; more where none could be made in time
    at: list[Moment]
    submitted: list[float]  #: per second, as the three below
    completed: list[float]
    failed: list[float]
    cancelled: list[float]
    running: list[int]  #: at that moment
    pending: list[int]
    queue_wait_p95: dict[str, list[float | None]]  #: seconds, by priority; null where nothing has started
    loop_lag_p95: list[float | None]  #: seconds; null where the loop did not turn
    loop_lag_max: list[float]


async def get_series(request: web.Request) -> web.Response:
    """Answer with the points of the last hour, or with those after one."""
    check_parameters(request.query, ["after"])
    after: datetime | None = read_moment(request.query, "after")
    points = request.app[SERIES].after(None if after is None else round(after.timestamp(), 6))
    return json_response(
        LastHour(
            step_seconds=request.app[TICKER].step_seconds,
            at=[rfc_3339(point.at) for point in points],
            submitted=[round(point.submitted, 4) for point in points],
            completed=[round(point.completed, 4) for point in points],
            failed=[round(point.failed, 4) for point in points],
            cancelled=[round(point.cancelled, 4) for point in points],
            running=[point.running for point in points],
            pending=[point.pending for point in points],
            queue_wait_p95={
                priority.label: [_rounded(point.queue_wait_p95[priority]) for point in points]
                for priority in PRIORITIES
            },
            loop_lag_p95=[_rounded(point.loop_lag_p95) for point in points],
            loop_lag_max=[round(point.loop_lag_max, 6) for point in points],
        )
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


SERIES: Final = web.AppKey("series", Series)


def set_up(app: web.Application) -> None:
    """Let an application with a manager and a ticker keep the last hour."""
    app[SERIES] = Series(app[LOOKS])
    app[TICKER].add(app[SERIES].sample)


ROUTES: Final = (
    Route(
        "/api/series",
        get_series,
        Access.READ,
        summary="Rates, waits and loop lag of the last hour, in points of ten seconds.",
        tag=Tag.METRICS,
        description="What the charts of the live page show, without a Prometheus.",
        parameters=(
            Parameter("after", MomentChoice, "Only points after this one, an `at` that was seen before."),
        ),
        answers={
            200: Answer("The points as columns, oldest first.", LastHour),
            422: BAD_PARAMETER,
        },
    ),
)
