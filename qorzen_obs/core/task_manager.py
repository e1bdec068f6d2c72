"""The task manager as its users see it: its methods, what they do and what they raise.

Each method delegates to a part: core/admission.py checks a call, core/lifecycle.py runs the task, core/control.py
cancels and repeats, core/inspection.py answers questions. core/assembly.py makes the parts. The methods that submit
tasks are in core/submitting.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar

from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry

from qorzen_obs.clock import Clock, SystemClock
from qorzen_obs.core.announcer import OnEvent
from qorzen_obs.core.assembly import assemble
from qorzen_obs.core.collaborators import (
    Collaborators,
    ConcurrencyManager,
    ConfigManager,
    EventBusManager,
    LoggerManager,
)
from qorzen_obs.core.from_thread import FromThread
from qorzen_obs.core.health_checks import HealthChecks
from qorzen_obs.core.inspection import Inspection
from qorzen_obs.core.recording import HistoryParts
from qorzen_obs.core.runtime import ManagerState
from qorzen_obs.core.submitting import Submitting
from qorzen_obs.scheduling.scheduler import Explanation
from qorzen_obs.tasks import (
    CategoryOrName,
    EventKind,
    StatusOrName,
    TaskCategory,
    TaskInfo,
    TaskPriority,
    TaskProgress,
    TaskStatus,
)
from qorzen_obs.telemetry.parts import TelemetryParts

__all__ = ["T", "TaskCategory", "TaskInfo", "TaskManager", "TaskPriority", "TaskProgress", "TaskStatus"]

T = TypeVar("T")


class TaskManager(Submitting):
    """Runs tasks on its work loop: the event loop on which `initialize` is awaited.

    `open_task_manager` makes one with all its parts. Make one yourself if you have collaborators of your own: any
    objects with the methods of the Protocols in `qorzen_obs.core.collaborators` will do. Call the methods on the work
    loop, unless they say "from any thread"; other threads use `from_thread`.

    Args:
        concurrency_manager: gives the engines, or runs callables in threads.
        event_bus_manager: gets the events of tasks.
        logger_manager: gives the logger.
        config_manager: gives the settings of tasks, and says when one changes.
        registry: where the metrics go; a new CollectorRegistry when None.
        tracer_provider: where spans go; None means OpenTelemetry's global one.
        clock: None means the system's.
        telemetry: the other parts that observe; None means there are none.
        history: where the tasks are recorded; None means in memory only.
    """

    def __init__(
        self,
        concurrency_manager: ConcurrencyManager,
        event_bus_manager: EventBusManager,
        logger_manager: LoggerManager,
        config_manager: ConfigManager,
        *,
        registry: CollectorRegistry | None = None,
        tracer_provider: TracerProvider | None = None,
        clock: Clock | None = None,
        telemetry: TelemetryParts | None = None,
        history: HistoryParts | None = None,
    ) -> None:
        super().__init__("task_manager")
        self._telemetry = telemetry or TelemetryParts()
        parts = assemble(
            self,
            self.name,
            Collaborators(
                concurrency_manager, event_bus_manager, logger_manager, config_manager, name=self.name
            ),
            registry=registry,
            tracer_provider=tracer_provider,
            clock=clock or SystemClock(),
            telemetry=self._telemetry,
            history=history or HistoryParts(),
        )
        self._life = parts.life
        self._admission = parts.admission
        self._lifecycle = parts.lifecycle
        self._control = parts.control
        self._batches = parts.batches
        self._announcer = parts.announcer
        self._table = parts.table
        self._recording = parts.recording
        self._calls = parts.calls
        #: reads for any thread, used by the server and the metrics
        self.looks: Inspection = parts.inspection
        self.from_thread = FromThread(self)  #: the calls that submit, wait and cancel, for other threads

    # ------------------------------------------------------------------ life

    async def initialize(self) -> None:
        """Read the settings, connect to the collaborators and take work.

        Raises:
            ManagerInitializationError: it was initialized before, the registry has another manager's metrics, or a
                collaborator lacks what is needed.
            SettingsError: a value of the configuration's `tasks` is out of bounds.
        """
        await self._life.start()

    async def shutdown(self, *, grace_seconds: float | None = None) -> None:
        """Refuse new work, let accepted work end for `grace_seconds` (`tasks.shutdown_grace_seconds`), cancel the rest.

        Meanwhile only running tasks may submit, and what they submit ends with them at the latest. A task that cannot
        start any more, because its category is paused or its time is after the grace, is cancelled at once.
        The shutdown is complete when this returns: code that would not stop is abandoned and shown as such. Safe before
        `initialize`. A second call awaits the first. A second call with `grace_seconds=0` skips the rest of the grace,
        and so does cancelling a call.

        Raises:
            ManagerShutdownError: `initialize` still runs, or a collaborator failed; in the latter case it has stopped.
        """
        await self._life.stop(grace_seconds)

    @property
    def initialized(self) -> bool:
        """Whether it takes work or drains; from any thread."""
        return self.looks.initialized

    @property
    def healthy(self) -> bool:
        """Whether it runs and no observer has failed; from any thread."""
        return self.looks.healthy

    @property
    def state(self) -> ManagerState:
        """The manager's lifecycle state; from any thread."""
        return self.looks.state

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The work loop; None before `initialize`. From any thread."""
        return self.looks.loop

    @property
    def health(self) -> HealthChecks:
        """The health checks of the program: `tasks.health.add(check)`; from any thread."""
        return self.looks.health

    @property
    def registry(self) -> CollectorRegistry:
        """The registry of the metrics; register your own there too. From any thread."""
        return self.looks.registry

    @property
    def ops_url(self) -> str | None:
        """The address of metrics, status, health, traces and the page; None if they are not served."""
        return self._telemetry.ops_url()

    def status(self) -> dict[str, Any]:
        """Return the manager's state as JSON shows it; from any thread.

        `GET /status` returns the same: name, state, health, the counts of tasks, the queue, the slots of the engines,
        the settings in force, the telemetry and the versions. docs/openapi.json describes the fields.
        """
        return self.looks.status()

    # ------------------------------------------------------------------ cancel, wait

    async def cancel_task(self, task_id: str, *, reason: str = "cancel_task") -> bool:
        """Cancel a pending task, or ask a running one to stop; return False when it had ended.

        True means that it is cancelled or was asked to stop, now or before. How a running task ends is up to its code,
        within `tasks.cancel_grace_seconds`. `TaskInfo.cancel_reason` shows `reason`, redacted and cut. This does not
        wait for the end; `wait_for_task` does.

        Raises:
            TaskNotFoundError: the id is unknown.
            TaskNotCancellableError: it was submitted with cancellable=False.
        """
        return self._control.cancel(task_id, reason)

    async def wait_for_task(self, task_id: str, timeout: float | None = None) -> TaskInfo:
        """Wait until the task has ended, however it ends, and return its final snapshot.

        A task that awaits this lends its slot meanwhile. Cancelling the wait does not affect the task. For a task that
        has ended, it also works after the shutdown.

        Raises:
            TaskNotFoundError: the id is unknown.
            TaskWaitTimeoutError: `timeout` seconds passed; the task continues. None means no limit.
            InvalidTaskError: the task waits, directly or through others, for its own end.
        """
        return await self._control.wait(task_id, timeout)

    # ------------------------------------------------------------------ pause

    @property
    def paused(self) -> frozenset[TaskCategory]:
        """The categories whose pending tasks wait until `resume`; from any thread."""
        return frozenset(self.looks.paused)

    async def pause(self, category: CategoryOrName) -> None:
        """Start no task of `category` until `resume`. Running ones continue; a second call changes nothing.

        Tasks of the category that are pending, delayed, to be retried or newly submitted wait. They age, count against
        `tasks.max_pending`, and may pass their `deadline`. A draining manager cancels them, since they will not run.

        Raises:
            InvalidTaskError: the category is unknown.
        """
        self._control.pause(category)

    async def resume(self, category: CategoryOrName) -> None:
        """Let tasks of a paused category start again, in their order. Without a pause, nothing changes.

        Raises:
            InvalidTaskError: the category is unknown.
        """
        self._control.resume(category)

    # ------------------------------------------------------------------ look

    async def get_task_info(self, task_id: str) -> TaskInfo | None:
        """Return a snapshot of the task, live or remembered; None when the id is unknown.

        Await it: without `await` you get a coroutine, which is never None and always true. `find` does the same without
        `await`:

            info = await tasks.get_task_info(task_id)
            info = tasks.find(task_id)
        """
        return self.looks.find(task_id)

    def find(self, task_id: str) -> TaskInfo | None:
        """Return what `get_task_info` returns, without `await`; from any thread."""
        return self.looks.find(task_id)

    async def get_tasks(
        self,
        status: StatusOrName | Iterable[StatusOrName] | None = None,
        category: CategoryOrName | Iterable[CategoryOrName] | None = None,
        plugin_id: str | None = None,
        limit: int = 100,
    ) -> list[TaskInfo]:
        """Return at most `limit` live and kept tasks, highest priority first, then oldest first.

        Filters combine: one or several statuses, one or several categories, and the plugin.

        Raises:
            InvalidTaskError: a status or category is unknown, or `limit` is not positive.
        """
        return self.looks.select(status, category, plugin_id, limit)

    def why_pending(self, task_id: str) -> Explanation | None:
        """Return why a task is pending; None when it is not. O(n) in the pending tasks.

        Raises:
            TaskNotFoundError: the id is unknown.
        """
        return self.looks.why_pending(task_id)

    def observe(
        self,
        name: str,
        on_event: OnEvent,
        kinds: Iterable[EventKind] = EventKind,
        *,
        first: bool = False,
    ) -> None:
        """Call `on_event` with each event of these kinds, on the work loop, as the last or the `first` observer.

        It must return at once. An observer that raises is dismissed, which `healthy`, the log (by `name`) and
        `qorzen_telemetry_errors_total` show. By the time an observer gets an end, the attempt's span has ended, and
        metrics and log have it.
        """
        self._announcer.observe(name, on_event, kinds, first=first)

    def stop_observing(self, on_event: OnEvent) -> None:
        """Undo an `observe`; without one, nothing changes."""
        self._announcer.stop_observing(on_event)
