"""How a manager starts and how it stops: the order in which its parts begin, drain and end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, ParamSpec

from prometheus_client import CollectorRegistry

from qorzen_obs import foreign
from qorzen_obs.clock import Clock
from qorzen_obs.core.announcer import Announcer
from qorzen_obs.core.collaborators import Collaborators
from qorzen_obs.core.contained import outcome_of
from qorzen_obs.core.lifecycle import Lifecycle
from qorzen_obs.core.live_settings import LiveSettings
from qorzen_obs.core.patched_threads import problem_of_threads
from qorzen_obs.core.runner import KILL_SECONDS
from qorzen_obs.core.runtime import SHUTDOWN, ManagerState, Runtime
from qorzen_obs.core.task_table import TaskTable
from qorzen_obs.engines.base import DetachingEngine, Engine
from qorzen_obs.errors import ManagerInitializationError, ManagerShutdownError, SettingsError
from qorzen_obs.scheduling.limits import Limits
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.collector import TaskMetricsCollector
from qorzen_obs.telemetry.loop_monitor import LoopMonitor
from qorzen_obs.telemetry.metrics import TaskMetrics

_P = ParamSpec("_P")

_FEED_SECONDS: Final = 2.0
_LISTENER_SECONDS: Final = 1.0
_SLACK_SECONDS: Final = 0.5


class Life:
    """The start and the stop of one manager, once each; for its work loop."""

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        table: TaskTable,
        limits: Limits,
        *,
        clock: Clock,
        collaborators: Collaborators,
        collector: TaskMetricsCollector,
        registry: CollectorRegistry,
        settings: LiveSettings,
        lifecycle: Lifecycle,
        announcer: Announcer,
        loop_monitor: LoopMonitor,
        metrics: TaskMetrics,
    ) -> None:
        self._name = name
        self._runtime = runtime
        self._table = table
        self._limits = limits
        self._clock = clock
        self._collaborators = collaborators
        self._collector = collector
        self._registry = registry
        self._settings = settings
        self._lifecycle = lifecycle
        self._announcer = announcer
        self._loop_monitor = loop_monitor
        self._metrics = metrics
        self._hurry = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ start

    async def start(self) -> None:
        """Connect to the collaborators and take work. Raises what TaskManager.initialize documents."""
        runtime = self._runtime
        if runtime.state is not ManagerState.NEW:
            problem = f"is {runtime.state.value} already; a task manager is initialized once: make a new one"
            raise ManagerInitializationError(self._name, problem)
        if (unusable := problem_of_threads()) is not None:
            raise ManagerInitializationError(self._name, unusable)
        runtime.state = ManagerState.STARTING
        try:
            await self._connect(runtime.begin(self._lifecycle.repairs.repair_now))
        except BaseException as error:
            runtime.state = ManagerState.NEW
            known = (ManagerInitializationError, SettingsError)
            if foreign.is_a(error, known) or not foreign.is_a(error, Exception):
                raise
            problem = f"a collaborator failed with {foreign.described(error)}"
            raise ManagerInitializationError(self._name, problem) from error
        runtime.ready_at = self._clock.now()
        runtime.state = ManagerState.READY
        self._log_state()

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        await self._settings.read()
        self._take_engines(self._collaborators.find_engines(loop))
        try:
            self._registry.register(self._collector)
        except ValueError as error:
            problem = "its registry has the metrics of another task manager; give each a CollectorRegistry"
            raise ManagerInitializationError(self._name, problem) from error
        try:
            await self._collaborators.listen_to_settings(self._settings.on_change)
        except BaseException:
            self._registry.unregister(self._collector)
            raise
        self._announcer.start()
        self._loop_monitor.start()

    def _take_engines(self, engines: Mapping[str, Engine]) -> None:
        self._runtime.use(engines)
        self._metrics.know_engines(engine.traits for engine in engines.values())
        self._limits.engines = {
            kind: engine.slots for kind, engine in engines.items() if engine.slots is not None
        }

    def _log_state(self, **fields: Any) -> None:
        write = self._collaborators.logger.info
        self._announcer.say(write, names.LOG_MANAGER_STATE, state=self._runtime.state.value, **fields)

    # ------------------------------------------------------------------ stop

    async def stop(self, grace_seconds: float | None) -> None:
        """Refuse new work except children of running tasks, drain, cancel the rest. See TaskManager.shutdown."""
        runtime, stopping = self._runtime, self._stopping
        if stopping is not None and stopping.done() and runtime.state is ManagerState.DRAINING:
            stopping = None  # it was interrupted: begin again
        if stopping is None:
            if runtime.state is ManagerState.STARTING:
                raise ManagerShutdownError(self._name, "is starting; await or cancel its initialize() first")
            if runtime.state in (ManagerState.NEW, ManagerState.STOPPED):
                runtime.state = ManagerState.STOPPED
                return
            grace = runtime.settings.shutdown_grace_seconds if grace_seconds is None else grace_seconds
            runtime.state = ManagerState.DRAINING
            self._log_state()
            stopping = runtime.work_loop.create_task(self._drain(grace), name="qorzen-shutdown")
            self._stopping = stopping
        elif grace_seconds == 0:
            # in a turn of its own, like everything that wakes a waiter
            runtime.work_loop.call_soon(self._hurry.set)
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            self._hurry.set()
            await asyncio.wait([stopping])
            raise

    async def _drain(self, grace_seconds: float) -> None:
        # They are refused, except running tasks, which wait again.
        self._take(self._lifecycle.waiting.let_all_in)
        self._cancel_what_cannot_start(grace_seconds)
        await self._wait_for_the_rest(grace_seconds)
        self._cancel_all()
        self._take(self._lifecycle.waiting.let_all_in)
        # A task that ignores its cancellation is abandoned after the grace, so this ends by then.
        bound = self._runtime.settings.cancel_grace_seconds + KILL_SECONDS + _SLACK_SECONDS
        await self._until_nothing_lives(bound)
        self._take(self._lifecycle.repairs.sweep)
        self._take(self._lifecycle.repairs.give_up_all, "it was still live when the manager had stopped")
        self._take_abandoned_off_the_loop()
        self._announcer.ends.notify()
        self._loop_monitor.stop()
        self._lifecycle.close()
        await self._announcer.stop(_FEED_SECONDS)
        self._runtime.state = ManagerState.STOPPED
        self._log_state(abandoned=len(self._table.abandoned))
        stop_listening = self._collaborators.stop_listening
        error = await outcome_of(_LISTENER_SECONDS, stop_listening, self._settings.on_change)
        if error is not None:
            problem = f"config_manager failed with {foreign.described(error)}"
            raise ManagerShutdownError(self._name, problem) from error

    def _cancel_what_cannot_start(self, grace_seconds: float) -> None:
        """Cancel tasks that are paused or scheduled for after the grace. `accept` does so for later ones."""
        self._runtime.horizon = self._clock.monotonic() + grace_seconds
        for record in list(self._table.live.values()):
            if self._lifecycle.cannot_start(record):
                self._take(self._lifecycle.cancel, record, SHUTDOWN)

    async def _wait_for_the_rest(self, grace_seconds: float) -> None:
        """Wait until no task lives, the grace is over, or somebody hurries the shutdown."""
        if grace_seconds > 0:
            self._take(self._lifecycle.repairs.sweep)
            await self._until_nothing_lives(grace_seconds, self._hurry)

    async def _until_nothing_lives(self, seconds: float, *others: asyncio.Event) -> None:
        """Wait until no task lives, one of `others` is set, or `seconds` have passed."""
        if not self._table.live:
            return
        self._table.nothing_lives.clear()
        events = (self._table.nothing_lives, *others)
        waiters = [self._runtime.work_loop.create_task(event.wait()) for event in events]
        await asyncio.wait(waiters, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for waiter in waiters:
            waiter.cancel()

    def _cancel_all(self) -> None:
        """Cancel every task: pending ones first, or they would start in the slots of the others."""
        self._take(self._lifecycle.repairs.sweep)
        for record in sorted(self._table.live.values(), key=lambda record: record.attempt is not None):
            self._take(self._lifecycle.cancel, record, SHUTDOWN)

    def _take(self, step: Callable[_P, object], /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Take a step of the shutdown, which continues even if the step fails."""
        try:
            step(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the next steps end what this one has left running
            self._announcer.failed("shutdown", error)

    def _take_abandoned_off_the_loop(self) -> None:
        """Let the program end: asyncio.run waits for every asyncio task that it finds, even one that never ends."""
        for attempt in self._table.abandoned:
            engine = self._runtime.engines[attempt.record.engine.kind]
            if isinstance(engine, DetachingEngine):
                self._take(engine.detach, attempt)
