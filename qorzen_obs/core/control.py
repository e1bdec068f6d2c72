"""What callers ask for after a task was accepted: wait, cancel, pause, resume, run again, submit once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.arguments import check_timeout, parse_category
from qorzen_obs.core.admission import Admission
from qorzen_obs.core.announcer import Announcer
from qorzen_obs.core.handle import TaskHandle, error_of
from qorzen_obs.core.idempotency import IdempotencyKeys, Submission
from qorzen_obs.core.lifecycle import Lifecycle
from qorzen_obs.core.recording import Recording
from qorzen_obs.core.retention import Retention
from qorzen_obs.core.runtime import SHUTDOWN, ManagerState, Runtime
from qorzen_obs.core.task_table import TaskTable
from qorzen_obs.errors import (
    InvalidTaskError,
    TaskNotCancellableError,
    TaskNotFoundError,
    TaskNotRerunnableError,
)
from qorzen_obs.record import Rerun, TaskRecord, TaskState
from qorzen_obs.scheduling.scheduler import Scheduler
from qorzen_obs.tasks import COMPLETED, TaskCategory, TaskInfo
from qorzen_obs.telemetry import names

_MAX_CANCEL_REASON: Final = 4_000


class Control:
    """The commands of one manager; for its work loop. TaskManager documents each for callers."""

    def __init__(
        self,
        runtime: Runtime,
        table: TaskTable,
        scheduler: Scheduler[TaskRecord],
        admission: Admission,
        lifecycle: Lifecycle,
        announcer: Announcer,
        *,
        keys: IdempotencyKeys,
        retention: Retention,
        recording: Recording | None,
        logger: Any,
    ) -> None:
        self._runtime = runtime
        self._table = table
        self._scheduler = scheduler
        self._admission = admission
        self._lifecycle = lifecycle
        self._announcer = announcer
        self._keys = keys
        self._retention = retention
        self._recording = recording
        self._logger = logger

    # ------------------------------------------------------------------ wait

    async def wait(self, task_id: str, timeout: float | None) -> TaskInfo:
        """Return the final snapshot of a task, once it has ended."""
        timeout = check_timeout(timeout)
        record = self._table.live.get(task_id)
        if record is not None:
            state = await self._lifecycle.waiting.for_end(record, timeout)
            if task_id in self._table.unclaimed:
                self._retention.result_taken(task_id)
            return record.info(state)
        self._announcer.ends.notify()  # it may have ended in this turn of the loop
        info = self._table.history.info(task_id)
        if info is None:
            raise TaskNotFoundError(task_id)
        self._retention.result_taken(task_id)
        return info

    async def value_of(self, record: TaskRecord) -> Any:
        """Return what the task of an accepted record returns, or raise what it raised."""
        try:
            state = await self._lifecycle.waiting.for_end(record, None)
        except asyncio.CancelledError:
            if record.cancellable and record.task_id in self._table.live:
                self._lifecycle.cancel(record, "the caller of run() was cancelled")
            raise
        if state.status is COMPLETED:
            if record.task_id in self._table.unclaimed:
                self._retention.result_taken(record.task_id)
            return state.result
        self._retention.exception_taken(record)
        error = error_of(record.task_id, state)
        del state
        try:
            raise error
        finally:
            del error  # its traceback leads here, so it would keep itself and the callers' frames alive

    # ------------------------------------------------------------------ handles

    def handle_on(self, record: TaskRecord) -> TaskHandle[Any]:
        """Return a handle on an accepted task."""
        return TaskHandle(self, record, self._lifecycle.waiting.end_of(record))

    async def end_held(self, record: TaskRecord, end: asyncio.Future[TaskState]) -> TaskState:
        """Return the final state of a task for its handle, which keeps it from now on."""
        if not self._runtime.runs_here:
            problem = "is not the manager's; use tasks.from_thread.wait(handle.task_id) in other threads"
            raise InvalidTaskError("event loop", problem)
        if end.done():
            self._announcer.ends.notify()  # it may have ended in this turn of the loop
            state = end.result()
        else:
            state = await self._lifecycle.waiting.for_end(record, None)
        self._retention.exception_taken(record)
        if record.task_id in self._table.unclaimed:
            self._retention.result_taken(record.task_id)
        return state

    def cancel_held(self, record: TaskRecord, reason: str) -> bool:
        """Cancel a task for its handle."""
        if record.state.status.final:
            return False
        if not self._runtime.runs_here:
            problem = "is not the work loop's; use tasks.from_thread.cancel(handle.task_id)"
            raise InvalidTaskError("thread", problem)
        return self.cancel(record.task_id, reason)

    # ------------------------------------------------------------------ cancel

    def cancel(self, task_id: str, reason: str) -> bool:
        """Cancel a task or ask it to stop; return False when it had ended."""
        record = self._table.live.get(task_id)
        if record is None:
            if self._table.history.info(task_id) is None:
                raise TaskNotFoundError(task_id)
            return False
        if not record.cancellable:
            raise TaskNotCancellableError(task_id, record.name)
        self._lifecycle.cancel(
            record, self._lifecycle.redactor.head(foreign.text(reason), _MAX_CANCEL_REASON)
        )
        return True

    # ------------------------------------------------------------------ pause and resume

    def pause(self, category: TaskCategory | str) -> None:
        """Start no task of the category until `resume`."""
        category = parse_category(category)
        if category in self._scheduler.paused:
            return
        self._scheduler.paused |= {category}
        self._announcer.say(self._logger.info, names.LOG_PAUSED, category=category.value)
        if self._runtime.state is ManagerState.DRAINING:
            for record in list(self._table.live.values()):
                if self._lifecycle.cannot_start(record):
                    self._lifecycle.cancel(record, SHUTDOWN)

    def resume(self, category: TaskCategory | str) -> None:
        """Let tasks of a paused category start again."""
        category = parse_category(category)
        if category not in self._scheduler.paused:
            return
        self._scheduler.paused -= {category}
        self._announcer.say(self._logger.info, names.LOG_RESUMED, category=category.value)
        if self._runtime.loop is not None:
            self._lifecycle.dispatch()

    # ------------------------------------------------------------------ submit once, and again

    async def submit_once(
        self, submit: Callable[[], Awaitable[str]], *, name: str, key: str, digest: bytes
    ) -> Submission:
        """Await `submit()`, unless the key was used before."""
        return await self._keys.submit(name, key, digest, submit, is_kept=self._is_kept)

    def _is_kept(self, task_id: str) -> bool:
        return self._table.whole(task_id) is not None

    async def rerun(self, task_id: str) -> str:
        """Submit an ended task's call again; return the new task's id."""
        record = self._table.whole(task_id)
        if record is None and self._table.history.info(task_id) is None:
            raise TaskNotFoundError(task_id)
        problem = self._table.why_not_again(record)
        if problem is not None:
            raise TaskNotRerunnableError(task_id, problem)
        assert record is not None
        assert record.func is not None
        again = self._admission.check(
            record.func,
            record.args,
            record.kwargs,
            name=record.name,
            category=record.category,
            plugin_id=record.plugin_id,
            priority=record.priority,
            metadata=record.metadata,
            timeout=inf if record.timeout is None else record.timeout,
            cancellable=record.cancellable,
            again=True,
        )
        again.rerun = Rerun(task_id, record.state.span)
        await self._admission.wait_for_room(again.cell)
        if self._recording is None:
            self._lifecycle.accept(again)
        else:
            await self._recording.then([again], partial(self._lifecycle.accept, again))
        record.rerun_as = again.task_id
        return again.task_id
