"""A logger for threads and loops of ours, which a handler of the program's must not end."""

from __future__ import annotations

import contextlib
import logging
from typing import Any


class OwnLog:
    """Writes to the logger of this name. Whatever its handlers raise, SystemExit included, goes no further.

    The logger is made by its first line: a `dictConfig` disables those that exist before it, unless told otherwise.
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
        with contextlib.suppress(BaseException):  # it is the program's, and there is nobody left to tell
            logging.getLogger(self._name).log(level, message, *args, exc_info=exc_info, stacklevel=3)
