"""Rebuilding a result or an exception runs code of its class. Whatever that does, the service and its loop go on."""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from qorzen_obs.engines.processes.side_threads import SideThreads
from qorzen_obs.errors import FarTaskError, TaskTransferError
from qorzen_obs.settings import EngineSettings
from qorzen_obs.stacks import RUNNING
from qorzen_obs.tasks import TaskStatus
from tests import process_tasks as work
from tests.services.process_service import engine_of, process_service
from tests.support import until


@pytest.mark.parametrize("only_there", [False, True], ids=["everywhere", "in the service"])
@pytest.mark.parametrize(
    ("act", "args"),
    [
        (sys.exit, (3,)),
        (work.raise_on_arrival, (KeyboardInterrupt,)),
        (work.raise_on_arrival, (GeneratorExit,)),
        (work.raise_on_arrival, (asyncio.CancelledError,)),
        (work.raise_on_arrival, (RecursionError,)),
        (work.raise_on_arrival, (MemoryError,)),
    ],
    ids=[
        "SystemExit",
        "KeyboardInterrupt",
        "GeneratorExit",
        "CancelledError",
        "RecursionError",
        "MemoryError",
    ],
)
async def test_f37_a_result_that_raises_on_being_rebuilt_fails_its_task_and_nothing_else(
    act: Callable[..., Any], args: tuple[Any, ...], *, only_there: bool
) -> None:
    async with process_service() as service:
        with pytest.raises(TaskTransferError, match="the result cannot be"):
            await service.tasks.run(work.return_what_runs, act, *args, only_there=only_there)
        assert await service.tasks.run(work.echo, ["alive"]) == ["alive"]


@pytest.mark.parametrize("act", [os._exit, os.abort], ids=["exit", "abort"])
async def test_f37_a_result_that_ends_its_process_on_being_rebuilt_ends_its_worker(
    act: Callable[..., Any],
) -> None:
    async with process_service() as service:
        args = (3,) if act is os._exit else ()
        assert (await service.end(work.return_what_runs, act, *args)).error_type == "lost"
        assert await service.tasks.run(work.echo, ["alive"]) == ["alive"]


async def test_a_result_that_blocks_on_being_rebuilt_holds_neither_the_loop_nor_its_slot() -> None:
    async with process_service(grace_seconds=0.05) as service:
        try:
            task_id = await service.tasks.submit_task(work.return_what_runs, work.hold_up, only_there=True)
            await until(work.ARRIVED.is_set)
            (attempt,) = service.tasks.looks.attempts()
            stack = engine_of(service.tasks).stack(attempt)
            assert stack.state == RUNNING
            assert "hold_up" in {frame.function for frame in stack.frames}
            await service.tasks.cancel_task(task_id)
            info = await service.tasks.wait_for_task(task_id)
            assert (info.status, info.abandoned) == (TaskStatus.CANCELLED, True)
            results = [await service.tasks.run(work.echo, ["alive"]) for _ in range(4)]
            assert results == [["alive"]] * 4
            assert service.engine["workers"] <= 3
        finally:
            work.GATE.set()
        await until(lambda: service.tasks.looks.metrics.dropped["late_result"])


async def test_f37_a_timeout_ends_a_result_that_blocks_its_worker() -> None:
    async with process_service(grace_seconds=0.05) as service:
        info = await service.end(work.return_what_runs, work.hold_up, timeout=0.5)
        assert (info.error_type, info.abandoned) == ("timeout", False)


async def test_f37_an_exception_that_raises_on_being_rebuilt_keeps_its_name_and_message() -> None:
    async with process_service() as service:
        with pytest.raises(FarTaskError, match="RaisesOnArrival: first"):
            await service.tasks.run(work.raise_what_raises_on_arrival)


async def test_a_class_keeps_what_it_has_in_the_service_when_a_result_of_it_arrives() -> None:
    work.Registered.made = 40
    async with process_service() as service:
        made, there = await service.tasks.run(work.make_registered)
        assert type(made) is work.Registered
        assert (work.Registered.made, there) == (40, 1)


async def test_f37_a_log_field_of_a_class_of_its_own_arrives_as_what_it_shows() -> None:
    async with process_service() as service:
        await service.end(work.log_a_number)
        (line,) = service.lines("counted")
        assert (line["number"], line["text"]) == (1, "text")


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, ValueError])
async def test_f37_an_argument_that_raises_on_being_pickled_fails_its_task(kind: type[BaseException]) -> None:
    async with process_service() as service:
        with pytest.raises(TaskTransferError, match=r"argument 1 .* cannot be sent to a worker process"):
            await service.tasks.run(work.echo, work.RaisesOnDeparture(kind))
        assert await service.tasks.run(work.echo, "alive") == "alive"


async def test_a_large_result_for_which_there_is_no_thread_fails_its_task_and_ends_its_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async with process_service(engines=EngineSettings(processes=1)) as service:
        pid = await service.tasks.run(work.pid)
        with monkeypatch.context() as patched:
            patched.setattr(SideThreads, "run", refuse)
            info = await service.end(work.large, 30_000_000)
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "MemoryError")
        assert "no thread or memory" in str(info.error)
        assert await service.tasks.run(work.pid) != pid
        await until(lambda: service.engine["workers"] == service.engine["idle"])
