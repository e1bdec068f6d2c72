"""Hands out structlog loggers: the user's own configuration where there is one, else ours on standard error."""

from __future__ import annotations

from typing import Any, TextIO

import structlog

from qorzen_obs.core.base import QorzenManager
from qorzen_obs.telemetry.logs import make_logger


class LoggerManager(QorzenManager):
    """One log stream for the service."""

    def __init__(self, level: str = "info", stream: TextIO | None = None) -> None:
        super().__init__("logger_manager")
        self._level = level
        self._stream = stream

    async def initialize(self) -> None:
        self._become_ready()

    async def shutdown(self) -> None:
        self._become_stopped()

    def get_logger(self, name: str) -> Any:
        """Return a logger whose methods take an event name and fields."""
        if self._stream is None and structlog.is_configured():
            return structlog.get_logger(name)
        return make_logger(name, self._level, self._stream)
