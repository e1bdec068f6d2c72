"""Records of the standard library's logging as lines with fields.

`RecordsAsLines` sends them where our own lines go: `serve` and `demo` install it. A program of its own that embeds a
task manager keeps its logging, and adds a `TaskLogHandler` where `/api/tasks/{id}/logs` should show its lines too.
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


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return all fields of a record as a line, its exception as a text without values of variables."""
    fields = fields_of(record)
    if isinstance(record.msg, dict):  # of a structlog whose lines logging's formatter renders
        fields.update(record.msg)
    else:
        fields["event"] = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        fields["exception"] = foreign.formatted(record.exc_info[1], record.exc_info[2])
    return fields


class Seen:
    """What of a record has been observed before log_taps.py looks at it."""

    def __init__(self, message: object) -> None:
        self.message = message  #: what structlog rendered last in this thread, and was observed then
        self.kept = False  #: with its task
        self.whole = False  #: nothing is left to do

    def note(self, *, whole: bool) -> None:
        """Note that it was kept with its task, or all that there is to do."""
        self.kept, self.whole = True, whole


class _SeenByThread(threading.local):
    """Of the record that a thread hands to its handlers; one of them may log."""

    line: Seen | None = None
    rendered: object = None  #: by structlog, for a logger of the standard library that is called next

    def note(self, *, whole: bool) -> None:
        """Note what a handler has done with the record of this thread."""
        if self.line is not None:
            self.line.note(whole=whole)

    def will_log(self, message: object) -> None:
        """Note what the next record of this thread will say, which structlog has rendered."""
        self.rendered = message

    @contextmanager
    def one_line(self) -> Iterator[Seen]:
        """Let the handlers of a record say what they have done with it."""
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
        except Exception:  # noqa: BLE001 - as every handler of logging: a bad line is reported, never raised
            self.handleError(record)


class TaskLogHandler(logging.Handler):
    """Keeps the records that tasks write for `/api/tasks/{id}/logs`, redacted; it writes nothing anywhere.

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
