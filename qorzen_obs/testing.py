"""What makes tests of tasks quick and quiet.

A manager of real parts that touches nothing outside the test, fakes that keep what they get, and an event
loop whose time jumps, so that a timeout of 300 s is tested at once.

    @virtual_time
    async def test_the_report_times_out() -> None:
        async with open_test_manager() as tasks:
            with pytest.raises(TaskTimeoutError):
                await tasks.run(report, timeout=300)

pytest_plugin.py has fixtures of it; docs/guide/testing.md shows how to test with both.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

import structlog
from opentelemetry.trace import NoOpTracerProvider, TracerProvider
from prometheus_client import CollectorRegistry

from qorzen_obs.clock import Clock
from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.event_bus_manager import Event
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.engines.traits import Place
from qorzen_obs.settings import Settings
from qorzen_obs.telemetry.logs import add_task_context
from qorzen_obs.telemetry.parts import TelemetryParts

P = ParamSpec("P")
T = TypeVar("T")


@asynccontextmanager
async def open_test_manager(
    settings: Settings | None = None,
    *,
    config: Any = None,
    events: Any = None,
    logs: Any = None,
    concurrency: Any = None,
    registry: CollectorRegistry | None = None,
    tracer_provider: TracerProvider | None = None,
    clock: Clock | None = None,
    telemetry: TelemetryParts | None = None,
) -> AsyncIterator[TaskManager]:
    """Give a ready TaskManager for one test; at the end of the block what still runs is cancelled at once.

    It writes no log, opens no port, makes no spans and reads neither files nor the environment. Pass a part to
    watch or replace it, ready for use; your own parts are not shut down. On a VirtualTimeLoop its clock is the
    loop's.
    """
    settings = settings or Settings()
    loop = asyncio.get_running_loop()
    own = None
    if concurrency is None:
        concurrency = own = ConcurrencyManager(settings.engines)
        await own.initialize()
    tasks = TaskManager(
        concurrency,
        CapturedEvents() if events is None else events,
        CapturedLogs() if logs is None else logs,
        ConfigManager(settings) if config is None else config,
        registry=registry,
        tracer_provider=tracer_provider or NoOpTracerProvider(),
        clock=loop.clock if clock is None and isinstance(loop, VirtualTimeLoop) else clock,
        telemetry=telemetry or TelemetryParts(settings=settings.telemetry),
    )
    try:
        await tasks.initialize()
        if isinstance(loop, VirtualTimeLoop):
            loop.stand_still_while(functools.partial(_busy_in_threads, tasks))
        yield tasks
    finally:
        await tasks.shutdown(grace_seconds=0)
        if own is not None:
            await own.shutdown()


def _busy_in_threads(tasks: TaskManager) -> bool:
    slots = tasks.looks.slots()
    threaded = (engine for engine in tasks.looks.engine_traits() if engine.place is Place.THREAD)
    return any(slots[engine.kind]["busy"] for engine in threaded)


class CapturedLogs:
    """A logger manager whose loggers write nothing: each line is kept in `lines`, with its task and trace."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []  #: the fields of each line, oldest first

    def get_logger(self, name: str) -> Any:
        """Return a structlog logger; `name` stands as `logger` in its lines."""
        return structlog.wrap_logger(
            structlog.testing.ReturnLogger(),
            processors=[
                structlog.contextvars.merge_contextvars,
                add_task_context,
                structlog.processors.add_log_level,
                self._keep,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
            context_class=dict,
            cache_logger_on_first_use=False,
        ).bind(logger=name)

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of one event, such as 'task.finished', oldest first."""
        return [line for line in list(self.lines) if line["event"] == event]

    def _keep(self, _: Any, __: str, event: Any) -> Any:
        self.lines.append(dict(event))
        raise structlog.DropEvent


class CapturedEvents:
    """An event bus that keeps what is published."""

    def __init__(self) -> None:
        self.events: list[Event] = []  #: oldest first

    async def publish(self, *, event_type: str, source: str, payload: dict[str, Any]) -> None:
        """Keep one event. This is what the manager calls."""
        self.events.append(Event(event_type, source, payload))

    def of(self, task_id: str) -> list[str]:
        """Return the types of one task's events, in order."""
        return [event.event_type for event in self.events if event.payload["task_id"] == task_id]


class VirtualClock:
    """The time of a VirtualTimeLoop. Setting `wall_offset` makes the wall clock jump, and no other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.wall_offset: float = 1_700_000_000.0  #: Unix seconds when the loop was made
        self._loop = loop

    def now(self) -> float:
        """Return Unix seconds."""
        return self.wall_offset + self._loop.time()

    def monotonic(self) -> float:
        """Return seconds since the loop was made."""
        return self._loop.time()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait for timers: when nothing else is ready its time jumps to the next one.

    For asynchronous work. Threads live in real time, so time stands still while a condition given to
    `stand_still_while` holds; `open_test_manager` gives one for the threads of its manager. A thread task that
    never ends therefore never times out here: test that in real time with a short timeout. Other threads, such
    as those of `asyncio.to_thread`, are not seen.
    """

    def __init__(self) -> None:
        self._elapsed = 0.0
        self._conditions: list[Callable[[], bool]] = []
        super().__init__(_JumpingSelector(self))
        self.clock = VirtualClock(self)  #: for what takes a Clock

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._elapsed

    def stand_still_while(self, condition: Callable[[], bool]) -> None:
        """Let no time pass while `condition()` is true."""
        self._conditions.append(condition)

    def stands_still(self) -> bool:
        """Return whether something holds the time."""
        return any(condition() for condition in self._conditions)

    def jump(self, seconds: float) -> None:
        """Let `seconds` of virtual time pass at once; timers that are due then run in the loop's next turn."""
        # One step further, since time plus a difference of times may round to just before the timer.
        self._elapsed = math.nextafter(self._elapsed + seconds, math.inf)


class _JumpingSelector(selectors.DefaultSelector):
    """Looks whether anything is ready; where asyncio would sleep until the next timer, time moves instead."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or self._loop.stands_still():
            return super().select(None)
        self._loop.jump(timeout)
        return []


def virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make an async test a synchronous one that runs on a VirtualTimeLoop of its own, without a plugin of pytest."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(test(*args, **kwargs))

    return run
