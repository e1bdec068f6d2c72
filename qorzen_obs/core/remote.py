"""What crosses between the service and its worker processes besides calls: the trace goes out; log lines, output
and spans come in. This is the service's side; core/far_side.py is the worker's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import baggage, trace

from qorzen_obs import foreign
from qorzen_obs.record import Attempt
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.other_export import exported_already
from qorzen_obs.telemetry.parts import OnSpans
from qorzen_obs.telemetry.redaction import PrivateKeyLines, Redactor
from qorzen_obs.telemetry.task_lines import TaskLines, kept_already
from qorzen_obs.telemetry.trace_context import EncodedContext, encode_context

_MAX_OUTPUT: Final = 8_192  #: most characters of a line
_LEVELS: Final = frozenset({"debug", "info", "warning", "error", "critical"})


class RemoteTelemetry:
    """Gives a call its trace, and passes on what comes back as if it had happened in the attempt's context."""

    entry = "qorzen_obs.core.far_side:FarSide"

    def __init__(
        self,
        logger: Any,
        on_spans: OnSpans | None,
        on_dropped: Callable[[int], None],
        *,
        redactor: Redactor | None = None,
        lines: TaskLines | None = None,
    ) -> None:
        self._redactor = redactor or Redactor()
        self._lines = lines
        self._keys = PrivateKeyLines()
        self._logger = logger
        self._on_spans = on_spans
        self._on_dropped = on_dropped

    def surroundings(self, attempt: Attempt) -> dict[str, Any]:
        """Return the attempt's trace and baggage, and the lowest log level that is wanted."""
        parent, carried = attempt.context.run(_trace_and_baggage)
        return {
            "parent": parent,
            "baggage": carried,
            "spans": self._on_spans is not None,
            "recording": attempt.span is not None and attempt.span.is_recording(),
            "log_level": _level_of(self._logger),
            "logging_level": logging.getLogger().level,
            "redact": self._redactor.settings,
        }

    def on_event(self, attempt: Attempt | None, kind: str, data: Any) -> None:
        """Take a worker's report; a report outside a call is logged without a task."""
        if kind == "span":
            if self._on_spans is not None:
                self._on_spans([data])
        elif kind == "dropped":
            self._on_dropped(data)
        elif kind == "output":
            self._output(attempt, *data)
        elif kind == "log":
            *line, exported = data
            self._log(attempt, *self._line(line), exported=exported)

    def _output(self, attempt: Attempt | None, stream: str, line: str) -> None:
        shown = self._redactor.text(self._keys.without_key((attempt and attempt.task_id, stream), line))
        for start in range(0, len(shown), _MAX_OUTPUT):
            piece = shown[start : start + _MAX_OUTPUT]
            self._log(attempt, "info", names.LOG_OUTPUT, {"stream": stream, "line": piece})

    def _line(self, data: Any) -> tuple[str, str, dict[str, Any]]:
        level, event, fields = data
        return (
            level if level in _LEVELS else "info",
            self._redactor.text(event),
            self._redactor.field("", fields),
        )

    def _log(
        self,
        attempt: Attempt | None,
        level: str,
        event: str,
        fields: dict[str, Any],
        *,
        exported: bool = False,
    ) -> None:
        if attempt is None:
            self._write(level, event, fields, exported)
            return
        if self._lines is not None:
            self._lines.add(attempt.task_id, level, event, fields)
        attempt.context.run(self._write, level, event, fields, exported)

    def _write(self, level: str, event: str, fields: dict[str, Any], exported: bool) -> None:
        fields = {f"{key}_" if key in _TAKEN else key: value for key, value in fields.items()}
        with kept_already(), exported_already(exported):
            getattr(self._logger, level)(event, **fields)


#: Parameters of a logger's methods; no field may be passed under these names.
_TAKEN: Final = frozenset({"self", "event", "method_name", "level"})


def _trace_and_baggage() -> tuple[EncodedContext | None, dict[str, str]]:
    span = trace.get_current_span().get_span_context()
    carried = {foreign.text(name): foreign.text(value) for name, value in baggage.get_all().items()}
    return encode_context(span) if span.is_valid else None, carried


def _level_of(logger: Any) -> int:
    """Return the lowest level that `logger` writes, if it says so."""
    find = getattr(logger, "get_effective_level", None) or getattr(logger, "getEffectiveLevel", None)
    level = find() if find is not None else None
    return level if isinstance(level, int) else logging.NOTSET
