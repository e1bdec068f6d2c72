"""Counts, exports and keeps with its task what a program logs through its own configuration.

`logging` has no hook for all records that leaves the program's handlers alone: if we added a handler to the root
logger, a program without handlers would not print its warnings, and a later `basicConfig` would do nothing. So while a
service runs, we wrap the method that passes each record to its handlers, and structlog's last processor, which
renders. Neither wrapper changes a line (docs/decisions/0075-log-taps.md).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import structlog

from qorzen_obs import foreign
from qorzen_obs.current import CURRENT
from qorzen_obs.telemetry.forks import ForkSafeLock
from qorzen_obs.telemetry.log_records import SEEN, level_of, line_of
from qorzen_obs.telemetry.logs import LogStream, add_task_context
from qorzen_obs.telemetry.other_export import is_exported
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.task_lines import keep_line, keep_task_line

#: The levels by the names of structlog's methods.
_LEVELS: Final = {
    "warn": "warning",
    "exception": "error",
    "err": "error",
    "fatal": "critical",
    "failure": "error",
    "msg": "info",
}

Fields = Callable[[], dict[str, Any]]


class _Taps:
    """The taps of the process. The first service opens them, the last one closes them."""

    def __init__(self) -> None:
        self.streams: tuple[LogStream, ...] = ()
        self._guard = ForkSafeLock()
        self.call_handlers: Any = logging.Logger.callHandlers  #: the wrapped objects
        self._wraps = False
        self._processors: list[Any] = []  # structlog's processors; the last one is wrapped
        self._redactor = Redactor()  # for a task whose manager shows no lines

    def open(self, stream: LogStream) -> None:
        with self._guard.lock:
            self.streams += (stream,)
            if not self._wraps:
                self._wraps, self.call_handlers = True, logging.Logger.callHandlers
                logging.Logger.callHandlers = _call_handlers  # type: ignore[assignment,method-assign]  # see above
            self._tap_structlog()

    def close(self, stream: LogStream) -> None:
        with self._guard.lock:
            self.streams = tuple(one for one in self.streams if one is not stream)
            if self.streams:
                return
            # If somebody has wrapped ours, it stays and does nothing.
            if logging.Logger.callHandlers is _call_handlers:
                logging.Logger.callHandlers = self.call_handlers  # type: ignore[method-assign]  # as above
                self._wraps = False
            self._untap_structlog()

    def _tap_structlog(self) -> None:
        processors = structlog.get_config()["processors"]
        if processors is self._processors or not isinstance(processors, list) or not processors:
            return
        self._untap_structlog()
        if not any(isinstance(foreign.attribute(one, "__self__"), LogStream) for one in processors):
            self._processors = processors
            # One assignment, since another thread may be iterating over the list.
            processors[-1] = _Renderer(processors[-1], keeps=keep_task_line not in processors)

    def _untap_structlog(self) -> None:
        processors, self._processors = self._processors, []
        for place, one in enumerate(processors):
            if isinstance(one, _Renderer):
                processors[place] = one.renderer

    def saw(self, level: str, fields: Fields, *, keeps: bool, exports: bool) -> None:
        """Count a line, and create its fields if somebody wants them."""
        streams = self.streams
        for stream in streams:
            stream.count(level)
        exporting = next((one for one in streams if one.export is not None), None) if exports else None
        task = CURRENT.get() if keeps else None
        if exporting is None and task is None:
            return
        try:
            line = dict(add_task_context(None, level, fields()))
            if task is not None:
                keep_line(level, line, getattr(getattr(task, "owner", None), "redactor", self._redactor))
            if exporting is not None:
                exporting.send(level, line)
        except BaseException:  # noqa: BLE001 - a value's own code may raise anything, which must not reach the code that logs
            for stream in streams:
                stream.count_unseen()


_TAPS: Final = _Taps()


@contextmanager
def tapped(stream: LogStream) -> Iterator[None]:
    """Let `stream` also count, export and keep the program's lines inside the block."""
    _TAPS.open(stream)
    try:
        yield
    finally:
        _TAPS.close(stream)


# ---------------------------------------------------------------------- logging


def _call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Replaces Logger.callHandlers."""
    with SEEN.one_line() as seen:
        _TAPS.call_handlers(logger, record)
    if _TAPS.streams and not seen.whole and (seen.message is None or record.msg is not seen.message):
        exports = not is_exported(logger)
        _TAPS.saw(level_of(record), lambda: line_of(record), keeps=not seen.kept, exports=exports)


# ---------------------------------------------------------------------- structlog


class _Renderer:
    """Replaces structlog's last processor."""

    def __init__(self, renderer: Any, *, keeps: bool) -> None:
        self.renderer = renderer
        self._keeps = keeps

    def __call__(self, logger: Any, method: str, event: Any) -> Any:
        if _TAPS.streams and isinstance(event, Mapping):
            line, level = dict(event), _level_of(method, event)  # a renderer takes fields out of it
            if name := line.pop("logger", None) or foreign.attribute(logger, "name"):
                line.setdefault("logger_name", foreign.text(name))
            exports = not (isinstance(logger, logging.Logger) and is_exported(logger))
            _TAPS.saw(level, lambda: _fields_of(line), keeps=self._keeps, exports=exports)
        rendered = self.renderer(logger, method, event)
        SEEN.will_log(_message_of(rendered) if isinstance(logger, logging.Logger) else None)
        return rendered

    def __getattr__(self, name: str) -> Any:
        """Pass on the renderer's other attributes."""
        return getattr(self.renderer, name)


def _level_of(method: str, event: Mapping[str, Any]) -> str:
    level = foreign.text(event.get("level", method)).lower()
    return _LEVELS.get(level, level)


def _fields_of(event: dict[str, Any]) -> dict[str, Any]:
    """Return a line's fields, with its exception as text, and without the internal fields of structlog's processors."""
    fields = {key: value for key, value in event.items() if not foreign.text(key).startswith("_")}
    fields.pop("timestamp", None)  # in whatever form
    error = fields.pop("exc_info", None)
    if isinstance(error, tuple) and len(error) == 3:
        error = error[1]
    elif error and not isinstance(error, BaseException):
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        fields["exception"] = foreign.formatted(error, foreign.traceback_of(error))
    return fields


def _message_of(rendered: Any) -> Any:
    """Return the message that a standard-library logger will put in its record."""
    if isinstance(rendered, tuple) and rendered:
        arguments = rendered[0]
        return arguments[0] if isinstance(arguments, tuple) and arguments else None
    return rendered.get("msg") if isinstance(rendered, dict) else rendered
