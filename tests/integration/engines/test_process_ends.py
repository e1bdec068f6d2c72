"""What is left of worker processes when they end: nothing that they would have cleaned up themselves."""

import multiprocessing
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from qorzen_obs.engines.processes import engine
from qorzen_obs.engines.processes.channel import RESULT, Frame, FrameReader
from qorzen_obs.settings import EngineSettings
from qorzen_obs.tasks import TaskStatus
from tests import process_tasks as work
from tests.services.process_service import engine_of, process_service
from tests.support import PATIENCE_SECONDS, until

SHARED_MEMORY = Path("/dev/shm")


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_idle_workers_run_their_exit_handlers_at_a_stop(tmp_path: Path) -> None:
    async with process_service() as service:
        segment = await service.tasks.run(work.leave_things, str(tmp_path))
        assert (SHARED_MEMORY / segment).exists()
        assert len(names_in(tmp_path)) == 1
    assert names_in(tmp_path) == ["exit handler ran"]
    assert not (SHARED_MEMORY / segment).exists()


async def test_a_worker_that_has_had_its_number_of_tasks_runs_its_exit_handlers(tmp_path: Path) -> None:
    settings = EngineSettings(processes=1, process_tasks_per_worker=1)
    async with process_service(engines=settings) as service:
        await service.tasks.run(work.leave_things, str(tmp_path))
        await service.tasks.run(work.until_exists, str(tmp_path / "exit handler ran"))


async def test_a_worker_that_does_not_end_by_itself_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LEAVE_SECONDS", 0.1)
    async with process_service() as service:
        pid = await service.tasks.run(work.never_leave)
        assert is_there(pid)
    assert not is_there(pid)


async def test_shared_memory_of_a_task_that_was_killed_is_cleaned_up() -> None:
    async with process_service(grace_seconds=0.05) as service:
        task_id, segment = await service.start(work.share_memory_and_spin)
        assert (SHARED_MEMORY / segment).exists()
        await service.tasks.cancel_task(task_id)
        info = await service.tasks.wait_for_task(task_id)
        assert (info.status, info.abandoned) == (TaskStatus.CANCELLED, False)
        assert not (SHARED_MEMORY / segment).exists()


async def test_a_queue_of_a_multiprocessing_manager_is_shared_with_tasks() -> None:
    with multiprocessing.get_context("spawn").Manager() as manager:
        queue: Any = manager.Queue()
        assert queue.empty()  # this process's connection to it is there from now on
        async with process_service() as service:
            back = await service.tasks.run(work.use_queue, queue, "from the worker")
            assert queue.get(timeout=PATIENCE_SECONDS) == "from the worker"
            back.put("from its result")
            assert queue.get(timeout=PATIENCE_SECONDS) == "from its result"


async def test_a_working_directory_that_was_removed_costs_no_task(tmp_path: Path) -> None:
    before = Path.cwd()
    async with process_service(engines=EngineSettings(processes=1)) as service:
        gone = tmp_path / "gone"
        gone.mkdir()
        os.chdir(gone)
        try:
            shutil.rmtree(gone)
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(sys, "path", ["", *sys.path])
                assert await service.tasks.run(work.echo, 1) == 1
                assert await service.tasks.run(work.add, 1, 2) == 3
        finally:
            os.chdir(before)


@pytest.mark.parametrize("where", ["surroundings", "far_side"])
async def test_whatever_fails_at_the_start_fails_the_attempt_and_leaves_nothing(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with process_service(engines=EngineSettings(processes=1)) as service:
        await service.tasks.run(work.echo, 1)

        def fail(*_: object) -> Any:
            raise LookupError("not now")

        with monkeypatch.context() as patched:
            if where == "surroundings":
                patched.setattr("qorzen_obs.core.remote.RemoteTelemetry.surroundings", fail)
            else:
                patched.setattr(engine, "find_script", fail)
            info = await service.end(work.echo, 2)
        assert (info.status, info.error_type, info.error) == (TaskStatus.FAILED, "LookupError", "not now")
        assert service.tasks.status()["slots"]["process"]["busy"] == 0
        assert await service.tasks.run(work.echo, 3) == 3


async def test_a_worker_that_cannot_be_started_fails_the_attempt_and_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with process_service(engines=EngineSettings(processes=1)) as service:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", "/not/there")
            info = await service.end(work.echo, 1)
            assert info.error is not None
            assert "no worker process can be started" in info.error
            assert "/not/there" in str(service.engine["degraded"])
        assert await service.tasks.run(work.echo, 2) == 2
        assert service.engine["degraded"] is None


async def test_a_frozen_program_refuses_process_tasks_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    async with process_service() as service:
        info = await service.end(work.echo, 1)
        assert info.error is not None
        assert "a frozen program" in info.error
        assert "a frozen program" in service.engine["degraded"]
        assert service.engine["workers"] == 0


@pytest.mark.parametrize("arrives", [True, False], ids=["it arrives", "it does not"])
async def test_a_large_result_on_its_way_at_a_stop_watches_no_descriptor_afterwards(
    monkeypatch: pytest.MonkeyPatch, *, arrives: bool
) -> None:
    gate, watched = threading.Event(), []

    def read_large(_: FrameReader) -> Frame:
        gate.wait()
        if not arrives:
            raise EOFError
        return Frame(RESULT, bytearray(), ())

    monkeypatch.setattr(FrameReader, "read_large", read_large)
    async with process_service() as service:
        await service.start(work.large, 30_000_000)
        processes = engine_of(service.tasks)
        await until(lambda: any(worker._receiving for worker in processes._workers))
        (worker,) = (worker for worker in processes._workers if worker._receiving)
        processes.close()
        for name in ("add_reader", "remove_reader"):
            monkeypatch.setattr(worker._loop, name, lambda channel, *_: watched.append(channel))
        gate.set()
        await until(lambda: worker._receiving is None)
        monkeypatch.undo()
        await processes.wait_closed()
    assert worker._channel not in watched
