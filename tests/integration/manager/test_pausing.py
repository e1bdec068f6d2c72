"""A paused category: what is pending waits, what runs goes on, and everybody can see it."""

import asyncio
from collections.abc import Callable

import pytest

from qorzen_obs import Retry, TaskCategory, TaskManager, TaskStatus, task
from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.errors import InvalidTaskError, TaskQueueFullError
from qorzen_obs.options import with_options
from qorzen_obs.telemetry import names
from qorzen_obs.testing import CapturedEvents, CapturedLogs, open_test_manager
from tests.support import Gate, metric, settings, turns, until, virtual_time

IO, USER = TaskCategory.IO, TaskCategory.USER


def status_of(tasks: TaskManager, task_id: str) -> TaskStatus:
    info = tasks.find(task_id)
    assert info is not None
    return info.status


async def nothing() -> None:
    pass


async def test_pending_tasks_of_a_paused_category_wait_until_it_is_resumed_and_others_start() -> None:
    begun: list[str] = []

    async def work(name: str) -> None:
        begun.append(name)

    async with open_test_manager() as tasks:
        await tasks.pause(IO)
        paused = [await tasks.submit_task(work, name, category="io") for name in "ab"]
        other = await tasks.submit_task(work, "other", category="user")
        await tasks.wait_for_task(other)
        await turns()
        assert begun == ["other"]
        assert [status_of(tasks, task_id) for task_id in paused] == [TaskStatus.PENDING] * 2
        await tasks.resume(IO)
        for task_id in paused:
            await tasks.wait_for_task(task_id)
        assert begun == ["other", "a", "b"]


async def test_running_tasks_of_a_paused_category_go_on_and_what_waits_behind_them_does_not_start() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        running = await tasks.submit_task(gate, "value", category="io")
        behind = await tasks.submit_task(nothing, category="io")
        await gate.holds(1)
        await tasks.pause("io")
        gate.open()
        assert (await tasks.wait_for_task(running)).result == "value"
        await turns()
        assert status_of(tasks, behind) is TaskStatus.PENDING
        await tasks.resume("io")
        assert (await tasks.wait_for_task(behind)).status is TaskStatus.COMPLETED


async def test_a_slot_that_a_paused_task_may_not_have_goes_to_the_next_one_in_order() -> None:
    gate, begun = Gate(), list[str]()

    async def work(name: str) -> None:
        begun.append(name)

    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        await tasks.submit_task(gate, category="user")
        await tasks.submit_task(work, "paused", category="io", priority="critical")
        last = await tasks.submit_task(work, "low", category="user", priority="low")
        await tasks.pause("io")
        gate.open()
        await tasks.wait_for_task(last)
        assert begun == ["low"]


@virtual_time
async def test_delayed_tasks_and_retries_of_a_paused_category_wait_past_their_time() -> None:
    begun: list[str] = []
    gate = Gate()

    async def work() -> None:
        begun.append("delayed")

    @task(category="io", retry=Retry(max_attempts=2, backoff=lambda _, __: 5.0))
    async def flaky() -> None:
        begun.append("flaky")
        if begun.count("flaky") == 1:
            await gate()
            raise OSError

    async with open_test_manager() as tasks:
        retried = await tasks.submit_task(flaky)
        await gate.holds(1)
        await tasks.pause("io")
        gate.open()
        delayed = await tasks.submit_task(with_options(work, delay=10), category="io")
        await asyncio.sleep(100)
        assert begun == ["flaky"]
        assert tasks.status()["queue"] == {
            "depth": 2,
            "scheduled": 0,
            "limit": 10_000,
            "paused": ["io"],
            "oldest_pending_age_seconds": pytest.approx(95, abs=1),
        }
        await tasks.resume("io")
        assert (await tasks.wait_for_task(retried)).status is TaskStatus.COMPLETED
        info = await tasks.wait_for_task(delayed)
        assert begun == ["flaky", "flaky", "delayed"]
        assert info.queue_wait_seconds == pytest.approx(90, abs=1)
        assert info.phases["queued"] == pytest.approx(90, abs=1)


async def test_a_lender_of_a_paused_category_has_its_slot_back_and_goes_on() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:

        async def parent() -> str:
            return str(await tasks.run(gate, "child", category="user"))

        task_id = await tasks.submit_task(parent, category="io")
        await gate.holds(1)
        await tasks.pause("io")
        gate.open()
        assert (await tasks.wait_for_task(task_id)).result == "child"


async def test_a_task_with_a_deadline_passes_it_while_its_category_is_paused() -> None:
    async with open_test_manager() as tasks:
        await tasks.pause("io")
        task_id = await tasks.submit_task(with_options(nothing, deadline=0.01), category="io")
        info = await tasks.wait_for_task(task_id)
        assert (info.status, info.error_type, info.attempt) == (TaskStatus.FAILED, "timeout", 0)


async def test_paused_tasks_can_be_cancelled_and_count_against_the_bound_of_the_queue() -> None:
    async with open_test_manager(settings(max_pending=1)) as tasks:
        await tasks.pause("io")
        task_id = await tasks.submit_task(nothing, category="io")
        with pytest.raises(TaskQueueFullError):
            await tasks.submit_task(nothing, category="io")
        assert await tasks.cancel_task(task_id)
        assert status_of(tasks, task_id) is TaskStatus.CANCELLED


async def test_pausing_and_resuming_are_idempotent_and_take_the_category_or_its_value() -> None:
    logs = CapturedLogs()
    async with open_test_manager(logs=logs) as tasks:
        assert tasks.paused == frozenset()
        await tasks.resume(USER)
        for category in (USER, "user", IO):
            await tasks.pause(category)
        assert tasks.paused == {IO, USER}
        assert tasks.status()["queue"]["paused"] == ["io", "user"]
        await tasks.resume("user")
        await tasks.resume("user")
        assert tasks.paused == {IO}
        told = [
            (line["event"], line["category"]) for line in logs.lines if line["event"].startswith("category.")
        ]
        assert told == [
            (names.LOG_PAUSED, "user"),
            (names.LOG_PAUSED, "io"),
            (names.LOG_RESUMED, "user"),
        ]


@pytest.mark.parametrize("change", [TaskManager.pause, TaskManager.resume])
async def test_an_unknown_category_is_refused(change: Callable[..., object]) -> None:
    async with open_test_manager() as tasks:
        with pytest.raises(InvalidTaskError, match="use one of core, plugin, ui, io, background, user"):
            await change(tasks, "nonsense")  # type: ignore[misc]  # both are coroutine functions
        assert tasks.paused == frozenset()


async def test_why_a_task_is_pending_names_the_pause() -> None:
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        await tasks.submit_task(Gate(), category="user")
        await tasks.pause("io")
        await tasks.submit_task(nothing, category="io", priority="high")
        task_id = await tasks.submit_task(nothing, category="io")
        why = tasks.why_pending(task_id)
        assert why is not None
        assert (why.held_by, why.ahead, why.eligible_in_seconds) == ("the pause of category io", 1, 0.0)
        await tasks.resume("io")
        why = tasks.why_pending(task_id)
        assert why is not None
        assert why.held_by == "tasks.max_concurrent_tasks"


async def test_the_metrics_tell_which_categories_are_paused() -> None:
    async with open_test_manager() as tasks:
        await tasks.pause("io")
        paused = {
            category.value: metric(tasks.registry, names.CATEGORY_PAUSED.name, category=category.value)
            for category in TaskCategory
        }
        assert paused == {category.value: float(category is IO) for category in TaskCategory}
        await tasks.resume("io")
        assert metric(tasks.registry, names.CATEGORY_PAUSED.name) == 0


async def test_a_category_can_be_paused_before_the_manager_takes_work() -> None:
    concurrency = ConcurrencyManager()
    await concurrency.initialize()
    tasks = TaskManager(concurrency, CapturedEvents(), CapturedLogs(), ConfigManager(settings()))
    await tasks.pause("io")
    await tasks.resume("io")
    await tasks.pause("io")
    await tasks.initialize()
    try:
        task_id = await tasks.submit_task(nothing, category="io")
        await turns()
        assert status_of(tasks, task_id) is TaskStatus.PENDING
    finally:
        await tasks.shutdown(grace_seconds=0)
        await concurrency.shutdown()


async def test_other_threads_pause_and_resume_too() -> None:
    async with open_test_manager() as tasks:
        await asyncio.to_thread(tasks.from_thread.pause, "io")
        assert tasks.paused == {IO}
        await asyncio.to_thread(tasks.from_thread.resume, "io")
        assert tasks.paused == frozenset()


async def test_a_shutdown_cancels_paused_tasks_at_once_and_waits_only_for_what_can_still_run() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        running = await tasks.submit_task(gate, category="io")
        await gate.holds(1)
        await tasks.pause("io")
        paused = await tasks.submit_task(nothing, category="io")
        stopping = asyncio.create_task(tasks.shutdown(grace_seconds=1_000))
        await until(lambda: status_of(tasks, paused) is TaskStatus.CANCELLED)
        assert (await tasks.wait_for_task(paused)).cancel_reason == "shutdown"
        assert status_of(tasks, running) is TaskStatus.RUNNING
        gate.open()
        await stopping
        assert status_of(tasks, running) is TaskStatus.COMPLETED


async def test_a_parent_that_waits_for_a_paused_child_does_not_hold_up_the_shutdown() -> None:
    async with open_test_manager() as tasks:
        await tasks.pause("io")
        child = await tasks.submit_task(nothing, category="io")
        parent = await tasks.submit_task(tasks.wait_for_task, child)
        await until(lambda: (info := tasks.find(parent)) is not None and info.waiting_for == child)
        await tasks.shutdown(grace_seconds=1_000)
        info = tasks.find(parent)
        assert info is not None
        assert (info.status, info.result.status) == (TaskStatus.COMPLETED, TaskStatus.CANCELLED)


async def test_what_is_paused_while_the_manager_drains_is_cancelled_at_once() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        running = await tasks.submit_task(gate)
        pending = await tasks.submit_task(nothing, category="io")
        await gate.holds(1)
        stopping = asyncio.create_task(tasks.shutdown(grace_seconds=1_000))
        await until(lambda: tasks.state.value == "draining")
        await turns()
        assert status_of(tasks, pending) is TaskStatus.PENDING
        await tasks.pause("io")
        assert status_of(tasks, pending) is TaskStatus.CANCELLED
        gate.open()
        await stopping
        assert status_of(tasks, running) is TaskStatus.COMPLETED
