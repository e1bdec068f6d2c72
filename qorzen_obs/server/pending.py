"""GET /api/pending: what waits, by priority, and what has waited longest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from aiohttp import web
from msgspec import Struct

from qorzen_obs.counts import PRIORITIES
from qorzen_obs.record import TaskRecord
from qorzen_obs.server.documents import Moment, json_response, now
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import LOOKS
from qorzen_obs.tasks import PENDING, TaskPriority


class PendingOfPriority(Struct, kw_only=True):
    """What waits of one priority. Ages count from when a task could start, as queue waits do."""

    pending: int = 0  #: that wait for a slot
    scheduled: int = 0  #: that wait for their time
    oldest_age_seconds: float | None = None
    oldest_task_id: str | None = None


class PendingTasks(Struct, frozen=True, kw_only=True):
    """What waits, by priority."""

    by_priority: dict[str, PendingOfPriority]
    at: Moment


def count_pending(
    records: Iterable[TaskRecord], monotonic: float
) -> Mapping[TaskPriority, PendingOfPriority]:
    """Return what waits of each priority at a moment of the manager's clock."""
    found = {priority: PendingOfPriority() for priority in PRIORITIES}
    for record in records:
        if record.state.status is not PENDING:
            continue
        of_its_priority = found[record.priority]
        age = monotonic - record.eligible_at
        if age < 0:
            of_its_priority.scheduled += 1
            continue
        of_its_priority.pending += 1
        if of_its_priority.oldest_age_seconds is None or age > of_its_priority.oldest_age_seconds:
            of_its_priority.oldest_age_seconds, of_its_priority.oldest_task_id = age, record.task_id
    return found


async def get_pending(request: web.Request) -> web.Response:
    """Answer with what waits, by priority."""
    looks = request.app[LOOKS]
    at, monotonic = now(), looks.clock.monotonic()
    found = count_pending(looks.live_records(), monotonic)
    by_priority = {priority.label: numbers for priority, numbers in found.items()}
    return json_response(PendingTasks(by_priority=by_priority, at=at))


ROUTES: Final = (
    Route(
        "/api/pending",
        get_pending,
        Access.READ,
        summary="What waits, by priority, and what has waited longest.",
        tag=Tag.TASKS,
        description="Counts and ages of the pending tasks of each priority, with the oldest of each.",
        answers={200: Answer("Every priority, also where nothing waits.", PendingTasks)},
    ),
)
