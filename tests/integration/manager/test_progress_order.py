"""Progress never falls, also where reports are coalesced."""

from __future__ import annotations

from qorzen_obs.current import current_task
from qorzen_obs.testing import open_test_manager, virtual_time


@virtual_time
async def test_of_reports_that_are_coalesced_the_highest_counts() -> None:
    async def reports() -> None:
        for percent in (10, 80, 30):
            current_task().progress(percent, f"{percent} is the newest")

    async with open_test_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(reports))
        assert (info.progress.percent, info.progress.message) == (80, "30 is the newest")
