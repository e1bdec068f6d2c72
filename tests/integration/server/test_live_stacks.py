"""GET /api/tasks/{id}/stack on every engine, and /why: what the person on call asks of one task."""

import asyncio
import functools
import math
import os
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.errors import StackUnavailableError, TaskNotFoundError
from qorzen_obs.options import task, with_options
from qorzen_obs.record import TaskEvent
from qorzen_obs.stacks import STARTING, LiveStack
from qorzen_obs.tasks import EventKind, TaskCategory
from tests import process_tasks
from tests.services.ops_plane import managing, serving
from tests.services.process_service import process_service
from tests.support import PATIENCE_SECONDS, ThreadGate, until

HERE = str(Path(__file__))


async def ask(tasks: TaskManager, task_id: str, what: str = "stack") -> tuple[int, dict[str, Any]]:
    async with (
        serving(tasks) as plane,
        aiohttp.ClientSession(plane.url) as session,
        session.get(f"/api/tasks/{task_id}/{what}") as response,
    ):
        return response.status, await response.json(content_type=None)


def functions(document: dict[str, Any]) -> list[str]:
    return [frame["function"].rpartition(".")[2] for frame in document["frames"]]


async def test_a_coroutine_shows_what_it_awaits_through_all_that_lies_between() -> None:
    lock = asyncio.Lock()

    async def items() -> AsyncIterator[int]:
        async with lock:
            yield 1

    async def middle() -> None:
        async for _ in items():
            pass

    async def outer() -> None:
        await middle()

    async with managing() as (tasks, _), lock:
        task_id = await tasks.submit_task(outer)
        await until(lambda: lock._waiters)
        status, document = await ask(tasks, task_id)

    assert status == 200
    assert (document["engine"], document["state"]) == ("loop", "waiting")
    assert functions(document)[:3] == ["outer", "middle", "items"]
    assert document["awaiting"] == "asyncio.Lock.acquire"
    assert document["frames"][0]["file"] == HERE
    assert document["frames"][0]["code"] == "await middle()"
    assert document["taken_at"].endswith("Z")


async def test_asyncio_tasks_that_a_task_has_started_are_shown_with_it() -> None:
    async def child() -> None:
        await asyncio.sleep(60)

    async def parent() -> None:
        await asyncio.gather(child(), child())

    async with managing() as (tasks, _):
        other = await tasks.submit_task(asyncio.sleep, 60)
        task_id = await tasks.submit_task(parent)
        await until(lambda: len(((stack := tasks.looks.stack_of(task_id)) and stack.tasks) or ()) == 2)
        _, document = await ask(tasks, task_id)
        _, alone = await ask(tasks, other)

    assert document["awaiting"] == "asyncio.gather, 2 of 2 not done"
    assert [shown["awaiting"] for shown in document["asyncio_tasks"]] == ["asyncio.sleep"] * 2
    assert all("child" in shown["name"] for shown in document["asyncio_tasks"])
    assert (alone["asyncio_tasks"], alone["awaiting"]) == ([], "asyncio.sleep")


async def test_a_task_that_waits_for_another_names_it() -> None:
    async with managing() as (tasks, _):
        child = await tasks.submit_task(asyncio.sleep, 60)
        parent = await tasks.submit_task(tasks.wait_for_task, child)
        await until(lambda: (info := tasks.find(parent)) and info.waiting_for)
        _, document = await ask(tasks, parent)
    assert document["waiting_for"] == child


@pytest.mark.parametrize(
    ("func", "category"),
    [
        (functools.partial(asyncio.sleep, 0), TaskCategory.CORE),
        (os.getpid, TaskCategory.CORE),
        (os.getpid, TaskCategory.IO),
        (os.getpid, TaskCategory.UI),
    ],
    ids=["loop", "thread", "io", "main"],
)
async def test_a_task_is_starting_while_what_observes_its_start_blocks(
    func: Callable[..., Any], category: TaskCategory
) -> None:
    found: list[LiveStack | None] = []

    async with managing() as (tasks, _):
        with ThreadPoolExecutor(1) as elsewhere:

            def block(event: TaskEvent) -> None:
                found.append(
                    elsewhere.submit(tasks.looks.stack_of, event.record.task_id).result(PATIENCE_SECONDS)
                )

            tasks.observe("slow", block, [EventKind.STARTED])
            task_id = await tasks.submit_task(func, category=category)
            await tasks.wait_for_task(task_id)
        assert tasks.looks.metrics.telemetry_errors["slow"] == 0

    assert found == [LiveStack(STARTING)]


async def test_f22_stacks_are_shown_while_the_work_loop_is_wedged() -> None:
    let_go = threading.Event()
    holding = threading.Event()

    async def hold_the_loop() -> None:
        holding.set()
        assert let_go.wait(PATIENCE_SECONDS)

    found: dict[str, tuple[int, dict[str, Any]]] = {}

    async with managing() as (tasks, _), serving(tasks) as plane:
        with ThreadGate() as gate:
            ids = {
                "waiting": await tasks.submit_task(asyncio.sleep, 60),
                "thread": await tasks.submit_task(gate),
            }
            await gate.holds(1)
            later_id = await tasks.submit_task(with_options(asyncio.sleep, delay=1_000), 0)

            async def look() -> None:
                async with aiohttp.ClientSession(plane.url) as session:
                    for name, task_id in ids.items():
                        async with session.get(f"/api/tasks/{task_id}/stack") as response:
                            found[name] = response.status, await response.json()
                    for name, task_id in (*ids.items(), ("later", later_id), ("unknown", "x")):
                        async with session.get(f"/api/tasks/{task_id}/why") as response:
                            found[f"why {name}"] = response.status, await response.json(content_type=None)

            def look_from_a_thread() -> None:
                try:
                    assert holding.wait(PATIENCE_SECONDS)
                    noticed = tasks.looks.loop_block
                    while noticed() is None:  # the watchdog sees it soon
                        time.sleep(0.001)
                    asyncio.run(look())
                finally:
                    let_go.set()

            looking = threading.Thread(target=look_from_a_thread)
            looking.start()
            ids["wedged"] = await tasks.submit_task(hold_the_loop)
            await tasks.wait_for_task(ids["wedged"])
            await asyncio.to_thread(looking.join)

    assert {
        name: document["state"] for name, (_, document) in found.items() if not name.startswith("why")
    } == {
        "waiting": "waiting",
        "thread": "running",
        "wedged": "running",
    }
    assert functions(found["wedged"][1])[0] == "hold_the_loop"
    assert found["wedged"][1]["frames"][-1]["function"].endswith("wait")
    assert functions(found["thread"][1])[0] == "__call__"
    assert {found[f"why {name}"][0] for name in ids} == {200}
    assert found["why unknown"][0] == 404
    later = found["why later"][1]
    assert (later["status"], later["pending"], later["ahead"]) == ("pending", True, None)
    assert re.fullmatch(
        rf"the work loop, which is blocked for [\d.]+ s by task .*hold_the_loop \({ids['wedged']}\), at .*",
        later["held_by"],
    )
    assert 900 < later["eligible_in_seconds"] <= 1_000
    waiting = found["why waiting"][1]
    assert (waiting["status"], waiting["pending"]) == ("running", False)
    assert "hold_the_loop" in waiting["held_by"]


async def test_an_abandoned_thread_shows_where_it_still_is() -> None:
    async with managing(cancel_grace_seconds=0.05) as (tasks, _):
        with ThreadGate() as gate:
            task_id = await tasks.submit_task(gate)
            await gate.holds(1)
            await tasks.cancel_task(task_id)
            info = await tasks.wait_for_task(task_id)
            assert info.abandoned
            status, document = await ask(tasks, task_id)
        await until(lambda: tasks.looks.stack_of(task_id) is None)
    assert (status, document["state"]) == (200, "abandoned")
    assert functions(document)[0] == "__call__"


async def test_a_call_on_the_loop_s_own_thread_shows_its_stack() -> None:
    let_go, holding = threading.Event(), threading.Event()
    seen: list[Any] = []

    def draw() -> None:
        holding.set()
        assert let_go.wait(PATIENCE_SECONDS)

    async with managing() as (tasks, _):

        def look(task_id: str) -> None:
            assert holding.wait(PATIENCE_SECONDS)
            seen.append(tasks.looks.stack_of(task_id))
            let_go.set()

        task_id = await tasks.submit_task(draw, category=TaskCategory.UI)
        looking = threading.Thread(target=look, args=[task_id])
        looking.start()
        await tasks.wait_for_task(task_id)
        await asyncio.to_thread(looking.join)

    (stack,) = seen
    assert stack.state == "running"
    assert stack.frames[0].function.endswith("draw")


def patient_stack_of(tasks: TaskManager, task_id: str) -> LiveStack | None:
    """Ask until the worker answers: on a busy machine a second may be too short for it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return tasks.looks.stack_of(task_id)
        except StackUnavailableError:
            if time.monotonic() > end:
                raise


@pytest.mark.parametrize(
    "func",
    [
        process_tasks.spin,
        process_tasks.hold_the_gil,
        process_tasks.add_for_ever,
        process_tasks.sleep_for_ever,
    ],
)
async def test_a_worker_process_answers_whatever_its_code_does(func: Callable[..., Any]) -> None:
    async with process_service() as service:
        task_id, pid = await service.start(func)
        for _ in range(3):
            stack = await asyncio.to_thread(patient_stack_of, service.tasks, task_id)
            assert stack is not None
            assert (stack.state, stack.pid) == ("running", int(pid))
            assert stack.frames[0].function == func.__name__
            assert stack.frames[0].file == process_tasks.__file__
        info = service.tasks.find(task_id)
        assert info is not None
        assert info.status.value == "running"  # to be asked does nothing to it


@pytest.mark.slow
async def test_to_be_asked_over_and_over_does_nothing_to_a_worker_that_runs_python() -> None:
    async with process_service() as service:
        task_id, _ = await service.start(process_tasks.call_functions_for_ever)

        def ask_often() -> None:
            for _ in range(5_000):  # by faulthandler's handler alone it would die within some thousand
                assert patient_stack_of(service.tasks, task_id) is not None

        await asyncio.to_thread(ask_often)
        info = service.tasks.find(task_id)
        assert info is not None
        assert info.status.value == "running"


@task(engine="process", timeout=math.inf)
def fork_and_wait() -> None:
    """The child has the signal's default action, as any program's."""
    child = os.fork()
    if child == 0:
        time.sleep(600)
    process_tasks.say_pid()
    os.waitpid(child, 0)


@task(engine="process", timeout=math.inf)
def block_all_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    process_tasks.say_pid()
    time.sleep(600)


async def test_a_worker_that_has_forked_answers_for_itself() -> None:
    async with process_service() as service:
        task_id, _ = await service.start(fork_and_wait)
        stack = await asyncio.to_thread(service.tasks.looks.stack_of, task_id)
        assert stack is not None
        assert stack.frames[0].function == "fork_and_wait"


async def test_a_worker_that_does_not_answer_is_a_504() -> None:
    async with process_service() as service:
        task_id, _ = await service.start(block_all_signals)
        with pytest.raises(StackUnavailableError, match="does not answer"):
            await asyncio.to_thread(service.tasks.looks.stack_of, task_id)
        status, document = await ask(service.tasks, task_id)
    assert status == 504
    assert document["detail"] == "its worker process does not answer; ask again"


async def test_what_does_not_run_has_no_stack() -> None:
    async with managing(max_concurrent_tasks=1) as (tasks, _):
        ended = await tasks.submit_task(asyncio.sleep, 0)
        await tasks.wait_for_task(ended)
        await tasks.submit_task(asyncio.sleep, 60)
        pending = await tasks.submit_task(asyncio.sleep, 60)
        answers = [await ask(tasks, task_id) for task_id in (ended, pending, "unknown")]
        with pytest.raises(TaskNotFoundError):
            tasks.looks.stack_of("unknown")
    assert [status for status, _ in answers] == [409, 409, 404]
    assert [document["detail"] for _, document in answers][:2] == [
        "no code of this task runs now: it has ended",
        "no code of this task runs now: it is pending",
    ]


async def test_why_names_the_limit_and_what_is_ahead() -> None:
    async with managing(max_concurrent_tasks=1) as (tasks, _):
        running = await tasks.submit_task(asyncio.sleep, 60)
        ids = [await tasks.submit_task(functools.partial(asyncio.sleep, 60)) for _ in range(3)]
        answers = [await ask(tasks, task_id, "why") for task_id in (ids[-1], running, "unknown")]
    (status, why), (_, running_why), (unknown, _) = answers
    assert (status, unknown) == (200, 404)
    assert why == {
        "task_id": ids[-1],
        "status": "pending",
        "pending": True,
        "held_by": why["held_by"],
        "ahead": 2,
        "eligible_in_seconds": 0.0,
    }
    assert why["held_by"]
    assert running_why["pending"] is False
    assert running_why["status"] == "running"
