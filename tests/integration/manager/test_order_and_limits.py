"""Who starts next, and how much runs and waits at once."""

import asyncio
import collections
import gc
import itertools
from typing import Any

import pytest

from qorzen_obs import TaskCategory, TaskPriority, TaskStatus, task
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.errors import TaskManagerClosedError, TaskQueueFullError
from qorzen_obs.tasks import CategoryName, PriorityName
from qorzen_obs.telemetry import names
from qorzen_obs.testing import CapturedEvents, open_test_manager
from tests.support import Gate, ThreadGate, metric, settings, turns, until, virtual_time


class Order:
    """Remembers in which order tasks ran."""

    def __init__(self) -> None:
        self.ran: list[Any] = []

    async def run(self, name: object) -> None:
        self.ran.append(name)


async def test_the_highest_priority_starts_first_and_equals_in_order_of_submission() -> None:
    gate, order = Gate(), Order()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        await tasks.submit_task(gate)
        submitted = [
            await tasks.submit_task(order.run, (priority.label, number), priority=priority)
            for number in range(3)
            for priority in TaskPriority
        ]
        gate.open()
        for task_id in submitted:
            await tasks.wait_for_task(task_id)
        assert order.ran == [
            (label, number) for label in ("critical", "high", "normal", "low") for number in range(3)
        ]


@virtual_time
async def test_a_low_task_is_overtaken_only_by_tasks_submitted_less_than_20_minutes_after_it() -> None:
    gate, order = Gate(), Order()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        await tasks.submit_task(gate, timeout=10_000)
        await tasks.submit_task(order.run, "low")
        await tasks.submit_task(order.run, "low, patient", priority="low")
        await asyncio.sleep(20 * 60 - 1)
        await tasks.submit_task(order.run, "critical, in time", priority="critical")
        await asyncio.sleep(2)
        last = await tasks.submit_task(order.run, "critical, too late", priority="critical")
        gate.open()
        await tasks.wait_for_task(last)
        assert order.ran == ["low", "critical, in time", "low, patient", "critical, too late"]


@pytest.mark.parametrize(("ageing", "first"), [(300.0, "low"), (600.0, "high"), (0.0, "high")])
def test_ageing_seconds_say_how_much_50_points_are_worth_and_0_is_strict_priority(
    ageing: float, first: str
) -> None:
    @virtual_time
    async def main() -> None:
        gate, order = Gate(), Order()
        async with open_test_manager(settings(max_concurrent_tasks=1, ageing_seconds=ageing)) as tasks:
            await tasks.submit_task(gate, timeout=10_000)
            await tasks.submit_task(order.run, "low", priority="low")
            await asyncio.sleep(601)
            await tasks.submit_task(order.run, "high", priority="high")
            gate.open()
            await until(lambda: len(order.ran) == 2)
            assert order.ran[0] == first

    main()


async def test_never_more_than_max_concurrent_tasks_run_and_no_slot_is_left_idle() -> None:
    now = peak = 0
    seen: collections.Counter[int] = collections.Counter()

    async def count() -> None:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        await turns(3)
        seen[tasks.status()["tasks"]["by_status"]["running"]] += 1
        now -= 1

    async with open_test_manager(settings(max_concurrent_tasks=7)) as tasks:
        ids = [await tasks.submit_task(count) for _ in range(100)]
        for task_id in ids:
            await tasks.wait_for_task(task_id)
        assert peak == 7
        assert seen[7] >= 90  # all the time, but for the last few


async def test_a_full_category_holds_up_only_itself() -> None:
    gate, order = Gate(), Order()
    limits = {TaskCategory.IO: 2}
    async with open_test_manager(settings(category_limits=limits)) as tasks:
        for number in range(4):
            await tasks.submit_task(gate, number, category="io", priority="critical")
        other = await tasks.submit_task(order.run, "core", priority="low")
        await tasks.wait_for_task(other)
        await turns()
        assert gate.arrived == [0, 1]
        assert tasks.status()["queue"]["depth"] == 2
        gate.open()
        await gate.holds(4)


async def test_an_engine_without_free_slots_holds_up_only_itself() -> None:
    with ThreadGate() as gate:
        async with open_test_manager(settings(io_threads=1, worker_threads=2)) as tasks:
            for _ in range(3):
                await tasks.submit_task(gate, "io", category="io", priority="critical")
                await tasks.submit_task(gate, "worker", priority="critical")
            assert await tasks.run(asyncio.sleep, 0, "loop", priority="low") == "loop"
            await gate.holds(3)
            assert sorted(gate.arrived) == ["io", "worker", "worker"]
            slots = tasks.status()["slots"]
            assert (slots["io"]["limit"], slots["io"]["busy"]) == (1, 1)
            assert (slots["thread"]["limit"], slots["thread"]["busy"]) == (2, 2)
            assert metric(tasks.registry, names.ENGINE_SLOTS_BUSY.name, engine="thread") == 2
            gate.open()
            await gate.holds(6)


async def test_tasks_on_the_main_loops_thread_run_one_at_a_time() -> None:
    running: list[int] = []

    def alone(number: int) -> bool:
        running.append(number)
        return running.pop() == number and not running

    async with open_test_manager() as tasks:
        ids = [await tasks.submit_task(alone, number, category="ui") for number in range(5)]
        assert tasks.status()["slots"]["main"]["busy"] == 1
        assert [(await tasks.wait_for_task(task_id)).result for task_id in ids] == [True] * 5


async def test_a_limit_raised_at_run_time_starts_what_waits_at_once() -> None:
    gate, config = Gate(), ConfigManager(settings(max_concurrent_tasks=1))
    async with open_test_manager(config=config) as tasks:
        for number in range(3):
            await tasks.submit_task(gate, number)
        await turns()
        assert gate.arrived == [0]
        await config.set("tasks.max_concurrent_tasks", 2)
        await turns()
        assert gate.arrived == [0, 1]
        assert tasks.status()["config"]["max_concurrent_tasks"] == 2


async def test_a_limit_lowered_at_run_time_interrupts_nothing_and_drains() -> None:
    gate, late, config = Gate(), Gate(), ConfigManager(settings(max_concurrent_tasks=3))
    async with open_test_manager(config=config) as tasks:
        running = [await tasks.submit_task(gate, number) for number in range(3)]
        await gate.holds(3)
        await config.set("tasks.max_concurrent_tasks", 1)
        await turns()
        assert tasks.status()["tasks"]["by_status"]["running"] == 3
        for number in range(2):
            await tasks.submit_task(late, number)
        gate.open()
        for task_id in running:
            assert (await tasks.wait_for_task(task_id)).status is TaskStatus.COMPLETED
        await turns()
        assert late.arrived == [0]


async def test_a_category_limit_set_at_run_time_holds_from_then_on() -> None:
    gate, config = Gate(), ConfigManager(settings())
    async with open_test_manager(config=config) as tasks:
        await config.set("tasks.category_limits.io", 1)
        for number in range(2):
            await tasks.submit_task(gate, number, category="io")
        await turns()
        assert gate.arrived == [0]
        await config.set("tasks.category_limits", {})
        await turns()
        assert gate.arrived == [0, 1]


async def test_a_full_queue_refuses_at_once_with_a_typed_error_and_is_counted() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1, max_pending=2)) as tasks:
        ids = [await tasks.submit_task(gate) for _ in range(3)]
        with pytest.raises(TaskQueueFullError, match="2 tasks are pending") as caught:
            await tasks.submit_task(gate, category="io", priority="high")
        assert caught.value.limit == 2
        status = tasks.status()
        assert (status["tasks"]["total"], status["tasks"]["rejected"]) == (3, 1)
        assert status["queue"] == {
            "depth": 2,
            "scheduled": 0,
            "limit": 2,
            "paused": [],
            "oldest_pending_age_seconds": pytest.approx(0, abs=5),
        }
        labels = {"category": "io", "priority": "high", "reason": "queue_full"}
        assert metric(tasks.registry, names.TASKS_REJECTED.name + "_total", **labels) == 1
        assert metric(tasks.registry, names.TASKS_REJECTED.name + "_total") == 1
        gate.open()
        for task_id in ids:
            await tasks.wait_for_task(task_id)
        assert await tasks.run(gate, "again") == "again"


async def test_a_cancelled_pending_task_makes_room() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1, max_pending=1)) as tasks:
        await tasks.submit_task(gate)
        pending = await tasks.submit_task(gate)
        await tasks.cancel_task(pending)
        await tasks.submit_task(gate)


async def test_with_when_full_at_wait_submitters_wait_and_are_let_in_in_order() -> None:
    gate, accepted = Gate(), list[int]()
    full = settings(max_concurrent_tasks=1, max_pending=1, when_full="wait")
    async with open_test_manager(full) as tasks:

        async def submit(number: int) -> None:
            await tasks.submit_task(gate, number)
            accepted.append(number)

        await tasks.submit_task(gate, "running")
        pending = await tasks.submit_task(gate, "pending")
        submitters = [asyncio.create_task(submit(number)) for number in range(3)]
        await turns()
        assert accepted == []
        assert tasks.status()["tasks"]["total"] == 2
        await tasks.cancel_task(pending)
        await turns()
        assert accepted == [0]
        gate.open()
        await asyncio.gather(*submitters)
        assert accepted == [0, 1, 2]
        assert tasks.status()["tasks"]["rejected"] == 0
        await gate.holds(4)


async def test_a_submitter_that_is_cancelled_when_it_was_let_in_leaves_the_room_to_the_next() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_pending=1, when_full="wait")) as tasks:
        await tasks.pause("io")
        pending = await tasks.submit_task(gate, category="io")
        gives_up, stays = (asyncio.create_task(tasks.submit_task(gate, category="io")) for _ in range(2))
        await turns()
        await tasks.cancel_task(pending)
        gives_up.cancel()
        await asyncio.wait([gives_up])
        await stays
        assert gives_up.cancelled()


async def test_submitters_that_gave_up_leave_nothing_behind() -> None:
    def cancelled_futures() -> int:
        gc.collect()
        return sum(type(one) is asyncio.Future and one.cancelled() for one in gc.get_objects())

    gate = Gate()
    async with open_test_manager(settings(max_pending=1, when_full="wait")) as tasks:
        await tasks.pause("io")
        await tasks.submit_task(gate, category="io")
        before = cancelled_futures()
        for _ in range(100):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await tasks.submit_task(gate, category="io")
        assert cancelled_futures() < before + 10, "the last error may know its own"


async def test_a_submitter_that_is_cancelled_while_it_waits_has_submitted_nothing() -> None:
    gate = Gate()
    full = settings(max_concurrent_tasks=1, max_pending=1, when_full="wait")
    async with open_test_manager(full) as tasks:
        await tasks.submit_task(gate, "running")
        pending = await tasks.submit_task(gate, "pending")
        gives_up = asyncio.create_task(tasks.submit_task(gate, "gives up"))
        stays = asyncio.create_task(tasks.submit_task(gate, "stays"))
        await turns()
        gives_up.cancel()
        await asyncio.wait([gives_up])
        await tasks.cancel_task(pending)
        await stays
        gate.open()
        await gate.holds(2)
        assert gate.arrived == ["running", "stays"]
        assert tasks.status()["tasks"]["total"] == 3


async def test_a_raised_max_pending_lets_waiting_submitters_in() -> None:
    gate = Gate()
    config = ConfigManager(settings(max_concurrent_tasks=1, max_pending=1, when_full="wait"))
    async with open_test_manager(config=config) as tasks:
        for _ in range(2):
            await tasks.submit_task(gate)
        waiting = [asyncio.create_task(tasks.submit_task(gate)) for _ in range(2)]
        await turns()
        await config.set("tasks.max_pending", 3)
        await asyncio.gather(*waiting)
        assert tasks.status()["queue"]["depth"] == 3


async def test_submitters_that_wait_are_refused_when_the_manager_stops() -> None:
    gate = Gate()
    full = settings(max_concurrent_tasks=1, max_pending=1, when_full="wait")
    async with open_test_manager(full) as tasks:
        for _ in range(2):
            await tasks.submit_task(gate)
        waiting = asyncio.create_task(tasks.submit_task(gate))
        await turns()
        await tasks.shutdown(grace_seconds=0)
        with pytest.raises(TaskManagerClosedError):
            await waiting
        assert tasks.status()["tasks"]["rejected"] == 1


async def test_tasks_that_submit_into_a_full_queue_and_wait_do_not_block_one_another() -> None:
    full = settings(max_concurrent_tasks=2, max_pending=1, when_full="wait")
    async with open_test_manager(full) as tasks:

        async def parent(number: int) -> int:
            return sum([await tasks.run(asyncio.sleep, 0, number + child) for child in range(3)])

        parents = [asyncio.create_task(tasks.run(parent, number)) for number in range(6)]
        assert await asyncio.gather(*parents) == [3 * number + 3 for number in range(6)]
        assert all(engine["busy"] == 0 == engine["lent"] for engine in tasks.status()["slots"].values())


@virtual_time
async def test_the_age_of_the_oldest_pending_task_is_told_per_kind() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        await tasks.submit_task(gate)
        await tasks.submit_task(gate, category="io", priority="high")
        await asyncio.sleep(40)
        await tasks.submit_task(gate, category="io", priority="high")
        await tasks.submit_task(gate, category="user", priority="low")
        await asyncio.sleep(2)
        registry = tasks.registry
        assert metric(registry, names.OLDEST_PENDING.name, category="io", priority="high") == pytest.approx(
            42
        )
        assert metric(registry, names.OLDEST_PENDING.name, category="user", priority="low") == pytest.approx(
            2
        )
        assert metric(
            registry, names.OLDEST_RUNNING.name, category="core", priority="normal"
        ) == pytest.approx(42)
        assert tasks.status()["queue"]["oldest_pending_age_seconds"] == pytest.approx(42)


@virtual_time
async def test_queue_wait_and_duration_are_measured_apart() -> None:
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        await tasks.submit_task(asyncio.sleep, 30)
        info = await tasks.wait_for_task(await tasks.submit_task(asyncio.sleep, 12))
        assert info.queue_wait_seconds == pytest.approx(30)
        assert info.duration_seconds == pytest.approx(12)
        assert info.started_at == pytest.approx(info.created_at + 30)
        assert info.completed_at == pytest.approx(info.created_at + 42)


async def test_a_task_counts_as_running_only_when_its_engine_has_started_it() -> None:
    events = CapturedEvents()
    with ThreadGate() as gate:
        async with open_test_manager(settings(worker_threads=1), events=events) as tasks:
            await tasks.submit_task(gate)
            waiting = await tasks.submit_task(gate)
            await gate.holds(1)
            info = await tasks.get_task_info(waiting)
            assert info is not None
            assert (info.status, info.started_at) == (TaskStatus.PENDING, None)
            assert tasks.status()["tasks"]["by_status"] == {
                "pending": 1,
                "running": 1,
                "completed": 0,
                "failed": 0,
                "cancelled": 0,
            }
            gate.open()
            await tasks.wait_for_task(waiting)


async def test_get_tasks_filters_and_sorts_by_priority_then_age() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=2)) as tasks:
        categories: tuple[CategoryName, ...] = ("io", "user")
        priorities: tuple[PriorityName, ...] = ("low", "high")
        named = {
            await tasks.submit_task(
                gate, name=f"{category} {priority}", category=category, priority=priority, plugin_id=category
            ): f"{category} {priority}"
            for category, priority in itertools.product(categories, priorities)
        }

        async def found(**filters: Any) -> list[str]:
            return [named[info.task_id] for info in await tasks.get_tasks(**filters)]

        assert await found() == ["io high", "user high", "io low", "user low"]
        assert await found(category="io") == ["io high", "io low"]
        assert await found(category=[TaskCategory.USER, "io"], limit=3) == ["io high", "user high", "io low"]
        assert await found(plugin_id="user") == ["user high", "user low"]
        assert await found(status=TaskStatus.RUNNING) == ["io high", "io low"]
        assert await found(status=["pending", "completed"]) == ["user high", "user low"]
        gate.open()
        for task_id in named:
            await tasks.wait_for_task(task_id)
        assert await found(status="completed") == ["io high", "user high", "io low", "user low"]


async def test_a_definition_limits_its_tasks_whatever_each_is_called() -> None:
    gate = Gate()

    @task(max_concurrent=1)
    async def one(who: str) -> None:
        await gate(who)

    async with open_test_manager() as tasks:
        both = [await tasks.submit_task(one, who, name=who) for who in ("first", "second")]
        await gate.holds(1)
        why = tasks.why_pending(both[1])
        assert why is not None
        assert why.held_by is not None
        assert why.held_by.startswith("max_concurrent of ")
        assert why.held_by.endswith(".one")
        gate.open()
        for task_id in both:
            await tasks.wait_for_task(task_id)


@pytest.mark.parametrize("holds", [True, False], ids=["it waits itself", "it starts"])
async def test_a_submission_that_raises_the_maximum_of_its_definition_starts_the_others(holds: bool) -> None:
    gate = Gate()

    @task(name="few", max_concurrent=1)
    async def one(who: str) -> None:
        await gate(who)

    @task(name="few", max_concurrent=4)
    async def more(who: str) -> None:
        await gate(who)

    async with open_test_manager(settings(category_limits={"core": 1})) as tasks:
        if holds:
            await tasks.submit_task(gate, "core", category="core")
        await tasks.submit_task(one, "first", category="io")
        for who in ("second", "third"):
            await tasks.submit_task(one, who, category="io")
        await tasks.submit_task(more, "raises", category="core")
        await gate.holds(4)
        gate.open()
