"""Our lines as records of `logging`, where the program has configured it.

A line of the logger NAME is a record of `qorzen_obs.NAME`. Its message is the event and the fields, for a formatter of
texts, and each field is an attribute of the record, for one of JSON. Levels, filters, handlers and formats are the
program's (docs/decisions/0080-lines-by-the-programs-logging.md).
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
#: Handlers of ours, which print nothing by the program's configuration.
_OURS: Final = (RecordsAsLines, TaskLogHandler)
#: What a record has a place for, so that it does not stand in the message as well.
_PLACED: Final = frozenset({"event", "exception", "level", "logger_name", "stack", "timestamp"})
_PLAIN: Final = re.compile(r'[^\s"=]+')


class _ThisThread(threading.local):
    handing_on = False  # a record to handlers, one of which may write a line of ours

    @contextmanager
    def hands_on(self, message: str) -> Iterator[None]:
        """Let no line of ours go to the program's logging inside the block."""
        self.handing_on = True
        SEEN.will_log(message)
        try:
            yield
        finally:
            SEEN.will_log(None)
            self.handing_on = False


_HERE: Final = _ThisThread()


def program_logger(name: str, said_by: object = None) -> logging.Logger | None:
    """Return which logger of `logging` takes a line of our logger `name`; None where the program has configured none.

    A line that a worker process sends was `said_by` a logger of the user's, which takes it where it is known here.
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
    """Return whether the program says where the records of a logger go.

    It does by a handler that they reach, the root's included, or by any setting of the logger or of one above it,
    except the root's level, which says nothing of where.
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
    """Return whether a logger lets lines of a level through."""
    return logger.isEnabledFor(_LEVELS.get(level, logging.INFO))


def hand_on(logger: logging.Logger, level: str, line: Mapping[str, Any]) -> None:
    """Give a line, which is redacted and observed already, to the program's handlers, which may raise anything."""
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
    """Return a value as logfmt has it: bare where it is one word, else as JSON.

    >>> _shown("completed"), _shown(0.25), _shown("two words"), _shown(None)
    ('completed', '0.25', '"two words"', 'null')
    """
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.isprintable():
        return value
    return to_json(value)


def _text(value: object) -> str | None:
    return None if value is None else indented(foreign.text(value).rstrip("\n"))
