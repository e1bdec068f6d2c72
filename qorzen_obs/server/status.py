"""GET /status: the manager's own account of itself."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from qorzen_obs.server.documents import json_response, with_timestamps
from qorzen_obs.server.routes import Access, Route
from qorzen_obs.server.sources import MANAGER


async def get_status(request: web.Request) -> web.Response:
    """Answer with `status()`."""
    return json_response(with_timestamps(request.app[MANAGER].status()))


ROUTES: Final = (Route("/status", get_status, Access.READ),)
