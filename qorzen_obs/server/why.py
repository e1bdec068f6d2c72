"""GET /api/tasks/{id}/why: why a task is still pending. The scheduler knows: the question crosses to the work loop."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from aiohttp import web

from qorzen_obs.errors import TaskNotFoundError
from qorzen_obs.scheduling.scheduler import Explanation
from qorzen_obs.server.commands import on_work_loop
from qorzen_obs.server.documents import json_response
from qorzen_obs.server.problems import ProblemError
from qorzen_obs.server.routes import Access, Route
from qorzen_obs.server.sources import MANAGER, ManagerSource


async def get_why(request: web.Request) -> web.Response:
    """Answer with the limit that holds a task and what is ahead of it; nulls for one that is not pending."""
    manager, task_id = request.app[MANAGER], request.match_info["task_id"]
    try:
        status, why = await on_work_loop(request, _ask(manager, task_id))
    except TaskNotFoundError:
        raise ProblemError(HTTPStatus.NOT_FOUND, "no live, kept or remembered task has this id") from None
    return json_response(
        {
            "task_id": task_id,
            "status": status,
            "pending": why is not None,
            "held_by": None if why is None else why.held_by,
            "ahead": None if why is None else why.ahead,
            "eligible_in_seconds": None if why is None else why.eligible_in_seconds,
        }
    )


async def _ask(manager: ManagerSource, task_id: str) -> tuple[str, Explanation | None]:
    why = manager.why_pending(task_id)
    info = manager.find(task_id)
    assert info is not None, "the line above raises for an unknown task"
    return info.status.value, why


ROUTES: Final = (Route("/api/tasks/{task_id}/why", get_why, Access.READ),)
