"""Counts texts on spans that are longer than the limit. The SDK cuts them and logs a warning for each.

If the user sets no limit, the limit is ours, so the warnings would be ours too: one for each span of a program that
puts long texts on its spans.
"""

from __future__ import annotations

import logging
from typing import Final

from qorzen_obs.telemetry.forks import ForkSafeLock

_LOGGER: Final = logging.getLogger("opentelemetry.attributes")  # the logger of the module that cuts
_WARNING: Final = "String attribute value exceeds max length"


class CutTexts(logging.Filter):
    """While somebody watches, counts these warnings of the SDK and suppresses them; all methods from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._guard = ForkSafeLock()
        self._watching = 0
        self.count = 0

    def watch(self) -> None:
        """Begin to watch; each call needs its own `unwatch`."""
        with self._guard.lock:
            self._watching += 1
            if self._watching == 1:
                _LOGGER.addFilter(self)

    def unwatch(self) -> None:
        """End watching; the last call lets the SDK warn again."""
        with self._guard.lock:
            self._watching -= 1
            if not self._watching:
                _LOGGER.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record of the SDK is anything else than such a warning."""
        if not str(record.msg).startswith(_WARNING):
            return True
        with self._guard.lock:
            self.count += 1
        return False


CUT_TEXTS: Final = CutTexts()  #: one for the process, like the SDK's logger
