"""GET /status: the manager's own account of itself."""

from __future__ import annotations

from typing import Any, Final, Literal

from aiohttp import web
from msgspec import Struct

from qorzen_obs.server.documents import Moment, json_response, with_timestamps
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.sources import LOOKS
from qorzen_obs.tasks import TaskCategory


class TaskNumbers(Struct, frozen=True, kw_only=True):
    """How many tasks there are, and were since the start."""

    total: int
    by_status: dict[str, int]
    by_category: dict[str, int]
    by_priority: dict[str, int]
    retained: int
    rejected: int
    plugins_with_tasks: int


class QueueNumbers(Struct, frozen=True, kw_only=True):
    """What waits."""

    depth: int
    scheduled: int
    limit: int
    paused: list[TaskCategory]
    oldest_pending_age_seconds: float


class SlotNumbers(Struct, frozen=True, kw_only=True):
    """The slots of one engine."""

    limit: int
    busy: int
    lent: int
    abandoned: int


class ConfigInForce(Struct, frozen=True, kw_only=True):
    """The settings that matter most, as they are now."""

    max_concurrent_tasks: int
    keep_completed_tasks: int
    default_timeout: float | Literal["inf"]


class Status(Struct, frozen=True, kw_only=True):
    """What `status()` says. Describes the manager's own dict, which is served as it is."""

    name: str
    initialized: bool
    healthy: bool
    state: str
    ready_at: Moment | None  #: when it first took work
    tasks: TaskNumbers
    queue: QueueNumbers
    slots: dict[str, SlotNumbers]
    engines: dict[str, dict[str, Any]]
    config: ConfigInForce
    telemetry: dict[str, Any]
    history: dict[str, Any]  #: `kind` is memory or sqlite; `durable`, `trouble` and more of a durable one
    versions: dict[str, str]


async def get_status(request: web.Request) -> web.Response:
    """Answer with `status()`."""
    return json_response(with_timestamps(request.app[LOOKS].status()))


ROUTES: Final = (
    Route(
        "/status",
        get_status,
        Access.READ,
        summary="The manager's own account of itself.",
        tag=Tag.SERVICE,
        description="State, counts of tasks, queue, slots of each engine, settings and versions. The counts agree "
        "with the metrics.",
        answers={200: Answer("What `status()` says.", Status)},
    ),
)
