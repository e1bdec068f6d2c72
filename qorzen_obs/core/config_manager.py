"""The settings of a running service, and the listeners to their changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from qorzen_obs.core.base import QorzenManager
from qorzen_obs.errors import SettingsError
from qorzen_obs.settings import Settings, convert

Listener = Callable[[str, Any], Awaitable[None]]


class ConfigManager(QorzenManager):
    """Holds one Settings object; `set` checks a change, applies it and notifies the listeners."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__("config_manager")
        self._settings = settings or Settings()
        self._listeners: list[tuple[str, Listener]] = []

    @property
    def settings(self) -> Settings:
        """All settings as they are now."""
        return self._settings

    async def initialize(self) -> None:
        self._become_ready()

    async def shutdown(self) -> None:
        self._listeners.clear()
        self._become_stopped()

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, such as 'tasks' (a dict) or 'tasks.max_pending'; `default` when unknown."""
        value: Any = msgspec.to_builtins(self._settings, builtin_types=(float,))
        for level in key.split("."):
            if not isinstance(value, dict) or level not in value:
                return default
            value = value[level]
        return value

    async def set(self, key: str, value: Any) -> None:
        """Change the setting `key` and notify its listeners.

        Raises:
            SettingsError: the key is unknown or the value out of bounds; nothing was changed.
        """
        tree = msgspec.to_builtins(self._settings)
        *levels, leaf = key.split(".")
        branch = tree
        for level in levels:
            branch = branch.get(level) if isinstance(branch, dict) else None
        if not isinstance(branch, dict):
            raise SettingsError(key, "unknown setting; check the spelling")
        branch[leaf] = value
        self._settings = convert(tree, Settings)
        for prefix, listener in list(self._listeners):
            if key == prefix or key.startswith(prefix + "."):
                await listener(key, await self.get(key))

    async def register_listener(self, key: str, listener: Listener) -> None:
        """Await `listener(key, value)` for each change of `key` or of a setting below it."""
        self._listeners.append((key, listener))

    async def unregister_listener(self, key: str, listener: Listener) -> None:
        """Stop notifying `listener`; an unknown one is ignored."""
        self._listeners = [entry for entry in self._listeners if entry != (key, listener)]
