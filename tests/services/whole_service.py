"""A service with all its parts on the loop of the test, as `qorzen-obs serve` hosts one in a process."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TextIO

import structlog

from qorzen_obs.app import Service
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.settings import ServerSettings, Settings
from qorzen_obs.telemetry.log_records import RecordsAsLines
from qorzen_obs.telemetry.logs import LogStream


@asynccontextmanager
async def whole_service(
    settings: Settings | None = None,
    *,
    http: bool = True,
    known: TaskRegistry | None = None,
    environment: Mapping[str, str] | None = None,
    log_stream: TextIO | LogStream | None = None,
) -> AsyncIterator[Service]:
    """Start a service, by default on any free port and with an empty environment; cancel at the end what still runs."""
    service = Service(
        settings or Settings(server=ServerSettings(port=0)),
        http=http,
        known=known,
        environment=environment or {},
        log_stream=log_stream,
    )
    await service.start()
    try:
        yield service
    finally:
        await service.stop(grace_seconds=0)


@asynccontextmanager
async def logging_service(settings: Settings) -> AsyncIterator[tuple[Service, io.StringIO]]:
    """Start a service that takes the lines of structlog and of `logging` too; give it and what it writes."""
    level = settings.telemetry.log_level
    written = io.StringIO()
    logs = LogStream(written)
    handler, root = RecordsAsLines(logs.logger("logging", level)), logging.getLogger()
    logs.configure_structlog(level)
    root.addHandler(handler)
    try:
        async with whole_service(
            settings, environment={"OTEL_TRACES_EXPORTER": "none"}, log_stream=logs
        ) as service:
            yield service, written
    finally:
        root.removeHandler(handler)
        structlog.reset_defaults()


def url_of(service: Service) -> str:
    """Return the address of its ops plane."""
    assert service.ops is not None
    return service.ops.url
