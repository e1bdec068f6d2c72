"""What is remembered of ended tasks, for how long, and what never depends on it."""

import asyncio
from typing import Unpack

import msgspec
import pytest

from qorzen_obs import TaskStatus, current_task
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.errors import TaskNotFoundError
from qorzen_obs.options import SubmitOptions
from qorzen_obs.testing import open_test_manager
from tests.support import Gate, settings


async def end(tasks: TaskManager, number: int, **options: Unpack[SubmitOptions]) -> str:
    task_id = await tasks.submit_task(asyncio.sleep, 0, number, **options)
    await tasks.wait_for_task(task_id)
    return task_id


async def test_the_last_ended_tasks_are_kept_whole_and_older_ones_as_an_outline() -> None:
    async def work() -> str:
        current_task().progress(50, "half")
        return "value"

    async with open_test_manager(settings(keep_completed_tasks=2)) as tasks:
        oldest = await tasks.submit_task(
            work, name="oldest", category="io", priority="high", plugin_id="p", metadata={"a": 1}
        )
        whole = await tasks.wait_for_task(oldest)
        assert (whole.result, whole.metadata, whole.progress.percent) == ("value", {"a": 1}, 50)
        newer = [await end(tasks, number) for number in range(2)]
        info = await tasks.get_task_info(oldest)
        assert info is not None
        assert info.evicted
        assert (info.result, info.metadata, info.progress.percent) == (None, {}, 0)
        for field in (
            "task_id",
            "name",
            "category",
            "priority",
            "plugin_id",
            "status",
            "created_at",
            "started_at",
            "completed_at",
            "queue_wait_seconds",
            "duration_seconds",
            "error_type",
            "attempt",
            "engine",
            "trace_id",
            "span_id",
        ):
            assert getattr(info, field) == getattr(whole, field), field
        assert await tasks.wait_for_task(oldest) == info, "waiting for it answers at once"
        assert [task.task_id for task in await tasks.get_tasks()] == newer
        assert tasks.status()["tasks"]["retained"] == 2


async def test_a_failure_outlives_any_number_of_successes_with_its_error_and_its_log_lines() -> None:
    def fail() -> None:
        raise ValueError("wrong")

    async with open_test_manager(settings(keep_completed_tasks=2)) as tasks:
        failed = await tasks.submit_task(fail, plugin_id="p")
        whole = await tasks.wait_for_task(failed)
        kept = [await end(tasks, number) for number in range(9)][-2:]
        assert await tasks.get_tasks(status="failed") == [whole]
        assert (whole.error, whole.evicted) == ("wrong", False)
        assert "ValueError" in str(whole.traceback)
        assert [task.task_id for task in await tasks.get_tasks()] == [failed, *kept]
        lines = tasks.looks.log_of(failed).items
        assert [msgspec.json.decode(line)["event"] for line in lines] == ["task.finished"]
        assert tasks.status()["tasks"]["retained"] == 3
        assert tasks.status()["tasks"]["plugins_with_tasks"] == 1


async def test_retention_lowers_no_count() -> None:
    async with open_test_manager(settings(keep_completed_tasks=1)) as tasks:
        for number in range(5):
            await end(tasks, number)
        status = tasks.status()["tasks"]
        assert (status["total"], status["by_status"]["completed"], status["retained"]) == (5, 5, 1)


async def test_live_tasks_are_never_evicted() -> None:
    gate = Gate()
    async with open_test_manager(settings(keep_completed_tasks=0)) as tasks:
        running = await tasks.submit_task(gate, "value")
        for number in range(3):
            await end(tasks, number)
        assert [info.task_id for info in await tasks.get_tasks()] == [running]
        gate.open()
        assert (await tasks.wait_for_task(running)).result == "value"
        assert (await tasks.wait_for_task(running)).evicted


async def test_whoever_waits_gets_the_result_even_when_nothing_is_kept() -> None:
    async with open_test_manager(settings(keep_completed_tasks=0)) as tasks:
        assert await tasks.run(asyncio.sleep, 0, "value") == "value"
        task_id = await tasks.submit_task(asyncio.sleep, 0, "value")
        assert (await tasks.wait_for_task(task_id)).result == "value"


async def test_less_can_be_kept_from_now_on() -> None:
    config = ConfigManager(settings(keep_completed_tasks=5))
    async with open_test_manager(config=config) as tasks:
        ids = [await end(tasks, number) for number in range(4)]
        await config.set("tasks.keep_completed_tasks", 1)
        assert tasks.status()["tasks"]["retained"] == 1
        assert [info.task_id for info in await tasks.get_tasks()] == ids[3:]
        assert (await tasks.get_task_info(ids[0])).evicted  # type: ignore[union-attr]  # its outline is left


async def test_plugins_count_while_they_have_live_or_kept_tasks() -> None:
    gate = Gate()
    async with open_test_manager(settings(keep_completed_tasks=1)) as tasks:

        def plugins() -> int:
            return int(tasks.status()["tasks"]["plugins_with_tasks"])

        running = [await tasks.submit_task(gate, plugin_id="a") for _ in range(2)]
        await end(tasks, 1, plugin_id="b")
        await end(tasks, 1)
        assert plugins() == 1, "b's only task was evicted"
        gate.open()
        for task_id in running:
            await tasks.wait_for_task(task_id)
        assert plugins() == 1
        assert [info.status for info in await tasks.get_tasks(plugin_id="a")] == [TaskStatus.COMPLETED]
        await end(tasks, 1)
        assert plugins() == 0


async def test_an_id_that_nobody_gave_out_is_unknown() -> None:
    async with open_test_manager() as tasks:
        assert await tasks.get_task_info("no such id") is None
        with pytest.raises(TaskNotFoundError) as caught:
            await tasks.wait_for_task("no such id")
        assert caught.value.task_id == "no such id"


async def fails_with(text: str) -> None:
    raise ValueError(f"no room for {len(text)}")


async def test_ended_tasks_take_no_more_room_than_they_may_and_a_change_is_in_force_at_once() -> None:
    config = ConfigManager(settings(keep_completed_bytes=200_000))
    async with open_test_manager(config=config) as tasks:
        failed = [await tasks.submit_task(fails_with, str(number) * 30_000) for number in range(9)]
        for task_id in failed:
            await tasks.wait_for_task(task_id)
        for number in range(400):
            await end(tasks, number)
        whole = [info.task_id for info in await tasks.get_tasks(status="failed")]
        assert sorted(whole) == sorted(failed[-3:]), "half of the room is theirs, whatever else ends"
        small = await tasks.get_tasks(status="completed", limit=1_000)
        assert 50 < len(small) < 80
        for number in range(9):
            await end(tasks, number, metadata={"large": str(number) * 15_000})
        completed = await tasks.get_tasks(status="completed", limit=1_000)
        assert len(completed) in (5, 6), "metadata counts too"
        await config.set("tasks.keep_completed_bytes", 0)
        assert await tasks.get_tasks() == []
        found = await tasks.get_task_info(failed[-1])
        assert found is not None
        assert (found.evicted, found.error_type) == (True, "ValueError")
