"""The task manager: accepts, queues, runs, cancels and remembers tasks, and announces each thing that happens.

A task's way through this file: `submit_task` -> `_accept` -> `_dispatch` -> `_start` (core/runner.py runs it) ->
`_decided` -> `_change`, which announces it, and has core/ends.py tell what ended. Only the work loop writes; what other
threads may read says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import platform
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import copy_context
from dataclasses import replace
from enum import Enum
from importlib import metadata as package_metadata
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakValueDictionary

import msgspec
from opentelemetry import trace
from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry

from qorzen_obs.clock import Clock, SystemClock, rfc_3339
from qorzen_obs.core.base import QorzenManager
from qorzen_obs.core.deadlines import Deadlines
from qorzen_obs.core.decision import TASK_DEADLINE, shown_text
from qorzen_obs.core.ends import Ends
from qorzen_obs.core.event_feed import EventFeed
from qorzen_obs.core.event_ring import EventRing
from qorzen_obs.core.from_thread import FromThread
from qorzen_obs.core.health_checks import CheckResult, HealthChecks
from qorzen_obs.core.idempotency import IdempotencyKeys, Submission
from qorzen_obs.core.remote import RemoteTelemetry
from qorzen_obs.core.runner import Runner
from qorzen_obs.core.waiting import Waiting
from qorzen_obs.counts import CELL_OF, TaskCounts
from qorzen_obs.engines.base import AwaitingEngine, Engine, StackEngine
from qorzen_obs.engines.external import ExternalEngine
from qorzen_obs.engines.loop import LoopEngine
from qorzen_obs.engines.main import MainEngine
from qorzen_obs.engines.processes.engine import ProcessEngine
from qorzen_obs.errors import (
    InvalidTaskError,
    ManagerError,
    ManagerInitializationError,
    ManagerShutdownError,
    SettingsError,
    TaskCancelled,
    TaskFailedError,
    TaskManagerClosedError,
    TaskNotCancellableError,
    TaskNotFoundError,
    TaskNotRerunnableError,
    TaskQueueFullError,
    TaskTimeoutError,
)
from qorzen_obs.history.memory import MemoryHistory
from qorzen_obs.ledger import Ledger, Meter
from qorzen_obs.record import NO_KWARGS, Ask, Attempt, Decision, End, Rerun, TaskEvent, TaskRecord, TaskState
from qorzen_obs.registry import (
    MAX_NAME_LENGTH,
    CallableTraits,
    DefinitionLimit,
    TaskDefinition,
    check_name,
    check_timeout,
    parse_category,
    parse_priority,
    traits_of,
)
from qorzen_obs.retry import retry_wait_seconds
from qorzen_obs.scheduling.limits import Limits
from qorzen_obs.scheduling.scheduler import Explanation, Scheduler
from qorzen_obs.scheduling.stall import StallWatch
from qorzen_obs.settings import EngineSettings, HistorySettings, TaskSettings, convert
from qorzen_obs.stacks import ABANDONED, RUNNING, STARTING, LiveStack, redacted
from qorzen_obs.tasks import (
    COMPLETED,
    ENDED,
    FAILED,
    PENDING,
    TIMEOUT,
    EngineKind,
    EventKind,
    TaskCategory,
    TaskInfo,
    TaskPriority,
    TaskProgress,
    TaskStatus,
)
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.instrument import SpanInstrument
from qorzen_obs.telemetry.logs import accept_logger
from qorzen_obs.telemetry.loop_monitor import Block, EndedBlock, LoopMonitor
from qorzen_obs.telemetry.metrics import Load, TaskMetrics
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.task_lines import KeptLines, TaskLines, encoded_line
from qorzen_obs.telemetry.task_log import StreamTaskLog, TaskLog, canonical_line
from qorzen_obs.telemetry.watchdog import NOTICE_SECONDS

__all__ = ["TaskCategory", "TaskInfo", "TaskManager", "TaskPriority", "TaskProgress", "TaskStatus"]

E = TypeVar("E", bound=Enum)

OnEvent = Callable[[TaskEvent], None]

MAX_METADATA_BYTES: Final = 16_384
_SETTING_NAMES: Final = frozenset(TaskSettings.__struct_fields__)
_FEED_SECONDS: Final = 2.0
_MAX_PROGRESS_MESSAGE: Final = 500
_MAX_CANCEL_REASON: Final = 4_000


class ManagerState(Enum):
    """The life of a task manager, in order."""

    NEW = "new"  #: made, not initialized
    STARTING = "starting"  #: initialize() runs
    READY = "ready"  #: takes work
    DRAINING = "draining"  #: refuses new work, lets accepted work end
    STOPPED = "stopped"  #: nothing runs but what would not stop


# As in tasks.py: what is needed for each task, by names that Python finds at once.
_READY: Final = ManagerState.READY
_CORE: Final = TaskCategory.CORE
_NORMAL: Final = TaskPriority.NORMAL
_LOOP: Final = EngineKind.LOOP
_SUBMITTED: Final = EventKind.SUBMITTED
_STARTED: Final = EventKind.STARTED


class TaskManager(QorzenManager):
    """Runs tasks on the event loop that `initialize` is awaited on.

    Any objects with the methods that are called will do as collaborators: `config_manager.get`,
    `.register_listener`; `logger_manager.get_logger`; `event_bus_manager.publish`; `concurrency_manager.engine` or
    `.run_in_thread`.

    Args:
        registry: where the metrics go; a new CollectorRegistry when None.
        tracer_provider: where spans go; OpenTelemetry's global one when None.
        clock: the system's when None.
        telemetry: what it observes with besides; the least there is when None.
    """

    def __init__(
        self,
        concurrency_manager: Any,
        event_bus_manager: Any,
        logger_manager: Any,
        config_manager: Any,
        *,
        registry: CollectorRegistry | None = None,
        tracer_provider: TracerProvider | None = None,
        clock: Clock | None = None,
        telemetry: TelemetryParts | None = None,
    ) -> None:
        super().__init__("task_manager")
        self._concurrency = concurrency_manager
        self._bus = event_bus_manager
        self._config = config_manager
        self._logger = accept_logger(logger_manager.get_logger(self.name))
        task_log = getattr(logger_manager, "task_log", None)
        self._task_log: StreamTaskLog | None = None if task_log is None else task_log(self.name)
        self._tracer_provider = tracer_provider
        self._clock = clock or SystemClock()
        self._telemetry = telemetry or TelemetryParts()
        self._ledger_clock = self._clock.monotonic if self._telemetry.settings.time_ledger else None
        self.registry = registry or CollectorRegistry()
        self.version = package_metadata.version("qorzen-obs")
        self.from_thread = FromThread(self)

        self.redactor = self._telemetry.redactor
        self.span_store = self._telemetry.spans
        self.task_lines = TaskLines(
            self._telemetry.settings.keep_log_lines_per_task, self._telemetry.settings.keep_log_lines
        )
        self.health = HealthChecks(
            lambda: self.loop,
            clock=self._clock,
            redact=self.redactor.head,
            on_change=self._health_check_changed,
        )
        self.counts = TaskCounts()
        self.event_ring = EventRing(self.counts)
        self.metrics = TaskMetrics(
            self, self._telemetry.exemplars, time_ledger=self._ledger_clock is not None
        )
        self.metrics.read_lost = self._telemetry.lost
        self.ends = Ends(self._dismissed)
        self._loop_monitor = LoopMonitor(
            self._clock,
            self.metrics.loop_lag.observe,
            log=functools.partial(self._say, self._logger.warning),
            on_blocked=self.ends.tell,
            on_error=functools.partial(self._telemetry_failed, "loop_monitor"),
            redact=self.redactor.text,
            gil_watch=self._telemetry.gil_watch,
            watch=self._telemetry.settings.watch_loop,
        )
        self._settings = TaskSettings()
        self._limits = Limits(self._settings.max_concurrent_tasks)
        self._scheduler: Scheduler[TaskRecord] = Scheduler(
            self._limits, ageing_seconds=self._settings.ageing_seconds
        )
        self._stall = StallWatch()
        self._history = MemoryHistory(self._settings.keep_completed_tasks, self._forget)
        self._keys = IdempotencyKeys(self._is_kept)
        self._engines: dict[EngineKind, Engine] = {}
        self._observers: dict[EventKind, tuple[tuple[str, OnEvent], ...]] = dict.fromkeys(EventKind, ())

        self.loop: asyncio.AbstractEventLoop | None = None  #: the work loop, from initialize on
        self.ops_url: str | None = None  #: where the ops plane answers, if there is one
        self._state = ManagerState.NEW
        self._live: dict[str, TaskRecord] = {}
        self._running: dict[str, Attempt] = {}
        self._zombies: dict[Attempt, bool] = {}  # abandoned, still running; True: it keeps its slot
        self._plugins: Counter[str] = Counter()  # tasks, live and kept, by plugin
        self._task_sequence = itertools.count(1)
        self._event_sequence = itertools.count(1)
        self._random = random.Random()
        self._dispatching = False
        self._look_at_once: tuple[OnEvent, ...] = ()  # of the observers: who may look at more than the event
        self._shrinks = False  # the history, in the next turn of the loop
        # By name; a limit lives as long as a task of it is live or kept, or made-up names would pile up.
        self._definition_limits: WeakValueDictionary[str, DefinitionLimit] = WeakValueDictionary()
        self._deadline_entries: dict[int, list[Any]] = {}  # of whole tasks, by sequence
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at: float | None = None
        self._nothing_lives = asyncio.Event()
        self._nothing_lives.set()
        self._hurry = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ life cycle

    async def initialize(self) -> None:
        """Read the settings, connect to the collaborators and take work.

        Raises:
            ManagerInitializationError: it was initialized before, the registry has another manager's metrics, or a
                collaborator lacks what is needed.
            SettingsError: a value of the configuration's `tasks` is out of bounds.
        """
        if self._state is not ManagerState.NEW:
            raise ManagerInitializationError(
                self.name,
                f"is {self._state.value} already; a task manager is initialized once: make a new one",
            )
        self._state = ManagerState.STARTING
        try:
            await self._connect()
        except BaseException as error:
            self._state = ManagerState.NEW
            known = (ManagerInitializationError, SettingsError)
            if isinstance(error, known) or not isinstance(error, Exception):
                raise
            problem = f"a collaborator failed with {type(error).__name__}: {error}"
            raise ManagerInitializationError(self.name, problem) from error
        self._state = ManagerState.READY
        self._become_ready()
        self._say(self._logger.info, names.LOG_MANAGER_STATE, state=self._state.value)

    async def _connect(self) -> None:
        self.loop = self._loop = loop = asyncio.get_running_loop()
        self._waiting = Waiting(self, loop, self._scheduler, self._running, self._dispatch)
        self._apply(_known_settings(await self._config.get("tasks", {})))
        self._engines = self._find_engines(loop)
        processes = self._engines.get(EngineKind.PROCESS)
        if isinstance(processes, ProcessEngine):
            processes.far_side = RemoteTelemetry(
                self._logger,
                self._telemetry.on_spans,
                self._report_dropped,
                redactor=self.redactor,
                lines=self.task_lines,
            )
        self._limits.engines = {
            kind: engine.slots for kind, engine in self._engines.items() if engine.slots is not None
        }
        self._instrument = SpanInstrument(
            self._tracer_provider or trace.get_tracer_provider(),
            self.version,
            on_error=functools.partial(self._telemetry_failed, "spans"),
            redactor=self.redactor,
        )
        self._runner = Runner(
            loop,
            self._clock,
            self._engines,
            grace_seconds=lambda: self._settings.cancel_grace_seconds,
            on_decided=self._decided,
            on_late_end=self._zombie_gone,
            on_progress=self._progressed,
            redactor=self.redactor,
        )
        self._task_deadlines: Deadlines[TaskRecord] = Deadlines(loop, self._clock, self._task_deadline_passed)
        self._feed = EventFeed(
            self._bus, self._logger, self.metrics.dropped, before_publishing=self.ends.tell
        )
        self.ends.observe("spans", self._instrument.on_ends)
        self.ends.observe("metrics", self.metrics.on_ends)
        self.ends.observe("log", TaskLog(self._logger, self.task_lines, self._task_log).on_ends)
        self._feed.when_wanted(self._observe_for_bus)
        self.event_ring.when_wanted(self._event_ring_wanted)
        self._register_metrics()
        try:
            await self._config.register_listener("tasks", self._settings_changed)
        except BaseException:
            self.registry.unregister(self.metrics)
            raise
        self._feed.start()
        self._loop_monitor.start()

    def _observe_for_bus(self, wanted: bool) -> None:
        self.stop_observing(self._feed.on_event)
        if wanted:
            self._observe("event_bus", self._feed.on_event)

    def _event_ring_wanted(self) -> None:
        """Somebody listens to the event ring, or nobody does any more; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing happens any more
            self._loop.call_soon_threadsafe(self._observe_for_event_ring)

    def _observe_for_event_ring(self) -> None:
        ring = self.event_ring
        if ring.wanted and not ring.keeps:
            self._observe("stream", ring.on_event, first=True)
            ring.begin(next(self._event_sequence) if self.counts.version else 0)
        elif ring.keeps and not ring.wanted:
            self.stop_observing(ring.on_event)
            ring.end()

    def _register_metrics(self) -> None:
        try:
            self.registry.register(self.metrics)
        except ValueError as error:
            problem = "its registry has the metrics of another task manager; give each a CollectorRegistry"
            raise ManagerInitializationError(self.name, problem) from error

    def _find_engines(self, loop: asyncio.AbstractEventLoop) -> dict[EngineKind, Engine]:
        find = getattr(self._concurrency, "engine", None)
        if find is not None:
            found: dict[EngineKind, Engine] = {
                kind: find(kind)
                for kind in (EngineKind.LOOP, EngineKind.IO, EngineKind.THREAD, EngineKind.MAIN)
            }
            with contextlib.suppress(LookupError, ManagerError):  # a foreign one need not have processes
                found[EngineKind.PROCESS] = find(EngineKind.PROCESS)
            return found
        run_in_thread: Callable[..., Any] | None = getattr(self._concurrency, "run_in_thread", None)
        if run_in_thread is None:
            raise ManagerInitializationError(
                self.name, "concurrency_manager has neither engine nor run_in_thread"
            )
        by_kind = {
            EngineKind.IO: getattr(self._concurrency, "run_io_task", None),
            EngineKind.MAIN: getattr(self._concurrency, "run_on_main_thread", None),
        }

        def choose(attempt: Attempt) -> Callable[..., Any]:
            record = attempt.record
            assert record.func is not None, "a record keeps its callable until it ends"
            return by_kind.get(_wanted_engine(record.category, traits_of(record.func))) or run_in_thread

        external = ExternalEngine(loop, choose)
        engines: dict[EngineKind, Engine] = {EngineKind.LOOP: LoopEngine(loop), EngineKind.EXTERNAL: external}
        if by_kind[EngineKind.MAIN] is None:
            engines[EngineKind.MAIN] = MainEngine(loop)
        return engines

    async def _settings_changed(self, key: str, value: Any) -> None:
        if key == "tasks":
            self._apply(_known_settings(value))
            return
        tree = branch = msgspec.to_builtins(self._settings)
        *levels, leaf = key.removeprefix("tasks.").split(".")
        for level in levels:
            branch = branch.setdefault(level, {})
            if not isinstance(branch, dict):
                raise SettingsError(key, f"{level!r} is a value and has no settings below it")
        branch[leaf] = value
        self._apply(_known_settings(tree))

    def _apply(self, settings: TaskSettings) -> None:
        """Put settings in force; what is lowered below what runs drains, nothing is interrupted."""
        self._settings = settings
        self._limits.total = settings.max_concurrent_tasks
        self._limits.categories = dict(settings.category_limits)
        self._scheduler.ageing_seconds = settings.ageing_seconds
        self._history.keep = settings.keep_completed_tasks
        self._history.shrink()
        if not settings.keep_arguments:
            for record in self._history.records():
                record.release()
        self._dispatch()

    async def shutdown(self, *, grace_seconds: float | None = None) -> None:
        """Refuse new work, let accepted work end for `grace_seconds` (`tasks.shutdown_grace_seconds`), cancel the rest.

        What cannot start any more, because its category is paused or its time is past the grace, is cancelled at once.
        Complete when it returns: what would not stop is abandoned and shown so. Safe before `initialize`. A second
        call awaits the first and, with `grace_seconds=0`, ends its patience. Cancelling it does that too.

        Raises:
            ManagerShutdownError: `initialize` still runs, or a collaborator failed; stopped in the latter case.
        """
        if self._stopping is None:
            if self._state is ManagerState.STARTING:
                raise ManagerShutdownError(self.name, "is starting; await or cancel its initialize() first")
            if self._state is ManagerState.NEW:
                self._state = ManagerState.STOPPED
                return
            if self._state is ManagerState.STOPPED:
                return
            grace = self._settings.shutdown_grace_seconds if grace_seconds is None else grace_seconds
            self._state = ManagerState.DRAINING
            self._say(self._logger.info, names.LOG_MANAGER_STATE, state=self._state.value)
            self._stopping = self._loop.create_task(self._stop(grace), name="qorzen-shutdown")
        elif grace_seconds == 0:
            self._hurry.set()
        try:
            await asyncio.shield(self._stopping)
        except asyncio.CancelledError:
            self._hurry.set()
            await asyncio.wait([self._stopping])
            raise

    async def _stop(self, grace_seconds: float) -> None:
        self._wake_submitters()
        horizon = self._clock.monotonic() + grace_seconds
        for record in list(self._live.values()):
            if record.eligible_at > horizon:  # its time will not come any more
                self._cancel(record, "shutdown")
        self._cancel_paused()
        if grace_seconds > 0:
            patience = [self._loop.create_task(event.wait()) for event in (self._nothing_lives, self._hurry)]
            await asyncio.wait(patience, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
            for waiter in patience:
                waiter.cancel()
        # Pending ones first, or the slots of the others would start them.
        for record in sorted(self._live.values(), key=lambda record: record.attempt is not None):
            self._cancel(record, "shutdown")
        await (
            self._nothing_lives.wait()
        )  # bounded: what ignores its cancellation is abandoned after the grace
        self.ends.tell()
        self._loop_monitor.stop()
        self._runner.close()
        self._task_deadlines.close()
        if self._alarm is not None:
            self._alarm.cancel()
        await self._feed.stop(_FEED_SECONDS)
        self._state = ManagerState.STOPPED
        self._become_stopped()
        self._say(
            self._logger.info, names.LOG_MANAGER_STATE, state=self._state.value, abandoned=len(self._zombies)
        )
        unregister = getattr(self._config, "unregister_listener", None)
        if unregister is not None:
            try:
                await unregister("tasks", self._settings_changed)
            except Exception as error:
                problem = f"config_manager failed with {type(error).__name__}: {error}"
                raise ManagerShutdownError(self.name, problem) from error

    def _health_check_changed(self, check: str, result: CheckResult) -> None:
        write = self._logger.info if result.passed else self._logger.warning
        self._say(
            write,
            names.LOG_HEALTH_CHECK,
            check=check,
            passed=result.passed,
            output=result.output,
            seconds=round(result.seconds, 6),
        )

    def _say(self, write: Callable[..., object], event: str, **fields: object) -> None:
        """Write a line of the manager's own; a logger that fails is counted, and stops nothing."""
        try:
            write(event, **fields)
        except Exception:  # noqa: BLE001 - what observes must not break what it observes
            self.metrics.telemetry_errors["log"] += 1

    # ------------------------------------------------------------------ submitting

    async def submit_task(
        self,
        func: Callable[..., Any],
        *args: Any,
        name: str | None = None,
        category: TaskCategory | str = TaskCategory.CORE,
        plugin_id: str | None = None,
        priority: TaskPriority | str | int = TaskPriority.NORMAL,
        metadata: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        cancellable: bool = True,
        **kwargs: Any,
    ) -> str:
        """Accept `func(*args, **kwargs)`, synchronous or async, and return the task's id.

        The defaults of `category` and `priority` mean the callable's own from `@task`, where it has them. `timeout`
        is seconds of one attempt: None takes the definition's, else `tasks.default_timeout`; math.inf is no limit.
        `metadata` is kept as JSON shows it. The task runs with the submitter's context variables.

        Returns at once, except with `tasks.when_full` at 'wait' and a full queue; cancelled then, nothing was
        accepted.

        Raises:
            InvalidTaskError: an argument is unusable.
            TaskQueueFullError: `tasks.max_pending` tasks are pending.
            TaskManagerClosedError: not initialized, draining or stopped.
        """
        options = (name, category, plugin_id, priority, metadata, timeout, cancellable)
        record = self._new_record(func, args, kwargs, *options)
        if not self._has_room():
            await self._admit(record.cell)
        self._accept(record)
        return record.task_id

    async def submit_async_task(self, func: Callable[..., Any], *args: Any, **options: Any) -> str:
        """As `submit_task`, for async callables only.

        Raises:
            InvalidTaskError: `func` is not async.
        """
        if not traits_of(func).is_async:
            raise InvalidTaskError(
                "func", f"{func!r} is not async; use submit_task for synchronous callables"
            )
        return await self.submit_task(func, *args, **options)

    async def run(self, func: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Submit, wait, and return the value or raise what the task raised.

        Takes the arguments of `submit_task`. A task that awaits this lends its slot meanwhile. Cancelling the wait
        cancels the task, where it is cancellable.

        Raises:
            TaskCancelled: the task was cancelled.
            TaskTimeoutError: it passed its timeout.
            TaskFailedError: it raised SystemExit, KeyboardInterrupt or another thing that is no Exception.
        """
        task_id = await self.submit_task(func, *args, **options)
        record = self._live[task_id]
        try:
            await self._waiting.for_end(record, None)
        except asyncio.CancelledError:
            if record.cancellable and task_id in self._live:
                self._cancel(record, "the caller of run() was cancelled")
            raise
        return _value_of(record)

    def _new_record(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None,
        category: TaskCategory | str,
        plugin_id: str | None,
        priority: TaskPriority | str | int,
        metadata: object,
        timeout: float | None,
        cancellable: bool,
    ) -> TaskRecord:
        """Check what was submitted; the record of it is not accepted yet."""
        traits = traits_of(func)
        definition = traits.definition
        if category is _CORE:
            category = definition.category or category
        elif type(category) is not TaskCategory:
            category = parse_category(category)
        if priority is _NORMAL:
            priority = definition.priority if definition.priority is not None else priority
        elif type(priority) is not TaskPriority:
            priority = parse_priority(priority)
        if TYPE_CHECKING:
            assert isinstance(category, TaskCategory)
            assert isinstance(priority, TaskPriority)
        if timeout is not None:
            timeout = check_timeout(timeout)
        timeout = timeout or definition.timeout or self._settings.default_timeout
        name = traits.name[:MAX_NAME_LENGTH] if name is None else check_name("name", name)
        if plugin_id is not None:
            check_name("plugin_id", plugin_id)
        return TaskRecord(
            f"{self._random.getrandbits(128):032x}",
            name,
            func,
            args,
            kwargs or NO_KWARGS,
            category,
            priority,
            CELL_OF[category, priority],
            plugin_id,
            None if metadata is None else _as_json("metadata", metadata),
            None if timeout == inf else timeout,
            cancellable,
            definition,
            None,
            traits.wants_progress,
            _LOOP if traits.on_loop else self._engine_for(category, traits),
            copy_context(),
        )

    def _engine_for(self, category: TaskCategory, traits: CallableTraits) -> EngineKind:
        """Return what runs a callable; a foreign concurrency manager need not have the engine that it wants."""
        wanted = _wanted_engine(category, traits)
        if wanted in self._engines:
            return wanted
        if traits.is_async:
            return EngineKind.LOOP
        return EngineKind.EXTERNAL if EngineKind.EXTERNAL in self._engines else EngineKind.THREAD

    def _limit_of(self, name: str, definition: TaskDefinition) -> DefinitionLimit:
        assert definition.max_concurrent is not None, "asked for where there is a limit"
        key = definition.name or name
        limit = self._definition_limits.get(key)
        if limit is None:
            limit = self._definition_limits[key] = DefinitionLimit(key, definition.max_concurrent)
        limit.maximum = definition.max_concurrent
        return limit

    def _has_room(self) -> bool:
        """Return whether a task may be accepted at once; `_admit` says why not."""
        return (
            self._state is _READY
            and asyncio.get_running_loop() is self._loop
            and len(self._scheduler) < self._settings.max_pending
        )

    async def _admit(self, cell: int) -> None:
        """Return once there is room for one more pending task."""
        while True:
            if self._state is not ManagerState.READY:
                self.metrics.on_rejected(cell, "closed")
                raise TaskManagerClosedError(self._state.value)
            if asyncio.get_running_loop() is not self._loop:
                raise InvalidTaskError(
                    "event loop", "is not the manager's; use manager.from_thread in other threads"
                )
            if self._has_room():
                return
            if self._settings.when_full == "refuse":
                self.metrics.on_rejected(cell, "queue_full")
                raise TaskQueueFullError(self._settings.max_pending)
            await self._waiting.for_room()

    def _accept(self, record: TaskRecord) -> None:
        now, wall = self._clock.monotonic(), self._clock.now()
        definition = record.definition
        wait = max(definition.delay, (definition.run_at or 0.0) - wall, 0.0) if definition.waits else 0.0
        record.sequence = next(self._task_sequence)
        record.created_at = wall
        record.eligible_at, record.eligible_wall = now + wait, wall + wait
        if self._ledger_clock is not None:
            record.clock = self._ledger_clock
            record.state = TaskState(PENDING, ledger=Ledger(now))
        self._instrument.submitted(record)
        self._live[record.task_id] = record
        self._nothing_lives.clear()
        if record.plugin_id is not None:
            self._plugins[record.plugin_id] += 1
        if definition.max_concurrent is not None:
            record.limit = self._limit_of(record.name, definition)
        if definition.deadline is not None:
            when = now + definition.deadline
            self._deadline_entries[record.sequence] = self._task_deadlines.add(when, record)
        self.counts.accept(record.cell)
        starts = self._scheduler.enter(record, now)
        if self._observers[_SUBMITTED]:
            self._announce(_SUBMITTED, record, None, wall)
        if starts:
            self._start(record, now, wall)
            if self._waiting.submitters:  # it has left the room to the next
                self._wake_submitters()
        elif wait or not self._scheduler.is_held(record):
            self._dispatch()

    # ------------------------------------------------------------------ running

    def _dispatch(self) -> None:
        """Start and resume whatever may run now."""
        if self._dispatching:
            return  # a start ended at once: the outer loop sees the slot
        if self._scheduler.wants_slots:
            self._dispatching = True
            try:
                while (lender := self._scheduler.resume_next()) is not None:
                    self._waiting.resume(lender)
                while (record := self._scheduler.start_next(self._clock.monotonic())) is not None:
                    self._start(record, self._clock.monotonic(), self._clock.now())
            finally:
                self._dispatching = False
        elif self._alarm_at is None and not self._waiting.submitters:
            return
        self._wake_submitters()
        if self._scheduler.next_eligible_at != self._alarm_at:
            self._await_next_eligible()

    def _wake_submitters(self) -> None:
        ready = self._state is ManagerState.READY
        self._waiting.let_in(self._settings.max_pending - len(self._scheduler) if ready else float("inf"))

    def _await_next_eligible(self) -> None:
        """Let the loop dispatch again when the next scheduled task's time comes."""
        when = self._scheduler.next_eligible_at
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at, self._alarm = when, None
        if when is not None:
            wait = max(0.0, when - self._clock.monotonic())
            self._alarm = self._loop.call_later(wait, self._ring)

    def _ring(self) -> None:
        self._alarm_at = self._alarm = None
        self._dispatch()

    def _start(self, record: TaskRecord, now: float, wall: float) -> None:
        assert record.context is not None, "a record keeps its context until it ends"
        before = record.state
        context = record.context.copy()
        attempt = Attempt(record, before.attempt + 1, context, self, record.kwargs, now, wall)
        if record.wants_progress:
            attempt.kwargs = {**record.kwargs, "progress_reporter": attempt.progress}
        record.attempt = attempt
        self._running[record.task_id] = attempt
        if record.engine is not _LOOP or before.attempt or self._observers[_STARTED]:
            self.enter(attempt)
        state = before.started(
            wall if before.started_at is None else before.started_at,
            now - record.eligible_at,
            attempt.span_context,
            self._account_wait(record, now),
        )
        self._change(record, state, _STARTED, wall)
        self._runner.start(attempt)

    def enter(self, attempt: Attempt) -> None:
        """Make the attempt current in its context, with a span of its own; a second call changes nothing.

        On the loop, where nobody looks, this waits until the code begins, in this turn of the loop or the next: what
        it takes is made, used and gone before the next attempt's, and stays in the processor's cache.
        """
        if not attempt.entered:
            attempt.entered = True
            if self._ledger_clock is not None:
                attempt.meter = Meter(self._ledger_clock)
            attempt.span_context = self._instrument.begin(attempt)

    def suspended(self, attempt: Attempt) -> None:
        """An attempt on the loop waits for the first time: from now on its deadline can be met."""
        self._runner.set_deadline(attempt)

    def _decided(self, attempt: Attempt, decision: Decision) -> None:
        """The end of an attempt is decided, and with it the task's."""
        record, running = attempt.record, attempt.record.state
        now, wall = self._clock.monotonic(), self._clock.now()
        if attempt.asked is not None:
            self.metrics.on_stopped(record.engine, attempt.asked, now - attempt.asked_at)
        duration, ledger = now - attempt.started_at, self._account_attempt(attempt, now)
        del self._running[record.task_id]
        if self._waiting.resumes:
            self._waiting.give_up_return(record)
        if not decision.abandoned:
            self._scheduler.finish(record)
        elif len(self._zombies) < self._settings.max_abandoned:
            self._zombies[attempt] = False
            self._scheduler.finish(record)
        else:
            self._zombies[attempt] = True
        retry_in = None if decision.status is COMPLETED else self._retry_in(attempt, decision)
        state = running.decided(decision, attempt.span_context, wall, duration, ledger)
        self._loop_monitor.settle(attempt)
        if retry_in is None:
            self._end(record, state, wall)
        else:
            self._retry(record, state, retry_in, now, wall)

    def _account_wait(self, record: TaskRecord, now: float) -> Ledger | None:
        """Settle in the time ledger how long a pending task has waited."""
        ledger = record.state.ledger
        if ledger is None or ledger.until == now:
            return ledger
        seconds = ledger.waiting(now, record.eligible_at, before=record.state.attempt)
        self.metrics.on_phases(record.cell, seconds)
        return ledger.plus(now, seconds)

    def _account_attempt(self, attempt: Attempt, now: float) -> Ledger | None:
        """Settle in the time ledger where the time of an attempt went that has ended `now`."""
        if attempt.meter is None:
            return None
        record = attempt.record
        attempt.phases = seconds = attempt.meter.phases(record.engine, now - attempt.started_at, now)
        self.metrics.on_phases(record.cell, seconds)
        ledger = record.state.ledger
        assert ledger is not None, "it is on or off for the whole life of a manager"
        return ledger.plus(now, seconds)

    def _retry_in(self, attempt: Attempt, decision: Decision) -> float | None:
        """Return after how many seconds a task that failed is tried again, or None when this is its end."""
        if decision.status is not FAILED or decision.abandoned:
            return None
        if attempt.last or self._state is not ManagerState.READY:
            return None
        policy = attempt.record.definition.retry
        try:
            return retry_wait_seconds(
                policy, attempt.number, decision.exception, decision.error_type, self._random
            )
        except Exception as error:  # noqa: BLE001 - the backoff is the user's, and may fail: the task's own error stands
            self._say(
                self._logger.error,
                names.LOG_BACKOFF_FAILED,
                task_id=attempt.task_id,
                error=self.redactor.text(repr(error)),
            )
            return None

    def _retry(
        self, record: TaskRecord, state: TaskState, wait_seconds: float, now: float, wall: float
    ) -> None:
        """Let an attempt that failed `now` be followed by another; the task holds no slot until then."""
        record.eligible_at, record.eligible_wall = now + wait_seconds, wall + wait_seconds
        state = state.but(status=TaskStatus.PENDING, completed_at=None, exception=None, traceback=None)
        self._scheduler.push(record, now)
        attempt, record.attempt = record.attempt, None
        self._change(record, state, EventKind.RETRYING, wall, attempt)
        self.ends.tell()  # the next attempt may begin in this turn of the loop, and comes after it in the log
        self._dispatch()

    def _zombie_gone(self, attempt: Attempt) -> None:
        """The code of an abandoned attempt has ended at last; what it returned is dropped."""
        self.metrics.dropped["late_result"] += 1
        if self._zombies.pop(attempt, False):
            self._scheduler.finish(attempt.record)
            self._dispatch()

    def _task_deadline_passed(self, record: TaskRecord) -> None:
        if record.attempt is not None:
            record.attempt.last = True
            self._runner.ask(record.attempt, Ask.DEADLINE, TASK_DEADLINE)
        elif self._scheduler.remove(record):
            message = f"the task had not ended {record.definition.deadline:g} s after it was accepted"
            self._end_pending(record, status=TaskStatus.FAILED, error=message, error_type=TIMEOUT)

    def _end_pending(self, record: TaskRecord, **outcome: Any) -> None:
        """End a task that was taken out of the queue."""
        wall, ledger = self._clock.now(), self._account_wait(record, self._clock.monotonic())
        self._end(record, record.state.but(completed_at=wall, ledger=ledger, **outcome), wall)

    def _end(self, record: TaskRecord, state: TaskState, wall: float) -> None:
        if self._deadline_entries:
            deadline = self._deadline_entries.pop(record.sequence, None)
            if deadline is not None:
                self._task_deadlines.remove(deadline)
        self._change(record, state, ENDED[state.status], wall, record.attempt)
        record.attempt = None
        record.release(keep_call=state.status is not TaskStatus.COMPLETED and self._settings.keep_arguments)
        # Before it leaves the live ones, so that a reader always finds it.
        if self._history.add(record) and not self._shrinks:
            self._shrinks = True
            self._loop.call_soon(self._shrink_history)
        del self._live[record.task_id]
        if record.waiters is not None:
            self._waiting.ended(record)
        if not self._live:
            self._nothing_lives.set()
        self._dispatch()

    def _shrink_history(self) -> None:
        """Let the oldest go of a turn of the loop together, as ends are told (core/ends.py)."""
        self._shrinks = False
        self._history.shrink()

    def _change(
        self, record: TaskRecord, state: TaskState, kind: EventKind, wall: float, ended: Attempt | None = None
    ) -> None:
        """The one place where a task's status changes: the record, the counters, the announcement."""
        before = record.state.status
        record.state = state
        self.counts.move(record.cell, before, state.status)  # raises for a transition that is not legal
        if kind is not _STARTED:
            self.ends.add(End(kind, wall, record, state, ended, record.context), self._loop)
        if self._observers[kind]:
            if self._look_at_once:
                self.ends.tell()
            self._announce(kind, record, before, wall)

    def _announce(self, kind: EventKind, record: TaskRecord, before: TaskStatus | None, wall: float) -> None:
        event = TaskEvent(
            next(self._event_sequence), kind, wall, record, record.state, record.progress, before
        )
        for observer in self._observers[kind]:
            try:
                observer[1](event)
            except Exception as error:  # noqa: BLE001 - what observes must not break what it observes
                self.stop_observing(observer[1])
                self._dismissed(observer[0], error)

    def observe(
        self,
        name: str,
        on_event: OnEvent,
        kinds: Iterable[EventKind] = EventKind,
        *,
        first: bool = False,
    ) -> None:
        """Call `on_event` with each event of these kinds, on the work loop, as the last or `first` of all.

        It must return at once. One that raises is dismissed, which `healthy` and `qorzen_telemetry_errors` tell. When
        it learns of an end, the attempt's span has ended, and metrics and log know of it.
        """
        self._observe(name, on_event, kinds, first=first)
        self._look_at_once += (on_event,)

    def _observe(
        self, name: str, on_event: OnEvent, kinds: Iterable[EventKind] = EventKind, *, first: bool = False
    ) -> None:
        """As `observe`, for who keeps events and looks at nothing else until later."""
        one = ((name, on_event),)
        for kind in kinds:
            others = self._observers[kind]
            self._observers[kind] = one + others if first else others + one

    def stop_observing(self, on_event: OnEvent) -> None:
        """Take back an `observe`; of no effect without one."""
        for kind, observers in self._observers.items():
            self._observers[kind] = tuple(one for one in observers if one[1] != on_event)
        self._look_at_once = tuple(one for one in self._look_at_once if one != on_event)

    def _dismissed(self, observer: str, error: Exception) -> None:
        self._healthy = False
        self._telemetry_failed(observer, error)

    def _telemetry_failed(self, component: str, error: Exception) -> None:
        """Count a failure of the observation itself; the first of each component is logged."""
        self.metrics.telemetry_errors[component] += 1
        if self.metrics.telemetry_errors[component] > 1:
            return
        try:
            self._logger.error(
                names.LOG_OBSERVER_FAILED, component=component, error=self.redactor.text(repr(error))
            )
        except Exception:  # noqa: BLE001 - the logger itself is what failed; the metric above tells
            self.metrics.telemetry_errors["log"] += 1

    def report_progress(self, attempt: Attempt, percent: float, message: str) -> None:
        """Take a report of a running attempt; from any thread. Use `current_task().progress`."""
        self._runner.report_progress(attempt, percent, message)

    def keep_trace(self, attempt: Attempt) -> None:
        """Mark the attempt's trace to be kept; from any thread. Use `current_task().keep_trace`."""
        self._instrument.keep(attempt)

    def _report_dropped(self, reports: int) -> None:
        self.metrics.dropped["worker_report"] += reports

    def _progressed(self, attempt: Attempt) -> None:
        record = attempt.record
        assert attempt.reported is not None
        percent, message = attempt.reported
        percent = max(record.progress.percent, float(percent))
        record.progress = TaskProgress(
            percent,
            shown_text(self.redactor.head(message, _MAX_PROGRESS_MESSAGE), _MAX_PROGRESS_MESSAGE),
            self._clock.now(),
        )
        self._announce(EventKind.PROGRESS, record, record.state.status, self._clock.now())

    # ------------------------------------------------------------------ cancelling

    async def cancel_task(self, task_id: str, *, reason: str = "cancel_task") -> bool:
        """Cancel a pending task, or ask a running one to stop; return False when it had ended.

        True says that it is cancelled or was asked to stop, now or before; how it ends is its own doing, within
        `tasks.cancel_grace_seconds`.

        Raises:
            TaskNotFoundError: the id is unknown.
            TaskNotCancellableError: it was submitted with cancellable=False.
        """
        record = self._live.get(task_id)
        if record is None:
            if self._history.info(task_id) is None:
                raise TaskNotFoundError(task_id)
            return False
        if not record.cancellable:
            raise TaskNotCancellableError(task_id, record.name)
        self._cancel(record, self.redactor.head(reason, _MAX_CANCEL_REASON))
        return True

    def _cancel(self, record: TaskRecord, reason: str) -> None:
        if record.attempt is not None:
            record.attempt.last = True
            self._runner.ask(record.attempt, Ask.CANCEL, reason)
        elif self._scheduler.remove(record):
            self._end_pending(
                record, status=TaskStatus.CANCELLED, cancel_reason=reason, error=None, error_type=None
            )

    # ------------------------------------------------------------------ waiting

    async def wait_for_task(self, task_id: str, timeout: float | None = None) -> TaskInfo:
        """Wait until the task has ended, however it does, and return its final snapshot.

        A task that awaits this lends its slot meanwhile. Cancelling the wait leaves the task alone.

        Raises:
            TaskNotFoundError: the id is unknown.
            TaskWaitTimeoutError: `timeout` seconds went by; the task goes on.
            InvalidTaskError: the task waits, directly or by others, for its own end.
        """
        timeout = check_timeout(timeout)
        record = self._live.get(task_id)
        if record is not None:
            await self._waiting.for_end(record, timeout)
            return record.info()
        self.ends.tell()  # it may have ended in this turn of the loop
        info = self._history.info(task_id)
        if info is None:
            raise TaskNotFoundError(task_id)
        return info

    # ------------------------------------------------------------------ looking

    async def get_task_info(self, task_id: str) -> TaskInfo | None:
        """Return a snapshot of the task, live or remembered; None when the id is unknown."""
        return self.find(task_id)

    async def get_tasks(
        self,
        status: TaskStatus | str | Iterable[TaskStatus | str] | None = None,
        category: TaskCategory | str | Iterable[TaskCategory | str] | None = None,
        plugin_id: str | None = None,
        limit: int = 100,
    ) -> list[TaskInfo]:
        """Return at most `limit` live and kept tasks, highest priority first, then oldest first.

        Raises:
            InvalidTaskError: a status or category is unknown, or `limit` is not positive.
        """
        if limit < 1:
            raise InvalidTaskError("limit", f"{limit!r} must be at least 1")
        statuses = _one_or_many("status", status, TaskStatus)
        categories = _one_or_many("category", category, TaskCategory)
        found = [
            record
            for record in self.records()
            if (statuses is None or record.state.status in statuses)
            and (categories is None or record.category in categories)
            and (plugin_id is None or record.plugin_id == plugin_id)
        ]
        found.sort(key=lambda record: (-record.priority, record.sequence))
        return [record.info() for record in found[:limit]]

    def find(self, task_id: str) -> TaskInfo | None:
        """As `get_task_info`; from any thread."""
        record = self._live.get(task_id)
        return record.info() if record is not None else self._history.info(task_id)

    def log_of(self, task_id: str) -> KeptLines:
        """Return the kept log lines of a task, the canonical one last where it has ended; from any thread."""
        record = self._history.record(task_id)
        at = None if record is None else record.state.completed_at
        if record is None or at is None:
            return self.task_lines.of(task_id)
        last = encoded_line(rfc_3339(at), *canonical_line(record, record.state, at))
        return self.task_lines.of(task_id, last)

    def why_pending(self, task_id: str) -> Explanation | None:
        """Return why a task is pending, None when it is not; for the work loop. O(n) in what is pending.

        Raises:
            TaskNotFoundError: the id is unknown.
        """
        record = self._live.get(task_id)
        if record is None and self._history.info(task_id) is None:
            raise TaskNotFoundError(task_id)
        if record is None or record.state.status is not TaskStatus.PENDING:
            return None
        return self._scheduler.explain(record, self._clock.monotonic())

    def records(self) -> list[TaskRecord]:
        """Return the live and the kept records, newest first; from any thread."""
        records = {record.sequence: record for record in list(self._live.values())}
        records.update((record.sequence, record) for record in self._history.records())
        return sorted(records.values(), key=lambda record: record.sequence, reverse=True)

    def kept_records(self) -> list[TaskRecord]:
        """Return the records of the ended tasks that are kept whole, oldest end first; from any thread."""
        return self._history.records()

    def live_records(self) -> list[TaskRecord]:
        """Return the records of the pending and running tasks, oldest first; from any thread."""
        return list(self._live.values())

    def attempts(self) -> list[Attempt]:
        """Return the running attempts, longest running first; from any thread."""
        return list(self._running.values())

    def awaiting(self, attempt: Attempt) -> str | None:
        """Return what a running attempt awaits; None while its code runs, or where its engine cannot tell.

        From any thread, also while the work loop is wedged. It takes microseconds, where `stack_of` looks at all there
        is to see.
        """
        engine = self._engines[attempt.record.engine]
        if not isinstance(engine, AwaitingEngine):
            return None
        awaiting = engine.awaiting(attempt)
        return None if awaiting is None else self.redactor.text(awaiting)

    def settings_in_force(self) -> dict[str, msgspec.Struct]:
        """Return the settings that hold now, by section; from any thread."""
        sections: dict[str, msgspec.Struct] = {
            "tasks": self._settings,
            "telemetry": self._telemetry.settings,
            "history": HistorySettings(),
        }
        engines = getattr(self._concurrency, "settings", None)
        if isinstance(engines, EngineSettings):  # a foreign concurrency manager has its own
            sections["engines"] = engines
        return sections

    @property
    def clock(self) -> Clock:
        """The clock that all of its times are read from."""
        return self._clock

    @property
    def state(self) -> ManagerState:
        """Where the manager is in its life; from any thread."""
        return self._state

    def blocked_seconds(self) -> float:
        """Return for how long the work loop has not turned, 0 when it does; from any thread."""
        return self._loop_monitor.blocked_seconds()

    def stalled_seconds(self) -> float:
        """Return for how long a task has waited that nothing keeps from starting, as far as this was asked before.

        0 as well while the work loop does not turn, which `blocked_seconds` tells. From any thread.
        """
        now = self._clock.monotonic()
        turns = self.blocked_seconds() < NOTICE_SECONDS
        return self._stall.seconds(self._scheduler.startable(now) if turns else None, now)

    def loop_block(self) -> Block | None:
        """Return what holds the work loop right now, once it was noticed; from any thread."""
        return self._loop_monitor.block

    def load(self, since: float) -> Load:
        """Return the counters and histograms as they are, and the worst lag `since` a moment; from any thread."""
        return Load(
            self._clock.monotonic(),
            self.counts.read(),
            self.metrics.queue_waits(),
            self.metrics.loop_lag.by_bucket,
            self._loop_monitor.worst_lag(since),
        )

    def ended_blocks(self) -> list[EndedBlock]:
        """Return the last blocks of the work loop that are over, oldest first; from any thread."""
        return self._loop_monitor.ended_blocks()

    def loop_blocked_by_category(self) -> dict[str, float]:
        """Return how long the work loop was held in all, by what LOOP_BLOCKED tells apart; from any thread."""
        return self._loop_monitor.seconds_by_category()

    def stack_of(self, task_id: str) -> LiveStack | None:
        """Return where a running or abandoned task is right now; None when no code of it runs.

        From any thread, also while the work loop is wedged. For a task in a worker process it waits for that one to
        answer, a second at most, so not on the loop.

        Raises:
            TaskNotFoundError: the id is unknown.
            StackUnavailableError: its worker process does not answer.
        """
        attempt = self._running.get(task_id)
        abandoned = attempt is None
        if attempt is None:
            zombies = [zombie for zombie in list(self._zombies) if zombie.task_id == task_id]
            attempt = zombies[-1] if zombies else None
        if attempt is None:
            if self.find(task_id) is None:
                raise TaskNotFoundError(task_id)
            return None
        engine = self._engines[attempt.record.engine]
        # An engine of a foreign concurrency manager need not be able to tell.
        if not isinstance(engine, StackEngine):
            stack: LiveStack | None = LiveStack(RUNNING)
        elif attempt.driver is None:  # its start is being announced: the engine does not have it yet
            stack = None if attempt.ended else LiveStack(STARTING)
        else:
            stack = engine.stack(attempt)
        if stack is None:
            return None
        return redacted(replace(stack, state=ABANDONED) if abandoned else stack, self.redactor.text)

    def status(self) -> dict[str, Any]:
        """Return the manager's state as JSON shows it; from any thread."""
        counts = self.counts.read()
        settings = self._settings
        now = self._clock.monotonic()
        oldest = min(self._scheduler.oldest().values(), default=None)
        timeout = settings.default_timeout
        return {
            **super().status(),
            "state": self._state.value,
            "tasks": {
                "total": counts.total,
                "by_status": {key.value: n for key, n in counts.by_status().items()},
                "by_category": {key.value: n for key, n in counts.by_category().items()},
                "by_priority": {key.label: n for key, n in counts.by_priority().items()},
                "retained": len(self._history),
                "rejected": self.metrics.rejected,
                "plugins_with_tasks": len(self._plugins),
            },
            "queue": {
                "depth": self._scheduler.depth,
                "scheduled": self._scheduler.scheduled,
                "limit": settings.max_pending,
                "paused": [category.value for category in TaskCategory if category in self.paused],
                "oldest_pending_age_seconds": 0.0 if oldest is None else max(0.0, now - oldest),
            },
            "slots": self.slots(),
            "engines": {
                kind.value: dict(engine.status())
                for kind, engine in self._engines.items()
                if isinstance(engine, ProcessEngine)
            },
            "config": {
                "max_concurrent_tasks": settings.max_concurrent_tasks,
                "keep_completed_tasks": settings.keep_completed_tasks,
                "default_timeout": "inf" if timeout == float("inf") else timeout,
            },
            "telemetry": self._telemetry.status(),
            "versions": {"qorzen_obs": self.version, "python": platform.python_version()},
        }

    # What the metrics read at scrape, from any thread.

    def slots(self) -> dict[str, dict[str, int]]:
        """Return, by engine, the limit, the slots held, those lent by waiting tasks, and the abandoned attempts."""
        abandoned = Counter(attempt.record.engine for attempt in list(self._zombies))
        return {
            kind.value: {
                "limit": self._limits.engines.get(kind, self._limits.total),
                "busy": self._limits.held_by_engine[kind],
                "lent": self._scheduler.lent[kind],
                "abandoned": abandoned[kind],
            }
            for kind in self._engines
        }

    def oldest_pending_ages(self) -> dict[tuple[TaskCategory, TaskPriority], float]:
        """Return the age of the oldest pending task of each kind, in seconds."""
        now = self._clock.monotonic()
        return {cell: max(0.0, now - since) for cell, since in self._scheduler.oldest().items()}

    def oldest_running_ages(self) -> dict[tuple[TaskCategory, TaskPriority], float]:
        """Return the age of the longest running attempt of each kind, in seconds."""
        now = self._clock.monotonic()
        ages: dict[tuple[TaskCategory, TaskPriority], float] = {}
        for attempt in list(self._running.values()):
            cell = (attempt.record.category, attempt.record.priority)
            ages[cell] = max(ages.get(cell, 0.0), now - attempt.started_at)
        return ages

    def abandoned_by_category(self) -> dict[TaskCategory, int]:
        """Return how many abandoned attempts still run, by category."""
        return dict(Counter(attempt.record.category for attempt in list(self._zombies)))

    def queue_limit(self) -> int:
        """Return how many tasks may be pending."""
        return self._settings.max_pending

    def service_states(self) -> dict[str, bool]:
        """Return every state with whether it is the present one."""
        return {state.value: state is self._state for state in ManagerState}

    def _forget(self, record: TaskRecord) -> None:
        if record.func is not None:
            record.release()
        self._keys.forget(record.task_id)
        self.task_lines.forget(record.task_id)
        if record.plugin_id is not None:
            self._plugins[record.plugin_id] -= 1
            if not self._plugins[record.plugin_id]:
                del self._plugins[record.plugin_id]

    # ------------------------------------------------------------------ pausing

    @property
    def paused(self) -> frozenset[TaskCategory]:
        """The categories whose pending tasks wait until `resume`; from any thread."""
        return self._scheduler.paused

    async def pause(self, category: TaskCategory | str) -> None:
        """Start no task of `category` until `resume`. Running ones go on; again changes nothing.

        What is pending then, and is submitted, delayed or to be retried, waits: it ages, counts against
        `tasks.max_pending`, and passes its `deadline`. A draining manager cancels it, for it will not run any more.

        Raises:
            InvalidTaskError: the category is unknown.
        """
        category = parse_category(category)
        if category in self.paused:
            return
        self._scheduler.paused |= {category}
        self._say(self._logger.info, names.LOG_PAUSED, category=category.value)
        if self._state is ManagerState.DRAINING:
            self._cancel_paused()

    async def resume(self, category: TaskCategory | str) -> None:
        """Let tasks of a paused category start again, in their order; of no effect on one that is not paused.

        Raises:
            InvalidTaskError: the category is unknown.
        """
        category = parse_category(category)
        if category not in self.paused:
            return
        self._scheduler.paused -= {category}
        self._say(self._logger.info, names.LOG_RESUMED, category=category.value)
        if self.loop is not None:
            self._dispatch()

    def _cancel_paused(self) -> None:
        for record in list(self._live.values()):
            if record.attempt is None and record.category in self.paused:
                self._cancel(record, "shutdown")

    # ------------------------------------------------------------------ submitting once

    async def submit_once(
        self, submit: Callable[[], Awaitable[str]], *, name: str, key: str, digest: bytes
    ) -> Submission:
        """Await `submit()`, which submits a task and returns its id, unless `key` was used for this `name` before.

        While that first task is live or kept whole, the same key with the same `digest`, of all that makes two
        requests the same, answers with its id and submits nothing; also when the queue is full, or draining. One that
        comes while the first is being submitted waits for it. A submission that raised has used no key.

            await tasks.submit_once(lambda: tasks.submit_task(resize, path), name="resize", key=key, digest=digest)

        Raises:
            IdempotencyConflictError: the key was used with another digest.
            InvalidTaskError: `name` or `key` is unusable; a key has 1 to 128 printable characters.
        """
        return await self._keys.submit(name, key, digest, submit)

    def _is_kept(self, task_id: str) -> bool:
        return task_id in self._live or self._history.record(task_id) is not None

    # ------------------------------------------------------------------ running again

    async def rerun(self, task_id: str) -> str:
        """Submit what a failed or cancelled task was submitted with once more, and return the new task's id.

        The same callable runs with the same argument objects, as the first run has left them: an iterator that it
        has used up is used up. Name, category, priority, metadata, timeout and plugin are the first task's, what
        `@task` says of a delay, retries and limits holds anew, and the context variables are the caller's. The new
        span links to the last one of the first task, whose id is `TaskInfo.rerun_of`.

        Raises:
            TaskNotFoundError: the id is unknown.
            TaskNotRerunnableError: it is live, completed, not kept whole any more, or without its arguments.
            TaskQueueFullError, TaskManagerClosedError: as `submit_task`.
        """
        record = self._live.get(task_id) or self._history.record(task_id)
        if record is None and self._history.info(task_id) is None:
            raise TaskNotFoundError(task_id)
        problem = self._why_not_again(record)
        if problem is not None:
            raise TaskNotRerunnableError(task_id, problem)
        assert record is not None
        assert record.func is not None
        again = self._new_record(
            record.func,
            record.args,
            record.kwargs,
            record.name,
            record.category.value,  # as text: CORE and NORMAL themselves would mean the definition's
            record.plugin_id,
            int(record.priority),
            record.metadata,
            inf if record.timeout is None else record.timeout,
            record.cancellable,
        )
        again.rerun = Rerun(task_id, record.state.span)
        if not self._has_room():
            await self._admit(again.cell)
        self._accept(again)
        return again.task_id

    def _why_not_again(self, record: TaskRecord | None) -> str | None:
        if record is None:
            return "only its outline is kept; submit it anew, and see tasks.keep_completed_tasks"
        status = record.state.status
        if not status.final:
            return f"it is {status.value}; wait for its end, or cancel it first"
        if status is TaskStatus.COMPLETED:
            return "it completed; submit it anew"
        if any(zombie.record is record for zombie in self._zombies):
            return "its code would not stop and still runs; wait for its end"
        if record.func is None:
            return "its arguments were not kept, see tasks.keep_arguments; submit it anew"
        return None


_DEFAULT_ENGINES: Final = {TaskCategory.IO: EngineKind.IO, TaskCategory.UI: EngineKind.MAIN}


def _wanted_engine(category: TaskCategory, traits: CallableTraits) -> EngineKind:
    if traits.on_loop:
        return _LOOP
    return traits.definition.engine or _DEFAULT_ENGINES.get(category, EngineKind.THREAD)


def _known_settings(tree: Any) -> TaskSettings:
    """Take ours from a configuration that may hold more."""
    if not isinstance(tree, Mapping):
        raise SettingsError("tasks", f"{tree!r} must be a table of settings")
    known = {key: value for key, value in tree.items() if key in _SETTING_NAMES}
    return convert(known, TaskSettings, prefix="tasks.")


def _as_json(argument: str, value: object) -> dict[str, Any] | None:
    """Return a copy of `value` as JSON shows it."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidTaskError(argument, f"{type(value).__name__} must be a mapping that JSON can show")
    try:
        encoded = msgspec.json.encode(dict(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidTaskError(argument, f"cannot be shown as JSON: {error}") from error
    if len(encoded) > MAX_METADATA_BYTES:
        raise InvalidTaskError(
            argument, f"takes {len(encoded)} bytes as JSON; {MAX_METADATA_BYTES} are allowed"
        )
    copy: dict[str, Any] = msgspec.json.decode(encoded)
    return copy


def _one_or_many(
    argument: str, value: E | str | Iterable[E | str] | None, kind: type[E]
) -> frozenset[E] | None:
    if value is None:
        return None
    try:
        many: list[Any] = [value] if isinstance(value, (str, kind)) else list(value)  # type: ignore[arg-type]  # a single value was handled
        return frozenset(kind(one) for one in many)
    except (TypeError, ValueError) as error:
        known = ", ".join(member.value for member in kind)
        raise InvalidTaskError(argument, f"{error}; use one of {known}") from None


def _value_of(record: TaskRecord) -> Any:
    state = record.state
    if state.status is TaskStatus.COMPLETED:
        return state.result
    if state.status is TaskStatus.CANCELLED:
        raise TaskCancelled(record.task_id, state.cancel_reason)
    if isinstance(state.exception, Exception) and not isinstance(state.exception, StopIteration):
        raise state.exception
    # What is meant to end a process, a coroutine or a generator was the task's, and must not end the caller.
    kind = TaskTimeoutError if state.error_type == TIMEOUT else TaskFailedError
    raise kind(record.task_id, state.error_type or "unknown", state.error or "") from state.exception
