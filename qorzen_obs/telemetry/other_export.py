"""Finds whether OpenTelemetry's own handler, as `opentelemetry-instrument` installs it, exports a log line.

Imports little, since worker processes use it too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_EXPORTED: Final[ContextVar[bool]] = ContextVar("qorzen_line_is_exported", default=False)


def is_exported(logger: logging.Logger | None) -> bool:
    """Return whether OpenTelemetry's handler gets the lines of a logger."""
    while logger is not None:
        if any(_is_of_opentelemetry(type(handler)) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def _is_of_opentelemetry(kind: type) -> bool:
    return any(
        base.__name__ == "LoggingHandler" and base.__module__.startswith("opentelemetry.")
        for base in kind.__mro__
    )


@contextmanager
def exported_already(exported: bool) -> Iterator[None]:
    """Mark the lines that are written inside as exported by somebody else, if they are."""
    token = _EXPORTED.set(exported)
    try:
        yield
    finally:
        _EXPORTED.reset(token)


def current_line_is_exported() -> bool:
    """Return whether the line that is being written has this mark."""
    return _EXPORTED.get()
