"""Tasks that wait for tasks: a parent lends its slot, so that it cannot starve its children."""

import asyncio
from typing import Any

import pytest

from qorzen_obs import TaskStatus
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.errors import InvalidTaskError, TaskWaitTimeoutError
from qorzen_obs.telemetry import names
from qorzen_obs.testing import open_test_manager
from tests.support import Gate, ThreadGate, metric, settings, turns, until, virtual_time

ONE_SLOT = settings(max_concurrent_tasks=1, worker_threads=1)


async def gather(tasks: TaskManager, children: int) -> list[Any]:
    return await asyncio.gather(*(tasks.run(asyncio.sleep, 0, number) for number in range(children)))


def at_rest(tasks: TaskManager) -> bool:
    return all(slots["busy"] == slots["lent"] == 0 for slots in tasks.status()["slots"].values())


@pytest.mark.parametrize("how", ["run", "wait", "gather", "task group"])
async def test_parents_in_every_slot_get_their_children_done(how: str) -> None:
    async with open_test_manager(settings(max_concurrent_tasks=3)) as tasks:

        async def parent() -> list[Any]:
            if how == "gather":
                return await gather(tasks, 2)
            if how == "task group":
                async with asyncio.TaskGroup() as group:
                    runs = [group.create_task(tasks.run(asyncio.sleep, 0, number)) for number in range(2)]
                return [run.result() for run in runs]
            if how == "wait":
                ids = [await tasks.submit_task(asyncio.sleep, 0, number) for number in range(2)]
                return [(await tasks.wait_for_task(task_id)).result for task_id in ids]
            return [await tasks.run(asyncio.sleep, 0, number) for number in range(2)]

        parents = [await tasks.submit_task(parent) for _ in range(9)]
        for task_id in parents:
            info = await tasks.wait_for_task(task_id)
            assert (info.status, info.result) == (TaskStatus.COMPLETED, [0, 1])
        assert at_rest(tasks)


async def test_parents_on_every_thread_get_their_children_done() -> None:
    async with open_test_manager(settings(worker_threads=2, max_concurrent_tasks=2)) as tasks:

        def child(number: int) -> int:
            return number * 10

        def parent(number: int) -> int:
            return int(tasks.from_thread.run(child, number)) + 1

        parents = [await tasks.submit_task(parent, number) for number in range(6)]
        results = [(await tasks.wait_for_task(task_id)).result for task_id in parents]
        assert results == [1, 11, 21, 31, 41, 51]
        assert at_rest(tasks)


@pytest.mark.parametrize("depth", [1, 12])
async def test_one_slot_is_enough_for_tasks_nested_however_deep(depth: int) -> None:
    async with open_test_manager(ONE_SLOT) as tasks:

        async def nest(levels: int) -> int:
            return 0 if levels == 0 else 1 + int(await tasks.run(nest, levels - 1))

        assert await tasks.run(nest, depth) == depth
        assert at_rest(tasks)


async def test_one_slot_is_enough_for_threads_and_coroutines_nested_in_turn() -> None:
    async with open_test_manager(ONE_SLOT) as tasks:

        def in_thread(levels: int) -> int:
            return 0 if levels == 0 else 1 + int(tasks.from_thread.run(on_loop, levels - 1))

        async def on_loop(levels: int) -> int:
            return 0 if levels == 0 else 1 + int(await tasks.run(in_thread, levels - 1))

        assert await tasks.run(on_loop, 6) == 6
        assert at_rest(tasks)


async def test_a_waiting_parent_is_running_holds_no_slot_and_says_what_it_waits_for() -> None:
    gate = Gate()
    async with open_test_manager(ONE_SLOT) as tasks:

        async def parent() -> str:
            return str(await tasks.run(gate, "child", name="child"))

        parent_id = await tasks.submit_task(parent)
        await gate.holds(1)
        (child,) = [info for info in await tasks.get_tasks(status="running") if info.name == "child"]
        info = await tasks.get_task_info(parent_id)
        assert info is not None
        assert (info.status, info.waiting_for) == (TaskStatus.RUNNING, child.task_id)
        assert tasks.status()["slots"]["loop"] == {"limit": 1, "busy": 1, "lent": 1, "abandoned": 0}
        assert tasks.status()["tasks"]["by_status"]["running"] == 2
        assert metric(tasks.registry, names.ENGINE_SLOTS_BUSY.name, engine="loop") == 1
        gate.open()
        info = await tasks.wait_for_task(parent_id)
        assert (info.result, info.waiting_for) == ("child", None)


async def test_a_parent_goes_on_only_with_a_slot_and_ahead_of_every_pending_task() -> None:
    child_gate, other_gate = Gate(), Gate()
    order: list[str] = []
    async with open_test_manager(ONE_SLOT) as tasks:

        async def parent() -> None:
            await tasks.run(child_gate)
            order.append("parent goes on")

        async def other(name: str) -> None:
            order.append(name)
            await other_gate()

        parent_id = await tasks.submit_task(parent, priority="low")
        await child_gate.holds(1)
        ids = [await tasks.submit_task(other, name, priority="critical") for name in ("first", "second")]
        child_gate.open()
        await tasks.wait_for_task(parent_id)
        other_gate.open()
        await tasks.wait_for_task(ids[1])
        assert order == ["parent goes on", "first", "second"], "the child's slot goes to its parent"


async def test_a_parent_whose_slot_was_given_away_waits_for_one() -> None:
    child_gate, other_gate, order = Gate(), Gate(), list[str]()
    async with open_test_manager(settings(max_concurrent_tasks=2, category_limits={"user": 1})) as tasks:

        async def parent() -> None:
            await tasks.run(child_gate, category="io")
            order.append("parent goes on")

        parent_id = await tasks.submit_task(parent, category="user")
        await child_gate.holds(1)
        await tasks.submit_task(other_gate, category="user")
        await other_gate.holds(1)
        child_gate.open()
        await turns()
        assert order == []
        assert tasks.status()["slots"]["loop"]["lent"] == 1
        assert tasks.find(parent_id).waiting_for is None  # type: ignore[union-attr]  # it is known
        other_gate.open()
        await tasks.wait_for_task(parent_id)
        assert order == ["parent goes on"]
        assert at_rest(tasks)


async def test_a_parent_cancelled_while_its_slot_is_lent_ends_without_one() -> None:
    child_gate, other_gate = Gate(), Gate()
    async with open_test_manager(settings(max_concurrent_tasks=2, category_limits={"user": 1})) as tasks:

        async def parent() -> None:
            await tasks.run(child_gate, category="io", cancellable=False)

        parent_id = await tasks.submit_task(parent, category="user")
        await child_gate.holds(1)
        await tasks.submit_task(other_gate, category="user")
        await other_gate.holds(1)
        await tasks.cancel_task(parent_id)
        assert (await tasks.wait_for_task(parent_id)).status is TaskStatus.CANCELLED
        assert tasks.status()["slots"]["loop"] == {"limit": 2, "busy": 2, "lent": 0, "abandoned": 0}
        child_gate.open()
        other_gate.open()
        await until(lambda: at_rest(tasks))


async def test_a_parent_cancelled_while_it_waits_for_a_slot_ends_without_one() -> None:
    child_gate, other_gate = Gate(), Gate()
    async with open_test_manager(settings(max_concurrent_tasks=2, category_limits={"user": 1})) as tasks:

        async def parent() -> None:
            await tasks.run(child_gate, category="io")

        parent_id = await tasks.submit_task(parent, category="user")
        await child_gate.holds(1)
        await tasks.submit_task(other_gate, category="user")
        await other_gate.holds(1)
        child_gate.open()
        await turns()
        await tasks.cancel_task(parent_id)
        assert (await tasks.wait_for_task(parent_id)).status is TaskStatus.CANCELLED
        other_gate.open()
        await until(lambda: at_rest(tasks))


@virtual_time
async def test_a_parent_cancelled_in_the_moment_its_wait_is_over_does_not_wait_for_a_slot() -> None:
    gate, ended = Gate(), list[float]()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        await tasks.pause("background")
        child = await tasks.submit_task(asyncio.sleep, 0, category="background")
        loop = asyncio.get_running_loop()

        async def parent() -> None:
            try:
                await tasks.wait_for_task(child)
                await gate()
            finally:
                ended.append(loop.time())

        first, second = [await tasks.submit_task(parent) for _ in range(2)]
        await turns()
        now = loop.time()
        await tasks.cancel_task(child)  # the first parent has the one slot now
        await tasks.cancel_task(second)
        assert (await tasks.wait_for_task(second)).status is TaskStatus.CANCELLED
        assert ended == [pytest.approx(now)]
        assert tasks.find(first).status is TaskStatus.RUNNING  # type: ignore[union-attr]  # it is known
        gate.open()
        assert (await tasks.wait_for_task(first)).status is TaskStatus.COMPLETED
        assert at_rest(tasks)


@virtual_time
async def test_a_task_that_gives_up_its_wait_for_a_slot_goes_on_and_has_one_as_soon_as_there_is() -> None:
    child_gate, other_gate, own_gate = Gate(), Gate(), Gate()
    async with open_test_manager(settings(max_concurrent_tasks=2, category_limits={"user": 1})) as tasks:

        async def parent() -> None:
            waiting = asyncio.create_task(tasks.run(child_gate, category="io"))
            await asyncio.wait([waiting], timeout=1)
            waiting.cancel()
            await own_gate()

        parent_id = await tasks.submit_task(parent, category="user", timeout=1_000)
        await child_gate.holds(1)
        other = await tasks.submit_task(other_gate, category="user")
        child_gate.open()
        await own_gate.holds(1)
        assert tasks.status()["slots"]["loop"] == {"limit": 2, "busy": 1, "lent": 1, "abandoned": 0}
        other_gate.open()
        await tasks.wait_for_task(other)
        assert tasks.status()["slots"]["loop"] == {"limit": 2, "busy": 1, "lent": 0, "abandoned": 0}
        own_gate.open()
        await tasks.wait_for_task(parent_id)
        assert at_rest(tasks)


async def test_a_wait_given_up_in_the_moment_its_slot_comes_back_breaks_nothing() -> None:
    child_gate, other_gate = Gate(), Gate()
    async with open_test_manager(settings(max_concurrent_tasks=2, category_limits={"user": 1})) as tasks:
        inner: list[asyncio.Task[Any]] = []

        async def parent() -> str:
            inner.append(asyncio.create_task(tasks.run(child_gate, category="io")))
            await asyncio.wait(inner)
            return "went on"

        parent_id = await tasks.submit_task(parent, category="user")
        await child_gate.holds(1)
        await tasks.submit_task(other_gate, category="user")
        behind = await tasks.submit_task(asyncio.sleep, 0, "behind", category="user")
        await other_gate.holds(1)
        child_gate.open()
        await turns()  # the branch that waited for the child wants its slot back now
        other_gate.open()
        await asyncio.sleep(0)
        inner[0].cancel()
        assert (await tasks.wait_for_task(parent_id)).result == "went on"
        assert (await tasks.wait_for_task(behind)).result == "behind"
        assert at_rest(tasks)


@pytest.mark.parametrize("steps", range(6))
async def test_branches_of_one_parent_that_wait_and_give_up_in_any_order_keep_the_count(steps: int) -> None:
    async with open_test_manager(ONE_SLOT) as tasks:

        async def branch(number: int) -> object:
            return await tasks.run(asyncio.sleep, 0, number)

        async def parent() -> list[Any]:
            branches = [asyncio.create_task(branch(number)) for number in range(4)]
            await turns(steps)
            branches[1].cancel()
            await turns(steps)
            branches.append(asyncio.create_task(branch(4)))
            return await asyncio.gather(*branches, return_exceptions=True)

        results = await tasks.run(parent)
        assert [results[0], *results[2:]] == [0, 2, 3, 4]
        assert results[1] == 1 or isinstance(results[1], asyncio.CancelledError)
        await until(lambda: at_rest(tasks))
        assert await tasks.run(asyncio.sleep, 0, "next") == "next"


@virtual_time
async def test_a_wait_for_a_task_can_be_bounded_and_the_task_goes_on() -> None:
    async with open_test_manager(ONE_SLOT) as tasks:
        waited: list[float] = []

        async def parent(child_id: str) -> str:
            with pytest.raises(TaskWaitTimeoutError, match="did not end within 3 s") as caught:
                await tasks.wait_for_task(child_id, timeout=3)
            waited.append(asyncio.get_running_loop().time())
            assert caught.value.task_id == child_id
            return str((await tasks.wait_for_task(child_id, timeout=100)).result)

        gate = Gate()
        await tasks.submit_task(gate)
        child_id = await tasks.submit_task(asyncio.sleep, 10, "child")
        parent_id = await tasks.submit_task(parent, child_id, priority="critical")
        gate.open()
        assert (await tasks.wait_for_task(parent_id)).result == "child"
        assert waited[0] >= 3
        assert at_rest(tasks)


@virtual_time
async def test_a_wait_from_outside_can_be_bounded_too() -> None:
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(asyncio.sleep, 10, "value")
        with pytest.raises(TaskWaitTimeoutError):
            await tasks.wait_for_task(task_id, timeout=9)
        assert (await tasks.wait_for_task(task_id, timeout=2)).result == "value"
        assert (await tasks.wait_for_task(task_id, timeout=0.001)).result == "value"


async def test_a_task_that_would_wait_for_its_own_end_is_refused() -> None:
    async with open_test_manager() as tasks:
        ids: dict[str, str] = {}
        ready = asyncio.Event()

        async def waits_for(other: str) -> object:
            await ready.wait()
            return (await tasks.wait_for_task(ids[other])).status

        ids["itself"] = await tasks.submit_task(waits_for, "itself")
        ids["a"] = await tasks.submit_task(waits_for, "b")
        ids["b"] = await tasks.submit_task(waits_for, "c")
        ids["c"] = await tasks.submit_task(waits_for, "a")
        ready.set()
        infos = {name: await tasks.wait_for_task(task_id) for name, task_id in ids.items()}
        refused = [name for name, info in infos.items() if info.status is TaskStatus.FAILED]
        assert refused == ["itself", "c"]
        assert infos["c"].error == f"task_id: {ids['a']!r} would wait for its own end"
        assert infos["c"].error_type == InvalidTaskError.__module__ + "." + InvalidTaskError.__name__
        assert infos["a"].result is TaskStatus.COMPLETED
        assert infos["b"].result is TaskStatus.FAILED


async def test_a_thread_that_waits_lends_the_slot_of_its_engine() -> None:
    gate = Gate()
    async with open_test_manager(ONE_SLOT) as tasks:

        def parent() -> object:
            return tasks.from_thread.run(gate, "child")

        with ThreadGate() as thread_gate:
            parent_id = await tasks.submit_task(parent)
            await gate.holds(1)
            assert tasks.status()["slots"]["thread"] == {"limit": 1, "busy": 0, "lent": 1, "abandoned": 0}
            gate.open()
            assert (await tasks.wait_for_task(parent_id)).result == "child"
            thread_gate.open()


async def test_waiting_for_a_task_that_has_ended_lends_nothing() -> None:
    async with open_test_manager(ONE_SLOT) as tasks:
        ended = await tasks.submit_task(asyncio.sleep, 0, "value")
        await tasks.wait_for_task(ended)

        async def late() -> object:
            before = tasks.status()["slots"]["loop"]["busy"]
            info = await tasks.wait_for_task(ended)
            return before, info.result, tasks.status()["slots"]["loop"]["busy"]

        assert await tasks.run(late) == (1, "value", 1)


@virtual_time
async def test_the_slot_that_a_child_frees_goes_to_its_parent_and_not_to_the_next_pending_task() -> None:
    order: list[str] = []

    async def note(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append(name)

    async def parent() -> None:
        await tasks.run(note, "child", 1, priority="critical")
        order.append("parent")

    async with open_test_manager(ONE_SLOT) as tasks:
        first = await tasks.submit_task(parent)
        last = await tasks.submit_task(note, "pending", 60)
        await tasks.wait_for_task(first)
        await tasks.wait_for_task(last)
    assert order == ["child", "parent", "pending"]


@virtual_time
async def test_the_next_free_slot_does_not_go_to_an_abandoned_lender() -> None:
    stop = asyncio.Event()

    async def stubborn() -> None:
        branch = asyncio.ensure_future(tasks.run(asyncio.sleep, 1))  # that nobody cancels
        while not stop.is_set():
            try:
                await stop.wait()
            except asyncio.CancelledError:
                continue
        await branch

    config = ConfigManager(settings(max_concurrent_tasks=2, max_abandoned=0))
    async with open_test_manager(config=config) as tasks:
        lender = await tasks.submit_task(stubborn)
        await asyncio.sleep(0.5)
        other = await tasks.submit_task(asyncio.sleep, 3)
        await config.set("tasks.max_concurrent_tasks", 1)
        await asyncio.sleep(1)  # the child has ended, and the other task holds the only slot
        await tasks.cancel_task(lender)
        assert (await tasks.wait_for_task(lender)).abandoned
        assert (await tasks.wait_for_task(other)).status is TaskStatus.COMPLETED
        assert await tasks.run(asyncio.sleep, 1, "the slot is free") == "the slot is free"
        stop.set()
        await asyncio.sleep(1)
        assert tasks.status()["slots"]["loop"] == {"limit": 1, "busy": 0, "lent": 0, "abandoned": 0}
