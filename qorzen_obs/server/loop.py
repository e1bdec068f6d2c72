"""GET /api/loop: whether the work loop turns, who holds it right now, and who held it before."""

from __future__ import annotations

from typing import Final, Literal

from aiohttp import web
from msgspec import Struct

from qorzen_obs.clock import rfc_3339
from qorzen_obs.server.documents import Moment, json_response, now
from qorzen_obs.server.health import BLOCKED_SHOWN_SECONDS
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import LOOKS, REDACTOR
from qorzen_obs.server.stack import StackFrame, show_frames
from qorzen_obs.stacks import Frames, redacted_frames
from qorzen_obs.telemetry.loop_monitor import Block, EndedBlock
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.watchdog import NOT_RUNNING


class LoopCulprit(Struct, frozen=True, kw_only=True):
    """Who holds or held the loop: a task, or nulls where it is not a task's code."""

    name: str  #: of the task, or of the callback
    task_id: str | None
    task_name: str | None
    category: str | None
    frames: list[StackFrame]  #: where it was seen, the innermost last


class LoopBlock(Struct, frozen=True, kw_only=True):
    """A stretch of time in which one culprit held the loop, and which is over."""

    at: Moment  #: when it began
    seconds: float
    cause: str  #: code, gc, gil_held or not_running
    culprit: LoopCulprit | None  #: null where the process did not get to run


class WorkLoop(Struct, frozen=True, kw_only=True):
    """The work loop, right now."""

    state: Literal["running", "blocked"]
    blocked_seconds: float
    cause: str | None
    #: Null while it turns, while the watchdog has not seen it, and where the process did not get to run.
    culprit: LoopCulprit | None
    #: For how long that culprit has held it, which is less where another one held it before.
    culprit_seconds: float | None
    recent: list[LoopBlock]  #: the last first
    at: Moment


async def get_loop(request: web.Request) -> web.Response:
    """Answer with the state of the work loop, and the last blocks that ended."""
    looks, redactor = request.app[LOOKS], request.app[REDACTOR]
    at, seconds = now(), looks.blocked_seconds()
    is_blocked = seconds >= BLOCKED_SHOWN_SECONDS
    block = looks.loop_block() if is_blocked else None
    return json_response(
        WorkLoop(
            state="blocked" if is_blocked else "running",
            blocked_seconds=round(seconds, 3) if is_blocked else 0.0,
            cause=None if block is None else block.cause,
            culprit=None if block is None else _holder(block, redactor),
            culprit_seconds=None if block is None else round(min(block.seconds, seconds), 3),
            recent=[_ended_block(ended, redactor) for ended in reversed(looks.ended_blocks())],
            at=at,
        )
    )


def _holder(block: Block, redactor: Redactor) -> LoopCulprit | None:
    if block.cause == NOT_RUNNING:
        return None
    culprit, attempt = block.culprit, block.culprit.attempt
    task_id = None if attempt is None else attempt.task_id
    return _culprit(culprit.name, task_id, culprit.category, culprit.frames, redactor)


def _ended_block(block: EndedBlock, redactor: Redactor) -> LoopBlock:
    return LoopBlock(
        at=rfc_3339(block.began),
        seconds=round(block.seconds, 3),
        cause=block.cause,
        culprit=None
        if block.cause == NOT_RUNNING
        else _culprit(block.culprit, block.task_id, block.category, block.frames, redactor),
    )


def _culprit(
    name: str, task_id: str | None, category: str | None, frames: Frames, redactor: Redactor
) -> LoopCulprit:
    name = redactor.text(name)  # of an asyncio task it is the user's
    return LoopCulprit(
        name=name,
        task_id=task_id,
        task_name=None if task_id is None else name,
        category=category,
        frames=show_frames(redacted_frames(frames, redactor.text)),
    )


ROUTES: Final = (
    Route(
        "/api/loop",
        get_loop,
        Access.READ,
        summary="Whether the work loop turns, who holds it right now, and who held it before.",
        tag=Tag.HEALTH,
        description="The state of the work loop with the stack of the code that blocks it, and the last blocks that "
        "have ended.",
        answers={200: Answer("Its state, and the last blocks that ended.", WorkLoop)},
    ),
)
