"""The canonical line of each task that ended: its content, and how it reaches the log.

A user's own logger gets it through structlog's methods. For our own stream it is created here: the same line, without
the detour through structlog's processors (docs/decisions/0012-canonical-lines.md).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextvars import Context
from functools import lru_cache
from typing import Any, Final, NamedTuple

import structlog
from opentelemetry.trace import format_span_id, format_trace_id

from qorzen_obs.clock import rfc_3339
from qorzen_obs.counts import CELL_LABELS
from qorzen_obs.record import End, TaskRecord, TaskState
from qorzen_obs.tasks import (
    COMPLETED,
    FAILED,
    PENDING,
    EventKind,
)
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.log_rendering import redact_line, to_json
from qorzen_obs.telemetry.logs import LEVELS, LogStream, add_task_context
from qorzen_obs.telemetry.program_logging import takes
from qorzen_obs.telemetry.task_lines import TaskLines, kept_already

_MAX_ERROR: Final = 300
_MAX_TRACEBACK: Final = 8_192  #: characters kept of the end, which says what failed
_RETRYING: Final = EventKind.RETRYING
# Formatted with %, which costs half as much as `format` for each value.
_PLAIN_SECONDS: Final = '"duration_seconds":%.6f,"queue_wait_seconds":%.6f'
_PLAIN_IDS: Final = ',"trace_id":"%032x","span_id":"%016x"'
_PLAIN_END: Final = f',"event":"{names.LOG_FINISHED}","level":"info","timestamp":"'
#: Fields of a line that users choose, except the name and what their context variables add.
_FREE: Final = frozenset({"cancel_reason", "error", "error_type", "exception", "plugin_id"})


class CanonicalLine(NamedTuple):
    """The content of the line about an attempt that has ended, or a task that ended without one."""

    level: str
    event: str
    fields: dict[str, Any]


def canonical_line(record: TaskRecord, state: TaskState, at: float, traceback: str | None) -> CanonicalLine:
    """Return the line for a transition at which an attempt ended; `at` in Unix seconds."""
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
    if record.rerun is not None:
        fields["rerun_of"] = record.rerun.task_id
    if state.cancel_reason is not None:
        fields["cancel_reason"] = state.cancel_reason
    if state.abandoned:
        fields["abandoned"] = True
    if state.error_type is not None:
        fields["error_type"] = state.error_type
        fields["error"] = (state.error or "")[:_MAX_ERROR]
        if traceback is not None:
            fields["exception"] = traceback[-_MAX_TRACEBACK:]
    if state.status is PENDING:
        fields["eligible_in_seconds"] = round(record.eligible_wall - at, 6)
        return CanonicalLine("warning", names.LOG_RETRYING, fields)
    level = "warning" if state.status is FAILED else "info"
    return CanonicalLine(level, names.LOG_FINISHED, fields)


class StreamTaskLog:
    """Writes canonical lines to one of our own streams."""

    def __init__(self, stream: LogStream, logger_name: str, level: str) -> None:
        self.by_logging = stream.by_logging  #: whether `program_logger` may be something else than None
        self._stream = stream
        self._logger_name = logger_name
        self._writes_info = LEVELS[level] <= LEVELS["info"]
        self._writes_warnings = LEVELS[level] <= LEVELS["warning"]
        redactor = stream.redactor
        self._is_clean = lru_cache(4_096)(lambda name: redactor.name(name) == name)
        self._plain_parts = lru_cache(4_096)(self._make_plain_parts)
        self._hides_fields = any(redactor.hides(name) for name in _FIELDS)

    def program_logger(self) -> logging.Logger | None:
        """Return the logger that takes the lines instead of the stream, if the program has configured `logging`."""
        return self._stream.program_logger(self._logger_name)

    def write(self, ends: Sequence[End]) -> None:
        """Write the line of each attempt that has ended, at its level."""
        if not self._writes_warnings:
            return
        plain: list[str] = []
        writes_info, may_be_plain = self._writes_info, self._stream.is_json
        for end in ends:
            record, state = end.record, end.state
            if not writes_info and state.status is not FAILED and end.kind is not _RETRYING:
                continue
            surroundings = _surroundings(end.context, state)
            if may_be_plain and not surroundings and state.status is COMPLETED:
                line = self._plain_line(record, state, end.at)
                if line is not None:
                    plain.append(line)
                    continue
            if plain:
                self._stream.write_own("info", plain)
                plain = []
            self._stream.write_line(*self._make(end, surroundings), state.span or record.submitter)
        if plain:
            self._stream.write_own("info", plain)

    def _plain_line(self, record: TaskRecord, state: TaskState, at: float) -> str | None:
        """Return the line of a task that ended well, built only from text; None if it has unusual fields."""
        parts_of = self._plain_parts
        parts = parts_of(record.name, record.cell)
        span, duration, wait = state.span, state.duration_seconds, state.queue_wait_seconds
        if (
            parts is None
            or duration is None
            or wait is None
            or state.cancel_reason is not None
            or record.plugin_id is not None
            or record.rerun is not None
        ):
            return None
        before_id, before_attempt = parts
        ids = ""
        if span is not None:
            ids = _PLAIN_IDS % span[:2]  # reading them by name costs a call each
        return (
            f'{before_id}{record.task_id}{before_attempt}{state.attempt},"status":"completed",'
            f'{_PLAIN_SECONDS % (duration, wait)}{ids}{_PLAIN_END}{rfc_3339(at)}"}}'
        )

    def _make_plain_parts(self, name: str, cell: int) -> tuple[str, str] | None:
        """Return the text before a task's id, and that between id and attempt; None if there is a secret."""
        if self._hides_fields or not self._is_clean(name):
            return None
        category, priority = CELL_LABELS[cell]
        return (
            f'{{"logger_name":{to_json(self._logger_name)},"task_id":"',
            f'","task_name":{to_json(name)},"category":"{category}","priority":"{priority}","attempt":',
        )

    def _make(self, end: End, surroundings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        level, name, fields = canonical_line(end.record, end.state, end.at, end.traceback)
        line = {"logger_name": self._logger_name, **fields, "event": name}
        clean = self._is_clean(end.record.name) and not self._hides_fields and _FREE.isdisjoint(fields)
        if surroundings:
            line.update((key, value) for key, value in surroundings.items() if key not in line)
            clean = False
        line["level"] = level
        line["timestamp"] = rfc_3339(end.at)
        return level, line if clean else redact_line(self._stream.redactor, line)


def _surroundings(context: Context | None, state: TaskState) -> Mapping[str, Any]:
    """Return what the submitter's context adds to a line: its variables, and its span if there is none of ours."""
    if context is None:
        return _NOTHING
    found = None
    for variable, value in context.items():
        if variable.name.startswith(_PREFIX) and value is not Ellipsis:
            found = found or {}
            found[variable.name.removeprefix(_PREFIX)] = value
    if state.span is not None:
        return found or _NOTHING
    return context.copy().run(add_task_context, None, "", found or {})


_PREFIX: Final = structlog.contextvars.STRUCTLOG_KEY_PREFIX
_NOTHING: Final[Mapping[str, Any]] = {}

#: All fields that a canonical line may have.
_FIELDS: Final = (
    "task_id",
    "task_name",
    "category",
    "priority",
    "attempt",
    "status",
    "duration_seconds",
    "queue_wait_seconds",
    "trace_id",
    "span_id",
    "plugin_id",
    "cancel_reason",
    "abandoned",
    "error_type",
    "error",
    "exception",
    "eligible_in_seconds",
    "rerun_of",
)


class TaskLog:
    """Writes the canonical line of each task that ended, in its submitter's context, since it belongs to that trace.

    `lines` keeps those of attempts that will be retried; the line about an end can be recreated from the record.
    """

    def __init__(
        self, logger: Any, lines: TaskLines | None = None, stream: StreamTaskLog | None = None
    ) -> None:
        self._logger = logger
        self._lines = lines
        self._stream = stream

    def on_ends(self, ends: Sequence[End]) -> None:
        """Write `task.finished`, failures as warnings, or `task.retrying`, for each attempt that has ended."""
        if self._lines is not None:
            for end in ends:
                if end.kind is _RETRYING:  # whatever the log level
                    level, name, fields = canonical_line(end.record, end.state, end.at, end.traceback)
                    self._lines.add(end.record.task_id, level, name, fields, rfc_3339(end.at))
        stream, program = self._stream, None
        if stream is not None:
            if stream.by_logging:
                program = stream.program_logger()
            if program is None:
                stream.write(ends)
                return
        for end in ends:
            is_bad = end.state.status is FAILED or end.kind is _RETRYING
            if program is not None and not takes(program, "warning" if is_bad else "info"):
                continue  # before it is created, since most programs want only warnings
            assert end.context is not None, "a record keeps its context until it ends"
            end.context.copy().run(self._write, end)  # the loop may be in it

    def _write(self, end: End) -> None:
        level, name, fields = canonical_line(end.record, end.state, end.at, end.traceback)
        with kept_already():
            getattr(self._logger, level)(name, **fields)
