"""Attempts that end in their first step may share an asyncio task; one that waits has one of its own."""

import asyncio

from qorzen_obs import TaskStatus
from qorzen_obs.testing import open_test_manager

N = 6


def current() -> asyncio.Task[None]:
    """Return the asyncio task; whoever keeps it keeps its id from being used again."""
    task = asyncio.current_task()
    assert task is not None
    return task


async def test_an_attempt_that_waits_shares_its_asyncio_task_with_no_other_that_waits() -> None:
    gate = asyncio.Event()
    before: list[asyncio.Task[None]] = []
    after: list[asyncio.Task[None]] = []

    async def waits() -> None:
        before.append(current())
        await gate.wait()
        after.append(current())

    async def ends_at_once() -> None:
        assert current() is not None

    async with open_test_manager() as tasks:
        ids = [await tasks.submit_task(func) for _ in range(N) for func in (ends_at_once, waits)]
        while len(before) < N:  # noqa: ASYNC110 - the code of the attempts says so, not an Event
            await asyncio.sleep(0)
        gate.set()
        for task_id in ids:
            assert (await tasks.wait_for_task(task_id)).status is TaskStatus.COMPLETED

    assert len(set(before)) == N
    assert set(after) == set(before)


async def test_an_asyncio_task_that_its_code_cancels_costs_no_other_attempt() -> None:
    ran = []

    async def cancels_at_the_third(number: int) -> None:
        ran.append(number)
        if number == 2:
            current().cancel()

    async with open_test_manager() as tasks:
        ids = [await tasks.submit_task(cancels_at_the_third, number) for number in range(N)]
        for task_id in ids:
            assert (await tasks.wait_for_task(task_id)).status is TaskStatus.COMPLETED

    assert ran == list(range(N))
