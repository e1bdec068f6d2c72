"""The composition root: the only place that knows every part. Starts them in order and stops them in reverse.

The HTTP server is imported only when requested: with aiohttp, its import takes a third as long as all other imports.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector

from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.event_bus_manager import EventBusManager
from qorzen_obs.core.logger_manager import LoggerManager
from qorzen_obs.core.recording import HistoryParts
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.durable import HistorySources, close_history, default_file, lost_line, open_history
from qorzen_obs.errors import ManagerError, ManagerInitializationError
from qorzen_obs.history.recorder import DurableHistory
from qorzen_obs.in_thread import run_in_daemon_thread
from qorzen_obs.otel_variables import OtelWarning, only_usable, read_otel_environment
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.settings import Settings, load_settings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.export import TracingMetrics
from qorzen_obs.telemetry.gil_watch import GilWatch
from qorzen_obs.telemetry.log_export import LogExport
from qorzen_obs.telemetry.log_taps import tapped
from qorzen_obs.telemetry.logs import LogStream
from qorzen_obs.telemetry.otlp_json import to_otlp_json
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.setup import (
    DEFAULT_SERVICE_NAME,
    Tracing,
    set_up_log_export,
    set_up_metric_export,
    set_up_tracing,
)
from qorzen_obs.telemetry.span_redaction import redact_span

if TYPE_CHECKING:
    from qorzen_obs.server.app import OpsPlane
    from qorzen_obs.telemetry.metric_export import MetricExport

_FLUSH_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of a started service."""

    config: ConfigManager
    loggers: LoggerManager
    events: EventBusManager
    concurrency: ConcurrencyManager
    registry: CollectorRegistry
    tracing: Tracing
    metrics: MetricExport | None  #: None unless OTEL_METRICS_EXPORTER asks for it
    history: DurableHistory | None  #: None if tasks are only in memory
    tasks: TaskManager
    ops: OpsPlane | None  #: None unless HTTP was requested


class Service:
    """A task manager with its parts, for one event loop. It starts once.

    `known` are the tasks that HTTP clients can name. `environment` decides which spans and log lines are exported;
    settings come as an object. A LogStream has its own export. `gil_watch` is for a program that owns the process.
    `checks` are health checks that apply from the first answer on. `default_history` makes a service whose
    `history.url` is `memory` record its tasks in the default file of this name, if it can.
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
        default_history: str | None = None,
    ) -> None:
        self.settings = settings
        self._redactor = Redactor(settings.telemetry.redact_keys, settings.telemetry.redact_patterns)
        self._environment = os.environ if environment is None else environment
        self._log_stream = log_stream
        self._http = http
        self._known = known
        self._gil_watch = gil_watch
        self._checks = checks
        self._default_history = default_history
        self._parts: Parts | None = None
        self._stops = AsyncExitStack()

    @property
    def parts(self) -> Parts:
        """The parts, from `start` on and also after `stop`.

        Raises:
            ManagerError: it was not started.
        """
        if self._parts is None:
            raise ManagerError("service", "has no parts yet; await start() first")
        return self._parts

    @property
    def tasks(self) -> TaskManager:
        """The task manager, one of the parts."""
        return self.parts.tasks

    @property
    def ops(self) -> OpsPlane | None:
        """The HTTP server, one of the parts; None unless HTTP was requested."""
        return self.parts.ops

    @property
    def history_news(self) -> list[str]:
        """What a start has to say of the history, a line each: why tasks are only in memory, and which were lost."""
        trouble: str | None = self.tasks.status()["history"].get("trouble")
        return [line for line in (trouble, lost_line(self.tasks.looks.losses)) if line is not None]

    async def start(self) -> None:
        """Start every part; when one fails, stop those before it.

        Raises:
            SettingsError: a setting is unusable, or an exporter named by an OTEL_* variable cannot be created.
            InvalidHealthCheckError: one of the health checks cannot be used.
            ManagerInitializationError: a part did not start, for example because the port is in use, or the service was
                started before.
        """
        if self._parts is not None:
            raise ManagerInitializationError("service", "was started before; make a new one")
        async with AsyncExitStack() as stops:
            self._parts = await self._start(stops)
            self._stops = stops.pop_all()

    async def _start(self, stops: AsyncExitStack) -> Parts:
        settings = self.settings
        if self._http:  # in a thread, so that the loop continues meanwhile
            server = functools.partial(importlib.import_module, "qorzen_obs.server.app")
            await run_in_daemon_thread(server, name="qorzen-import")
        log = self._log_stream
        export = log.export if isinstance(log, LogStream) else set_up_log_export(self._environment)
        stops.push_async_callback(_flush, None, export)
        config = ConfigManager(settings)
        loggers = LoggerManager(settings.telemetry.log_level, log, self._redactor, export)
        events = EventBusManager(loggers.get_logger("event_bus_manager"))
        concurrency = ConcurrencyManager(settings.engines)
        for manager in (config, loggers, events, concurrency):
            await manager.initialize()
            stops.push_async_callback(manager.shutdown)
        stops.enter_context(tapped(loggers.stream))
        variables = read_otel_environment(self._environment).warnings
        for warning in variables:
            loggers.get_logger("telemetry").warning(names.LOG_OTEL_VARIABLE, **warning._asdict())
        tracing = set_up_tracing(
            settings.telemetry, self._environment, set_global=True, redactor=self._redactor
        )
        metrics = set_up_metric_export(self._environment, tracing.resource)
        stops.push_async_callback(_flush, tracing, export, metrics)
        registry = _make_registry(TracingMetrics(tracing), loggers.stream)
        registry.set_target_info(tracing.target_info())
        ops: OpsPlane | None = None
        history, history_parts = await self._open_history(tracing, loggers, lambda: tasks)
        if history is not None:
            stops.push_async_callback(close_history, history, loggers.get_logger("history"))
        with only_usable():  # a tracer reads variables when it is created
            tasks = TaskManager(
                concurrency,
                events,
                loggers,
                config,
                registry=registry,
                tracer_provider=tracing.provider,
                telemetry=TelemetryParts(
                    settings=settings.telemetry,
                    status=functools.partial(
                        _telemetry_status, tracing, export, metrics, _shown(variables, self._redactor)
                    ),
                    on_spans=tracing.on_spans,
                    redactor=self._redactor,
                    lost=functools.partial(_lost, loggers.stream, tracing, metrics),
                    exemplars=tracing.exemplars,
                    spans=tracing.traces,
                    ops_url=lambda: None if ops is None else ops.url,
                    exponential_histograms=metrics is not None and metrics.exponential,
                    gil_watch=self._gil_watch,
                ),
                history=history_parts,
            )
        for name, _, definition in self._known or ():
            tasks.looks.metrics.know_definition(name, definition)
        for check in self._checks:
            tasks.health.add(check)
        stops.push_async_callback(tasks.health.close)
        if self._http:
            ops = self._make_ops_plane(tasks, registry)
            await ops.start()
            stops.push_async_callback(ops.stop)
        await tasks.initialize()
        stops.push_async_callback(tasks.shutdown)
        if metrics is not None:
            metrics.start(tasks.looks.gathering.gather)
        return Parts(
            config=config,
            loggers=loggers,
            events=events,
            concurrency=concurrency,
            registry=registry,
            tracing=tracing,
            metrics=metrics,
            history=history,
            tasks=tasks,
            ops=ops,
        )

    async def _open_history(
        self, tracing: Tracing, loggers: LoggerManager, manager: Callable[[], TaskManager]
    ) -> tuple[DurableHistory | None, HistoryParts]:
        """Open the durable history, if there is one. It asks for the manager's data once there is a manager."""
        service, redactor = tracing.service(), self._redactor
        name, default = service["name"] or DEFAULT_SERVICE_NAME, None
        if self._default_history is not None:
            named = self._default_history if name == DEFAULT_SERVICE_NAME else name
            default = default_file(named, self.settings.server.port, self._environment)
        sources = HistorySources(
            ageing_seconds=self.settings.tasks.ageing_seconds,
            redact=functools.partial(redactor.field, "metadata"),
            lines_of=lambda task_id: manager().looks.log_of(task_id).items,
            spans_of=functools.partial(_spans_of, tracing, redactor),
            live=lambda: manager().looks.live_records(),  # noqa: PLW0108 - the manager does not exist yet
        )
        return await open_history(
            self.settings.history,
            sources,
            service=name,
            version=service["version"] or "",
            logger=loggers.get_logger("history"),
            default=default,
        )

    def _make_ops_plane(self, tasks: TaskManager, registry: CollectorRegistry) -> OpsPlane:
        from qorzen_obs.server.app import OpsPlane  # noqa: PLC0415 - see above
        from qorzen_obs.server.health import HealthCollector  # noqa: PLC0415
        from qorzen_obs.server.stream import StreamCollector  # noqa: PLC0415

        registry.register(HealthCollector(tasks.looks, self.settings.health))
        registry.register(StreamCollector(tasks.looks))
        return OpsPlane(
            tasks,
            tasks=self._known,
            settings=self.settings.server,
            health=self.settings.health,
            on_request=tasks.looks.metrics.on_request,
        )

    def refuse_traffic(self) -> None:
        """Make /readyz report "not ready" from now on, before `stop` and even while the work loop is blocked.

        From any thread or signal handler; has no effect before `start` has returned.
        """
        if self._parts is not None:
            self._parts.tasks.health.refuse_traffic()

    async def stop(self, *, grace_seconds: float | None = None) -> None:
        """Stop the manager within `grace_seconds`, export what is queued, then stop every part.

        The ops plane answers until then, so a last scrape has the final counts. Safe before start.
        """
        async with self._stops:
            if self._parts is not None:
                await self._parts.tasks.shutdown(grace_seconds=grace_seconds)
                parts = self._parts
                await _flush(parts.tracing, parts.loggers.stream.export, parts.metrics)


def _make_registry(*collectors: Collector) -> CollectorRegistry:
    """Return a registry with the process's own metrics and `collectors`."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    return registry


def _spans_of(tracing: Tracing, redactor: Redactor, trace_id: str) -> list[dict[str, Any]]:
    """Return the kept spans of a trace as OTLP/JSON, without their resource, which is this service's."""
    spans = to_otlp_json(redact_span(span, redactor) for span in tracing.traces.trace(trace_id))
    return [
        span
        for of_resource in spans["resourceSpans"]
        for of_scope in of_resource["scopeSpans"]
        for span in of_scope["spans"]
    ]


def _telemetry_status(
    tracing: Tracing, logs: LogExport | None, metrics: MetricExport | None, variables: list[dict[str, str]]
) -> dict[str, Any]:
    status = tracing.status()
    for what, export in (("log_export", logs), ("metric_export", metrics)):
        status[what] = None if export is None else export.queue.status()
        if export is not None and export.queue.trouble is not None:
            status["trouble"].append(export.queue.trouble)
    return {**status, "variables": variables}


def _shown(variables: Iterable[OtelWarning], redactor: Redactor) -> list[dict[str, str]]:
    """Return the ignored variables, as `status()` shows them."""
    return [{name: redactor.text(value) for name, value in one._asdict().items()} for one in variables]


def _lost(stream: LogStream, tracing: Tracing, metrics: MetricExport | None) -> dict[str, int]:
    """Return the number of losses, by kind of `qorzen_events_dropped`."""
    return {
        **stream.lost(),
        **tracing.lost(),
        **({} if metrics is None else {"metric_export": metrics.lost}),
    }


async def _flush(
    tracing: Tracing | None, logs: LogExport | None, metrics: MetricExport | None = None
) -> None:
    """Send queued spans and log lines, and the metrics, in parallel, for a second at most. Idempotent."""
    exports = [export for export in (tracing, logs, metrics) if export is not None]
    # In threads of their own: the program may occupy all threads of asyncio's pool.
    await asyncio.gather(
        *(
            run_in_daemon_thread(functools.partial(export.shutdown, _FLUSH_SECONDS), name="qorzen-flush")
            for export in exports
        )
    )


@asynccontextmanager
async def open_task_manager(
    settings: Settings | None = None, *, http: bool = False
) -> AsyncIterator[TaskManager]:
    """Yield a ready TaskManager with all its parts, and stop them at the end of the block.

    Without `settings` the defaults and the `QORZEN_*` variables apply. If you pass settings, they apply unchanged; use
    `load_settings(environment=os.environ, base=Settings(…))` to let the variables override them. `http=True` also
    serves metrics, status, health, traces and the page, see `tasks.ops_url`. At the end, accepted tasks have
    `tasks.shutdown_grace_seconds` to finish; if an exception leaves the block, they are cancelled at once.

    Raises:
        SettingsError: a setting is unknown or out of bounds.
        HistoryError: the file of `history.url` cannot be used.
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
