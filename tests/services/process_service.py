"""A task manager with worker processes for a test, what its tasks say, and the proof that nothing of it is left."""

import asyncio
import io
import json
import os
import select
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.event_bus_manager import Event, EventBusManager
from qorzen_obs.core.logger_manager import LoggerManager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.settings import EngineSettings, Settings, TaskSettings
from qorzen_obs.tasks import EngineKind, TaskInfo
from qorzen_obs.telemetry.parts import OnSpans, TelemetryParts


class ProcessService:
    """A ready manager; `tasks` is its public surface."""

    def __init__(self, tasks: TaskManager, events: EventBusManager, stream: io.StringIO) -> None:
        self.tasks = tasks
        self._stream = stream
        self._said: dict[str, list[str]] = defaultdict(list)
        self._news = asyncio.Event()
        events.subscribe("task/progress", self._on_progress)

    async def _on_progress(self, event: Event) -> None:
        self._said[event.payload["task_id"]].append(event.payload["progress"]["message"])
        self._news.set()

    async def said(self, task_id: str) -> str:
        """Wait until the task reports progress; return its message."""
        while not self._said[task_id]:
            await self._news.wait()
            self._news.clear()
        return self._said[task_id][-1]

    async def start(self, func: Callable[..., Any], *args: Any, **options: Any) -> tuple[str, str]:
        """Submit a task that reports progress; return its id and what it said once it runs."""
        task_id = await self.tasks.submit_task(func, *args, **options)
        return task_id, await self.said(task_id)

    async def end(self, func: Callable[..., Any], *args: Any, **options: Any) -> TaskInfo:
        """Submit a task and wait for its end."""
        return await self.tasks.wait_for_task(await self.tasks.submit_task(func, *args, **options))

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the log lines so far, of one event where it is named."""
        lines = [json.loads(line) for line in self._stream.getvalue().splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    @property
    def engine(self) -> dict[str, Any]:
        """What status() shows of the process engine."""
        shown: dict[str, Any] = self.tasks.status()["engines"]["process"]
        return shown


@asynccontextmanager
async def process_service(
    *,
    grace_seconds: float = 0.3,
    engines: EngineSettings | None = None,
    tracer_provider: TracerProvider | None = None,
    on_spans: OnSpans | None = None,
) -> AsyncIterator[ProcessService]:
    """Give a manager with two worker processes; at the end nothing of them is left."""
    settings = Settings(
        tasks=TaskSettings(cancel_grace_seconds=grace_seconds),
        engines=engines or EngineSettings(processes=2),
    )
    stream = io.StringIO()
    open_before = _descriptors()
    events, loggers = EventBusManager(), LoggerManager("debug", stream)
    config, concurrency = ConfigManager(settings), ConcurrencyManager(settings.engines)
    parts = (config, loggers, events, concurrency)
    for part in parts:
        await part.initialize()
    tasks = TaskManager(
        concurrency,
        events,
        loggers,
        config,
        tracer_provider=tracer_provider or NoOpTracerProvider(),
        telemetry=TelemetryParts(on_spans=on_spans),
    )
    await tasks.initialize()
    try:
        yield ProcessService(tasks, events, stream)
    finally:
        await tasks.shutdown(grace_seconds=0)
        for part in reversed(parts):
            await part.shutdown()
    assert guardians() == [], "a guardian was left"
    assert _descriptors() <= open_before, "a descriptor was left"


def engine_of(tasks: TaskManager) -> Any:
    """Return the process engine itself, for what no public surface shows."""
    return tasks._lifecycle._runtime.engines[EngineKind.PROCESS]


def guardians() -> list[int]:
    """Return the guardians that this process has, dead ones included."""
    return [pid for pid in _children(os.getpid()) if b"guardian.py" in _command(pid)]


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # the thread has ended meanwhile
            children += map(int, (thread / "children").read_text().split())
    return children


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() or b"guardian.py"  # a zombie has none
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Deaths:
    """Sees processes die, with no polling and no mistaking of numbers: made while they live."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._descriptors = {os.pidfd_open(pid) for pid in pids}

    def within(self, seconds: float) -> bool:
        """Wait until all are dead, at most so long; return whether they are."""
        poll = select.poll()
        for descriptor in self._descriptors:
            poll.register(descriptor, select.POLLIN)
        alive = set(self._descriptors)
        while alive:
            ended = poll.poll(seconds * 1000)
            if not ended:
                break
            for descriptor, _ in ended:
                poll.unregister(descriptor)
                alive.discard(descriptor)
        for descriptor in self._descriptors:
            os.close(descriptor)
        return not alive
