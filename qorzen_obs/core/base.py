"""What all managers have in common: a name, a start, a stop, and a report of their state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class QorzenManager(ABC):
    """Base of all managers. `initialize` runs once; `shutdown` may be called at any time, and again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._initialized = False
        self._healthy = False

    @property
    def name(self) -> str:
        """The manager's name in logs and errors."""
        return self._name

    @property
    def initialized(self) -> bool:
        """Whether it is ready for use."""
        return self._initialized

    @property
    def healthy(self) -> bool:
        """Whether it works correctly."""
        return self._healthy

    @abstractmethod
    async def initialize(self) -> None:
        """Make ready for use.

        Raises:
            ManagerInitializationError: it was initialized before, or something that it needs is missing.
        """

    @abstractmethod
    async def shutdown(self) -> None:
        """Stop in order; complete when it returns. Safe before `initialize` and when called again."""

    def status(self) -> dict[str, Any]:
        """Return the present state in JSON's types; from any thread."""
        return {"name": self.name, "initialized": self.initialized, "healthy": self.healthy}

    def _become_ready(self) -> None:
        self._initialized = self._healthy = True

    def _become_stopped(self) -> None:
        self._initialized = self._healthy = False
