"""The four managers that a task manager works with, which may be foreign: what it calls, and what it does without.

This module alone asks what a foreign object can do. Everything else calls `Collaborators`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from qorzen_obs.callables import CallableTraits, traits_of
from qorzen_obs.engines.base import Engine
from qorzen_obs.engines.external import ExternalEngine
from qorzen_obs.engines.loop import LoopEngine
from qorzen_obs.engines.main import MainEngine
from qorzen_obs.engines.processes.engine import FarSide, ProcessEngine
from qorzen_obs.errors import ManagerError, ManagerInitializationError
from qorzen_obs.record import Attempt
from qorzen_obs.settings import EngineSettings
from qorzen_obs.tasks import EngineKind, TaskCategory
from qorzen_obs.telemetry.logs import accept_logger
from qorzen_obs.telemetry.task_log import StreamTaskLog

SOURCE: Final = "task_manager"
"""What the events on the bus name as their source."""
SETTINGS_KEY: Final = "tasks"
"""The key of the settings in the configuration."""
_DEFAULT_ENGINES: Final = {TaskCategory.IO: EngineKind.IO, TaskCategory.UI: EngineKind.MAIN}

OnSetting = Callable[[str, Any], Awaitable[None]]


class EngineOwner(Protocol):
    """A concurrency manager that gives its engines."""

    def engine(self, kind: EngineKind, /) -> Engine:
        """Return the engine of this kind; a LookupError or ManagerError where there is none."""
        ...


class ThreadRunner(Protocol):
    """A foreign concurrency manager that runs synchronous callables itself.

    `run_io_task` and `run_on_main_thread`, which take the same arguments, are used where they exist.
    """

    def run_in_thread(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Return what `func` returns on a thread."""
        ...


ConcurrencyManager = EngineOwner | ThreadRunner


class EventBusManager(Protocol):
    """Takes the events. One with `when_subscribed(tell)` says whether anybody subscribes; without it, all are made."""

    async def publish(self, *, event_type: str, source: str, payload: dict[str, Any]) -> object:
        """Deliver one event."""
        ...


class LoggerManager(Protocol):
    """Gives the logger. One with `task_log(name)` gives what writes the canonical lines of tasks as well."""

    def get_logger(self, name: str, /) -> Any:
        """Return a logger of structlog or of the standard library."""
        ...


class ConfigManager(Protocol):
    """Gives the settings. One with `unregister_listener(key, listener)` has its listener taken back at the end."""

    async def get(self, key: str, default: Any, /) -> Any:
        """Return the value of `key`; 'tasks' gives a mapping."""
        ...

    async def register_listener(self, key: str, listener: OnSetting, /) -> object:
        """Await `listener(key, value)` for each change of `key` or of a setting below it."""
        ...


class Collaborators:
    """The four managers of one task manager, and what they can do.

    Args:
        name: the task manager's name, for its logger and its errors.
    """

    def __init__(
        self,
        concurrency: ConcurrencyManager,
        events: EventBusManager,
        loggers: LoggerManager,
        config: ConfigManager,
        *,
        name: str,
    ) -> None:
        self._name = name
        self._concurrency = concurrency
        self._events = events
        self._config = config
        self.logger: Any = accept_logger(loggers.get_logger(name))
        task_log = getattr(loggers, "task_log", None)
        self.task_log: StreamTaskLog | None = None if task_log is None else task_log(name)

    @property
    def engine_settings(self) -> EngineSettings | None:
        """The settings of the engines; None where a foreign concurrency manager has its own."""
        settings = getattr(self._concurrency, "settings", None)
        return settings if isinstance(settings, EngineSettings) else None

    async def get_settings(self) -> object:
        """Return the configuration's value of 'tasks'."""
        return await self._config.get(SETTINGS_KEY, {})

    async def listen_to_settings(self, listener: OnSetting) -> None:
        """Await `listener(key, value)` for each change of a setting of tasks."""
        await self._config.register_listener(SETTINGS_KEY, listener)

    async def stop_listening(self, listener: OnSetting) -> None:
        """Take `listen_to_settings` back, where the configuration manager can."""
        unregister = getattr(self._config, "unregister_listener", None)
        if unregister is not None:
            await unregister(SETTINGS_KEY, listener)

    async def publish(self, event_type: str, payload: dict[str, Any]) -> None:
        """Deliver one event to the bus."""
        await self._events.publish(event_type=event_type, source=SOURCE, payload=payload)

    def when_subscribed(self, tell: Callable[[bool], None]) -> None:
        """Call `tell` with whether anybody wants events, now and at each change; always, where the bus cannot say."""
        when_subscribed = getattr(self._events, "when_subscribed", None)
        if when_subscribed is None:
            tell(True)
        else:
            when_subscribed(tell)

    def find_engines(self, loop: asyncio.AbstractEventLoop, far_side: FarSide) -> dict[EngineKind, Engine]:
        """Return the engines by their kind.

        Raises:
            ManagerInitializationError: the concurrency manager has neither `engine` nor `run_in_thread`.
        """
        find = getattr(self._concurrency, "engine", None)
        if find is not None:
            return self._own_engines(find, far_side)
        run_in_thread = getattr(self._concurrency, "run_in_thread", None)
        if run_in_thread is None:
            raise ManagerInitializationError(
                self._name, "concurrency_manager has neither engine nor run_in_thread"
            )
        return self._foreign_engines(loop, run_in_thread)

    def _own_engines(
        self, find: Callable[[EngineKind], Engine], far_side: FarSide
    ) -> dict[EngineKind, Engine]:
        kinds = (EngineKind.LOOP, EngineKind.IO, EngineKind.THREAD, EngineKind.MAIN)
        found = {kind: find(kind) for kind in kinds}
        with contextlib.suppress(LookupError, ManagerError):  # a foreign manager need not have processes
            found[EngineKind.PROCESS] = processes = find(EngineKind.PROCESS)
            if isinstance(processes, ProcessEngine):
                processes.far_side = far_side
        return found

    def _foreign_engines(
        self, loop: asyncio.AbstractEventLoop, run_in_thread: Callable[..., Awaitable[Any]]
    ) -> dict[EngineKind, Engine]:
        by_kind: dict[EngineKind, Callable[..., Awaitable[Any]] | None] = {
            EngineKind.IO: getattr(self._concurrency, "run_io_task", None),
            EngineKind.MAIN: getattr(self._concurrency, "run_on_main_thread", None),
        }

        def choose(attempt: Attempt) -> Callable[..., Awaitable[Any]]:
            record = attempt.record
            assert record.func is not None, "a record keeps its callable until it ends"
            return by_kind.get(_wanted_engine(record.category, traits_of(record.func))) or run_in_thread

        engines: dict[EngineKind, Engine] = {
            EngineKind.LOOP: LoopEngine(loop),
            EngineKind.EXTERNAL: ExternalEngine(loop, choose),
        }
        if by_kind[EngineKind.MAIN] is None:
            engines[EngineKind.MAIN] = MainEngine(loop)
        return engines


def choose_engine(
    engines: Mapping[EngineKind, Engine], category: TaskCategory, traits: CallableTraits
) -> EngineKind:
    """Return which of `engines` runs a callable. Foreign managers may lack the engine that the callable asks for."""
    wanted = _wanted_engine(category, traits)
    if wanted in engines:
        return wanted
    if traits.is_async:
        return EngineKind.LOOP
    return EngineKind.EXTERNAL if EngineKind.EXTERNAL in engines else EngineKind.THREAD


def _wanted_engine(category: TaskCategory, traits: CallableTraits) -> EngineKind:
    if traits.on_loop:
        return EngineKind.LOOP
    return traits.definition.engine or _DEFAULT_ENGINES.get(category, EngineKind.THREAD)
