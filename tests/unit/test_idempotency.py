"""A key is used once: for the same body it gives the first id, while that task is kept."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.core.idempotency import MAX_KEY_LENGTH, IdempotencyKeys, Submission
from qorzen_obs.errors import IdempotencyConflictError, InvalidTaskError, TaskQueueFullError
from tests.support import turns


class Tasks:
    """Submits tasks and forgets them, as a manager does."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.submitted = 0
        self.keys = IdempotencyKeys()
        self.gate: asyncio.Event | None = None
        self.problem: Exception | None = None

    async def submit(self) -> str:
        if self.gate is not None:
            await self.gate.wait()
        if self.problem is not None:
            raise self.problem
        self.submitted += 1
        self.kept.append(str(self.submitted))
        return self.kept[-1]

    async def submit_vanishing(self) -> str:
        task_id = await self.submit()
        self.evict(task_id)
        return task_id

    def once(
        self,
        name: str = "job",
        key: str = "k",
        digest: bytes = b"1",
        submit: Callable[[], Awaitable[str]] | None = None,
    ) -> Any:
        submit = submit or self.submit
        return self.keys.submit(name, key, digest, submit, is_kept=self.kept.__contains__)

    def evict(self, task_id: str) -> None:
        self.kept.remove(task_id)
        self.keys.forget(task_id)


async def test_the_same_key_and_body_give_the_first_id_and_submit_once() -> None:
    tasks = Tasks()
    assert await tasks.once() == Submission("1", first=True)
    assert await tasks.once() == Submission("1", first=False)
    assert tasks.submitted == 1


async def test_another_body_is_a_conflict_and_changes_nothing() -> None:
    tasks = Tasks()
    await tasks.once()
    with pytest.raises(IdempotencyConflictError) as conflict:
        await tasks.once(digest=b"2")
    assert (conflict.value.name, conflict.value.key, tasks.submitted) == ("job", "k", 1)
    assert await tasks.once() == Submission("1", first=False)


async def test_a_key_belongs_to_the_name_of_a_task() -> None:
    tasks = Tasks()
    assert (await tasks.once("job")).task_id == "1"
    assert await tasks.once("another job", digest=b"2") == Submission("2", first=True)


async def test_a_key_is_free_again_when_its_task_is_kept_no_more() -> None:
    tasks = Tasks()
    await tasks.once()
    tasks.evict("1")
    assert len(tasks.keys) == 0
    assert await tasks.once(digest=b"2") == Submission("2", first=True)


async def test_a_task_that_is_gone_before_its_id_is_known_holds_no_key() -> None:
    tasks = Tasks()
    assert (await tasks.once(submit=tasks.submit_vanishing)).first
    assert len(tasks.keys) == 0


async def test_a_repeat_that_comes_while_the_first_is_being_submitted_waits_for_its_id() -> None:
    tasks = Tasks()
    tasks.gate = asyncio.Event()
    calls = [asyncio.create_task(tasks.once()) for _ in range(3)]
    await turns()
    with pytest.raises(IdempotencyConflictError):
        await tasks.once(digest=b"2")
    tasks.gate.set()
    assert await asyncio.gather(*calls) == [Submission("1", first=number == 0) for number in range(3)]


@pytest.mark.parametrize("end", ["raised", "cancelled"])
async def test_a_submission_that_came_to_nothing_has_used_no_key(end: str) -> None:
    tasks = Tasks()
    tasks.gate = asyncio.Event()
    first, second = (asyncio.create_task(tasks.once()) for _ in range(2))
    await turns()
    if end == "raised":
        tasks.problem = TaskQueueFullError(10)
        tasks.gate.set()
        with pytest.raises(TaskQueueFullError):
            await first
        with pytest.raises(TaskQueueFullError):
            await second
        tasks.problem = None
        assert len(tasks.keys) == 0
        assert await tasks.once(digest=b"2") == Submission("1", first=True)
    else:
        first.cancel()
        await turns()
        tasks.gate.set()
        assert await second == Submission("1", first=True)


async def test_a_repeat_that_is_cancelled_leaves_the_first_alone() -> None:
    tasks = Tasks()
    tasks.gate = asyncio.Event()
    first, second = (asyncio.create_task(tasks.once()) for _ in range(2))
    await turns()
    second.cancel()
    await turns()
    tasks.gate.set()
    assert await first == Submission("1", first=True)
    assert await tasks.once() == Submission("1", first=False)


@pytest.mark.parametrize("key", ["", "x" * (MAX_KEY_LENGTH + 1), "a\nb", None, 7], ids=repr)
async def test_a_key_that_is_none_is_refused(key: Any) -> None:
    tasks = Tasks()
    with pytest.raises(InvalidTaskError, match="key: must be a text of 1 to 128"):
        await tasks.once(key=key)
    assert tasks.submitted == 0


async def test_the_longest_key_is_taken() -> None:
    assert (await Tasks().once(key="x" * MAX_KEY_LENGTH)).first


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("ab"), st.sampled_from("kl"), st.sampled_from([b"1", b"2"])),
            st.integers(0, 3),
        )
    )
)
def test_there_are_never_more_keys_than_kept_tasks(
    steps: list[tuple[str, str, bytes] | int],
) -> None:
    asyncio.run(_follow(steps))


async def _follow(steps: list[tuple[str, str, bytes] | int]) -> None:
    tasks = Tasks()
    used: dict[tuple[str, str], tuple[bytes, str]] = {}
    for step in steps:
        if isinstance(step, int):
            if tasks.kept:
                gone = tasks.kept[step % len(tasks.kept)]
                tasks.evict(gone)
                used = {place: use for place, use in used.items() if use[1] != gone}
            continue
        name, key, digest = step
        known = used.get((name, key))
        try:
            answer = await tasks.once(name, key, digest)
        except IdempotencyConflictError:
            assert known is not None
            assert known[0] != digest
        else:
            assert answer.first is (known is None)
            assert known is None or known == (digest, answer.task_id)
            used[name, key] = (digest, answer.task_id)
        assert len(tasks.keys) == len(used) == len(tasks.kept)
