"""Killing (F7, F8, F10, D18): what will not stop is killed, what dies takes nobody along, nothing is left."""

import asyncio
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qorzen_obs.engines.processes import keepers
from qorzen_obs.settings import EngineSettings
from qorzen_obs.tasks import TaskStatus
from tests import process_tasks as work
from tests.services.process_service import Deaths, engine_of, guardians, process_service
from tests.support import PATIENCE_SECONDS

THREE = EngineSettings(processes=3)


@pytest.mark.parametrize("subject", [work.spin, work.hold_the_gil, work.async_stubborn])
async def test_f7_a_task_that_ignores_everything_is_killed_at_the_end_of_the_grace(subject: object) -> None:
    async with process_service(grace_seconds=0.2) as service:
        task_id, pid = await service.start(subject)  # type: ignore[arg-type]  # a parameter of pytest
        deaths = Deaths([int(pid)])
        await service.tasks.cancel_task(task_id)
        info = await service.tasks.wait_for_task(task_id)
        assert info.status is TaskStatus.CANCELLED
        assert not info.abandoned
        assert info.cancel_guarantee == "kill"
        assert deaths.within(0)


async def test_f7_a_timeout_ends_a_stubborn_task_as_a_timeout() -> None:
    async with process_service(grace_seconds=0.1) as service:
        info = await service.end(work.spin, timeout=0.3)
        assert (info.status, info.error_type, info.abandoned) == (TaskStatus.FAILED, "timeout", False)


async def test_a_task_that_looks_at_its_token_ends_by_itself() -> None:
    async with process_service(grace_seconds=30) as service:
        told, _ = await service.start(work.until_told)
        gives_in, _ = await service.start(work.until_cancelled)
        for task_id in (told, gives_in):
            await service.tasks.cancel_task(task_id)
        info = await service.tasks.wait_for_task(told)
        assert (info.status, info.result) == (TaskStatus.COMPLETED, "told")
        assert (await service.tasks.wait_for_task(gives_in)).status is TaskStatus.CANCELLED
        assert await service.tasks.run(work.echo, "the workers live") == "the workers live"


@pytest.mark.parametrize("seconds", [math.inf, 1e10, 1e308, 10**400], ids=["inf", "1e10", "1e308", "10**400"])
async def test_a_task_may_wait_for_its_token_as_long_as_it_likes(seconds: float) -> None:
    async with process_service(grace_seconds=30) as service:
        task_id, _ = await service.start(work.told_within, seconds)
        await service.tasks.cancel_task(task_id)
        assert (await service.tasks.wait_for_task(task_id)).result is True


async def test_an_async_task_is_cancelled_at_its_await() -> None:
    async with process_service(grace_seconds=30) as service:
        task_id, _ = await service.start(work.async_forever)
        await service.tasks.cancel_task(task_id)
        assert (await service.tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED


async def test_a_task_is_cancelled_while_its_worker_is_still_starting() -> None:
    async with process_service(grace_seconds=30) as service:
        task_id = await service.tasks.submit_task(work.spin)
        await service.tasks.cancel_task(task_id)
        assert (await service.tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED
        assert await service.tasks.run(work.echo, 1) == 1


async def test_a_timeout_passes_while_the_worker_is_still_starting() -> None:
    async with process_service() as service:
        info = await service.end(work.spin, timeout=0.001)
        assert (info.error_type, info.abandoned) == ("timeout", False)


async def test_a_kill_that_the_guardian_does_not_follow_is_done_by_the_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keepers, "KILL_GROUP_SECONDS", 0.1)
    async with process_service(grace_seconds=0.05) as service:
        task_id, pid = await service.start(work.spin)
        for guardian in guardians():
            os.kill(guardian, signal.SIGSTOP)
        deaths = Deaths([int(pid)])
        await service.tasks.cancel_task(task_id)
        info = await service.tasks.wait_for_task(task_id)
        assert (info.status, info.abandoned) == (TaskStatus.CANCELLED, False)
        assert deaths.within(PATIENCE_SECONDS)
        for guardian in guardians():
            os.kill(guardian, signal.SIGCONT)


async def test_f8_a_killed_worker_fails_its_own_task_and_no_other() -> None:
    async with process_service(engines=THREE) as service:
        running = [await service.start(work.until_told) for _ in range(2)]
        victim, pid = await service.start(work.spin)
        os.kill(int(pid), signal.SIGKILL)
        info = await service.tasks.wait_for_task(victim)
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "lost")
        assert info.error is not None
        assert "SIGKILL" in info.error
        for task_id, _ in running:
            await service.tasks.cancel_task(task_id)
            assert (await service.tasks.wait_for_task(task_id)).result == "told"


@pytest.mark.slow
async def test_f8_a_worker_killed_in_the_middle_of_400_mb_hurts_no_neighbour() -> None:
    chance = random.Random(8)
    async with process_service(engines=THREE) as service:
        outcomes = set()
        for round_number in range(8):
            neighbours = [asyncio.create_task(service.tasks.run(work.large, 20_000_000)) for _ in range(2)]
            # A name for each round, or the name would be quarantined.
            victim, pid = await service.start(work.large, 400_000_000, name=f"victim {round_number}")
            await asyncio.sleep(chance.uniform(0, 0.3))  # the subject: somewhere in the middle
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pytest.fail("the worker died by itself")
            outcomes.add((await service.tasks.wait_for_task(victim)).error_type)
            for neighbour in neighbours:
                assert len(await neighbour) == 20_000_000
        assert "lost" in outcomes
        assert outcomes <= {"lost", None}


async def test_f8_a_worker_that_dies_idle_is_replaced_unseen() -> None:
    async with process_service() as service:
        first = await service.tasks.run(work.pid)
        deaths = Deaths([first])
        os.kill(first, signal.SIGKILL)
        pids = [await service.tasks.run(work.pid) for _ in range(3)]
        assert deaths.within(PATIENCE_SECONDS)
        assert first not in pids


async def test_a_call_that_had_not_begun_is_given_to_another_worker() -> None:
    async with process_service() as service:
        first = await service.tasks.run(work.pid)
        os.kill(first, signal.SIGSTOP)
        task_ids = [await service.tasks.submit_task(work.pid) for _ in range(2)]
        os.kill(first, signal.SIGKILL)
        results = [(await service.tasks.wait_for_task(task_id)).result for task_id in task_ids]
        assert first not in results
        assert None not in results


async def test_a_call_that_had_begun_is_never_run_again(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    async with process_service() as service:
        info = await service.end(work.die_once, str(marker))
        assert info.error_type == "lost"
    assert marker.read_text() == "begun\n"


async def test_a_spare_is_ready_when_a_worker_dies() -> None:
    async with process_service() as service:
        task_id, pid = await service.start(work.spin)
        await service.tasks.run(work.echo)  # the spare is up
        os.kill(int(pid), signal.SIGKILL)
        await service.tasks.wait_for_task(task_id)
        assert service.engine["idle"] >= 1


async def test_a_worker_is_replaced_after_its_number_of_tasks() -> None:
    async with process_service(engines=EngineSettings(processes=1, process_tasks_per_worker=2)) as service:
        pids = [await service.tasks.run(work.pid) for _ in range(6)]
        assert len(set(pids)) == 3


SERVICE = """
import asyncio, os, sys
from tests.services.process_service import process_service
from tests import process_tasks as work

async def main():
    async with process_service() as service:
        _, pids = await service.start(work.start_grandchildren)
        _, other = await service.start(work.hold_the_gil)
        print(pids, other, flush=True)  # noqa: T201 - the figure
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_f10_nothing_survives_a_killed_service() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 5
        deaths = Deaths(pids)
        parent.kill()
        killed = time.perf_counter()
        assert deaths.within(PATIENCE_SECONDS)
        took = time.perf_counter() - killed
    print(f"from the service's death to the last grandchild's: {took * 1e3:.1f} ms, 100 ms is to beat")  # noqa: T201 - the figure


async def test_a_killed_task_takes_its_grandchildren_along() -> None:
    async with process_service(grace_seconds=0.05) as service:
        task_id, pids = await service.start(work.start_grandchildren)
        deaths = Deaths(map(int, pids.split()))
        await service.tasks.cancel_task(task_id)
        await service.tasks.wait_for_task(task_id)
        assert deaths.within(0)


async def test_a_killed_guardian_takes_its_worker_along() -> None:
    async with process_service() as service:
        task_id, pid = await service.start(work.spin)
        deaths = Deaths([int(pid)])
        for guardian in guardians():
            os.kill(guardian, signal.SIGKILL)
        info = await service.tasks.wait_for_task(task_id)
        assert info.error_type == "lost"
        assert deaths.within(PATIENCE_SECONDS)
        assert await service.tasks.run(work.echo, "again") == "again"


async def test_closing_the_engine_does_not_wait_for_what_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "KILL_GROUP_SECONDS", PATIENCE_SECONDS)
    async with process_service(grace_seconds=0.1) as service:
        _, pid = await service.start(work.hold_the_gil)
        lives, deaths = Deaths([int(pid)]), Deaths([int(pid)])
        engine = engine_of(service.tasks)
        for guardian in guardians():
            os.kill(guardian, signal.SIGSTOP)  # nobody kills the worker meanwhile
        engine.close()
        assert not lives.within(0)
        for guardian in guardians():
            os.kill(guardian, signal.SIGCONT)
        await engine.wait_closed()
        assert deaths.within(0)
