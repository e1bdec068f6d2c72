"""Turns records of the standard library's logging into lines with fields.

`RecordsAsLines` sends them where our own lines go: `serve` and `demo` install it. A program that embeds a task manager
keeps its own logging, and adds a `TaskLogHandler` if `/api/tasks/{id}/logs` should show its lines too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.current import CURRENT
from qorzen_obs.telemetry.other_export import exported_already, is_exported
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.task_lines import keep_line

_LEVELS: Final = ((50, "critical"), (40, "error"), (30, "warning"), (20, "info"))
#: The attributes of every record; any others came from `extra`.
_USUAL: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
#: Parameters of a logger's methods and our own fields, which `extra` must not replace.
_TAKEN: Final = frozenset({"event", "level", "logger_name", "self", "timestamp"})


def level_of(record: logging.LogRecord) -> str:
    """Return the name of the level at or below the record's number."""
    return next((name for number, name in _LEVELS if record.levelno >= number), "debug")


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the record's other fields: its logger, the fields of `extra`, and the stack if requested."""
    fields = {
        f"{key}_" if key in _TAKEN else key: value for key, value in vars(record).items() if key not in _USUAL
    }
    fields["logger_name"] = record.name
    if record.stack_info:
        fields["stack"] = record.stack_info
    return fields


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return all fields of a record as a line, with its exception as text without values of variables."""
    fields = fields_of(record)
    if isinstance(record.msg, dict):  # from a structlog whose lines logging's formatter renders
        fields.update(record.msg)
    else:
        fields["event"] = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        fields["exception"] = foreign.formatted(record.exc_info[1], record.exc_info[2])
    return fields


class Seen:
    """How far a record was observed before log_taps.py sees it."""

    def __init__(self, message: object) -> None:
        self.message = message  #: structlog's last rendered line in this thread, which was observed then
        self.kept = False  #: kept with its task
        self.whole = False  #: nothing is left to do

    def note(self, *, whole: bool) -> None:
        """Note that it was kept with its task, or that nothing is left to do."""
        self.kept, self.whole = True, whole


class _SeenByThread(threading.local):
    """The state of the record that a thread passes to its handlers, one of which may log."""

    line: Seen | None = None
    rendered: object = None  #: rendered by structlog for a standard-library logger that is called next

    def note(self, *, whole: bool) -> None:
        """Note what a handler has done with this thread's record."""
        if self.line is not None:
            self.line.note(whole=whole)

    def will_log(self, message: object) -> None:
        """Note the message of this thread's next record, which structlog has rendered."""
        self.rendered = message

    @contextmanager
    def one_line(self) -> Iterator[Seen]:
        """Let the handlers of a record report what they have done with it."""
        outer, self.line = self.line, Seen(self.rendered)
        self.rendered = None
        try:
            yield self.line
        finally:
            self.line = outer


SEEN: Final = _SeenByThread()


class RecordsAsLines(logging.Handler):
    """Writes each record as a line of a structlog logger, with its own level."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        SEEN.note(whole=True)
        try:
            write = getattr(self._logger, level_of(record))
            with exported_already(is_exported(logging.getLogger(record.name))):
                write(record.getMessage(), exc_info=record.exc_info or None, **fields_of(record))
        except Exception:  # noqa: BLE001 - like every logging handler: a bad line is reported, never raised
            self.handleError(record)


class TaskLogHandler(logging.Handler):
    """Keeps the records that tasks write, redacted, for `/api/tasks/{id}/logs`; it writes them nowhere else.

    For programs that embed a task manager and configure `logging` themselves:

        logging.getLogger().addHandler(TaskLogHandler())
    """

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)

    def emit(self, record: logging.LogRecord) -> None:
        owner = getattr(CURRENT.get(), "owner", None)
        if owner is None:
            return
        SEEN.note(whole=False)
        try:
            keep_line(level_of(record), line_of(record), getattr(owner, "redactor", None) or Redactor())
        except Exception:  # noqa: BLE001 - as above
            self.handleError(record)
