"""The composition root: the one place that knows every part, starts them in order and stops them in reverse."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TextIO

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.event_bus_manager import EventBusManager
from qorzen_obs.core.logger_manager import LoggerManager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.server.app import OpsPlane
from qorzen_obs.server.health import HealthCollector
from qorzen_obs.server.in_thread import run_in_daemon_thread
from qorzen_obs.server.stream import StreamCollector
from qorzen_obs.settings import Settings, load_settings
from qorzen_obs.telemetry.export import TracingMetrics
from qorzen_obs.telemetry.gil_watch import GilWatch
from qorzen_obs.telemetry.logs import LogStream
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.setup import Tracing, set_up_log_export, set_up_tracing

_FLUSH_SECONDS: Final = 1.0


class Service:
    """A task manager with its parts, for one event loop.

    `known` are the tasks that HTTP clients can name. `environment` decides on tracing only; settings come as an object.
    `gil_watch` is for a program that owns the process. `checks` are health checks that hold from the first answer on.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        http: bool = False,
        known: TaskRegistry | None = None,
        environment: Mapping[str, str] | None = None,
        log_stream: TextIO | LogStream | None = None,
        gil_watch: GilWatch | None = None,
        checks: Iterable[Callable[[], object]] = (),
    ) -> None:
        self.settings = settings
        self.config = ConfigManager(settings)
        self.redactor = Redactor(settings.telemetry.redact_keys, settings.telemetry.redact_patterns)
        self.loggers = LoggerManager(settings.telemetry.log_level, log_stream, self.redactor)
        self.events = EventBusManager(self.loggers.get_logger("event_bus_manager"))
        self.concurrency = ConcurrencyManager(settings.engines)
        self.registry = CollectorRegistry()
        self._environment = os.environ if environment is None else environment
        self._http = http
        self._known = known
        self._gil_watch = gil_watch
        self._checks = checks
        self._parts = AsyncExitStack()
        self.tasks: TaskManager  #: from `start` on
        self.tracing: Tracing  #: from `start` on
        self.ops: OpsPlane | None = None

    async def start(self) -> None:
        """Start every part; when one fails, those before it are stopped again.

        Raises:
            SettingsError: a setting or an OTEL_* variable cannot be followed.
            InvalidHealthCheckError: one of the health checks cannot be used.
            ManagerInitializationError: a part did not start, such as for a port in use.
        """
        async with self._parts:
            for manager in (self.config, self.loggers, self.events, self.concurrency):
                await manager.initialize()
                self._parts.push_async_callback(manager.shutdown)
            self.tracing = set_up_tracing(
                self.settings.telemetry, self._environment, set_global=True, redactor=self.redactor
            )
            self._parts.push_async_callback(self._flush)
            self.loggers.stream.export = set_up_log_export(self._environment)
            self.registry.register(TracingMetrics(self.tracing))
            self._collect_process()
            self.tasks = TaskManager(
                self.concurrency,
                self.events,
                self.loggers,
                self.config,
                registry=self.registry,
                tracer_provider=self.tracing.provider,
                telemetry=TelemetryParts(
                    settings=self.settings.telemetry,
                    status=self._telemetry_status,
                    on_spans=self.tracing.on_spans,
                    redactor=self.redactor,
                    lost=self.loggers.stream.lost,
                    exemplars=self.tracing.exemplars,
                    spans=self.tracing.traces,
                    ops_url=lambda: None if self.ops is None else self.ops.url,
                    gil_watch=self._gil_watch,
                ),
            )
            for check in self._checks:
                self.tasks.health.add(check)
            self._parts.push_async_callback(self.tasks.health.close)
            if self._http:
                self.ops = OpsPlane(
                    self.tasks,
                    tasks=self._known,
                    settings=self.settings.server,
                    health=self.settings.health,
                    on_request=self.tasks.looks.metrics.on_request,
                )
                self.registry.register(HealthCollector(self.tasks.looks, self.settings.health))
                self.registry.register(StreamCollector(self.tasks.looks))
                await self.ops.start()
                self._parts.push_async_callback(self.ops.stop)
            await self.tasks.initialize()
            self._parts.push_async_callback(self.tasks.shutdown)
            self._parts = self._parts.pop_all()

    def refuse_traffic(self) -> None:
        """Have /readyz say no from now on, before `stop` and while the work loop is wedged; from any thread."""
        self.tasks.health.stopping = True

    async def stop(self, *, grace_seconds: float | None = None) -> None:
        """Stop the manager, which may take `grace_seconds`, and send what is observed, then stop every part.

        The ops plane answers till then, so a last scrape has the final counts.
        """
        async with self._parts:
            await self.tasks.shutdown(grace_seconds=grace_seconds)
            await self._flush()

    def _telemetry_status(self) -> dict[str, Any]:
        status = self.tracing.status()
        logs = self.loggers.stream.export
        if logs is not None and logs.queue.trouble is not None:
            status["trouble"].append(logs.queue.trouble)
        return status

    async def _flush(self) -> None:
        """Send what waits, spans and log lines side by side, for a second at most. Again, it finds nothing to send."""
        logs = self.loggers.stream.export
        shutdowns = [self.tracing.shutdown] if logs is None else [self.tracing.shutdown, logs.shutdown]
        # In threads of their own: those of asyncio's pool may all be held by the program.
        await asyncio.gather(
            *(
                run_in_daemon_thread(functools.partial(shutdown, _FLUSH_SECONDS), name="qorzen-flush")
                for shutdown in shutdowns
            )
        )

    def _collect_process(self) -> None:
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(self.loggers.stream)


@asynccontextmanager
async def open_task_manager(
    settings: Settings | None = None, *, http: bool = False
) -> AsyncIterator[TaskManager]:
    """Give a ready TaskManager with all its parts, and stop them at the end of the block.

    Without `settings` the defaults and the `QORZEN_*` variables hold. `http=True` also serves metrics, status, health,
    traces and the page, see `tasks.ops_url`. At the end accepted tasks have `tasks.shutdown_grace_seconds` to end; when
    the block is left by an exception, they are cancelled at once.

    Raises:
        SettingsError: a setting is unknown or out of bounds.
        ManagerInitializationError: the port is in use, or another part did not start.
    """
    service = Service(settings or load_settings(environment=os.environ), http=http)
    await service.start()
    grace: float | None = 0.0
    try:
        yield service.tasks
        grace = None
    finally:
        await service.stop(grace_seconds=grace)
