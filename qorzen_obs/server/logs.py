"""GET /api/tasks/{id}/logs: the last log lines of a task, from whichever engine it ran on."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from msgspec import Struct

from qorzen_obs.server.documents import json_response
from qorzen_obs.server.problems import Missing
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import LOOKS
from qorzen_obs.server.stored import STORE_READS, UNREADABLE_STORE, UnreadableStoreError, unreadable_store
from qorzen_obs.server.tasks import UNKNOWN_TASK, find_task


class LogLine(Struct, frozen=True, kw_only=True):
    """One line; the fields that it was written with stand beside these."""

    at: str
    level: str
    event: str


class LogLines(Struct, frozen=True, kw_only=True):
    """The kept lines of a task, the oldest first. Describes what is kept as JSON already."""

    items: list[LogLine]
    dropped: int  #: older ones that are not kept
    missing: Missing | None  #: why there are no lines, or not all; null if nothing is missing


async def get_task_logs(request: web.Request) -> web.Response:
    """Answer with the kept lines, oldest first, how many older ones are not kept, and why there are none."""
    (info, stored), looks = await find_task(request), request.app[LOOKS]
    if stored:
        return await _stored_lines(request, info.task_id)
    kept = looks.log_of(info.task_id)
    missing = None
    if info.evicted or kept.dropped:
        missing = Missing.LATE
    elif not kept.items and not info.status.final:
        missing = Missing.EARLY
    return json_response({"items": kept.items, "dropped": kept.dropped, "missing": missing})


async def _stored_lines(request: web.Request, task_id: str) -> web.Response:
    tasks = request.app[LOOKS].stored
    try:
        items = [] if tasks is None else await request.app[STORE_READS].read(lambda: tasks.logs(task_id))
    except UnreadableStoreError:
        raise unreadable_store() from None
    return json_response({"items": items, "dropped": 0, "missing": None})


ROUTES: Final = (
    Route(
        "/api/tasks/{task_id}/logs",
        get_task_logs,
        Access.READ,
        summary="The last log lines of a task.",
        tag=Tag.TASKS,
        description="What its code logged, and printed in a worker process, oldest first, redacted. `dropped` "
        "counts older lines that are not kept. `missing` is `early` if there are no lines yet, and `late` if some "
        "or all are no longer kept.",
        answers={200: Answer("The kept lines.", LogLines), 404: UNKNOWN_TASK, 503: UNREADABLE_STORE},
    ),
)
