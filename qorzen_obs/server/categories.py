"""POST /api/categories/{category}/pause and /resume: let its pending tasks wait, or start again."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from aiohttp import web
from msgspec import Struct

from qorzen_obs.server.commands import NO_WORK_LOOP, on_work_loop
from qorzen_obs.server.documents import json_response
from qorzen_obs.server.problems import ProblemError, problem
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import COMMANDS
from qorzen_obs.tasks import TaskCategory


class Category(Struct, frozen=True, kw_only=True):
    """Whether the tasks of a category may start."""

    category: TaskCategory
    paused: bool


async def pause_category(request: web.Request) -> web.Response:
    """Start no task of a category any more; running ones go on. Again it changes nothing."""
    category = _category(request)
    await on_work_loop(request, request.app[COMMANDS].pause(category))
    return json_response(Category(category=category, paused=True))


async def resume_category(request: web.Request) -> web.Response:
    """Let the tasks of a category start again; of no effect on one that is not paused."""
    category = _category(request)
    await on_work_loop(request, request.app[COMMANDS].resume(category))
    return json_response(Category(category=category, paused=False))


def _category(request: web.Request) -> TaskCategory:
    try:
        return TaskCategory(request.match_info["category"])
    except ValueError:
        known = ", ".join(category.value for category in TaskCategory)
        raise ProblemError(HTTPStatus.NOT_FOUND, f"unknown category; use one of {known}") from None


_UNKNOWN: Final = problem("There is no such category.")

ROUTES: Final = (
    Route(
        "/api/categories/{category}/pause",
        pause_category,
        Access.CONTROL,
        method="POST",
        summary="Keep the pending tasks of a category waiting. Running tasks continue.",
        tag=Tag.TASKS,
        description="New ones are accepted and wait as well. Pausing a paused category changes nothing.",
        answers={200: Answer("It is paused.", Category), 404: _UNKNOWN, 503: NO_WORK_LOOP},
    ),
    Route(
        "/api/categories/{category}/resume",
        resume_category,
        Access.CONTROL,
        method="POST",
        summary="Let the tasks of a paused category start again.",
        tag=Tag.TASKS,
        description="Resuming a category that is not paused changes nothing.",
        answers={200: Answer("It is not paused.", Category), 404: _UNKNOWN, 503: NO_WORK_LOOP},
    ),
)
