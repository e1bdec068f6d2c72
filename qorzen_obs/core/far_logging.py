"""Sends lines of the standard library's logging from a worker process to the service."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Final

from qorzen_obs.telemetry.other_export import is_exported

_LEVELS: Final = ((40, "error"), (30, "warning"), (20, "info"))
#: The attributes of every record; any others came from `extra`.
_USUAL: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


class ForwardingHandler(logging.Handler):
    """Hands each record to `send(level, event, fields, exported)`. Takes no lock: a fork could copy it held.

    `exported`: OpenTelemetry's own handler exports the record from this process.
    """

    def __init__(self, send: Callable[[str, str, dict[str, Any], bool], None]) -> None:
        super().__init__()
        self._send_log = send
        self._formatter = logging.Formatter()

    def createLock(self) -> None:  # noqa: N802  # logging's name
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        kept = bool(self.filter(record))
        if kept:
            self.emit(record)
        return kept

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = {key: value for key, value in vars(record).items() if key not in _USUAL}
            fields["logger_name"] = record.name
            if record.exc_info and record.exc_info[0] is not None:
                fields["exception"] = self._formatter.formatException(record.exc_info)
            level = next((name for number, name in _LEVELS if record.levelno >= number), "debug")
            exported = is_exported(logging.getLogger(record.name))
            self._send_log(level, record.getMessage(), fields, exported)
        except Exception:  # noqa: BLE001  # a log call must not fail the task
            self.handleError(record)


def forward_root(handler: ForwardingHandler) -> None:
    """Forward the root logger's records, and only once: what its handlers write to the outputs would arrive too."""
    root = logging.getLogger()
    outputs = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    for other in root.handlers:
        if isinstance(other, logging.StreamHandler) and any(other.stream is output for output in outputs):
            other.addFilter(_nothing)
    root.addHandler(handler)


def _nothing(record: logging.LogRecord) -> bool:
    return False
