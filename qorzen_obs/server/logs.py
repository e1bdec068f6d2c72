"""GET /api/tasks/{id}/logs: the last log lines of a task, from whichever engine it ran on."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from msgspec import Struct

from qorzen_obs.server.documents import json_response
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import LOOKS
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


async def get_task_logs(request: web.Request) -> web.Response:
    """Answer with the kept lines, oldest first, and how many older ones are not kept."""
    kept = request.app[LOOKS].log_of(find_task(request).task_id)
    return json_response({"items": kept.items, "dropped": kept.dropped})


ROUTES: Final = (
    Route(
        "/api/tasks/{task_id}/logs",
        get_task_logs,
        Access.READ,
        summary="The last log lines of a task.",
        tag=Tag.TASKS,
        description="What its code logged, and printed in a worker process, oldest first, redacted. `dropped` "
        "counts older lines that are not kept.",
        answers={200: Answer("The kept lines.", LogLines), 404: UNKNOWN_TASK},
    ),
)
