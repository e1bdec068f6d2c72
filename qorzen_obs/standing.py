"""Standing tasks: `serve` submits them at the start, and restarts them if their definition says so.

An endless consumer is an example. Between its end and its restart nothing runs, so a probe fails if it is `required`.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.definition import TaskDefinition
from qorzen_obs.errors import QorzenError, TaskManagerClosedError, TaskQueueFullError
from qorzen_obs.health import MIN_AGE_SECONDS, health_check
from qorzen_obs.retry import DEFAULT_BACKOFF, backoff_seconds
from qorzen_obs.tasks import TaskStatus
from qorzen_obs.telemetry import names

#: Seconds of run time after which a start counts as good: the next restart waits only as long as the first one.
STEADY_SECONDS: Final = 60.0


class RequiredTaskDownError(QorzenError):
    """A `required` task does not run."""


class StandingTask:
    """One task that is submitted at the start, and again if its definition says so."""

    def __init__(self, name: str, func: Callable[..., Any], definition: TaskDefinition) -> None:
        self.name = name
        self.definition = definition
        self._func = func
        self._task_id: str | None = None  # the last task's
        self._tasks: TaskManager | None = None  # the manager that has it
        self._random = random.Random()

    @property
    def is_running(self) -> bool:
        """Whether it runs now; from any thread."""
        tasks, task_id = self._tasks, self._task_id
        info = None if tasks is None or task_id is None else tasks.find(task_id)
        return info is not None and info.status is TaskStatus.RUNNING

    async def keep(self, tasks: TaskManager, log: Callable[..., object]) -> None:
        """Submit it, and again after it ends, as long as it should be restarted and the manager takes work."""
        loop, failures = asyncio.get_running_loop(), 0
        self._tasks = tasks
        while True:
            began = loop.time()
            try:
                status = await self._run(tasks)
            except TaskManagerClosedError:
                return
            except TaskQueueFullError:
                status = TaskStatus.FAILED
            if not self._is_restarted(status):
                return
            failures = 1 if loop.time() - began >= STEADY_SECONDS else failures + 1
            wait = self._wait_seconds(failures, log)
            log(names.LOG_RESTARTING, task_name=self.name, status=status.value, wait_seconds=round(wait, 3))
            await asyncio.sleep(wait)

    async def _run(self, tasks: TaskManager) -> TaskStatus:
        # A task that runs as long as the service has no typical run time after which it hangs.
        timeout = math.inf if self.definition.timeout is None else None
        self._task_id = await tasks.submit_task(self._func, timeout=timeout)
        return (await tasks.wait_for_task(self._task_id)).status

    def _is_restarted(self, status: TaskStatus) -> bool:
        restart = self.definition.restart
        return restart == "always" or (restart == "on_failure" and status is TaskStatus.FAILED)

    def _wait_seconds(self, failures: int, log: Callable[..., object]) -> float:
        def broken(error: str) -> None:
            log(names.LOG_BACKOFF_FAILED, task_name=self.name, error=error)

        retry = self.definition.retry
        backoff = DEFAULT_BACKOFF if retry is None else retry.backoff
        return backoff_seconds(backoff, failures, self._random, broken)


class StandingTasks:
    """The standing tasks of a service."""

    def __init__(self, known: Iterable[tuple[str, Callable[..., Any], TaskDefinition]]) -> None:
        self._all = [StandingTask(*one) for one in known if one[2].at_start]

    def checks(self) -> list[Callable[[], object]]:
        """Return the health check that fails while a required task is down; none if no task is required."""
        required = [one for one in self._all if one.definition.required]

        @health_check(name="required-tasks", critical=True, max_age=MIN_AGE_SECONDS)
        def required_tasks() -> None:
            down = [one.name for one in required if not one.is_running]
            if down:
                raise RequiredTaskDownError(", ".join(down))

        return [required_tasks] if required else []

    @asynccontextmanager
    async def kept(self, tasks: TaskManager, log: Callable[..., object]) -> AsyncIterator[None]:
        """Submit all, and restart those that need it, for the length of the block. Their tasks may outlast it."""
        keepers = [
            asyncio.create_task(one.keep(tasks, log), name=f"qorzen standing {one.name}") for one in self._all
        ]
        try:
            await asyncio.sleep(0)  # they are submitted
            for keeper in keepers:
                if keeper.done():  # it could not be
                    await keeper
            yield
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
