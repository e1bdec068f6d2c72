"""Hands out structlog loggers: configured by the program if it configures structlog, else ours.

Ours write to `logging` if the program has configured that, else to standard error.
"""

from __future__ import annotations

from typing import Any, TextIO

import structlog

from qorzen_obs.core.base import QorzenManager
from qorzen_obs.in_thread import run_in_daemon_thread
from qorzen_obs.telemetry.log_export import LogExport
from qorzen_obs.telemetry.logs import LogStream, users_logger
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.task_log import StreamTaskLog


class LoggerManager(QorzenManager):
    """One log stream for the service. A LogStream passed in has its own redactor and export."""

    def __init__(
        self,
        level: str = "info",
        stream: TextIO | LogStream | None = None,
        redactor: Redactor | None = None,
        export: LogExport | None = None,
    ) -> None:
        super().__init__("logger_manager")
        self._level = level
        self._own = not isinstance(stream, LogStream)
        self._users_first = stream is None
        self.stream = (
            stream
            if isinstance(stream, LogStream)
            else LogStream(stream, redactor, export, by_logging=stream is None)
        )

    async def initialize(self) -> None:
        self._become_ready()

    async def shutdown(self) -> None:
        if self._own:
            await run_in_daemon_thread(self.stream.close, name="qorzen-log-close")
        self._become_stopped()

    def get_logger(self, name: str) -> Any:
        """Return a logger whose methods take an event name and fields."""
        if self._users_first and structlog.is_configured():
            return users_logger(name)
        return self.stream.logger(name, self._level)

    def task_log(self, name: str) -> StreamTaskLog | None:
        """Return the writer of canonical task lines that replaces such a logger; None if the logger is the user's."""
        if self._users_first and structlog.is_configured():
            return None
        return StreamTaskLog(self.stream, name, self._level)
