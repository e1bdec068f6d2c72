"""A task manager with all of its observation, put together as a service does it; its log goes to a descriptor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TextIO

from opentelemetry.trace import TracerProvider

from qorzen_obs.clock import Clock
from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.event_bus_manager import EventBusManager
from qorzen_obs.core.logger_manager import LoggerManager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.settings import Settings
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.setup import set_up_tracing


@asynccontextmanager
async def observed(
    settings: Settings,
    log: TextIO,
    *,
    sampling_clock: Clock | None = None,
    tracer_provider: TracerProvider | None = None,
) -> AsyncIterator[TaskManager]:
    """Give a ready manager; at the end of the block what still runs is cancelled.

    `sampling_clock` is whose seconds the tail sampler's budget is for. Spans of another `tracer_provider` reach no
    sampler.
    """
    redactor = Redactor()
    loggers = LoggerManager("info", log, redactor)
    events, config = EventBusManager(), ConfigManager(settings)
    concurrency = ConcurrencyManager(settings.engines)
    parts = (config, loggers, events, concurrency)
    for part in parts:
        await part.initialize()
    tracing = set_up_tracing(
        settings.telemetry, {}, set_global=False, clock=sampling_clock, redactor=redactor
    )
    tasks = TaskManager(
        concurrency,
        events,
        loggers,
        config,
        tracer_provider=tracer_provider or tracing.provider,
        telemetry=TelemetryParts(
            settings=settings.telemetry,
            status=tracing.status,
            on_spans=tracing.on_spans,
            spans=tracing.traces,
            redactor=redactor,
            lost=loggers.stream.lost,
            exemplars=tracing.exemplars,
        ),
    )
    await tasks.initialize()
    try:
        yield tasks
    finally:
        await tasks.shutdown(grace_seconds=0)
        tracing.shutdown()
        for part in reversed(parts):
            await part.shutdown()
