"""GET /api/pending: what waits, by priority, and what has waited longest."""

from __future__ import annotations

import aiohttp

from qorzen_obs import task
from qorzen_obs.server.pending import count_pending
from qorzen_obs.tasks import TaskCategory, TaskPriority
from tests.services.ops_plane import get_json, managing, serving
from tests.support import Gate, record

NOTHING = {"pending": 0, "scheduled": 0, "oldest_age_seconds": None, "oldest_task_id": None}


@task(delay=60)
def later() -> None: ...


async def test_what_waits_for_a_slot_and_for_its_time_is_told_apart_by_priority() -> None:
    gate = Gate()
    async with (
        managing(max_concurrent_tasks=1) as (manager, _),
        serving(manager) as plane,
        aiohttp.ClientSession() as session,
    ):
        await manager.submit_task(gate)
        await gate.holds(1)
        first, *_ = [await manager.submit_task(gate, priority="high") for _ in range(3)]
        await manager.submit_task(later, priority="high")
        await manager.submit_task(later, priority="low")
        async with session.get(f"{plane.url}/api/pending") as response:
            found = (await response.json())["by_priority"]
        age = found["high"].pop("oldest_age_seconds")
        assert 0 < age < 60
        assert found == {
            "low": {**NOTHING, "scheduled": 1},
            "normal": NOTHING,
            "high": {"pending": 3, "scheduled": 1, "oldest_task_id": first},
            "critical": NOTHING,
        }
        gate.open()


async def test_each_category_says_what_waits_runs_and_is_paused(session: aiohttp.ClientSession) -> None:
    gate = Gate()
    async with managing() as (manager, _), serving(manager) as plane:
        await manager.submit_task(gate)
        await gate.holds(1)
        await manager.pause("io")
        held = await manager.submit_task(gate, category="io")
        found = (await get_json(session, f"{plane.url}/api/pending"))["by_category"]
        assert set(found) == {category.value for category in TaskCategory}
        assert found["io"].pop("oldest_age_seconds") >= 0
        nothing = {**NOTHING, "running": 0, "paused": False}
        assert found["io"] == {
            "pending": 1,
            "scheduled": 0,
            "oldest_task_id": held,
            "running": 0,
            "paused": True,
        }
        assert found["core"] == {**nothing, "running": 1}
        assert found["background"] == nothing
        await manager.resume("io")
        gate.open()


def test_an_age_counts_from_when_the_task_could_start() -> None:
    waits = [
        record(task_id="retried", sequence=1, eligible_at=7.0),
        record(task_id="oldest", sequence=2, eligible_at=5.0),
        record(task_id="later", sequence=3, eligible_at=9.0),
    ]
    found = count_pending(waits, 8.0)[TaskPriority.NORMAL]
    assert (found.pending, found.scheduled) == (2, 1)
    assert (found.oldest_task_id, found.oldest_age_seconds) == ("oldest", 3.0)
