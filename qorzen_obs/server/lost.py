"""GET /api/lost: what earlier processes took along when they died without finishing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiohttp import web
from msgspec import Struct

from qorzen_obs.history.base import Loss, StoredTasks, TaskQuery
from qorzen_obs.server.documents import Moment, Task, encode_json, now, task_line, timestamp
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import LOOKS
from qorzen_obs.server.stored import (
    STORE_READS,
    UNREADABLE_STORE,
    UnreadableStoreError,
    unreadable_store,
)
from qorzen_obs.tasks import TaskCategory

LISTED: Final = 100  #: lost tasks in the answer, the newest; /api/tasks has all of them


class LossDocument(Struct, frozen=True, kw_only=True):
    """What the end of one process took along."""

    instance: str  #: of the manager that died
    started_at: Moment
    last_seen_at: Moment  #: when it wrote last
    noticed_at: Moment  #: when a later process found out
    running: int  #: tasks that were running
    pending: int  #: tasks that had not started
    by_category: dict[TaskCategory, int]


class Lost(Struct, frozen=True, kw_only=True):
    """What was lost, the newest first."""

    losses: list[LossDocument]
    items: list[Task]  #: the newest lost tasks, of all losses
    at: Moment


def loss_document(loss: Loss) -> LossDocument:
    """Return what is shown of a loss."""
    return LossDocument(
        instance=loss.instance,
        started_at=_moment(loss.started_at),
        last_seen_at=_moment(loss.last_seen_at),
        noticed_at=_moment(loss.noticed_at),
        running=loss.running,
        pending=loss.pending,
        by_category=loss.by_category,
    )


def _moment(unix_seconds: float) -> str:
    return timestamp(unix_seconds) or ""


async def get_lost(request: web.Request) -> web.Response:
    """Answer with the losses, and the newest of the lost tasks.

    Raises:
        ProblemError: the store cannot be read now.
    """
    stored = request.app[LOOKS].stored
    if stored is None:
        return web.Response(body=_written((), ()), content_type="application/json")
    try:
        body = await request.app[STORE_READS].read(lambda: _read(stored))
    except UnreadableStoreError:
        raise unreadable_store() from None
    return web.Response(body=body, content_type="application/json")


def _read(stored: StoredTasks) -> bytes:
    lost = stored.select(TaskQuery(lost_by_crash=True), limit=LISTED)
    return _written(stored.losses(), [task_line(info, stored=True) for info in lost])


def _written(losses: Sequence[Loss], items: Sequence[Task]) -> bytes:
    return encode_json(Lost(losses=[loss_document(loss) for loss in losses], items=list(items), at=now()))


ROUTES: Final = (
    Route(
        "/api/lost",
        get_lost,
        Access.READ,
        summary="What earlier processes took along when they died.",
        tag=Tag.TASKS,
        description="One entry for each process that ended without a goodbye, and the newest 100 of the tasks that "
        "were running or pending then. Both are empty without a durable history.",
        answers={200: Answer("The losses and the lost tasks.", Lost), 503: UNREADABLE_STORE},
    ),
)
