"""An ops plane to ask: before a real manager, or before one that says what a test wants it to say."""

from __future__ import annotations

import asyncio
import enum
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec import Struct

from qorzen_obs.clock import Clock, SystemClock
from qorzen_obs.core.event_bus_manager import EventBusManager
from qorzen_obs.core.event_ring import EventRing
from qorzen_obs.core.health_checks import HealthChecks
from qorzen_obs.core.idempotency import Submission
from qorzen_obs.core.logger_manager import LoggerManager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.core.task_table import MayRerun
from qorzen_obs.counts import TaskCounts
from qorzen_obs.errors import TaskManagerClosedError, TaskNotFoundError
from qorzen_obs.history.base import Loss, StoredTasks
from qorzen_obs.record import Attempt, TaskRecord
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.scheduling.scheduler import Explanation
from qorzen_obs.server.app import OnRequest, OpsPlane
from qorzen_obs.server.sources import ServedManager
from qorzen_obs.settings import HealthSettings, ServerSettings, Settings, TaskSettings, TelemetrySettings
from qorzen_obs.stacks import LiveStack
from qorzen_obs.tasks import TaskCategory, TaskInfo, TaskPriority
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.definitions import DefinitionReading
from qorzen_obs.telemetry.gathering import Gathering
from qorzen_obs.telemetry.loop_monitor import Block, EndedBlock
from qorzen_obs.telemetry.metrics import Load
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.setup import set_up_tracing
from qorzen_obs.telemetry.task_lines import KeptLines
from qorzen_obs.telemetry.task_span import AnySpan
from qorzen_obs.telemetry.traces import Traces
from qorzen_obs.testing import open_test_manager

TOKEN = "a token of many characters"


@asynccontextmanager
async def managing(**tasks: Any) -> AsyncIterator[tuple[TaskManager, Traces]]:
    """A ready manager on the running loop with these `tasks` settings, and the traces that it leaves."""
    loggers = LoggerManager("error", io.StringIO())
    tracing = set_up_tracing(TelemetrySettings(), {}, set_global=False)
    try:
        async with open_test_manager(
            Settings(tasks=TaskSettings(**tasks)),
            events=EventBusManager(loggers.get_logger("events")),
            logs=loggers,
            tracer_provider=tracing.provider,
            telemetry=TelemetryParts(status=tracing.status, spans=tracing.traces),
        ) as manager:
            yield manager, tracing.traces
    finally:
        tracing.shutdown()
        await loggers.shutdown()


@asynccontextmanager
async def serving(
    manager: ServedManager,
    *,
    tasks: TaskRegistry | None = None,
    spans: Traces | None = None,
    settings: ServerSettings | None = None,
    health: HealthSettings | None = None,
    on_request: OnRequest | None = None,
) -> AsyncIterator[OpsPlane]:
    """An ops plane that listens; on any free port where the settings name none."""
    plane = OpsPlane(
        manager,
        tasks=tasks,
        spans=spans,
        settings=settings or ServerSettings(port=0),
        health=health or HealthSettings(),
        on_request=on_request,
    )
    await plane.start()
    try:
        yield plane
    finally:
        await plane.stop()


@asynccontextmanager
async def hosted(mounted: web.Application, prefix: str = "/ops/") -> AsyncIterator[str]:
    """A user's application that serves `mounted` below a prefix; give the URL of that."""
    host = web.Application(client_max_size=10**9)
    host.add_subapp(prefix, mounted)
    async with TestServer(host) as server:
        yield str(server.make_url(prefix)).rstrip("/")


async def get_json(session: aiohttp.ClientSession, url: str, status: int = 200, **query: str) -> Any:
    """GET `url`; return the document of the answer, which has this status."""
    async with session.get(url, params=query) as response:
        assert response.status == status, await response.text()
        return json.loads(await response.read())


async def exchange(plane: OpsPlane, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send raw bytes; return the status, the headers and the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
    try:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status_line, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers.get("Content-Length", 0)))
        return int(status_line.split()[1]), headers, body
    finally:
        writer.close()
        await writer.wait_closed()


class State(enum.Enum):
    """The states of a manager."""

    NEW = "new"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


def _ring() -> EventRing:
    ring = EventRing(TaskCounts())
    ring.begin(0)
    return ring


@dataclass
class SaidManager:
    """A manager without tasks that says what it is told to say."""

    state: State = State.READY
    initialized: bool = True
    blocked: float = 0.0
    block: Block | None = None
    blocks: list[EndedBlock] = field(default_factory=list)
    depth: int = 0
    scheduled: int = 0
    limit: int = 100
    definition_limit: int = 0
    abandoned: int = 0
    stalled: float = 0.0
    trouble: list[str] = field(default_factory=list)
    health: HealthChecks = field(default_factory=HealthChecks)
    gathering: Gathering = field(default_factory=Gathering)
    event_ring: EventRing = field(default_factory=_ring)
    redactor: Redactor = field(default_factory=Redactor)
    traces: Traces | None = None
    stored: StoredTasks | None = None
    losses: tuple[Loss, ...] = ()
    loop: asyncio.AbstractEventLoop | None = None
    paused: frozenset[TaskCategory] = frozenset()
    clock: Clock = field(default_factory=SystemClock)
    history: dict[str, Any] = field(default_factory=lambda: {"kind": "memory"})

    @property
    def looks(self) -> Self:
        """Itself: it has what is read of a manager beside what a manager does."""
        return self

    async def submit_task(self, func: Callable[..., Any], **options: Any) -> str:
        """It takes none."""
        raise TaskManagerClosedError(self.state.value)

    async def submit_once(self, func: Callable[..., Any], **options: Any) -> Submission:
        """It takes none."""
        raise TaskManagerClosedError(self.state.value)

    async def rerun(self, task_id: str) -> str:
        """There are no tasks."""
        raise TaskNotFoundError(task_id)

    async def pause(self, category: TaskCategory | str) -> None:
        """There is nothing to pause."""

    async def resume(self, category: TaskCategory | str) -> None:
        """There is nothing to resume."""

    async def cancel_task(self, task_id: str, *, reason: str = "") -> bool:
        """There are no tasks."""
        raise TaskNotFoundError(task_id)

    def status(self) -> dict[str, Any]:
        """As the real one's, as far as the server reads it."""
        return {
            "state": self.state.value,
            "queue": {"depth": self.depth, "scheduled": self.scheduled, "limit": self.limit},
            "slots": {"loop": {"abandoned": 0}, "thread": {"abandoned": self.abandoned}},
            "telemetry": {"trouble": [*self.trouble, *self.gathering.trouble]},
            "history": self.history,
        }

    def settings_in_force(self) -> dict[str, Struct]:
        """The defaults."""
        return {"tasks": TaskSettings()}

    def find(self, task_id: str) -> TaskInfo | None:
        """There are no tasks."""

    def may_rerun(self, task_id: str) -> MayRerun:
        """There are no tasks."""
        raise TaskNotFoundError(task_id)

    def records(self) -> list[TaskRecord]:
        """There are no tasks."""
        return []

    def live_records(self) -> list[TaskRecord]:
        """There are no tasks."""
        return []

    def kept_records(self) -> list[TaskRecord]:
        """There are no tasks."""
        return []

    def attempts(self) -> list[Attempt]:
        """There are no tasks."""
        return []

    def pid_of(self, attempt: Attempt) -> int | None:
        return None

    def awaiting(self, attempt: Attempt) -> str | None:
        """There are no tasks."""

    def stalled_seconds(self) -> float:
        """What it was told."""
        return self.stalled

    def loop_block(self) -> Block | None:
        """What it was told."""
        return self.block

    def load(self, since: float) -> Load:
        """It does nothing."""
        waits = {priority: [0] * (len(names.QUEUE_WAIT.buckets) + 1) for priority in TaskPriority}
        lags = [0] * (len(names.LOOP_LAG.buckets) + 1)
        return Load(self.clock.monotonic(), TaskCounts().read(), waits, lags, self.blocked)

    def definitions(self) -> dict[str, DefinitionReading] | None:
        """It counts none."""
        return None

    def ended_blocks(self) -> list[EndedBlock]:
        """What it was told."""
        return self.blocks

    def stack_of(self, task_id: str) -> LiveStack | None:
        """There are no tasks."""
        raise TaskNotFoundError(task_id)

    def log_of(self, task_id: str) -> KeptLines:
        return KeptLines([], 0)

    def span_of(self, task_id: str) -> AnySpan | None:
        """There are no tasks."""

    def why_pending(self, task_id: str) -> Explanation | None:
        """There are no tasks."""
        raise TaskNotFoundError(task_id)

    def blocked_seconds(self) -> float:
        """What it was told."""
        return self.blocked
