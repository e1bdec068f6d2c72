"""Managers whose tasks are recorded: by a recorder that a test controls, or in a file."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from qorzen_obs.app import Service
from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.recording import HistoryParts
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.record import End, TaskEvent, TaskRecord
from qorzen_obs.settings import HistorySettings, Settings, TaskSettings, TelemetrySettings
from qorzen_obs.tasks import EventKind
from qorzen_obs.testing import CapturedEvents, CapturedLogs


class Recording:
    """A recorder whose disk is the test."""

    def __init__(self, *, commits_first: bool = False) -> None:
        self.commits_first = commits_first
        self.problem: str | None = None
        self.lags = False  # and is not broken
        self.room = asyncio.Event()
        self.offers: list[tuple[TaskRecord, asyncio.Future[None]]] = []
        self.offered = asyncio.Event()
        self.withdrawn: list[str] = []
        self.events: list[tuple[EventKind, str]] = []
        self.ends: list[tuple[EventKind, str]] = []

    def refusal(self) -> str | None:
        return self.problem

    async def wait_for_room(self) -> None:
        if self.lags:
            await self.room.wait()

    def offer(self, record: TaskRecord) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.offers.append((record, future))
        self.offered.set()
        return future

    def store(self) -> None:
        """Let what is offered be on disk."""
        for _, future in self.offers:
            if not future.done():
                future.set_result(None)

    def withdraw(self, record: TaskRecord) -> None:
        self.withdrawn.append(record.task_id)

    def on_event(self, event: TaskEvent) -> None:
        self.events.append((event.kind, event.record.task_id))

    def on_ends(self, ends: Sequence[End]) -> None:
        self.ends += [(end.kind, end.record.task_id) for end in ends]

    def status(self) -> dict[str, Any]:
        return {"kind": "fake", "durable": self.problem is None, "waiting": 0}


@asynccontextmanager
async def recorded_manager(recorder: Recording, **tasks: Any) -> AsyncIterator[TaskManager]:
    """Give a ready manager that records through `recorder`."""
    settings = Settings(tasks=TaskSettings(**tasks))
    concurrency = ConcurrencyManager(settings.engines)
    await concurrency.initialize()
    manager = TaskManager(
        concurrency,
        CapturedEvents(),
        CapturedLogs(),
        ConfigManager(settings),
        history=HistoryParts(recorder=recorder),
    )
    try:
        await manager.initialize()
        yield manager
    finally:
        await manager.shutdown(grace_seconds=0)
        await concurrency.shutdown()


@asynccontextmanager
async def stored_service(path: Path, **history: Any) -> AsyncIterator[Service]:
    """Give a service that stores its tasks in the file, quietly and without exporters."""
    settings = Settings(
        history=HistorySettings(url=f"sqlite:{path}", **history),
        telemetry=TelemetrySettings(log_level="off"),
    )
    service = Service(settings, environment={"OTEL_TRACES_EXPORTER": "none"})
    await service.start()
    try:
        yield service
    finally:
        await service.stop(grace_seconds=0)
