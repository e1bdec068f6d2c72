"""What is raised in the middle of a step, and tables that do not agree: nothing of either stays (F38)."""

import asyncio
import contextlib
import functools
import sys
from collections import Counter
from typing import Any

import pytest

from qorzen_obs import TaskManager, TaskStatus, current_task
from qorzen_obs.core.event_bus_manager import Event, EventBusManager
from qorzen_obs.core.runtime import ManagerState
from qorzen_obs.engines.loop import LoopEngine
from qorzen_obs.record import Attempt
from qorzen_obs.tasks import EngineKind
from qorzen_obs.telemetry import names
from qorzen_obs.testing import CapturedEvents, CapturedLogs, open_test_manager
from tests.support import PATIENCE_SECONDS, Gate, metric, settings, turns, virtual_time


def counts(tasks: TaskManager) -> dict[str, int]:
    """How many tasks there are by status, of those that have any."""
    by_status: dict[str, int] = tasks.status()["tasks"]["by_status"]
    return {status: number for status, number in by_status.items() if number}


def busy(tasks: TaskManager) -> int:
    """How many slots are held."""
    return sum(slots["busy"] + slots["lent"] for slots in tasks.status()["slots"].values())


async def leaf() -> None:
    """Do nothing."""


async def until_set(event: asyncio.Event) -> None:
    """Return when the event is set, and swallow every request to stop."""
    while not event.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await event.wait()


async def test_f38_a_task_that_recurses_while_it_submits_leaves_no_phantom_behind() -> None:
    submitted: list[str] = []

    async def crawl(number: int) -> None:
        submitted.append(await current_task().manager.submit_task(leaf))
        await crawl(number + 1)

    async with open_test_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(crawl, 0))
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "RecursionError")
        await tasks.shutdown(grace_seconds=5)
        assert counts(tasks) == {"completed": len(submitted), "failed": 1}


@pytest.mark.parametrize("limit", [{}, {"max_concurrent_tasks": 1}])
async def test_f38_submitting_is_all_or_nothing_at_any_depth_of_the_callers_stack(
    limit: dict[str, Any],
) -> None:
    async def below(depth: int, call: Any) -> Any:
        return await (call() if depth == 0 else below(depth - 1, call))

    accepted, refused = 0, 0
    async with open_test_manager(settings(**limit)) as tasks:
        for depth in range(sys.getrecursionlimit()):
            try:
                await below(depth, lambda: tasks.submit_task(leaf))
                accepted += 1
            except RecursionError:
                refused += 1
                if refused == 40:
                    break
        await tasks.shutdown(grace_seconds=60)
        assert counts(tasks) == {"completed": accepted}
        assert busy(tasks) == 0
        assert metric(tasks.registry, names.TELEMETRY_ERRORS.name + "_total", component="consistency") == 0


async def through_submit(tasks: TaskManager) -> Any:
    return (await tasks.wait_for_task(await tasks.submit_task(leaf))).result


async def through_start(tasks: TaskManager) -> Any:
    return await (await tasks.start(leaf))


async def through_start_all(tasks: TaskManager) -> Any:
    return await asyncio.gather(*await tasks.start_all([leaf, leaf]))


@pytest.mark.parametrize(
    "call",
    [lambda tasks: tasks.run(leaf), through_submit, through_start, through_start_all],
    ids=["run", "submit_task", "start", "start_all"],
)
async def test_f38_who_waits_at_any_depth_of_the_stack_is_answered(call: Any) -> None:
    """Nobody looks, and no other step comes by, to repair what was interrupted."""

    async def below(depth: int) -> Any:
        return await (call(tasks) if depth == 0 else below(depth - 1))

    refused = 0
    limit = sys.getrecursionlimit()
    for depth in range(limit - 100, limit):
        async with open_test_manager() as tasks:
            try:
                await asyncio.wait_for(below(depth), PATIENCE_SECONDS)
            except RecursionError:
                refused += 1
    assert refused


async def wants_a_reporter(progress_reporter: Any) -> str:
    progress_reporter(100)
    return "reported"


class Callable:
    async def __call__(self, progress_reporter: Any) -> str:
        return await wants_a_reporter(progress_reporter)


class CallableThatIsAsked(Callable):
    """Its own code is run by whoever looks at it."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@pytest.mark.parametrize(
    "func",
    [
        functools.partial(wants_a_reporter),
        Callable(),
        Callable().__call__,
        CallableThatIsAsked(),
        functools.partial(CallableThatIsAsked()),
    ],
    ids=["partial", "object", "method", "object that is asked", "partial of an object"],
)
async def test_f38_a_callable_is_known_for_what_it_is_at_any_depth_of_the_callers_stack(func: Any) -> None:
    async def below(depth: int, call: Any) -> Any:
        return await (call() if depth == 0 else below(depth - 1, call))

    accepted, refused = [], 0
    limit = sys.getrecursionlimit()
    async with open_test_manager() as tasks:
        for depth in range(limit - 200, limit):
            try:
                accepted.append(await below(depth, lambda: tasks.submit_task(func)))
            except RecursionError:
                refused += 1
        ends = [await tasks.wait_for_task(task_id) for task_id in accepted]
    assert {(end.status, end.engine, end.result) for end in ends} == {
        (TaskStatus.COMPLETED, EngineKind.LOOP, "reported")
    }
    assert refused


async def test_what_is_raised_for_want_of_memory_while_a_callable_is_looked_at_refuses_it() -> None:
    class Job:
        @property  # type: ignore[misc]  # on purpose
        def __class__(self) -> Any:
            raise MemoryError

        def __call__(self) -> None: ...

    async with open_test_manager() as tasks:
        with pytest.raises(MemoryError):
            await tasks.submit_task(Job())
        assert counts(tasks) == {}


def forget_in_the_queue(tasks: TaskManager, pending: str) -> None:
    scheduler = tasks._lifecycle._scheduler
    assert scheduler.remove(tasks._table.live[pending])


def hold_a_slot_for_nobody(tasks: TaskManager, pending: str) -> None:
    tasks._lifecycle._scheduler.limits.take(tasks._table.live[pending].category, "loop")


def lose_the_end(tasks: TaskManager, pending: str) -> None:
    (attempt,) = tasks._table.running.values()
    attempt.settled = True


def count_one_too_many(tasks: TaskManager, pending: str) -> None:
    tasks._lifecycle._counts.accept(0)


def list_one_that_has_ended(tasks: TaskManager, pending: str) -> None:
    record = tasks._table.live[pending]
    tasks._lifecycle.cancel(record, "not wanted")
    tasks._table.live[pending] = record


BREAKS = [
    forget_in_the_queue,
    hold_a_slot_for_nobody,
    lose_the_end,
    count_one_too_many,
    list_one_that_has_ended,
]


@pytest.mark.parametrize("how", BREAKS, ids=lambda how: how.__name__)
@pytest.mark.parametrize("by", ["status", "shutdown"])
@virtual_time
async def test_f38_tables_that_disagree_are_counted_logged_and_repaired(how: Any, by: str) -> None:
    gate, logs = Gate(), CapturedLogs()
    async with open_test_manager(settings(max_concurrent_tasks=1), logs=logs) as tasks:
        running = await tasks.submit_task(gate)
        pending = await tasks.submit_task(leaf)
        await turns()
        how(tasks, pending)
        if by == "status":
            tasks.status()
            await turns()
            assert counts(tasks) in ({"running": 1, "pending": 1}, {"running": 1, "cancelled": 1})
            assert busy(tasks) == 1
            gate.open()
            await tasks.wait_for_task(running)
            assert (await tasks.wait_for_task(pending)).status.final
        began = asyncio.get_running_loop().time()
        await tasks.shutdown(grace_seconds=0)
        assert asyncio.get_running_loop().time() - began < 10
        final = counts(tasks)
        assert sum(final.values()) == 2
        assert not {"pending", "running"} & final.keys()
        assert metric(tasks.registry, names.TELEMETRY_ERRORS.name + "_total", component="consistency") > 0
        assert logs.of(names.LOG_INCONSISTENT)[0]["problem"]


@virtual_time
async def test_f38_a_stop_is_bounded_whatever_the_tables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    async with open_test_manager(settings(cancel_grace_seconds=1)) as tasks:
        task_id = await tasks.submit_task(gate)
        await turns()
        waiting = asyncio.create_task(tasks.wait_for_task(task_id))
        monkeypatch.setattr(tasks._lifecycle, "_end", lambda *_: None)
        began = asyncio.get_running_loop().time()
        await tasks.shutdown(grace_seconds=2)
        assert asyncio.get_running_loop().time() - began < 10
        info = await waiting
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "lost_track")
        assert counts(tasks) == {"failed": 1}
        gate.open()


@virtual_time
async def test_f38_a_task_that_is_given_up_frees_its_slot_is_announced_and_its_code_is_watched_till_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck, other, events = asyncio.Event(), Gate(), CapturedEvents()
    async with open_test_manager(settings(max_concurrent_tasks=2), events=events) as tasks:
        given_up = await tasks.submit_task(until_set, stuck)
        neighbour = await tasks.submit_task(other)
        await turns()
        watch = tasks._lifecycle.runner.watch

        def fails_for_one(attempt: Attempt) -> None:
            if attempt.task_id == given_up:
                raise OSError("a timer that cannot be made")
            watch(attempt)

        monkeypatch.setattr(tasks._lifecycle.runner, "watch", fails_for_one)
        tasks._lifecycle._runtime.interruption = RecursionError()
        pending = await tasks.submit_task(leaf)  # what is wrong with one task refuses no other
        await asyncio.sleep(1)
        info = await tasks.wait_for_task(given_up)
        assert (info.status, info.error_type, info.abandoned) == (TaskStatus.FAILED, "lost_track", True)
        assert tasks.status()["slots"]["loop"] == {"limit": 2, "busy": 1, "lent": 0, "abandoned": 1}
        assert (await tasks.wait_for_task(pending)).status is TaskStatus.COMPLETED
        assert [event.payload["task_id"] for event in events.events if event.event_type == "task/failed"] == [
            given_up
        ]
        assert metric(tasks.registry, names.TASKS_FINISHED.name + "_total", status="failed") == 1
        stuck.set()
        await turns()
        assert tasks.status()["slots"]["loop"] == {"limit": 2, "busy": 1, "lent": 0, "abandoned": 0}
        other.open()
        assert (await tasks.wait_for_task(neighbour)).status is TaskStatus.COMPLETED


@pytest.mark.parametrize("ends_by", ["running", "being cancelled"])
async def test_f38_observers_that_a_deep_stack_interrupts_are_notified_of_everything_once(
    ends_by: str,
) -> None:
    events = EventBusManager()
    delivered: Counter[tuple[str, str]] = Counter()

    async def deliver(event: Event) -> None:
        delivered[event.event_type, event.payload["task_id"]] += 1

    events.subscribe("*", deliver)
    async with open_test_manager(events=events, logs=(logs := CapturedLogs())) as tasks:
        if ends_by == "being cancelled":
            await tasks.pause("io")

        async def walk() -> None:
            task_id = await tasks.submit_task(leaf, category="io")
            if ends_by == "being cancelled":
                await tasks.cancel_task(task_id)
                await tasks.wait_for_task(task_id)
            await walk()

        with pytest.raises(RecursionError):
            await walk()
        await tasks.resume("io")
        await tasks.run(leaf)
        await tasks.shutdown()
        assert tasks.looks.metrics.telemetry_errors.total() == 0
        assert logs.of(names.LOG_OBSERVER_FAILED) == []
        ended = metric(tasks.registry, names.TASKS_FINISHED.name + "_total")
        assert ended == len(logs.of(names.LOG_FINISHED))
        assert set(delivered.values()) == {1}
        assert len({task_id for _, task_id in delivered}) == ended


@pytest.mark.parametrize("step", ["interrupt", "abandon"])
@virtual_time
async def test_an_engine_that_fails_to_stop_one_task_keeps_neither_its_slot_nor_its_neighbours(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    asked, real = list[str](), getattr(LoopEngine, step)

    def fails_for_one(engine: LoopEngine, attempt: Attempt) -> None:
        if attempt.name == "stuck":
            raise ValueError("the engine cannot")
        asked.append(attempt.name)
        real(engine, attempt)

    end = asyncio.Event()
    monkeypatch.setattr(LoopEngine, step, fails_for_one)
    async with open_test_manager(settings(cancel_grace_seconds=1)) as tasks:
        ids = [await tasks.submit_task(until_set, end, name=name) for name in ("stuck", "good", "better")]
        await turns()
        await tasks.shutdown(grace_seconds=0)
        assert tasks.state is ManagerState.STOPPED
        ends = [await tasks.wait_for_task(task_id) for task_id in ids]
        assert {(info.status, info.abandoned) for info in ends} == {(TaskStatus.CANCELLED, True)}
        assert set(asked) == {"good", "better"}
        assert metric(tasks.registry, names.TELEMETRY_ERRORS.name + "_total", component="engine") > 0
        assert busy(tasks) == 0
        end.set()
        await turns()


@virtual_time
async def test_a_step_of_the_shutdown_that_fails_keeps_no_other_from_being_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise OSError("no")

    async with open_test_manager(settings(cancel_grace_seconds=1)) as tasks:
        task_id = await tasks.submit_task(Gate())
        monkeypatch.setattr(tasks._lifecycle.repairs, "sweep", fails)
        monkeypatch.setattr(tasks._lifecycle.waiting, "let_all_in", fails)
        await tasks.shutdown(grace_seconds=1)
        assert tasks.state is ManagerState.STOPPED
        assert (await tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED
        assert metric(tasks.registry, names.TELEMETRY_ERRORS.name + "_total", component="shutdown") > 0


@virtual_time
async def test_f38_a_shutdown_that_was_interrupted_can_be_repeated() -> None:
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(Gate())
        first = asyncio.create_task(tasks.shutdown(grace_seconds=60))
        await turns()
        (drain,) = (one for one in asyncio.all_tasks() if one.get_name() == "qorzen-shutdown")
        drain.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await tasks.shutdown(grace_seconds=0)
        assert tasks.state is ManagerState.STOPPED
        assert (await tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED
