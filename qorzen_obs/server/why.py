"""GET /api/tasks/{id}/why: why a task is still pending. The scheduler knows: the question crosses to the work loop."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from msgspec import Struct

from qorzen_obs.errors import TaskNotFoundError
from qorzen_obs.scheduling.scheduler import Explanation
from qorzen_obs.server.commands import NO_WORK_LOOP, on_work_loop
from qorzen_obs.server.documents import json_response
from qorzen_obs.server.routes import Access, Answer, Route
from qorzen_obs.server.sources import LOOKS, Looks
from qorzen_obs.server.tasks import UNKNOWN_TASK, unknown_task
from qorzen_obs.tasks import TaskStatus


class Why(Struct, frozen=True, kw_only=True):
    """Why a task is pending; nulls for one that is not."""

    task_id: str
    status: TaskStatus
    pending: bool
    held_by: str | None = None  #: the limit that it waits for
    ahead: int | None = None  #: tasks that start before it
    eligible_in_seconds: float | None = None


async def get_why(request: web.Request) -> web.Response:
    """Answer with the limit that holds a task and what is ahead of it; nulls for one that is not pending."""
    looks, task_id = request.app[LOOKS], request.match_info["task_id"]
    try:
        status, why = await on_work_loop(request, _ask(looks, task_id))
    except TaskNotFoundError:
        raise unknown_task() from None
    if why is None:
        return json_response(Why(task_id=task_id, status=status, pending=False))
    return json_response(
        Why(
            task_id=task_id,
            status=status,
            pending=True,
            held_by=why.held_by,
            ahead=why.ahead,
            eligible_in_seconds=why.eligible_in_seconds,
        )
    )


async def _ask(looks: Looks, task_id: str) -> tuple[TaskStatus, Explanation | None]:
    why = looks.why_pending(task_id)
    info = looks.find(task_id)
    assert info is not None, "the line above raises for an unknown task"
    return info.status, why


ROUTES: Final = (
    Route(
        "/api/tasks/{task_id}/why",
        get_why,
        Access.READ,
        summary="Why a task is still pending.",
        answers={200: Answer("What it waits for.", Why), 404: UNKNOWN_TASK, 503: NO_WORK_LOOP},
    ),
)
