"""The four managers that a task manager works with. Any may be foreign: these are the methods it must or may have.

Only this module asks what a foreign object can do. Everything else calls `Collaborators`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from qorzen_obs.engines.base import Engine
from qorzen_obs.engines.external import ExternalEngine
from qorzen_obs.engines.loop import LoopEngine
from qorzen_obs.engines.main import MainEngine
from qorzen_obs.engines.traits import ENGINES
from qorzen_obs.errors import ManagerError, ManagerInitializationError
from qorzen_obs.settings import EngineSettings
from qorzen_obs.telemetry.logs import accept_logger
from qorzen_obs.telemetry.task_log import StreamTaskLog

SOURCE: Final = "task_manager"  #: the source of the events on the bus
SETTINGS_KEY: Final = "tasks"  #: the key of the settings in the configuration

#: Takes the key of a setting that has changed, 'tasks' or 'tasks.<name>', and its new value.
OnSetting = Callable[[str, Any], Awaitable[None]]
OnLost = Callable[[str], None]


class EngineOwner(Protocol):
    """A concurrency manager that gives its engines. If it has a mapping `engines`, that holds all of them."""

    def engine(self, kind: str, /) -> Engine:
        """Return the engine of this kind; raise LookupError or ManagerError if there is none."""
        ...


class ThreadRunner(Protocol):
    """A foreign concurrency manager that runs synchronous callables itself.

    `run_io_task` and `run_on_main_thread`, which take the same arguments, are used where they exist.
    """

    def run_in_thread(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Run `func` on a thread; awaiting the result gives its value, or raises what it raised."""
        ...


#: Gives a task manager its engines: its own concurrency manager, or a foreign one that runs callables in threads.
ConcurrencyManager = EngineOwner | ThreadRunner


class EventBusManager(Protocol):
    """Takes the events. With `when_subscribed(on_change)` it says whether anybody subscribes; else all are made.

    If it has `await drain(seconds)`, the manager awaits that at the end. If it has `publish_watched`, which also
    takes `on_lost`, it reports events that did not arrive.
    """

    async def publish(self, *, event_type: str, source: str, payload: dict[str, Any]) -> object:
        """Deliver one event of a task; `payload` has JSON's types. An error is counted, and logged once."""
        ...


class LoggerManager(Protocol):
    """Gives the logger. If it has `task_log(name)`, that gives the writer of the canonical task lines."""

    def get_logger(self, name: str, /) -> Any:
        """Return a logger of structlog or of the standard library. Its methods must not block."""
        ...


class ConfigManager(Protocol):
    """Gives the settings. If it has `unregister_listener(key, listener)`, that is called at the end."""

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
        """Undo `listen_to_settings`, if the configuration manager can."""
        unregister = getattr(self._config, "unregister_listener", None)
        if unregister is not None:
            await unregister(SETTINGS_KEY, listener)

    async def publish(self, event_type: str, payload: dict[str, Any], on_lost: OnLost) -> None:
        """Deliver one event to the bus, which calls `on_lost(event_type)` if it knows that the event did not arrive."""
        fields: dict[str, Any] = {"event_type": event_type, "source": SOURCE, "payload": payload}
        watched = getattr(self._events, "publish_watched", None)
        if watched is None:
            await self._events.publish(**fields)
        else:
            await watched(**fields, on_lost=on_lost)

    async def drain_events(self, deadline_seconds: float) -> None:
        """Wait until the published events have reached their subscribers, at most this number of seconds."""
        drain = getattr(self._events, "drain", None)
        if drain is not None:
            await drain(deadline_seconds)

    def when_subscribed(self, on_change: Callable[[bool], None]) -> Callable[[], object]:
        """Call `on_change` with whether anybody wants events, now and at each change; True if the bus cannot say.

        Return a callable that ends these calls.
        """
        when_subscribed = getattr(self._events, "when_subscribed", None)
        if when_subscribed is None:
            on_change(True)
            return _nothing
        stop = when_subscribed(on_change)
        return stop if callable(stop) else _nothing

    def find_engines(self, loop: asyncio.AbstractEventLoop) -> dict[str, Engine]:
        """Return the engines by their kind.

        Raises:
            ManagerInitializationError: the concurrency manager has neither `engine` nor `run_in_thread`.
        """
        found = getattr(self._concurrency, "engines", None)
        find = getattr(self._concurrency, "engine", None)
        if isinstance(found, Mapping):
            return dict(found)
        if find is not None:
            return _ask_for_engines(find)
        return self._foreign_engines(loop)

    def _foreign_engines(self, loop: asyncio.AbstractEventLoop) -> dict[str, Engine]:
        run_in_thread = getattr(self._concurrency, "run_in_thread", None)
        if run_in_thread is None:
            problem = "concurrency_manager has neither engine nor run_in_thread"
            raise ManagerInitializationError(self._name, problem)
        run_on_main_thread = getattr(self._concurrency, "run_on_main_thread", None)
        external = ExternalEngine(
            loop,
            run_in_thread,
            run_io_task=getattr(self._concurrency, "run_io_task", None),
            run_on_main_thread=run_on_main_thread,
        )
        engines: list[Engine] = [LoopEngine(loop), external]
        if run_on_main_thread is None:
            engines.append(MainEngine(loop))
        return {engine.traits.kind: engine for engine in engines}


def _nothing() -> None:
    """End calls that never began."""


def _ask_for_engines(find: Callable[[str], Engine]) -> dict[str, Engine]:
    """Return the result of `find`. A foreign manager may lack an engine that is not a default."""
    found: dict[str, Engine] = {}
    for engine in ENGINES.values():
        if engine.choosable:
            try:
                found[engine.kind] = find(engine.kind)
            except (LookupError, ManagerError):
                if engine.default_for:
                    raise
    return found
