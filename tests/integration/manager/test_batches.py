"""`start_all`: many tasks at once, all of them or none."""

import asyncio
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from qorzen_obs import Retry, TaskManager, current_task, task, with_options
from qorzen_obs.engines.loop import LoopEngine
from qorzen_obs.errors import InvalidTaskError, TaskManagerClosedError, TaskQueueFullError
from qorzen_obs.telemetry import names
from qorzen_obs.testing import CapturedEvents, open_test_manager
from tests.support import Gate, metric, settings, turns, until


async def add(a: int, b: int = 0) -> int:
    return a + b


async def leaf() -> None:
    """Do nothing."""


def total(tasks: TaskManager) -> int:
    number: int = tasks.status()["tasks"]["total"]
    return number


async def test_a_batch_has_a_handle_for_each_call_in_their_order() -> None:
    events = CapturedEvents()
    async with open_test_manager(events=events) as tasks:
        handles = await tasks.start_all(partial(add, number, b=1) for number in range(20))
        assert [await handle for handle in handles] == list(range(1, 21))
        assert {handle.info().name for handle in handles} == {"add"}
        await tasks.shutdown()
        for handle in handles:
            assert events.of(handle.task_id) == ["task/submitted", "task/started", "task/completed"]
        kinds = [event.event_type for event in events.events]
        assert kinds[:20] == ["task/submitted"] * 20, "all are announced before the first starts"


async def test_each_task_has_the_batchs_options_and_its_own_before_them() -> None:
    @task(name="named", category="io", retry=Retry(max_attempts=2))
    def work(timeout: float) -> float:
        return timeout

    async with open_test_manager() as tasks:
        plain, own = await tasks.start_all(
            [partial(work, 1.5), partial(with_options(work, name="own", timeout=5), timeout=2.5)],
            priority="high",
            plugin_id="importer",
            metadata={"batch": 7},
            timeout=60,
        )
        assert (await plain, await own) == (1.5, 2.5)
        for handle, name in ((plain, "named"), (own, "own")):
            info = handle.info()
            assert (info.name, info.category, info.priority) == (name, "io", 100)
            assert (info.plugin_id, info.metadata, info.timeout_seconds) == ("importer", {"batch": 7}, 60)
        assert tasks.status()["tasks"]["plugins_with_tasks"] == 1


async def test_any_callable_that_needs_no_argument_is_a_call() -> None:
    class Counter:
        def __init__(self) -> None:
            self.value = 0

        def step(self) -> int:
            self.value += 1
            return self.value

    counter = Counter()
    calls: list[Callable[[], int]] = [counter.step, lambda: 7, partial(partial(max, 2), 3)]
    async with open_test_manager() as tasks:
        handles = await tasks.start_all(calls, category="ui")
        assert [await handle for handle in handles] == [1, 7, 3]
        assert handles[0].info().name.endswith("Counter.step")


async def test_no_calls_are_no_tasks() -> None:
    async with open_test_manager() as tasks:
        assert await tasks.start_all([]) == []
        assert total(tasks) == 0


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        ([leaf, 3, leaf], r"calls\[1\]: 3 is not callable; pass functools\.partial"),
        ([leaf, (number for number in range(3)).send, iter], r""),
        ([leaf, partial(lambda: (yield))], r"calls\[1\]: .* is a generator function"),
        (3, r"calls: 3 is not iterable; pass a list"),
        (leaf, r"calls: .* is not iterable; pass a list"),
    ],
)
async def test_a_bad_call_is_named_and_nothing_is_accepted(calls: Any, says: str) -> None:
    async with open_test_manager() as tasks:
        if not says:
            assert len(await tasks.start_all(calls)) == 3, "whatever can be called is a call"
            return
        with pytest.raises(InvalidTaskError, match=says):
            await tasks.start_all(calls)
        assert total(tasks) == 0


async def test_a_bad_option_and_an_iterator_that_raises_accept_nothing() -> None:
    def two_and_a_failure() -> Iterator[Any]:
        yield leaf
        yield leaf
        raise LookupError("no more")

    async with open_test_manager() as tasks:
        bad: Any = "oi"
        with pytest.raises(InvalidTaskError, match=r"^category: 'oi' is unknown"):
            await tasks.start_all([leaf, leaf], category=bad)
        with pytest.raises(LookupError, match="no more"):
            await tasks.start_all(two_and_a_failure())
        assert total(tasks) == 0
    with pytest.raises(TaskManagerClosedError):
        await tasks.start_all([leaf, leaf])
    assert tasks.status()["tasks"]["rejected"] == 2


# ---------------------------------------------------------------- room


async def test_without_room_for_all_none_is_accepted_and_each_counts_as_refused() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1, max_pending=4)) as tasks:
        await tasks.start_all([gate, gate])
        await gate.holds(1)
        with pytest.raises(TaskQueueFullError):
            await tasks.start_all([gate] * 4)
        assert (total(tasks), tasks.status()["tasks"]["rejected"]) == (2, 4)
        assert len(await tasks.start_all([gate] * 3)) == 3
        gate.open()


@pytest.mark.parametrize("when_full", ["refuse", "wait"])
async def test_more_than_the_queue_ever_holds_are_refused_even_without_end(when_full: str) -> None:
    async with open_test_manager(settings(max_pending=4, when_full=when_full)) as tasks:
        with pytest.raises(TaskQueueFullError):
            await tasks.start_all(itertools.repeat(leaf))
        assert total(tasks) == 0


async def test_a_batch_waits_for_room_for_all_and_newcomers_do_not_overtake_it() -> None:
    gate = Gate()
    full = settings(max_concurrent_tasks=1, max_pending=4, when_full="wait")
    async with open_test_manager(full) as tasks:
        await tasks.submit_task(gate, "running")
        pending = [await tasks.submit_task(gate, "pending") for _ in range(4)]
        batch = asyncio.create_task(tasks.start_all([partial(gate, "batch")] * 3))
        await turns()
        single = asyncio.create_task(tasks.submit_task(gate, "single"))
        await turns()
        for number, task_id in enumerate(pending, start=1):
            await tasks.cancel_task(task_id)
            newcomer = asyncio.create_task(tasks.submit_task(gate, "newcomer"))
            await turns()
            assert batch.done() == (number >= 3)
            newcomer.cancel()
            await asyncio.wait([newcomer])
        handles = await batch
        await single
        gate.open()
        assert [await handle for handle in handles] == ["batch"] * 3
        await until(lambda: len(gate.arrived) == 5)
        assert gate.arrived == ["running", *["batch"] * 3, "single"]


async def test_two_batches_that_wait_do_not_wait_for_each_others_places() -> None:
    gate = Gate()
    full = settings(max_concurrent_tasks=1, max_pending=4, when_full="wait")
    async with open_test_manager(full) as tasks:
        await tasks.submit_task(gate)
        await tasks.start_all([gate] * 4)
        batches = [asyncio.create_task(tasks.start_all([partial(gate, n)] * 4)) for n in range(3)]
        await turns()
        gate.open()
        for batch in batches:
            for handle in await batch:
                await handle
        assert gate.arrived[5:] == [*[0] * 4, *[1] * 4, *[2] * 4]


@pytest.mark.parametrize("how", ["cancel", "shutdown"])
async def test_a_batch_that_gives_up_waiting_leaves_its_places_to_others(how: str) -> None:
    gate = Gate()
    full = settings(max_concurrent_tasks=1, max_pending=4, when_full="wait")
    async with open_test_manager(full) as tasks:
        await tasks.submit_task(gate)
        pending = [await tasks.submit_task(gate) for _ in range(4)]
        batch = asyncio.create_task(tasks.start_all([gate] * 4))
        await turns()
        for task_id in pending[:3]:
            await tasks.cancel_task(task_id)
        await turns()
        waits = [asyncio.create_task(tasks.submit_task(gate, "other")) for _ in range(3)]
        await turns()
        assert not any(one.done() for one in waits), "the batch keeps the places that it has"
        if how == "shutdown":
            await tasks.shutdown(grace_seconds=0)
            with pytest.raises(TaskManagerClosedError):
                await batch
            await asyncio.wait(waits)
            assert tasks.status()["tasks"]["rejected"] == 7
            return
        batch.cancel()
        await asyncio.wait([batch])
        await asyncio.gather(*waits)
        assert total(tasks) == 8
        gate.open()


async def test_a_task_that_waits_for_room_for_its_batch_lends_its_slot() -> None:
    async def parent() -> int:
        manager = current_task().manager
        sums = []
        for _ in range(3):
            handles = await manager.start_all([partial(add, n) for n in range(4)])
            sums.append(sum([await handle for handle in handles]))
        return sum(sums)

    full = settings(max_concurrent_tasks=1, max_pending=4, when_full="wait")
    async with open_test_manager(full) as tasks:
        parents = [await tasks.start(parent) for _ in range(3)]
        assert [await one for one in parents] == [18] * 3


# ---------------------------------------------------------------- all or nothing


@pytest.mark.parametrize("limit", [{}, {"max_concurrent_tasks": 1}])
async def test_a_batch_is_all_or_nothing_at_any_depth_of_the_callers_stack(limit: dict[str, Any]) -> None:
    async def below(depth: int, call: Any) -> Any:
        return await (call() if depth == 0 else below(depth - 1, call))

    accepted, refused, events = list[str](), 0, CapturedEvents()
    async with open_test_manager(settings(**limit), events=events) as tasks:
        calls = [leaf, partial(add, 1), leaf]
        for depth in range(sys.getrecursionlimit()):
            try:
                handles = await below(depth, functools.partial(tasks.start_all, calls, plugin_id="p"))
            except RecursionError:
                refused += 1
                if refused == 60:
                    break
            else:
                accepted += [handle.task_id for handle in handles]
        await tasks.shutdown(grace_seconds=60)
        assert tasks.status()["tasks"]["by_status"]["completed"] == total(tasks) == len(accepted)
        assert {event.payload["task_id"] for event in events.events} == {*accepted}
        assert metric(tasks.registry, names.TELEMETRY_ERRORS.name + "_total", component="consistency") == 0


async def test_what_is_raised_between_two_tasks_of_a_batch_leaves_neither(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The counters stand for whatever may fail in the middle of an acceptance."""
    events, gate = CapturedEvents(), Gate()
    async with open_test_manager(settings(max_concurrent_tasks=2), events=events) as tasks:
        first = await tasks.start(gate)
        counts, left = tasks.looks.counts, itertools.count(3, -1)
        accept = counts.accept

        def fail_at_the_third(cell: int) -> None:
            if next(left) == 1:
                raise MemoryError
            accept(cell)

        with monkeypatch.context() as patch:
            patch.setattr(type(counts), "accept", lambda _, cell: fail_at_the_third(cell))
            with pytest.raises(MemoryError):
                await tasks.start_all([partial(gate, n) for n in range(5)], plugin_id="importer")
        await turns()
        assert total(tasks) == 1
        assert tasks.status()["queue"]["depth"] == 0
        assert tasks.status()["tasks"]["plugins_with_tasks"] == 0
        after = await tasks.start_all([partial(gate, "after")] * 2)
        gate.open()
        assert [await handle for handle in after] == ["after"] * 2
        assert (await first, gate.arrived) == (None, [None, "after", "after"])
        await tasks.shutdown()
        known = {first.task_id, *(handle.task_id for handle in after)}
        assert {event.payload["task_id"] for event in events.events} == known


async def test_a_start_that_is_interrupted_undoes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first start on the batch is accepted: what is raised then is repaired."""
    start, failures = LoopEngine.start, itertools.count()

    def fail_once(self: LoopEngine, *arguments: Any) -> None:
        if next(failures) == 0:
            raise MemoryError
        start(self, *arguments)

    async with open_test_manager() as tasks:
        with monkeypatch.context() as patch:
            patch.setattr(LoopEngine, "start", fail_once)
            handles = await tasks.start_all([partial(add, number) for number in range(3)])
            assert [await handle for handle in handles] == [0, 1, 2]
    assert next(failures) > 3


async def test_a_draining_manager_takes_the_batch_of_a_running_task() -> None:
    gate = Gate()

    async def parent() -> int:
        await gate()
        handles = await current_task().manager.start_all([partial(add, n) for n in range(4)])
        return sum([await handle for handle in handles])

    async with open_test_manager() as tasks:
        handle = await tasks.start(parent)
        await gate.holds(1)
        stopping = asyncio.create_task(tasks.shutdown(grace_seconds=60))
        await turns()
        gate.open()
        await stopping
        assert await handle == 6
