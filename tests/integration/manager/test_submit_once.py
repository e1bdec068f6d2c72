"""A submission with a key can be repeated: it is one task, as long as that one is kept."""

import asyncio
from typing import Any

import pytest

from qorzen_obs import TaskManager, TaskStatus
from qorzen_obs.core.idempotency import Submission
from qorzen_obs.errors import IdempotencyConflictError, TaskQueueFullError
from qorzen_obs.testing import open_test_manager
from tests.support import Gate, settings, turns


async def nothing() -> None:
    pass


def once(tasks: TaskManager, func: Any = nothing, *, key: str = "k", digest: bytes = b"body") -> Any:
    return tasks.submit_once(lambda: tasks.submit_task(func), name="job", key=key, digest=digest)


async def test_a_repeat_gives_the_first_task_whether_it_waits_runs_or_has_ended() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        await tasks.pause("core")
        task_id, first = await once(tasks, gate)
        assert first
        assert await once(tasks, gate) == Submission(task_id, first=False)
        await tasks.resume("core")
        await gate.holds(1)
        assert await once(tasks, gate) == Submission(task_id, first=False)
        gate.open()
        await tasks.wait_for_task(task_id)
        assert await once(tasks, gate) == Submission(task_id, first=False)
        assert tasks.status()["tasks"]["total"] == 1


async def test_another_body_under_the_same_key_is_refused() -> None:
    async with open_test_manager() as tasks:
        await once(tasks)
        with pytest.raises(IdempotencyConflictError):
            await once(tasks, digest=b"another body")
        assert tasks.status()["tasks"]["total"] == 1


async def test_a_key_is_free_again_when_retention_has_dropped_its_task() -> None:
    async with open_test_manager(settings(keep_completed_tasks=1)) as tasks:
        old, _ = await once(tasks)
        await tasks.wait_for_task(old)
        newer, _ = await once(tasks, key="another")
        await tasks.wait_for_task(newer)
        again = await once(tasks, digest=b"another body")
        assert again.first
        assert again.task_id not in (old, newer)


async def test_without_retention_a_key_holds_while_its_task_lives() -> None:
    gate = Gate()
    async with open_test_manager(settings(keep_completed_tasks=0)) as tasks:
        task_id, _ = await once(tasks, gate)
        assert await once(tasks, gate) == Submission(task_id, first=False)
        gate.open()
        await tasks.wait_for_task(task_id)
        await turns()
        assert (await once(tasks, gate)).first


async def test_a_known_key_answers_while_the_queue_is_full_and_while_draining_and_a_new_one_is_refused() -> (
    None
):
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1, max_pending=1)) as tasks:
        running, _ = await once(tasks, gate)
        await gate.holds(1)
        await tasks.submit_task(nothing)
        assert await once(tasks) == Submission(running, first=False)
        with pytest.raises(TaskQueueFullError):
            await once(tasks, key="new")
        stopping = asyncio.create_task(tasks.shutdown(grace_seconds=1_000))
        await turns()
        assert await once(tasks) == Submission(running, first=False)
        gate.open()
        await stopping
        assert (await once(tasks, key="k")).task_id == running


async def test_repeats_that_wait_for_room_in_the_queue_become_one_task() -> None:
    gate = Gate()
    full = settings(max_concurrent_tasks=1, max_pending=1, when_full="wait")
    async with open_test_manager(full) as tasks:
        await tasks.submit_task(gate)
        await tasks.submit_task(gate)
        calls = [asyncio.create_task(once(tasks)) for _ in range(3)]
        await turns()
        assert not any(call.done() for call in calls)
        gate.open()
        answers = await asyncio.gather(*calls)
        assert len({answer.task_id for answer in answers}) == 1
        assert [answer.first for answer in answers] == [True, False, False]
        info = await tasks.wait_for_task(answers[0].task_id)
        assert info.status is TaskStatus.COMPLETED
        assert tasks.status()["tasks"]["total"] == 3
