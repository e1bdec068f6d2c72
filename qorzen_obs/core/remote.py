"""What crosses between the service and its worker processes besides calls: the trace on the way out, log
lines, output and spans on the way in. This is the service's side; core/far_side.py is the worker's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from qorzen_obs.record import Attempt
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.parts import OnSpans

_PROPAGATORS: Final = (TraceContextTextMapPropagator(), W3CBaggagePropagator())
_LEVELS: Final = frozenset({"debug", "info", "warning", "error", "critical"})


class RemoteTelemetry:
    """Gives a call its trace, and hands on what comes back as if it had happened in the attempt's context."""

    entry = "qorzen_obs.core.far_side:FarSide"

    def __init__(self, logger: Any, on_spans: OnSpans | None, on_dropped: Callable[[int], None]) -> None:
        self._logger = logger
        self._on_spans = on_spans
        self._on_dropped = on_dropped

    def surroundings(self, attempt: Attempt) -> dict[str, Any]:
        """Return W3C trace context and baggage, and from which level on log lines are wanted."""
        carrier: dict[str, str] = {}
        attempt.context.run(_inject, carrier)
        return {
            "carrier": carrier,
            "spans": self._on_spans is not None,
            "recording": attempt.span is not None and attempt.span.is_recording(),
            "log_level": _level_of(self._logger),
            "logging_level": logging.getLogger().level,
        }

    def on_event(self, attempt: Attempt | None, kind: str, data: Any) -> None:
        """Take what a worker reports; what it says outside a call is logged without a task."""
        if kind == "span":
            if self._on_spans is not None:
                self._on_spans([data])
        elif kind == "dropped":
            self._on_dropped(data)
        elif attempt is None:
            self._log(kind, data)
        else:
            attempt.context.run(self._log, kind, data)

    def _log(self, kind: str, data: Any) -> None:
        if kind == "output":
            stream, line = data
            if line:
                self._logger.info(names.LOG_OUTPUT, stream=stream, line=line)
        elif kind == "log":
            level, event, fields = data
            method = getattr(self._logger, level if level in _LEVELS else "info")
            fields = {f"{key}_" if key in _TAKEN else key: value for key, value in fields.items()}
            method(event, **fields)


#: Parameters of a logger's methods, which a field must not be passed as.
_TAKEN: Final = frozenset({"self", "event", "method_name", "level"})


def _inject(carrier: dict[str, str]) -> None:
    for propagator in _PROPAGATORS:
        propagator.inject(carrier)


def _level_of(logger: Any) -> int:
    """Return from which level on `logger` writes anything, as far as it tells."""
    find = getattr(logger, "get_effective_level", None) or getattr(logger, "getEffectiveLevel", None)
    level = find() if find is not None else None
    return level if isinstance(level, int) else logging.NOTSET
