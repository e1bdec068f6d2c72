"""The telemetry inside a worker process: makes the attempt's trace current, sends log lines and spans home.

Each part is set up when user code first imports its library (logging, structlog, OpenTelemetry): together they
would add a quarter of a second to every worker's start. So none of these may be imported at the top of this
module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.engines.processes.far_imports import catch_up, when_imported

Send = Callable[[str, Any], None]

_MAX_TEXT: Final = 8_000


class FarSide:
    """The telemetry of one worker process. Made once, then current around each call."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._surroundings: dict[str, Any] = {}
        self._last_redactor: Any = None
        when_imported("logging", self._set_up_logging)
        when_imported("structlog", self._set_up_structlog)
        when_imported("opentelemetry.trace", self._set_up_tracing)

    def around(self, surroundings: dict[str, Any]) -> _Around:
        """Make the attempt's trace and log levels current inside a `with` block."""
        return _Around(self, surroundings)

    def enter(self, surroundings: dict[str, Any]) -> None:
        """Make the trace and the levels current. The call has a context of its own, so nothing needs undoing there."""
        self._surroundings = surroundings
        with suppress(Exception):  # observation must not break the call
            self._look_around()

    def _look_around(self) -> None:
        catch_up()
        if "logging" in sys.modules:
            self._set_logging_level()
        if "opentelemetry.trace" in sys.modules:
            self._set_up_tracing()
            self._enter_trace()

    def leave(self) -> None:
        """Leave the trace and the levels."""
        self._surroundings = {}

    # ------------------------------------------------------------------ logging

    def _set_up_logging(self) -> None:
        from qorzen_obs.core.far_logging import ForwardingHandler, forward_root  # noqa: PLC0415  # see above

        self._set_logging_level()
        forward_root(ForwardingHandler(self._send_log))

    def _set_logging_level(self) -> None:
        import logging  # noqa: PLC0415  # see above

        logging.getLogger().setLevel(self._surroundings.get("logging_level", logging.WARNING))

    def _set_up_structlog(self) -> None:
        import structlog  # noqa: PLC0415  # see above

        def forward(logger: Any, method: str, event: Any) -> Any:
            if logger.name is not None:
                event.setdefault("logger_name", str(logger.name))
            if _level_number(method) >= self._surroundings.get("log_level", 0):
                self._send_log(method, foreign.text(event.pop("event", "")), event)
            raise structlog.DropEvent

        # the user's modules configured it: their lines arrive through logging or as output
        if structlog.is_configured():
            return
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.StackInfoRenderer(),
                structlog.processors.format_exc_info,
                forward,
            ],
            logger_factory=partial(_FarLogger, self._send_log),
            cache_logger_on_first_use=False,
        )

    def _send_log(self, level: str, event: str, fields: dict[str, Any], exported: bool = False) -> None:
        redactor = self._redactor()
        plain = {foreign.text(key)[:200]: _plain(key, value, redactor) for key, value in fields.items()}
        if "opentelemetry.trace" in sys.modules:
            from opentelemetry import trace  # noqa: PLC0415  # see above

            span = trace.get_current_span().get_span_context()
            if span.is_valid:
                plain.setdefault("trace_id", trace.format_trace_id(span.trace_id))
                plain.setdefault("span_id", trace.format_span_id(span.span_id))
        self._send("log", (level, redactor.head(event, _MAX_TEXT), plain, exported))

    def _redactor(self) -> Any:
        """Return the service's redactor: text that is cut here must be redacted first."""
        settings = self._surroundings.get("redact")
        if self._last_redactor is None or settings not in {None, self._last_redactor.settings}:
            from qorzen_obs.telemetry.redaction import Redactor  # noqa: PLC0415  # see above

            self._last_redactor = Redactor(*(settings or ()))
        return self._last_redactor

    # ------------------------------------------------------------------ tracing

    def _set_up_tracing(self) -> None:
        if not self._surroundings:  # imported before any call: see `around`
            return
        if self._surroundings["spans"]:
            from qorzen_obs.telemetry.remote_spans import send_spans  # noqa: PLC0415  # see above

            send_spans(self._send, self._redactor(), lambda: bool(self._surroundings.get("recording")))
        self._enter_trace()

    def _enter_trace(self) -> None:
        from opentelemetry import baggage, trace  # noqa: PLC0415  # see above
        from opentelemetry import context as otel_context  # noqa: PLC0415  # see above

        from qorzen_obs.telemetry.trace_context import decode_context  # noqa: PLC0415  # see above

        found, parent = otel_context.Context(), self._surroundings["parent"]
        if parent is not None:
            found = trace.set_span_in_context(trace.NonRecordingSpan(decode_context(parent)), found)
        for name, value in self._surroundings["baggage"].items():
            found = baggage.set_baggage(name, value, found)
        otel_context.attach(found)


class _Around:
    """The context manager around a call. A class, since contextlib's generators inspect what the call raises."""

    def __init__(self, far_side: FarSide, surroundings: dict[str, Any]) -> None:
        self._far_side = far_side
        self._surroundings = surroundings

    def __enter__(self) -> None:
        self._far_side.enter(self._surroundings)

    def __exit__(self, *_: object) -> None:
        self._far_side.leave()


class _FarLogger:
    """The last step of structlog's processors if a script has configured its own: their text becomes a log line."""

    def __init__(self, send: Callable[[str, str, dict[str, Any]], None], *names: object) -> None:
        self._send = send
        self.name = names[0] if names else None

    def __getattr__(self, method: str) -> Callable[..., None]:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *parts, **fields: self._send(method, " ".join(map(str, parts)), fields)


def _plain(key: Any, value: Any, redactor: Any) -> Any:
    """Return `value` in a form that pickles, is small and shows no secret; redacted before it is cut."""
    value = redactor.field(foreign.text(key), value)
    if foreign.is_a(value, str):
        return redactor.head(foreign.plain(value), _MAX_TEXT)
    if foreign.is_scalar(value):
        return value
    number = foreign.number(value)  # an IntEnum member, for example
    return redactor.head(foreign.shown(value), _MAX_TEXT) if number is None else number


def _level_number(method: str) -> int:
    return {"debug": 10, "info": 20, "msg": 20, "warning": 30, "warn": 30}.get(method, 40)
