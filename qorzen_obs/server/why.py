"""GET /api/tasks/{id}/why: why a task is still pending. The scheduler knows: the question crosses to the work loop.

While that is blocked, the block is the answer, and nobody else is asked.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web
from msgspec import Struct

from qorzen_obs.errors import TaskNotFoundError
from qorzen_obs.scheduling.scheduler import Explanation
from qorzen_obs.server.commands import DEADLINE_SECONDS, NO_WORK_LOOP, NoAnswerError, on_work_loop
from qorzen_obs.server.documents import json_response
from qorzen_obs.server.health import BLOCKED_SHOWN_SECONDS, blocked_text
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import LOOKS, Looks
from qorzen_obs.server.tasks import UNKNOWN_TASK, unknown_task
from qorzen_obs.tasks import TaskStatus


class Why(Struct, frozen=True, kw_only=True):
    """Why a task is pending; nulls for one that is not."""

    task_id: str
    status: TaskStatus
    pending: bool
    #: The limit that it waits for; what blocks the work loop while that does not answer, of a running one too.
    held_by: str | None = None
    ahead: int | None = None  #: tasks that start before it
    eligible_in_seconds: float | None = None


async def get_why(request: web.Request) -> web.Response:
    """Answer with the limit that holds a task and what is ahead of it; nulls for one that is not pending."""
    looks, task_id = request.app[LOOKS], request.match_info["task_id"]
    is_blocked = looks.blocked_seconds() >= BLOCKED_SHOWN_SECONDS
    seconds = BLOCKED_SHOWN_SECONDS if is_blocked else DEADLINE_SECONDS
    try:
        status, why = await on_work_loop(request, _ask(looks, task_id), seconds=seconds)
    except NoAnswerError:
        return json_response(_why_of_blocked(looks, task_id))
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


def _why_of_blocked(looks: Looks, task_id: str) -> Why:
    """Return what can be said while the work loop does not turn."""
    info = looks.find(task_id)
    if info is None:
        raise unknown_task()
    seconds = looks.blocked_seconds()
    problem = f"is {blocked_text(looks, seconds)}" if seconds else "does not answer"
    pending = info.status is TaskStatus.PENDING
    eligible_in = (info.eligible_at or 0.0) - looks.clock.now()
    return Why(
        task_id=task_id,
        status=info.status,
        pending=pending,
        held_by=f"the work loop, which {problem}" if info.completed_at is None else None,
        eligible_in_seconds=max(0.0, eligible_in) if pending else None,
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
        tag=Tag.TASKS,
        description="The limit or pause that holds it, and how many tasks start before it. While the work loop is "
        "blocked, `held_by` says by whom.",
        answers={200: Answer("What it waits for.", Why), 404: UNKNOWN_TASK, 503: NO_WORK_LOOP},
    ),
)
