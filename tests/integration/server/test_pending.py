"""GET /api/pending: what waits, by priority, and what has waited longest."""

from __future__ import annotations

import aiohttp

from qorzen_obs import task
from qorzen_obs.server.pending import count_pending
from qorzen_obs.tasks import TaskPriority
from tests.services.ops_plane import managing, serving
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


def test_an_age_counts_from_when_the_task_could_start() -> None:
    waits = [
        record(task_id="retried", sequence=1, eligible_at=7.0),
        record(task_id="oldest", sequence=2, eligible_at=5.0),
        record(task_id="later", sequence=3, eligible_at=9.0),
    ]
    found = count_pending(waits, 8.0)[TaskPriority.NORMAL]
    assert (found.pending, found.scheduled) == (2, 1)
    assert (found.oldest_task_id, found.oldest_age_seconds) == ("oldest", 3.0)
