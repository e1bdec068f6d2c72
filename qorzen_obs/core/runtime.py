"""The present state of a whole manager: its lifecycle state, work loop, engines and settings.

The work loop writes; any thread reads. Each fact is one object that is replaced whole, so a reader never sees a
partial change.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, Protocol

from qorzen_obs.engines.base import Engine
from qorzen_obs.engines.choice import EngineChoice
from qorzen_obs.engines.traits import ENGINES
from qorzen_obs.settings import TaskSettings

_LOOK_SECONDS: Final = 0.1

SHUTDOWN: Final = "shutdown"  #: the reason for cancelling live tasks when a manager stops


class ManagerState(Enum):
    """The life of a task manager, in order."""

    NEW = "new"  #: made, not initialized
    STARTING = "starting"  #: initialize() runs
    READY = "ready"  #: takes work
    DRAINING = "draining"  #: refuses new work except children of running tasks; lets accepted work end
    STOPPED = "stopped"  #: nothing runs except code that would not stop


class Timers(Protocol):
    """The methods of an event loop that code on it uses."""

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any
    ) -> asyncio.TimerHandle: ...
    def create_future(self) -> asyncio.Future[Any]: ...


class Runtime:
    """The present state of one manager. Before `begin` it has no loop, no engines, and the default settings."""

    def __init__(self) -> None:
        self.state = ManagerState.NEW
        self.ready_at: float | None = None  #: when it first took work, in Unix seconds
        self.loop: asyncio.AbstractEventLoop | None = None  #: the work loop
        self.loop_thread: int | None = None  #: the id of its thread
        self.engines: Mapping[str, Engine] = {}  #: by kind
        self.engine_choice = EngineChoice(ENGINES.values())  #: at first for the engines of this package
        self.settings = TaskSettings()
        self.horizon = float("inf")  #: when the grace of a shutdown ends, by the monotonic clock
        #: The step that an exception has interrupted, until `Repairs.repair` finishes or undoes it; else None.
        self.interruption: BaseException | None = None
        #: `ready += repairs`, after setting `interruption`, schedules the repair for the loop's next turn. It needs no
        #: call, for which the stack may be too deep: `ready` is the callback queue of asyncio's loops. Under any other
        #: loop `interruption` is checked ten times a second.
        self.ready: deque[asyncio.Handle] = deque(maxlen=1)
        self.repairs: list[asyncio.Handle] = []

    def use(self, engines: Mapping[str, Engine]) -> None:
        """Run callables on these engines from now on."""
        self.engines = engines
        self.engine_choice = EngineChoice(engine.traits for engine in engines.values())

    def begin(self, repair: Callable[[], object]) -> asyncio.AbstractEventLoop:
        """Make the running loop the work loop, and return it. `repair` finishes interrupted steps."""
        self.loop, self.loop_thread = loop, _ = asyncio.get_running_loop(), threading.get_ident()
        self.repairs.append(asyncio.Handle(repair, (), loop))
        ready = getattr(loop, "_ready", None)
        if isinstance(ready, deque):
            self.ready = ready
        else:
            self._look_for_repairs(repair)
        return loop

    def _look_for_repairs(self, repair: Callable[[], object]) -> None:
        if self.state not in (ManagerState.NEW, ManagerState.STOPPED):
            self.call_later(_LOOK_SECONDS, self._look_for_repairs, repair)
        if self.ready:
            self.ready.clear()
            repair()

    @property
    def work_loop(self) -> asyncio.AbstractEventLoop:
        """The work loop, for code that runs only once there is one."""
        assert self.loop is not None, "tasks exist only after initialize"
        return self.loop

    @property
    def runs_here(self) -> bool:
        """Whether the calling code runs on the work loop."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """As the work loop's."""
        return self.work_loop.call_later(delay, callback, *args)

    def create_future(self) -> asyncio.Future[Any]:
        """As the work loop's."""
        return self.work_loop.create_future()
