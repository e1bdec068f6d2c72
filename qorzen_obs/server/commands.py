"""What changes something: POST /api/tasks/{id}/cancel. A command crosses to the work loop, with a deadline.

So does a question that only the work loop can answer (why.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, TypeVar

from aiohttp import hdrs, web

from qorzen_obs.errors import TaskNotCancellableError, TaskNotFoundError
from qorzen_obs.server.documents import Task, json_response, task_document
from qorzen_obs.server.problems import ProblemError, problem
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import COMMANDS, LOOKS, REDACTOR
from qorzen_obs.server.tasks import UNKNOWN_TASK, unknown_task
from qorzen_obs.tasks import TaskStatus

T = TypeVar("T")

DEADLINE_SECONDS: Final = 2.0

_AGAIN: Final[Mapping[str, str]] = {hdrs.RETRY_AFTER: "1"}


async def cancel_task(request: web.Request) -> web.Response:
    """Cancel a task: 200 when it is cancelled, 202 when it was asked to stop, 409 when that cannot be."""
    task_id = request.match_info["task_id"]
    command = request.app[COMMANDS].cancel_task(task_id, reason="cancelled over HTTP")
    try:
        asked = await on_work_loop(request, command)
    except TaskNotFoundError:
        raise unknown_task() from None
    except TaskNotCancellableError:
        raise ProblemError(HTTPStatus.CONFLICT, "this task was submitted with cancellable=False") from None
    if not asked:
        raise ProblemError(HTTPStatus.CONFLICT, "this task has ended")
    info = request.app[LOOKS].find(task_id)
    assert info is not None, "what was just cancelled is remembered"
    stopped = info.status is TaskStatus.CANCELLED
    return json_response(
        task_document(info, request.app[REDACTOR]), status=HTTPStatus.OK if stopped else HTTPStatus.ACCEPTED
    )


class NoAnswerError(ProblemError):
    """The work loop did not answer in time."""


async def on_work_loop(
    request: web.Request, command: Coroutine[Any, Any, T], *, seconds: float = DEADLINE_SECONDS
) -> T:
    """Run `command` on the work loop. One that has not begun by the deadline never will, one that has is cancelled."""
    loop = request.app[LOOKS].loop
    wanted: Future[None] = Future()  # whose cancelling and beginning exclude each other

    async def begin() -> T:
        if wanted.set_running_or_notify_cancel():
            return await command
        command.close()
        raise asyncio.CancelledError

    beginning, future = begin(), None
    with suppress(RuntimeError):  # the loop is closed
        future = None if loop is None else asyncio.run_coroutine_threadsafe(beginning, loop)
    if future is None:
        beginning.close()
        command.close()
        raise busy("the service is not running")
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(future)
    except TimeoutError:
        done = "nothing was done" if wanted.cancel() else "what was asked may have been done"
        detail = f"the work loop does not answer; {done}; see /livez?verbose"
        raise NoAnswerError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=_AGAIN) from None
    finally:
        wanted.cancel()


def busy(detail: str, *, retry_after: int = 1) -> ProblemError:
    """Return the 503 of a service that may do it later; `retry_after` in seconds."""
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(retry_after)})


NO_WORK_LOOP: Final = problem(
    "The work loop does not answer; the detail says whether anything was done.", hdrs.RETRY_AFTER
)

ROUTES: Final = (
    Route(
        "/api/tasks/{task_id}/cancel",
        cancel_task,
        Access.CONTROL,
        method="POST",
        summary="Cancel a pending task, or ask a running one to stop.",
        tag=Tag.TASKS,
        description="A pending task never starts. A running one has `tasks.cancel_grace_seconds` to stop; its "
        "`cancel_guarantee` says what happens then. It may be asked again while it stops.",
        answers={
            200: Answer("It is cancelled.", Task),
            202: Answer("It was asked to stop.", Task),
            404: UNKNOWN_TASK,
            409: problem("It has ended, or was submitted with cancellable=False."),
            503: NO_WORK_LOOP,
        },
    ),
)
