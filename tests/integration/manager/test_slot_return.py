"""A task whose wait is over goes on before anything that is still pending starts."""

from __future__ import annotations

import asyncio
from typing import Any

from qorzen_obs.current import current_task
from qorzen_obs.settings import Settings, TaskSettings
from qorzen_obs.testing import open_test_manager, virtual_time


@virtual_time
async def test_the_slot_that_a_child_frees_goes_to_its_parent_and_not_to_the_next_pending_task() -> None:
    order: list[str] = []

    async def note(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append(name)

    async def parent() -> None:
        manager: Any = current_task().manager
        await manager.run(note, "child", 1, priority="critical")
        order.append("parent")

    async with open_test_manager(Settings(tasks=TaskSettings(max_concurrent_tasks=1))) as tasks:
        first = await tasks.submit_task(parent)
        last = await tasks.submit_task(note, "pending", 60)
        await tasks.wait_for_task(first)
        await tasks.wait_for_task(last)
    assert order == ["child", "parent", "pending"]
