"""Records of the standard library's logging as lines with fields.

`RecordsAsLines` sends them where our own lines go: `serve` and `demo` install it. A program of its own that embeds a
task manager keeps its logging, and adds a `TaskLogHandler` where `/api/tasks/{id}/logs` should show its lines too.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from qorzen_obs.current import CURRENT
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.task_lines import keep_line

_LEVELS: Final = ((50, "critical"), (40, "error"), (30, "warning"), (20, "info"))
#: What every record has; the rest came by `extra`.
_USUAL: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
#: Parameters of a logger's methods and fields of our own, which `extra` must not replace.
_TAKEN: Final = frozenset({"event", "level", "logger_name", "self", "timestamp"})


def level_of(record: logging.LogRecord) -> str:
    """Return the name of the level at or below the record's number."""
    return next((name for number, name in _LEVELS if record.levelno >= number), "debug")


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the record says besides its message: its logger, the fields of `extra`, the stack if asked for."""
    fields = {
        f"{key}_" if key in _TAKEN else key: value for key, value in vars(record).items() if key not in _USUAL
    }
    fields["logger_name"] = record.name
    if record.stack_info:
        fields["stack"] = record.stack_info
    return fields


class RecordsAsLines(logging.Handler):
    """Writes each record as a line of a structlog logger, with its own level."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write = getattr(self._logger, level_of(record))
            write(record.getMessage(), exc_info=record.exc_info or None, **fields_of(record))
        except Exception:  # noqa: BLE001 - as every handler of logging: a bad line is reported, never raised
            self.handleError(record)


class TaskLogHandler(logging.Handler):
    """Keeps the records that tasks write for `/api/tasks/{id}/logs`, redacted; it writes nothing anywhere.

    For programs that embed a task manager and configure `logging` themselves:

        logging.getLogger().addHandler(TaskLogHandler())
    """

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        owner = getattr(CURRENT.get(), "owner", None)
        if owner is None:
            return
        try:
            fields = {**fields_of(record), "event": record.getMessage()}
            if record.exc_info and record.exc_info[0] is not None:
                fields["exception"] = self._formatter.formatException(record.exc_info)
            keep_line(level_of(record), fields, getattr(owner, "redactor", None) or Redactor())
        except Exception:  # noqa: BLE001 - as above
            self.handleError(record)
