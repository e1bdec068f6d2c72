"""A submission with a key can be repeated: it is one task, as long as that one is kept."""

import asyncio
import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydantic
import pytest

from qorzen_obs import TaskManager, TaskPriority, TaskStatus
from qorzen_obs.core.idempotency import Submission
from qorzen_obs.errors import IdempotencyConflictError, InvalidTaskError, TaskQueueFullError
from qorzen_obs.testing import open_test_manager
from tests.support import Gate, settings, turns


async def nothing() -> None:
    pass


def once(tasks: TaskManager, func: Any = nothing, *, key: str = "k", digest: bytes = b"body") -> Any:
    return tasks.submit_once(func, name="job", key=key, digest=digest)


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


# ---------------------------------------------------------------- its own digest


class Size(pydantic.BaseModel):
    width: int


def resize(path: Path, *sizes: Size, **options: object) -> None: ...


def convert(path: Path, key: str = "") -> None: ...


async def test_the_same_arguments_are_the_same_request_and_others_are_refused() -> None:
    path, size = Path("a.png"), Size(width=1)
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    async with open_test_manager() as tasks:
        first = await tasks.submit_once(
            resize, path, size, key="k", at=moment, tags={"b", "a"}, priority="high"
        )
        assert first.first
        again = await tasks.submit_once(
            functools.partial(resize, Path("a.png")),
            Size(width=1),
            key="k",
            priority="high",
            tags={"a", "b"},
            at=moment,
        )
        assert again == Submission(first.task_id, first=False)
        options = {"at": moment, "tags": {"b", "a"}, "priority": "high"}
        others: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            ((path, Size(width=2)), options),
            ((path, size), {"at": moment, "tags": {"b", "a"}}),
            ((path, size), {**options, "tags": {"b"}}),
            ((path,), options),
        ]
        for args, kwargs in others:
            with pytest.raises(IdempotencyConflictError):
                await tasks.submit_once(resize, *args, key="k", **kwargs)
        assert tasks.status()["tasks"]["total"] == 1
        info = await tasks.wait_for_task(first.task_id)
        assert (info.name, info.priority, info.status) == ("resize", TaskPriority.HIGH, TaskStatus.COMPLETED)


async def test_a_key_belongs_to_the_name_of_the_task() -> None:
    async with open_test_manager() as tasks:
        one = await tasks.submit_once(resize, Path("a"), key="k")
        other = await tasks.submit_once(resize, Path("b"), key="k", name="resize for the shop")
        third = await tasks.submit_once(nothing, key="k")
        assert (one.first, other.first, third.first) == (True, True, True)
        assert await tasks.submit_once(resize, Path("b"), key="k", name="resize for the shop") == Submission(
            other.task_id, first=False
        )


async def test_what_cannot_be_compared_needs_a_digest() -> None:
    class Broken:
        def __getattribute__(self, name: str) -> object:
            raise SystemExit

    circle: list[object] = []
    circle.append(circle)
    async with open_test_manager() as tasks:
        for odd in (object(), print, Size, Broken(), circle):
            with pytest.raises(InvalidTaskError, match="give digest=") as refused:
                await tasks.submit_once(nothing, odd, key="k")
            assert refused.value.argument == "digest"
        assert (await tasks.submit_once(resize, object(), key="k", digest=b"1")).first
        assert not (await tasks.submit_once(resize, object(), key="k", digest=b"1")).first
        assert tasks.status()["tasks"]["total"] == 1


async def test_a_key_that_the_callable_takes_too_is_refused_with_what_to_do() -> None:
    async with open_test_manager() as tasks:
        with pytest.raises(
            InvalidTaskError, match=r"convert has a parameter .* functools.partial\(…, key=…\)"
        ):
            await tasks.submit_once(convert, Path("a"), key="k")
        given = functools.partial(convert, key="theirs")
        assert (await tasks.submit_once(given, Path("a"), key="k")).first
