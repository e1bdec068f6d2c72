"""Texts on spans that are longer than the limit: the SDK cuts them, and warns of each. Here they are counted.

The limit is ours where the user sets none, so the warnings would be ours too: one for each span of a program that puts
long texts on its spans.
"""

from __future__ import annotations

import logging
from typing import Final

from qorzen_obs.telemetry.forks import ForkSafeLock

_LOGGER: Final = logging.getLogger("opentelemetry.attributes")  # of the module that cuts
_WARNING: Final = "String attribute value exceeds max length"


class CutTexts(logging.Filter):
    """Counts those warnings of the SDK and lets none through, while somebody watches; all methods from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._guard = ForkSafeLock()
        self._watching = 0
        self.count = 0

    def watch(self) -> None:
        """Begin; each needs an `unwatch` of its own."""
        with self._guard.lock:
            self._watching += 1
            if self._watching == 1:
                _LOGGER.addFilter(self)

    def unwatch(self) -> None:
        """End; the last one lets the SDK warn again."""
        with self._guard.lock:
            self._watching -= 1
            if not self._watching:
                _LOGGER.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record of the SDK's is another one than such a warning."""
        if not str(record.msg).startswith(_WARNING):
            return True
        with self._guard.lock:
            self.count += 1
        return False


CUT_TEXTS: Final = CutTexts()  #: of the process, as the SDK's logger is
