"""Sends log lines to an OpenTelemetry collector if OTEL_LOGS_EXPORTER asks for it; by a bounded queue, like spans.

A line arrives with the fields that every other sink gets, redacted. The queue's thread turns it into an OTLP record,
so that logging a line costs only an append.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version as package_version
from typing import Any, Final, NamedTuple

import msgspec
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from qorzen_obs import foreign
from qorzen_obs.clock import Clock
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.export import THREAD_PREFIX, BatchLimits, ExportQueue, encodable
from qorzen_obs.telemetry.other_export import current_line_is_exported

_SEVERITIES: Final = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}
#: Fields with a place of their own in a record.
_PLACED: Final = frozenset({"event", "level", "logger_name", "timestamp", "trace_id", "span_id"})


class _Line(NamedTuple):
    at: int  # Unix time in nanoseconds
    level: str
    fields: Mapping[str, Any]
    flags: TraceFlags  # the span that the line names


class LogExport:
    """Sends the log lines of one service from a thread of its own; all methods from any thread."""

    def __init__(
        self,
        name: str,
        exporter: LogRecordExporter,
        resource: Resource,
        *,
        limits: BatchLimits,
        clock: Clock,
        on_ended: Callable[[], None],
    ) -> None:
        self._exporter = exporter
        self._resource = resource
        self.queue: ExportQueue[_Line] = ExportQueue(
            f"{name}-logs", self._send, limits, clock=clock, close=exporter.shutdown, on_ended=on_ended
        )
        self.queue.start()

    def put(self, level: str, fields: Mapping[str, Any], flags: TraceFlags | None = None) -> None:
        """Take one line, which must not change any more. A full queue drops and counts it.

        `flags` are those of the trace that the line names; by default the current span's if it belongs to that trace.

        Lines that somebody else exports are not taken. Nor are those from exporting threads, since each line about
        sending a line would cause another one.
        """
        if current_line_is_exported() or threading.current_thread().name.startswith(THREAD_PREFIX):
            return
        if flags is None:
            flags = _current_flags(fields.get("trace_id"))
        self.queue.put((_Line(time.time_ns(), level, fields, flags),))

    @property
    def lost(self) -> int:
        """How many lines did not reach the collector."""
        return self.queue.failed + self.queue.dropped_full + self.queue.dropped_shutdown

    def shutdown(self, deadline_seconds: float) -> bool:
        """Send what waits until the deadline; return whether all of it was accepted."""
        return self.queue.shutdown(deadline_seconds)

    def _send(self, lines: Sequence[_Line]) -> int:
        result = self._exporter.export([self._record(line) for line in lines])
        return 0 if result is LogRecordExportResult.SUCCESS else len(lines)

    def _record(self, line: _Line) -> ReadableLogRecord:
        fields = line.fields
        record = LogRecord(
            timestamp=line.at,
            observed_timestamp=line.at,
            context=_context(fields.get("trace_id"), fields.get("span_id"), line.flags),
            severity_text=encodable(line.level),
            severity_number=_SEVERITIES.get(line.level, SeverityNumber.UNSPECIFIED),
            body=encodable(foreign.text(fields.get("event", ""))),
            attributes={
                encodable(foreign.text(key)): _plain(value)
                for key, value in fields.items()
                if key not in _PLACED and value is not None
            },
        )
        return ReadableLogRecord(
            record, self._resource, _scope(foreign.text(fields.get("logger_name", names.SCOPE)))
        )


@lru_cache(256)
def _scope(logger_name: str) -> InstrumentationScope:
    """Return the scope of a logger's records, which has the logger's name by OpenTelemetry's convention.

    Version and schema are ours, since we create the record.
    """
    return InstrumentationScope(encodable(logger_name), package_version("qorzen-obs"), names.SCHEMA_URL)


def _current_flags(trace_id: object) -> TraceFlags:
    """Return the current span's flags if it belongs to this trace, else those of a trace that begins here: sampled."""
    current = trace.get_current_span().get_span_context()
    if current.is_valid and trace.format_trace_id(current.trace_id) == trace_id:
        return current.trace_flags
    return TraceFlags(TraceFlags.SAMPLED)


def _context(trace_id: object, span_id: object, flags: TraceFlags) -> Context:
    """Return a context with the span that a line names, empty if it names none; user code may name anything."""
    try:
        span = SpanContext(int(foreign.text(trace_id), 16), int(foreign.text(span_id), 16), False, flags)
    except ValueError:
        return Context()
    if not span.is_valid:  # the encoder raises on ids out of range
        return Context()
    return trace.set_span_in_context(NonRecordingSpan(span), Context())


def _plain(value: Any) -> Any:
    """Return a value that OTLP supports: numbers beyond 64 bits and objects become text."""
    if foreign.is_a(value, str):
        return encodable(foreign.plain(value))
    number = value if type(value) is bool else foreign.number(value)
    if number is not None:
        return number if -(2**63) <= number < 2**63 or type(number) is float else str(number)
    try:
        return msgspec.to_builtins(value, enc_hook=foreign.shown, str_keys=True)
    except BaseException:  # noqa: BLE001 - a value's own code may raise anything
        return encodable(foreign.shown(value))
