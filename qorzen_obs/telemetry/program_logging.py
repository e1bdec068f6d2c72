"""Turns our lines into records of `logging`, if the program has configured that.

A line of the logger NAME becomes a record of `qorzen_obs.NAME`. Its message has the event and the fields, for text
formatters; each field is also an attribute of the record, for JSON formatters. Levels, filters, handlers and formats
are the program's (docs/decisions/0080-lines-by-the-programs-logging.md).
"""

from __future__ import annotations

import functools
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.telemetry.log_records import SEEN, RecordsAsLines, TaskLogHandler
from qorzen_obs.telemetry.log_rendering import escape, indented, to_json

ROOT_NAME: Final = "qorzen_obs"

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
#: Our own handlers, which do not print according to the program's configuration.
_OURS: Final = (RecordsAsLines, TaskLogHandler)
#: Fields with their own place in a record, so that the message does not repeat them.
_PLACED: Final = frozenset({"event", "exception", "level", "logger_name", "stack", "timestamp"})
_PLAIN: Final = re.compile(r'[^\s"=]+')


class _ThisThread(threading.local):
    handing_on = False  # a record to handlers, one of which may write a line of ours

    @contextmanager
    def hands_on(self, message: str) -> Iterator[None]:
        """Keep our lines out of the program's logging inside the block."""
        self.handing_on = True
        SEEN.will_log(message)
        try:
            yield
        finally:
            SEEN.will_log(None)
            self.handing_on = False


_HERE: Final = _ThisThread()


def program_logger(name: str, said_by: object = None) -> logging.Logger | None:
    """Return the `logging` logger for a line of our logger `name`; None if the program has not configured `logging`.

    A line from a worker process was `said_by` one of the user's loggers, which takes it if that logger exists here.
    """
    if _HERE.handing_on:
        return None
    logger = _logger(name)
    if isinstance(said_by, str):
        users = logging.Logger.manager.loggerDict.get(said_by)
        logger = users if isinstance(users, logging.Logger) else logger
    return logger if is_configured(logger) else None


@functools.cache
def _logger(name: str) -> logging.Logger:
    return logging.getLogger(f"{ROOT_NAME}.{name}")


def is_configured(logger: logging.Logger) -> bool:
    """Return whether the program has configured where the records of a logger go.

    It has if they reach a handler, even the root's, or if any setting of the logger or one above it was changed,
    except the root's level, which does not affect where they go.
    """
    one: logging.Logger | None = logger
    while one is not None:
        for handler in one.handlers:
            if not isinstance(handler, _OURS):
                return True
        if one.parent is not None and (one.level or one.disabled or one.filters or not one.propagate):
            return True
        one = one.parent
    return False


def takes(logger: logging.Logger, level: str) -> bool:
    """Return whether a logger lets lines of this level through."""
    return logger.isEnabledFor(_LEVELS.get(level, logging.INFO))


def hand_on(logger: logging.Logger, level: str, line: Mapping[str, Any]) -> None:
    """Pass a line, already redacted and observed, to the program's handlers, which may raise anything."""
    record = logger.makeRecord(
        logger.name,
        level=_LEVELS.get(level, logging.INFO),
        fn=__file__,
        lno=0,
        msg=_message(line),
        args=(),
        exc_info=None,
    )
    for key, value in line.items():
        if key not in ("exception", "stack"):
            setattr(
                record, f"{key}_" if hasattr(record, key) or key in ("message", "asctime") else key, value
            )
    record.exc_text = _text(line.get("exception"))
    record.stack_info = _text(line.get("stack"))
    with _HERE.hands_on(record.msg):
        logger.handle(record)


def _message(line: Mapping[str, Any]) -> str:
    fields = (f"{escape(key)}={_shown(value)}" for key, value in line.items() if key not in _PLACED)
    return " ".join([escape(foreign.text(line.get("event", ""))), *fields])


def _shown(value: object) -> str:
    """Return a value in logfmt: bare if it is one word, else as JSON.

    >>> _shown("completed"), _shown(0.25), _shown("two words"), _shown(None)
    ('completed', '0.25', '"two words"', 'null')
    """
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.isprintable():
        return value
    return to_json(value)


def _text(value: object) -> str | None:
    return None if value is None else indented(foreign.text(value).rstrip("\n"))
