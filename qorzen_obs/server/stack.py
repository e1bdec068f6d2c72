"""GET /api/tasks/{id}/stack: where a running task is right now, also while the work loop is wedged."""

from __future__ import annotations

import functools
from http import HTTPStatus
from typing import Final

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from qorzen_obs.errors import StackUnavailableError, TaskNotFoundError
from qorzen_obs.in_thread import run_in_daemon_thread
from qorzen_obs.server.documents import EngineName, Moment, json_response, now
from qorzen_obs.server.problems import ProblemError, problem
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import LOOKS
from qorzen_obs.server.tasks import UNKNOWN_TASK, unknown_task
from qorzen_obs.stacks import Frames


class StackFrame(Struct, frozen=True, kw_only=True):
    """One call."""

    file: str
    line: int | None
    function: str
    code: str | UnsetType = UNSET  #: the line itself, where its file can be read


class AsyncioTask(Struct, frozen=True, kw_only=True):
    """An asyncio task that the task has started."""

    name: str
    frames: list[StackFrame]
    awaiting: str | None


class Stack(Struct, frozen=True, kw_only=True):
    """Where a task is: its calls, the innermost last."""

    task_id: str
    engine: EngineName
    state: str
    frames: list[StackFrame]
    awaiting: str | None
    waiting_for: str | None
    pid: int | None  #: of the worker process that runs it
    asyncio_tasks: list[AsyncioTask]
    taken_at: Moment


async def get_stack(request: web.Request) -> web.Response:
    """Answer with the stack, innermost last: 409 for a task that does not run, 504 when its process is silent."""
    looks, task_id = request.app[LOOKS], request.match_info["task_id"]
    taken_at = now()
    try:
        # In a thread, since a worker process may take its time, and reading source lines is reading files.
        stack = await run_in_daemon_thread(functools.partial(looks.stack_of, task_id), name="qorzen-stack")
    except TaskNotFoundError:
        raise unknown_task() from None
    except StackUnavailableError as error:
        raise ProblemError(HTTPStatus.GATEWAY_TIMEOUT, f"{error.problem}; ask again") from None
    info = looks.find(task_id)
    if stack is None or info is None:
        stands = "has ended" if info is None or info.status.final else f"is {info.status.value}"
        raise ProblemError(HTTPStatus.CONFLICT, f"no code of this task runs now: it {stands}")
    return json_response(
        Stack(
            task_id=task_id,
            engine=info.engine,
            state=stack.state,
            frames=show_frames(stack.frames),
            awaiting=stack.awaiting,
            waiting_for=info.waiting_for,
            pid=stack.pid,
            asyncio_tasks=[
                AsyncioTask(name=task.name, frames=show_frames(task.frames), awaiting=task.awaiting)
                for task in stack.tasks
            ],
            taken_at=taken_at,
        )
    )


def show_frames(frames: Frames) -> list[StackFrame]:
    """Return frames as they are shown, those of a stack that is redacted already."""
    return [
        StackFrame(
            file=frame.file,
            line=frame.line,
            function=frame.function,
            code=UNSET if frame.code is None else frame.code,
        )
        for frame in frames
    ]


ROUTES: Final = (
    Route(
        "/api/tasks/{task_id}/stack",
        get_stack,
        Access.READ,
        summary="Where a running task is right now.",
        tag=Tag.TASKS,
        description="The frames of its code on any engine, innermost last, and what it awaits.",
        answers={
            200: Answer("Its stack.", Stack),
            404: UNKNOWN_TASK,
            409: problem("No code of this task runs now."),
            504: problem("Its worker process does not answer; ask again."),
        },
    ),
)
