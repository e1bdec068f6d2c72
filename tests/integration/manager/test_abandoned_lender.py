"""A task that is abandoned while it waits for its slot to come back wants it no more."""

from __future__ import annotations

import asyncio
from typing import Any

from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.current import current_task
from qorzen_obs.settings import Settings, TaskSettings
from qorzen_obs.tasks import TaskStatus
from qorzen_obs.testing import open_test_manager, virtual_time


@virtual_time
async def test_the_next_free_slot_does_not_go_to_an_abandoned_lender() -> None:
    stop = asyncio.Event()

    async def stubborn() -> None:
        manager: Any = current_task().manager
        branch = asyncio.ensure_future(manager.run(asyncio.sleep, 1))  # that nobody cancels
        while not stop.is_set():
            try:
                await stop.wait()
            except asyncio.CancelledError:
                continue
        await branch

    config = ConfigManager(Settings(tasks=TaskSettings(max_concurrent_tasks=2, max_abandoned=0)))
    async with open_test_manager(config=config) as tasks:
        lender = await tasks.submit_task(stubborn)
        await asyncio.sleep(0.5)
        other = await tasks.submit_task(asyncio.sleep, 3)
        await config.set("tasks.max_concurrent_tasks", 1)
        await asyncio.sleep(1)  # the child has ended, and the other task holds the only slot
        await tasks.cancel_task(lender)
        assert (await tasks.wait_for_task(lender)).abandoned
        assert (await tasks.wait_for_task(other)).status is TaskStatus.COMPLETED
        assert await tasks.run(asyncio.sleep, 1, "the slot is free") == "the slot is free"
        stop.set()
        await asyncio.sleep(1)
        assert tasks.status()["slots"]["loop"] == {"limit": 1, "busy": 0, "lent": 0, "abandoned": 0}
