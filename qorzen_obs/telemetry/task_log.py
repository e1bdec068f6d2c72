"""The canonical line of each task that ended: what it says, and its way into the log.

A logger of the user's own gets it by structlog's methods. Our own stream takes the event itself, and its thread makes
the line of it: the same line, without the detour (docs/decisions/0012-canonical-lines.md).
"""

from __future__ import annotations

from contextvars import Context
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import structlog
from opentelemetry.trace import format_span_id, format_trace_id

from qorzen_obs.counts import CELL_LABELS
from qorzen_obs.record import TaskEvent, TaskRecord, TaskState
from qorzen_obs.tasks import (
    FAILED,
    PENDING,
    EventKind,
)
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.log_rendering import redact_line
from qorzen_obs.telemetry.logs import LEVELS, LogStream, add_task_context
from qorzen_obs.telemetry.task_lines import TaskLines, kept_already, rfc_3339

_MAX_ERROR: Final = 300
_RETRYING: Final = EventKind.RETRYING
#: What of a line users choose, but for the name and what their context variables add.
_FREE: Final = frozenset({"cancel_reason", "error", "error_type", "plugin_id"})


class CanonicalLine(NamedTuple):
    """What is said of an attempt that has ended, or of a task that ended without one."""

    level: str
    event: str
    fields: dict[str, Any]


def canonical_line(record: TaskRecord, state: TaskState, at: float) -> CanonicalLine:
    """Return the line that belongs to a transition at which an attempt ended; `at` in Unix seconds."""
    category, priority = CELL_LABELS[record.cell]
    duration, wait = state.duration_seconds, state.queue_wait_seconds
    fields: dict[str, Any] = {
        "task_id": record.task_id,
        "task_name": record.name,
        "category": category,
        "priority": priority,
        "attempt": state.attempt,
        "status": state.status.value,
        "duration_seconds": None if duration is None else round(duration, 6),
        "queue_wait_seconds": None if wait is None else round(wait, 6),
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
    if state.status is PENDING:
        fields["eligible_in_seconds"] = round(record.eligible_wall - at, 6)
        return CanonicalLine("warning", names.LOG_RETRYING, fields)
    level = "warning" if state.status is FAILED else "info"
    return CanonicalLine(level, names.LOG_FINISHED, fields)


class StreamTaskLog:
    """Canonical lines for one of our own streams, which its thread makes."""

    def __init__(self, stream: LogStream, logger_name: str, level: str) -> None:
        self._stream = stream
        self._logger_name = logger_name
        self._info, self._warning = LEVELS[level] <= LEVELS["info"], LEVELS[level] <= LEVELS["warning"]
        redactor = stream.redactor
        self._is_clean = lru_cache(4_096)(lambda name: not redactor.may_match(name))
        self._hides_fields = any(redactor.hides(name) for name in _FIELDS)

    def write(self, event: TaskEvent) -> None:
        """Take the event at which an attempt ended; O(1), for the work loop."""
        record, state = event.record, event.state
        warns = state.status is FAILED or event.kind is _RETRYING
        if self._warning if warns else self._info:
            line = partial(self._make, record, state, event.at, record.context)
            self._stream.write_later("warning" if warns else "info", line)

    def _make(self, record: TaskRecord, state: TaskState, at: float, context: Context | None) -> str:
        level, name, fields = canonical_line(record, state, at)
        line = {"logger_name": self._logger_name, **fields, "event": name}
        clean = self._is_clean(record.name) and not self._hides_fields and _FREE.isdisjoint(fields)
        variables = {} if context is None else context.run(structlog.contextvars.get_contextvars)
        if variables:
            line, clean = {**line, **{k: v for k, v in variables.items() if k not in line}}, False
        if state.span is None and context is not None:
            context.run(add_task_context, None, level, line)
        line["level"] = level
        line["timestamp"] = rfc_3339(at)
        return self._stream.finish(level, line if clean else redact_line(self._stream.redactor, line))


#: All that a canonical line may have.
_FIELDS: Final = (
    *("task_id", "task_name", "category", "priority", "attempt", "status", "duration_seconds"),
    *("queue_wait_seconds", "trace_id", "span_id", "plugin_id", "cancel_reason", "abandoned", "error_type"),
    *("error", "eligible_in_seconds"),
)


class TaskLog:
    """Writes the canonical line of each task that ended, in its submitter's context: it belongs to that trace.

    `lines` keeps those of attempts that will be retried; what is said of an end can be made from the record.
    """

    def __init__(
        self, logger: Any, lines: TaskLines | None = None, stream: StreamTaskLog | None = None
    ) -> None:
        self._logger = logger
        self._lines = lines
        self._stream = stream

    def on_event(self, event: TaskEvent) -> None:
        """Write `task.finished`, failures as warnings, or `task.retrying`."""
        retrying = event.kind is _RETRYING
        if not retrying and not event.state.status.final:
            return
        if retrying and self._lines is not None:  # whatever the level of the log is
            level, name, fields = canonical_line(event.record, event.state, event.at)
            self._lines.add(event.record.task_id, level, name, fields, rfc_3339(event.at))
        if self._stream is not None:
            self._stream.write(event)
        else:
            assert event.record.context is not None, "a record keeps its context until it ends"
            event.record.context.run(self._write, event)

    def _write(self, event: TaskEvent) -> None:
        level, name, fields = canonical_line(event.record, event.state, event.at)
        with kept_already():
            getattr(self._logger, level)(name, **fields)
