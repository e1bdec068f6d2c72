"""Log lines: JSON on a pipe, coloured on a terminal, with the task and the trace that each line belongs to.

`task_log` writes the canonical line of each task. Nothing here touches structlog's or logging's global
configuration.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import msgspec
import structlog
from opentelemetry import trace
from opentelemetry.trace import format_span_id, format_trace_id

from qorzen_obs.current import CURRENT
from qorzen_obs.record import TaskEvent
from qorzen_obs.tasks import EventKind, TaskStatus
from qorzen_obs.telemetry import names

_MAX_ERROR: Final = 300
_OFF: Final = logging.CRITICAL  # the package writes nothing at this level
LEVELS: Final = {"off": _OFF, "debug": 10, "info": 20, "warning": 30, "error": 40}


def add_task_context(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the current span and task to a line. A processor for any structlog configuration."""
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


def make_logger(name: str, level: str = "info", stream: TextIO | None = None) -> Any:
    """Return a structlog logger of our own that writes lines of at least `level` to `stream` (standard error)."""
    stream = stream or sys.stderr
    return structlog.wrap_logger(
        structlog.WriteLogger(stream), **logger_options(level, stream), logger_name=name
    )


def logger_options(level: str, stream: TextIO) -> dict[str, Any]:
    """Return how structlog makes such loggers, for `wrap_logger` and for a program's own `configure`."""
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        add_task_context,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if stream.isatty():
        processors.append(structlog.dev.ConsoleRenderer())
    else:
        processors += [_EXCEPTION_AS_DATA, structlog.processors.JSONRenderer(serializer=_to_json)]
    return {
        "processors": processors,
        "wrapper_class": structlog.make_filtering_bound_logger(LEVELS[level]),
        "context_class": dict,
        "cache_logger_on_first_use": True,
    }


def accept_logger(logger: Any) -> Any:
    """Return `logger` so that it takes an event and fields: a standard-library logger is wrapped."""
    if isinstance(logger, (logging.Logger, logging.LoggerAdapter)):
        return structlog.wrap_logger(
            logger,
            processors=[_filter_by_level, _to_text],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
    return logger


class TaskLog:
    """Writes the canonical line of each task that ended, in its submitter's context: it belongs to that trace."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def on_event(self, event: TaskEvent) -> None:
        """Write `task.finished`, failures as warnings, or `task.retrying`; in the submitter's context."""
        if event.state.status.final or event.kind is EventKind.RETRYING:
            assert event.record.context is not None, "a record keeps its context until it ends"
            event.record.context.run(self._write, event)

    def _write(self, event: TaskEvent) -> None:
        record, state = event.record, event.state
        fields: dict[str, Any] = {
            "task_id": record.task_id,
            "task_name": record.name,
            "category": record.category.value,
            "priority": record.priority.label,
            "attempt": state.attempt,
            "status": state.status.value,
            "duration_seconds": _rounded(state.duration_seconds),
            "queue_wait_seconds": _rounded(state.queue_wait_seconds),
        }
        if state.span is not None:
            fields["trace_id"] = format_trace_id(state.span.trace_id)
            fields["span_id"] = format_span_id(state.span.span_id)
        if record.plugin_id is not None:
            fields["plugin_id"] = record.plugin_id
        if state.cancel_reason is not None:
            fields["cancel_reason"] = state.cancel_reason
        if state.abandoned:
            fields["abandoned"] = True
        if state.error_type is not None:
            fields["error_type"] = state.error_type
            fields["error"] = (state.error or "")[:_MAX_ERROR]
        if event.kind is EventKind.RETRYING:
            fields["eligible_in_seconds"] = _rounded(record.eligible_wall - event.at)
            self._logger.warning(names.LOG_RETRYING, **fields)
        elif state.status is TaskStatus.FAILED:
            self._logger.warning(names.LOG_FINISHED, **fields)
        else:
            self._logger.info(names.LOG_FINISHED, **fields)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _to_json(event: Any, **_: Any) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=repr).decode()
    except UnicodeEncodeError:  # a file name may hold what UTF-8 cannot carry
        return json.dumps(event, default=repr, skipkeys=True)


def _filter_by_level(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    while isinstance(logger, logging.LoggerAdapter):  # structlog's filter knows loggers only
        logger = logger.logger
    return structlog.stdlib.filter_by_level(logger, method, event)


def _to_text(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    text = str(event.pop("event", ""))
    return " ".join([text, *(f"{key}={value!r}" for key, value in event.items())])


#: Tracebacks without the values of local variables.
_EXCEPTION_AS_DATA: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
