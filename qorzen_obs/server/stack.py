"""GET /api/tasks/{id}/stack: where a running task is right now, also while the work loop is wedged."""

from __future__ import annotations

import functools
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from qorzen_obs.errors import StackUnavailableError, TaskNotFoundError
from qorzen_obs.server.documents import json_response, now
from qorzen_obs.server.in_thread import run_in_daemon_thread
from qorzen_obs.server.problems import ProblemError
from qorzen_obs.server.routes import Access, Route
from qorzen_obs.server.sources import MANAGER
from qorzen_obs.stacks import Frame, Frames


async def get_stack(request: web.Request) -> web.Response:
    """Answer with the stack, innermost last: 409 for a task that does not run, 504 when its process is silent."""
    manager, task_id = request.app[MANAGER], request.match_info["task_id"]
    taken_at = now()
    try:
        # In a thread, since a worker process may take its time, and reading source lines is reading files.
        stack = await run_in_daemon_thread(functools.partial(manager.stack_of, task_id), name="qorzen-stack")
    except TaskNotFoundError:
        raise ProblemError(HTTPStatus.NOT_FOUND, "no live, kept or remembered task has this id") from None
    except StackUnavailableError as error:
        raise ProblemError(HTTPStatus.GATEWAY_TIMEOUT, f"{error.problem}; ask again") from None
    info = manager.find(task_id)
    if stack is None or info is None:
        stands = "has ended" if info is None or info.status.final else f"is {info.status.value}"
        raise ProblemError(HTTPStatus.CONFLICT, f"no code of this task runs now: it {stands}")
    return json_response(
        {
            "task_id": task_id,
            "engine": info.engine,
            "state": stack.state,
            "frames": _frames(stack.frames),
            "awaiting": stack.awaiting,
            "waiting_for": info.waiting_for,
            "asyncio_tasks": [
                {"name": task.name, "frames": _frames(task.frames), "awaiting": task.awaiting}
                for task in stack.tasks
            ],
            "taken_at": taken_at,
        }
    )


def _frames(frames: Frames) -> list[dict[str, Any]]:
    return [_frame(frame) for frame in frames]


def _frame(frame: Frame) -> dict[str, Any]:
    document = {"file": frame.file, "line": frame.line, "function": frame.function}
    return document if frame.code is None else {**document, "code": frame.code}


ROUTES: Final = (Route("/api/tasks/{task_id}/stack", get_stack, Access.READ),)
