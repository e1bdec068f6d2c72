"""What holds for any mix of tasks: random plans of tasks that sleep, fail, refuse to stop, wait for children and
are cancelled, in virtual time, with every surface compared at the end.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qorzen_obs import TaskInfo, TaskPriority, TaskStatus, current_task
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.errors import TaskNotCancellableError, TaskQueueFullError
from qorzen_obs.settings import TaskSettings
from qorzen_obs.telemetry import names
from qorzen_obs.testing import CapturedEvents, CapturedLogs, open_test_manager, virtual_time
from tests.support import Spans, metric, settings

seconds = st.integers(0, 12).map(lambda number: number / 4)


@dataclass
class Plan:
    """One task: what it does, and what is done to it."""

    does: str  #: return, fail, swallow its cancellation, or run children
    takes: float
    category: str
    priority: TaskPriority
    timeout: float
    submitted_at: float
    cancelled_at: float | None
    cancellable: bool


plans = st.lists(
    st.builds(
        Plan,
        does=st.sampled_from(["return", "fail", "swallow", "children"]),
        takes=seconds,
        category=st.sampled_from(["io", "user"]),
        priority=st.sampled_from(list(TaskPriority)),
        timeout=st.sampled_from([0.5, 2.0, 100.0]),
        submitted_at=seconds,
        cancelled_at=st.none() | seconds,
        cancellable=st.sampled_from([True, True, True, False]),
    ),
    max_size=12,
)
limits = st.builds(
    settings,
    max_concurrent_tasks=st.integers(1, 3),
    category_limits=st.sampled_from([{}, {"io": 1}, {"user": 1, "io": 2}]),
    max_pending=st.sampled_from([2, 100]),
    when_full=st.sampled_from(["refuse", "wait"]),
    keep_completed_tasks=st.sampled_from([1, 1000]),
)


class Run:
    """A plan carried out, and what was seen meanwhile."""

    def __init__(self, tasks: TaskManager, limit: TaskSettings) -> None:
        self.tasks = tasks
        self.limit = limit
        self.attempted = self.refused = 0
        self.accepted: dict[str, Plan] = {}
        self.started: Counter[str] = Counter()
        self.over_limit: list[int] = []

    async def work(self, plan: Plan) -> str:
        self.started[current_task().task_id] += 1
        self.check_limits()
        if plan.does == "children":
            runs = (self.tasks.run(asyncio.sleep, plan.takes, name="child") for _ in range(2))
            await asyncio.gather(*runs)
            self.check_limits()
        elif plan.does == "swallow":
            end = asyncio.get_running_loop().time() + plan.takes
            while (left := end - asyncio.get_running_loop().time()) > 0:
                try:
                    await asyncio.sleep(left)
                except asyncio.CancelledError:
                    continue
        else:
            await asyncio.sleep(plan.takes)
        if plan.does == "fail":
            raise ValueError("planned")
        return "value"

    def check_limits(self) -> None:
        busy = sum(slots["busy"] for slots in self.tasks.status()["slots"].values())
        if busy > self.limit.max_concurrent_tasks:
            self.over_limit.append(busy)  # told here: raised in a task it would be that task's failure

    async def carry_out(self, plan: Plan) -> None:
        await asyncio.sleep(plan.submitted_at)
        self.attempted += 1
        options: dict[str, Any] = {
            "name": plan.does,
            "category": plan.category,
            "priority": plan.priority,
            "timeout": plan.timeout,
            "cancellable": plan.cancellable,
        }
        try:
            task_id = await self.tasks.submit_task(self.work, plan, **options)
        except TaskQueueFullError:
            self.refused += 1
            return
        self.accepted[task_id] = plan
        if plan.cancelled_at is not None:
            await asyncio.sleep(plan.cancelled_at)
            try:
                await self.tasks.cancel_task(task_id)
            except TaskNotCancellableError:
                assert not plan.cancellable
        await self.tasks.wait_for_task(task_id)


def check_end(plan: Plan, info: TaskInfo, started: int) -> None:
    """The end of one task follows from what it did and what was done to it."""
    assert info.status.final
    assert started <= 1
    if not info.evicted:
        assert (info.result is not None) == (info.status is TaskStatus.COMPLETED)
    if info.status is TaskStatus.COMPLETED:
        assert plan.does != "fail"
        assert started == 1
    if info.error_type == "timeout":
        assert info.duration_seconds is not None
        assert info.duration_seconds >= plan.timeout
    elif info.status is TaskStatus.FAILED:
        expected = {"fail": {"ValueError"}, "children": {"qorzen_obs.errors.TaskQueueFullError"}}
        assert info.error_type in expected.get(plan.does, set())
    if info.status is TaskStatus.CANCELLED:
        assert plan.cancellable
        assert plan.cancelled_at is not None
    if info.abandoned:
        assert plan.does == "swallow"
    if info.duration_seconds is not None:
        assert 0 <= info.duration_seconds <= plan.timeout + 1.01, "its timeout and the grace"


@hypothesis_settings(max_examples=25, deadline=None)
@given(plans, limits)
def test_whatever_is_planned_every_task_ends_once_and_all_surfaces_agree(
    planned: list[Plan], configured: Any
) -> None:
    @virtual_time
    async def main() -> None:
        events, logs, spans = CapturedEvents(), CapturedLogs(), Spans()
        async with open_test_manager(
            configured, events=events, logs=logs, tracer_provider=spans.provider
        ) as tasks:
            run = Run(tasks, configured.tasks)
            async with asyncio.TaskGroup() as group:
                for plan in planned:
                    group.create_task(run.carry_out(plan))
            infos = {task_id: await tasks.wait_for_task(task_id) for task_id in run.accepted}
            await tasks.shutdown()
            await asyncio.sleep(20)  # abandoned ones end too

            for task_id, plan in run.accepted.items():
                check_end(plan, infos[task_id], run.started[task_id])
            assert run.over_limit == []
            assert run.attempted == len(run.accepted) + run.refused
            check_surfaces(tasks, events, logs, spans)

    main()


def check_surfaces(tasks: TaskManager, events: CapturedEvents, logs: CapturedLogs, spans: Spans) -> None:
    """Status, metrics, events, lines and spans tell the same story, and nothing is left."""
    counts = tasks.status()["tasks"]
    told = Counter(event.event_type for event in events.events)
    by_task: dict[str, list[str]] = {}
    for event in events.events:
        by_task.setdefault(event.payload["task_id"], []).append(event.event_type)
    for types in by_task.values():
        assert types[0] == "task/submitted"
        assert [kind.removeprefix("task/") in FINAL for kind in types] == [False] * (len(types) - 1) + [True]
        assert types.count("task/started") <= 1
    assert counts["total"] == told["task/submitted"] == len(by_task) == len(logs.of(names.LOG_FINISHED))
    for status in FINAL:
        assert counts["by_status"][status] == told[f"task/{status}"]
        finished = names.TASKS_FINISHED.name + "_total"
        assert metric(tasks.registry, finished, status=status) == told[f"task/{status}"]
    runs = [span for span in spans.all() if span.name.startswith("run ")]
    assert len(runs) == told["task/started"]
    assert metric(tasks.registry, names.RUN_DURATION.name + "_count") == told["task/started"]
    assert tasks.status()["queue"]["depth"] == 0
    assert tasks.looks.metrics.telemetry_errors == {}
    for slots in tasks.status()["slots"].values():
        assert (slots["busy"], slots["lent"], slots["abandoned"]) == (0, 0, 0)


FINAL = [status.value for status in TaskStatus if status.final]
