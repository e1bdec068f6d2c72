"""The task settings while the service runs: read at the start, then changed by the configuration manager."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from qorzen_obs.core.collaborators import SETTINGS_KEY, Collaborators
from qorzen_obs.core.runtime import Runtime
from qorzen_obs.core.task_table import TaskTable
from qorzen_obs.errors import SettingsError
from qorzen_obs.record import TaskRecord
from qorzen_obs.scheduling.scheduler import Scheduler
from qorzen_obs.settings import TaskSettings, convert

_NAMES: Final = frozenset(TaskSettings.__struct_fields__)


class LiveSettings:
    """Puts settings in force for one manager; for the work loop.

    Args:
        dispatch: called after each change, which may let tasks start.
    """

    def __init__(
        self,
        runtime: Runtime,
        collaborators: Collaborators,
        scheduler: Scheduler[TaskRecord],
        table: TaskTable,
        dispatch: Callable[[], object],
    ) -> None:
        self._runtime = runtime
        self._collaborators = collaborators
        self._scheduler = scheduler
        self._table = table
        self._dispatch = dispatch

    async def read(self) -> None:
        """Put the configuration's settings in force.

        Raises:
            SettingsError: one of them is out of bounds.
        """
        self.apply(_known(await self._collaborators.get_settings()))

    async def on_change(self, key: str, value: Any) -> None:
        """Take a change of the configuration: of all of 'tasks', or of one setting by its dotted name.

        Raises:
            SettingsError: the setting is unknown or out of bounds; nothing was changed.
        """
        if key == SETTINGS_KEY:
            self.apply(_known(value))
            return
        tree = branch = msgspec.to_builtins(self._runtime.settings)
        *levels, leaf = key.removeprefix(f"{SETTINGS_KEY}.").split(".")
        for level in levels:
            branch = branch.setdefault(level, {})
            if not isinstance(branch, dict):
                raise SettingsError(key, f"{level!r} is a value and has no settings below it")
        branch[leaf] = value
        self.apply(_known(tree))

    def apply(self, settings: TaskSettings) -> None:
        """Put settings in force. A limit below the number of running tasks interrupts none; it applies as they end."""
        self._runtime.settings = settings
        limits = self._scheduler.limits
        limits.total = settings.max_concurrent_tasks
        limits.categories = dict(settings.category_limits)
        self._scheduler.ageing_seconds = settings.ageing_seconds
        history = self._table.history
        history.keep, history.keep_bytes = settings.keep_completed_tasks, settings.keep_completed_bytes
        history.shrink()
        if not settings.keep_arguments:
            self._table.release_calls()
        self._dispatch()


def _known(tree: object) -> TaskSettings:
    """Return the task settings of a configuration that may hold more."""
    if not isinstance(tree, Mapping):
        raise SettingsError(SETTINGS_KEY, f"{tree!r} must be a table of settings")
    known = {key: value for key, value in tree.items() if key in _NAMES}
    return convert(known, TaskSettings, prefix=f"{SETTINGS_KEY}.")
