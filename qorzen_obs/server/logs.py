"""GET /api/tasks/{id}/logs: the last log lines of a task, from whichever engine it ran on."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from qorzen_obs.server.documents import json_response
from qorzen_obs.server.routes import Access, Route
from qorzen_obs.server.sources import MANAGER
from qorzen_obs.server.tasks import find_task


async def get_task_logs(request: web.Request) -> web.Response:
    """Answer with the kept lines, oldest first, and how many older ones are not kept."""
    kept = request.app[MANAGER].log_of(find_task(request).task_id)
    return json_response({"items": kept.items, "dropped": kept.dropped})


ROUTES: Final = (Route("/api/tasks/{task_id}/logs", get_task_logs, Access.READ),)
