"""Log lines: JSON on a pipe, coloured on a terminal, with the task and the trace that each line belongs to.

The canonical line of each task is task_log.py's. Nothing here touches structlog's or logging's global
configuration.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final, TextIO

import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanContext, format_span_id, format_trace_id
from prometheus_client import Metric
from prometheus_client.registry import Collector

from qorzen_obs import foreign
from qorzen_obs.current import CURRENT
from qorzen_obs.errors import ManagerInitializationError
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.families import counter
from qorzen_obs.telemetry.log_export import LogExport
from qorzen_obs.telemetry.log_rendering import JsonLines, TerminalLines, redact_line
from qorzen_obs.telemetry.log_sink import LogSink
from qorzen_obs.telemetry.other_export import is_exported
from qorzen_obs.telemetry.program_logging import hand_on, program_logger, takes
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.task_lines import keep_line, utc_now

#: The internal field of a line that holds the program's logger that takes it.
_PROGRAM: Final = "_qorzen_program_logger"
_OFF: Final = logging.CRITICAL  # the package writes nothing at this level
_COUNTED_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
LEVELS: Final = {"off": _OFF, "debug": 10, "info": 20, "warning": 30, "error": 40}


def add_task_context(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the current span and task to a line. A processor for any structlog configuration.

    The fields are trace_id, span_id, task_id, task_name, category, priority and attempt. Existing fields of the line
    stay as they are.
    """
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event.setdefault("trace_id", format_trace_id(span.trace_id))
        event.setdefault("span_id", format_span_id(span.span_id))
    task = CURRENT.get()
    if task is not None:
        event.setdefault("task_id", task.task_id)
        event.setdefault("task_name", task.name)
        event.setdefault("category", task.category.value)
        event.setdefault("priority", task.priority.label)
        event.setdefault("attempt", task.number)
    return event


class LogStream(Collector):
    """One stream of log lines: redacts, renders, counts and writes them, and keeps those of tasks.

    JSON unless `stream` (None means standard error) is a terminal. `export` gets every line too. With `by_logging`, a
    line becomes a record of `logging` instead, if the program has configured `logging` by then. It is also the
    Collector for `qorzen_log_messages`.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        redactor: Redactor | None = None,
        export: LogExport | None = None,
        *,
        by_logging: bool = False,
    ) -> None:
        self.by_logging = by_logging
        self.redactor = redactor or Redactor()
        self._sink = LogSink(sys.stderr if stream is None else stream, self._say_lost)
        self._terminal = self._sink.isatty()
        self._render: Any = TerminalLines() if self._terminal else JsonLines()
        self._lock = threading.RLock()  # a signal handler may log while its thread holds it
        self._lines = dict.fromkeys(_COUNTED_LEVELS, 0)
        self.export = export
        self._unseen = 0  # lines of the program's own logging that could not be exported or kept

    def logger(self, name: str, level: str = "info") -> Any:
        """Return a structlog logger of our own that writes lines of at least `level`."""
        return structlog.wrap_logger(_LineLogger(self._sink, name), **self.options(level), logger_name=name)

    def program_logger(self, name: str) -> logging.Logger | None:
        """Return the logger that takes a line of `name` instead of the stream (program_logging.py); usually None."""
        return program_logger(name) if self.by_logging else None

    def configure_structlog(self, level: str) -> None:
        """Let all structlog loggers write here; for programs, never for libraries."""
        structlog.configure(
            **self.options(level), logger_factory=lambda *names: _LineLogger(self._sink, *names)
        )

    def options(self, level: str) -> dict[str, Any]:
        """Return structlog's configuration for such loggers."""
        return {
            "processors": [
                structlog.contextvars.merge_contextvars,
                _add_logger_name,
                self._find_program_logger,
                add_task_context,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.StackInfoRenderer(),
                self._show_exception,
                self._write,
            ],
            "wrapper_class": structlog.make_filtering_bound_logger(LEVELS[level]),
            "context_class": dict,
            "cache_logger_on_first_use": True,
        }

    def write_line(self, level: str, line: Mapping[str, Any], span: SpanContext | None) -> None:
        """Write a line that is already redacted and processed; it names `span`, if any."""
        self.count(level)
        if self.export is not None:
            self.export.put(level, dict(line), span and span.trace_flags)
        self._sink.write(str(self._render(None, level, line)))

    @property
    def is_json(self) -> bool:
        """Whether lines are JSON and go nowhere else, so that `write_own` takes them."""
        return not self._terminal and self.export is None

    def write_own(self, level: str, lines: Sequence[str]) -> None:
        """Write lines of JSON that the caller guarantees to be free of secrets and misleading characters."""
        self._sink.write_all(lines, level)

    def lost(self) -> dict[str, int]:
        """Return how many lines the stream lost, and how many records did not reach the collector."""
        lost = self._unseen + (self.export.lost if self.export else 0)
        return {"log_line": self._sink.lost, "log_record": lost}

    def close(self) -> None:
        """Write queued lines for a second at most. Later lines are written directly."""
        self._sink.close()

    def describe(self) -> Iterator[Metric]:
        """Tell the registry the names."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Yield the counters, which include lost lines."""
        family = counter(names.LOG_MESSAGES)
        for level, lines in self._lines.items():
            family.add_metric((level,), lines + self._sink.counted[level])
        yield family

    def _find_program_logger(
        self, logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Note which of the program's loggers takes the line, and drop lines that it does not let through."""
        if self.by_logging and isinstance(logger, _LineLogger):
            name, said_by = foreign.text(logger.name), event.get("logger_name")
            program = program_logger(name, None if said_by == name else said_by)
            if program is not None:
                if not takes(program, method):
                    raise structlog.DropEvent
                event[_PROGRAM] = program
        return event

    def _show_exception(self, logger: Any, method: str, event: Any) -> Any:
        if self._terminal or _PROGRAM in event:
            return structlog.processors.format_exc_info(logger, method, event)
        return _EXCEPTION_AS_DATA(logger, method, event)

    def _write(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        """Redact, count, keep and export a line; then return it for the stream, or pass it to the program."""
        program = event.pop(_PROGRAM, None)
        clean = redact_line(self.redactor, event)
        level = foreign.text(clean.get("level", "info"))
        self.count(level)
        keep_line(level, clean)
        if self.export is not None and not is_exported(program):
            self.export.put(level, dict(clean))
        if program is None:
            return str(self._render(logger, method, clean))
        try:
            hand_on(program, level, clean)
        except BaseException:  # noqa: BLE001 - the program's handler may raise anything, and the work continues
            self.count_unseen()
        raise structlog.DropEvent

    def count(self, level: str) -> None:
        """Count a line under its level; an unknown level counts as info."""
        with self._lock:
            self._lines[level if level in self._lines else "info"] += 1

    def count_unseen(self) -> None:
        """Count a line of the program's own logging that could not be exported or kept."""
        with self._lock:
            self._unseen += 1

    def send(self, level: str, line: Mapping[str, Any]) -> None:
        """Export a line that another stream writes and that is not redacted yet."""
        if self.export is not None:
            self.export.put(level, dict(redact_line(self.redactor, line)))

    def _say_lost(self, lines: int) -> str:
        event = {"event": names.LOG_LINES_LOST, "level": "warning", "timestamp": utc_now(), "lines": lines}
        return str(self._render(None, "warning", event))


class _LineLogger:
    """The end of structlog's chain: each method takes a whole line. `name` is our own logger's, or the user's."""

    def __init__(self, sink: LogSink, name: object = None, *_: object) -> None:
        self.name = name  #: the argument of `structlog.get_logger`, if any
        self.msg = self.debug = self.info = self.warning = self.warn = sink.write
        self.error = self.critical = self.exception = self.fatal = self.failure = self.err = self.log = (
            sink.write
        )


def _add_logger_name(logger: Any, _: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if isinstance(logger, _LineLogger) and logger.name is not None:
        event.setdefault("logger_name", foreign.text(logger.name))
    return event


def make_logger(name: str, level: str = "info", stream: TextIO | LogStream | None = None) -> Any:
    """Return a structlog logger of our own that writes lines of at least `level` to `stream` (standard error)."""
    logs = stream if isinstance(stream, LogStream) else LogStream(stream)
    return logs.logger(name, level)


def users_logger(name: str) -> Any:
    """Return a logger from the program's own structlog configuration, with methods that write at once.

    The methods of structlog's AsyncBoundLogger are coroutines, which nobody would await.
    """
    if issubclass(structlog.get_config()["wrapper_class"], structlog.stdlib.AsyncBoundLogger):
        return structlog.wrap_logger(
            None, wrapper_class=structlog.stdlib.BoundLogger, logger_factory_args=(name,)
        )
    return structlog.get_logger(name)


def accept_logger(logger: Any) -> Any:
    """Return `logger` in a form that takes an event and fields at once: a standard-library logger is wrapped.

    Raises:
        ManagerInitializationError: its methods are coroutines, which nobody would await.
    """
    if isinstance(logger, structlog.stdlib.AsyncBoundLogger):
        return logger.sync_bl
    # structlog's proxy creates its logger on first use.
    kind = foreign.attribute_as_it_stands(logger, "_wrapper_class") or structlog.get_config()["wrapper_class"]
    looked_at = kind if type(logger).__name__ == "BoundLoggerLazyProxy" else logger
    if inspect.iscoroutinefunction(foreign.attribute(looked_at, "info")):
        raise ManagerInitializationError(
            "logger_manager",
            "gives a logger whose methods are coroutines; give one whose methods write at once",
        )
    if isinstance(logger, (logging.Logger, logging.LoggerAdapter)):
        return structlog.wrap_logger(
            logger,
            processors=[_filter_by_level, _to_text],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
    return logger


def _filter_by_level(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    while isinstance(logger, logging.LoggerAdapter):  # structlog's filter supports only loggers
        logger = logger.logger
    return structlog.stdlib.filter_by_level(logger, method, event)


def _to_text(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    text = foreign.text(event.pop("event", ""))
    return " ".join([text, *(f"{foreign.text(key)}={foreign.shown(value)}" for key, value in event.items())])


#: Tracebacks without the values of local variables.
_EXCEPTION_AS_DATA: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
