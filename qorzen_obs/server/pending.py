"""GET /api/pending: what waits, by priority and by category, and what has waited longest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from aiohttp import web
from msgspec import Struct

from qorzen_obs.counts import CATEGORIES, PRIORITIES
from qorzen_obs.record import TaskRecord
from qorzen_obs.server.documents import Moment, json_response, now
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import LOOKS
from qorzen_obs.tasks import PENDING, RUNNING, TaskCategory, TaskPriority


class PendingOfPriority(Struct, kw_only=True):
    """What waits of one priority. Ages count from when a task could start, as queue waits do."""

    pending: int = 0  #: that wait for a slot
    scheduled: int = 0  #: that wait for their time
    oldest_age_seconds: float | None = None
    oldest_task_id: str | None = None

    def add(self, record: TaskRecord, monotonic: float) -> None:
        """Count one more pending task at a moment of the manager's clock."""
        age = monotonic - record.eligible_at
        if age < 0:
            self.scheduled += 1
            return
        self.pending += 1
        if self.oldest_age_seconds is None or age > self.oldest_age_seconds:
            self.oldest_age_seconds, self.oldest_task_id = age, record.task_id


class PendingOfCategory(PendingOfPriority, kw_only=True):
    """What waits of one category, and whether it waits for a `resume`."""

    running: int = 0
    paused: bool = False

    def add_running(self) -> None:
        """Count one more running task."""
        self.running += 1


class PendingTasks(Struct, frozen=True, kw_only=True):
    """What waits, by priority and by category."""

    by_priority: dict[str, PendingOfPriority]
    by_category: dict[TaskCategory, PendingOfCategory]
    at: Moment


def count_pending(
    records: Iterable[TaskRecord], monotonic: float
) -> Mapping[TaskPriority, PendingOfPriority]:
    """Return what waits of each priority at a moment of the manager's clock."""
    found = {priority: PendingOfPriority() for priority in PRIORITIES}
    for record in records:
        if record.state.status is PENDING:
            found[record.priority].add(record, monotonic)
    return found


def count_by_category(
    records: Iterable[TaskRecord], monotonic: float, paused: Collection[TaskCategory]
) -> Mapping[TaskCategory, PendingOfCategory]:
    """Return what waits and runs of each category at a moment of the manager's clock."""
    found = {category: PendingOfCategory(paused=category in paused) for category in CATEGORIES}
    for record in records:
        if record.state.status is PENDING:
            found[record.category].add(record, monotonic)
        elif record.state.status is RUNNING:
            found[record.category].add_running()
    return found


async def get_pending(request: web.Request) -> web.Response:
    """Answer with what waits, by priority and by category."""
    looks = request.app[LOOKS]
    at, monotonic, records = now(), looks.clock.monotonic(), looks.live_records()
    found = count_pending(records, monotonic)
    by_priority = {priority.label: numbers for priority, numbers in found.items()}
    by_category = dict(count_by_category(records, monotonic, looks.paused))
    return json_response(PendingTasks(by_priority=by_priority, by_category=by_category, at=at))


ROUTES: Final = (
    Route(
        "/api/pending",
        get_pending,
        Access.READ,
        summary="What waits, by priority and by category, and what has waited longest.",
        tag=Tag.TASKS,
        description="Counts and ages of the pending tasks of each priority and of each category, with the oldest of "
        "each, and whether a category is paused.",
        answers={200: Answer("Every priority and category, also where nothing waits.", PendingTasks)},
    ),
)
