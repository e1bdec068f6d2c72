"""A logger for our own threads and loops, which one of the program's handlers must not end."""

from __future__ import annotations

import contextlib
import logging
from typing import Any


class OwnLog:
    """Writes to the logger of this name. Whatever its handlers raise, even SystemExit, goes no further.

    The first line creates the logger, since a `dictConfig` disables loggers that exist before it by default.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def exception(self, message: str, *args: Any) -> None:
        """Log an error with the exception that is being handled."""
        self._log(logging.ERROR, message, *args, exc_info=True)

    def error(self, message: str, *args: Any, exc_info: BaseException | None = None) -> None:
        """Log an error."""
        self._log(logging.ERROR, message, *args, exc_info=exc_info)

    def warning(self, message: str, *args: Any, exc_info: bool = False) -> None:
        """Log a warning."""
        self._log(logging.WARNING, message, *args, exc_info=exc_info)

    def _log(self, level: int, message: str, *args: Any, exc_info: BaseException | bool | None) -> None:
        with contextlib.suppress(BaseException):  # it is the program's, and nobody is left to notify
            logging.getLogger(self._name).log(level, message, *args, exc_info=exc_info, stacklevel=3)
