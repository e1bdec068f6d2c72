"""GET /api/running: how the running tasks are doing right now."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import aiohttp
import pytest

from qorzen_obs import task
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.engines.traits import EXTERNAL, LOOP, PROCESS, THREAD, EngineTraits
from qorzen_obs.ledger import Meter
from qorzen_obs.record import TaskRecord, TaskState
from qorzen_obs.server.running import MAX_RUNS, USUAL_FOR_SECONDS, UsualSeconds, busy_share
from qorzen_obs.tasks import COMPLETED, FAILED, TaskStatus
from tests import process_tasks
from tests.services.ops_plane import SaidManager, get_json, managing, serving
from tests.services.process_service import process_service
from tests.support import PATIENCE_SECONDS, Gate, ThreadGate, attempt, record, until


def test_how_busy_a_thread_is_is_not_known_before_its_call_has_begun() -> None:
    waits = attempt(record(engine=THREAD))
    waits.meter = Meter(lambda: 0.0)
    assert busy_share(waits, 4.0) is None
    waits.meter.probe = lambda: 1.0
    assert busy_share(waits, 4.0) == 0.25


@pytest.mark.parametrize("engine", [EXTERNAL, PROCESS])
def test_how_busy_it_is_nobody_knows_where_no_engine_tells(engine: EngineTraits) -> None:
    runs = attempt(record(engine=engine))
    runs.meter = Meter(lambda: 0.0, use_seconds=1.0)
    assert busy_share(runs, 4.0) is None


def test_without_a_time_ledger_it_is_not_known() -> None:
    assert busy_share(attempt(record(engine=LOOP)), 4.0) is None


@task(engine="process")
def rest_in_a_process() -> None:
    time.sleep(60)


def by_id(document: Any) -> dict[str, Any]:
    return {item["task_id"]: item for item in document["items"]}


async def test_what_runs_is_listed_longest_running_first(session: aiohttp.ClientSession) -> None:
    gate = Gate()
    async with managing() as (manager, _), serving(manager) as plane:
        ids = [await manager.submit_task(gate, n) for n in range(3)]
        await gate.holds(3)
        document = await get_json(session, f"{plane.url}/api/running")
        assert [item["task_id"] for item in document["items"]] == ids
        assert document["total"] == 3
        elapsed = [item["elapsed_seconds"] for item in document["items"]]
        assert elapsed == sorted(elapsed, reverse=True)
        assert all(0 < seconds < PATIENCE_SECONDS for seconds in elapsed)

        first = await get_json(session, f"{plane.url}/api/running?limit=1")
        assert ([item["task_id"] for item in first["items"]], first["total"]) == (ids[:1], 3)
        gate.open()
        for task_id in ids:
            await manager.wait_for_task(task_id)
        assert (await get_json(session, f"{plane.url}/api/running"))["items"] == []


async def test_a_task_in_a_worker_process_has_its_pid(session: aiohttp.ClientSession) -> None:
    async with process_service() as service, serving(service.tasks) as plane:
        task_id, pid = await service.start(process_tasks.sleep_for_ever)
        on_the_loop = await service.tasks.submit_task(asyncio.sleep, 60)
        await until(lambda: service.tasks.status()["tasks"]["by_status"]["running"] == 2)
        found = by_id(await get_json(session, f"{plane.url}/api/running"))
        assert (found[task_id]["pid"], found[on_the_loop]["pid"]) == (int(pid), None)
        stack = await get_json(session, f"{plane.url}/api/tasks/{task_id}/stack")
        assert stack["pid"] == int(pid)
        assert int(pid) in service.engine["pids"]


async def test_a_parameter_that_is_not_known_is_refused(session: aiohttp.ClientSession) -> None:
    async with serving(SaidManager()) as plane:
        await get_json(session, f"{plane.url}/api/running?limits=1", 422)


async def test_it_says_what_each_awaits_and_for_whom_it_waits(session: aiohttp.ClientSession) -> None:
    gate, children = Gate(), list[str]()
    nobody = asyncio.get_running_loop().create_future()

    async def ask_nobody() -> None:
        await nobody

    async def parent(manager: TaskManager) -> None:
        children.append(await manager.submit_task(gate, name="child"))
        await manager.wait_for_task(children[0])

    with ThreadGate() as held:
        async with managing() as (manager, _), serving(manager) as plane:
            sleeper = await manager.submit_task(asyncio.sleep, 60)
            waiting = await manager.submit_task(parent, manager)
            asking = await manager.submit_task(ask_nobody)
            thread = await manager.submit_task(held)
            await gate.holds(1)
            await held.holds(1)
            found = by_id(await get_json(session, f"{plane.url}/api/running"))
            assert found[sleeper]["awaiting"] == "asyncio.sleep"
            assert found[children[0]]["awaiting"] == "asyncio.Event.wait"
            assert found[waiting]["waiting_for"] == children[0]
            assert (found[waiting]["waiting_for_name"], found[sleeper]["waiting_for_name"]) == ("child", None)
            assert found[asking]["awaiting"].startswith("a future in test_it_says_what")
            assert found[asking]["awaiting"].endswith(".ask_nobody")
            assert found[thread]["awaiting"] is None
            held.open()
            gate.open()
            nobody.set_result(None)


async def test_t7_the_name_of_what_is_awaited_shows_no_secret(session: aiohttp.ClientSession) -> None:
    async def wait_for_a_helper() -> None:
        await asyncio.create_task(asyncio.sleep(60), name="poll token=hunter2canary")

    async with managing() as (manager, _), serving(manager) as plane:
        task_id = await manager.submit_task(wait_for_a_helper)
        (attempt,) = manager.looks.attempts()
        await until(lambda: manager.looks.awaiting(attempt))
        found = by_id(await get_json(session, f"{plane.url}/api/running"))
        assert found[task_id]["awaiting"].startswith("asyncio task poll token=[redacted]")


async def test_the_usual_time_is_the_median_of_the_completed_runs_of_that_name(
    session: aiohttp.ClientSession,
) -> None:
    gate = Gate()

    async def failing() -> None:
        raise ValueError("no such host")

    async with managing() as (manager, _), serving(manager) as plane:
        ended = [await manager.submit_task(asyncio.sleep, 0, name="nap") for _ in range(3)]
        ended.append(await manager.submit_task(failing, name="mail"))
        infos = [await manager.wait_for_task(task_id) for task_id in ended]
        nap = await manager.submit_task(gate, name="nap")
        mail = await manager.submit_task(gate, name="mail")
        await gate.holds(2)
        found = by_id(await get_json(session, f"{plane.url}/api/running"))
        durations = sorted(info.duration_seconds or 0.0 for info in infos[:3])
        assert found[nap]["usual_seconds"] == durations[1] > 0
        assert found[mail]["usual_seconds"] is None, "what failed says nothing of how long it takes"
        gate.open()


def ended(name: str, seconds: float, status: TaskStatus = COMPLETED) -> TaskRecord:
    return record(name=name, state=TaskState(status, duration_seconds=seconds))


def test_what_is_usual_is_read_once_a_second() -> None:
    manager, moments = _Kept(), iter([10.0, 10.0 + USUAL_FOR_SECONDS / 2, 10.0 + USUAL_FOR_SECONDS])
    usual = UsualSeconds(manager, lambda: next(moments))
    manager.kept = [ended("a", 1.0)]
    assert usual.read() == {"a": 1.0}
    manager.kept = [ended("a", 1.0), ended("a", 3.0), ended("a", 9.0, FAILED)]
    assert usual.read() == {"a": 1.0}
    assert usual.read() == {"a": 2.0}


def test_only_the_last_runs_say_what_is_usual() -> None:
    manager = _Kept()
    manager.kept = [ended("a", 1.0)] * 2 * MAX_RUNS + [ended("a", 5.0)] * MAX_RUNS
    assert UsualSeconds(manager).read() == {"a": 5.0}


class _Kept(SaidManager):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[TaskRecord] = []

    def kept_records(self) -> list[TaskRecord]:
        return self.kept


async def test_busy_is_told_where_it_is_known_and_only_there(session: aiohttp.ClientSession) -> None:
    stop, spins = threading.Event(), threading.Event()

    def spin() -> None:
        while not stop.is_set():
            spins.set()

    with ThreadGate() as held:
        async with managing() as (manager, _), serving(manager) as plane:
            idle = await manager.submit_task(asyncio.sleep, 60)
            spinning = await manager.submit_task(spin)
            sleeping = await manager.submit_task(held)
            process = await manager.submit_task(rest_in_a_process)
            await until(spins.is_set)
            await held.holds(1)
            await until(lambda: manager.find(process).started_at)  # type: ignore[union-attr]
            try:
                found = by_id(await get_json(session, f"{plane.url}/api/running"))
                assert found[idle]["busy_share"] < 0.5
                assert 0 < found[spinning]["busy_share"] <= 1
                assert found[sleeping]["busy_share"] < 0.5
                assert found[process]["busy_share"] is None, "its worker tells when it has ended"
            finally:
                stop.set()
                held.open()
