"""Who is told of a task, and when; observers, loggers and subscribers that fail or hang hold up no task."""

from __future__ import annotations

import asyncio
import collections
import gc
import weakref
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from qorzen_obs import current_task
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.event_bus_manager import Event, EventBusManager
from qorzen_obs.core.event_feed import CAPACITY, DEADLINE_SECONDS
from qorzen_obs.core.runtime import ManagerState
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.errors import ManagerShutdownError
from qorzen_obs.tasks import EventKind
from qorzen_obs.telemetry import names
from qorzen_obs.testing import CapturedEvents, CapturedLogs, open_test_manager
from tests.support import Gate, metric, settings, turns, until, virtual_time


async def test_an_observer_that_raises_is_dismissed_and_counted_and_tasks_go_on() -> None:
    class Logs(CapturedLogs):
        def _keep(self, logger: Any, method: str, event: Any) -> Any:
            if event["event"] == names.LOG_FINISHED:
                raise OSError("disk full")
            return super()._keep(logger, method, event)

    logs, events = Logs(), CapturedEvents()
    async with open_test_manager(logs=logs, events=events) as tasks:
        for _ in range(3):
            assert await tasks.run(asyncio.sleep, 0, "works") == "works"
        assert not tasks.healthy
        assert metric(tasks.registry, names.TELEMETRY_ERRORS.name + "_total", component="log") == 1
        assert metric(tasks.registry, names.TASKS_FINISHED.name + "_total") == 3
        await tasks.shutdown()
    (line,) = logs.of(names.LOG_OBSERVER_FAILED)
    assert (line["component"], line["error"], line["level"]) == ("log", "OSError('disk full')", "error")
    assert [event.event_type for event in events.events].count("task/completed") == 3


async def test_a_logger_that_always_raises_breaks_no_task() -> None:
    class Logs(CapturedLogs):
        def _keep(self, logger: Any, method: str, event: Any) -> Any:
            if event["event"] != names.LOG_MANAGER_STATE:
                raise OSError("disk full")
            return super()._keep(logger, method, event)

    async with open_test_manager(logs=Logs()) as tasks:
        for _ in range(3):
            assert await tasks.run(asyncio.sleep, 0, "works") == "works"
        assert metric(tasks.registry, names.TELEMETRY_ERRORS.name + "_total", component="log") >= 1


class BrokenLogger:
    """Fails whatever it is told."""

    def get_logger(self, name: str) -> Any:
        return self

    def info(self, *_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    warning = error = info


@virtual_time
async def test_a_logger_that_fails_is_counted_and_stops_nothing() -> None:
    registry = CollectorRegistry()
    async with open_test_manager(logs=BrokenLogger(), registry=registry) as tasks:
        assert await tasks.run(asyncio.sleep, 1, "done") == "done"
        await tasks.shutdown()
        assert tasks.state is ManagerState.STOPPED
        assert (registry.get_sample_value("qorzen_telemetry_errors_total", {"component": "log"}) or 0) >= 3


async def test_events_arrive_in_order_and_a_failing_subscriber_harms_no_other() -> None:
    bus, seen = EventBusManager(), list[Event]()

    async def broken(_: Event) -> None:
        raise ValueError("theirs")

    async def keep(event: Event) -> None:
        seen.append(event)

    bus.subscribe("*", broken)
    bus.subscribe("*", keep)
    async with open_test_manager(events=bus) as tasks:
        ids = [await tasks.submit_task(asyncio.sleep, 0) for _ in range(5)]
        await tasks.shutdown()
    for task_id in ids:
        told = [event.event_type for event in seen if event.payload["task_id"] == task_id]
        assert told == ["task/submitted", "task/started", "task/completed"]
    assert [event.payload["task_id"] for event in seen if event.event_type == "task/submitted"] == ids


ESCAPING = (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError())


async def test_managers_that_share_a_bus_count_their_own_lost_events_and_leave_it_when_they_stop() -> None:
    bus = EventBusManager()

    async def refuses(event: Event) -> None:
        raise ValueError

    def lost(tasks: TaskManager) -> float:
        return metric(tasks.registry, names.EVENTS_DROPPED.name + "_total", kind="event")

    async def beside(one: TaskManager) -> weakref.ref[TaskManager]:
        async with open_test_manager(events=bus) as other:
            await one.run(asyncio.sleep, 0)
            await until(lambda: lost(one) == 3)
            assert lost(other) == 0
            return weakref.ref(other)

    bus.subscribe("*", refuses)
    async with open_test_manager(events=bus) as one:
        other = await beside(one)
        gc.collect()
        assert other() is None
        await one.run(asyncio.sleep, 0)
        await until(lambda: lost(one) == 6)


@pytest.mark.parametrize(
    "error", [None, *ESCAPING], ids=lambda error: "hangs" if error is None else repr(error)
)
async def test_a_subscriber_that_hangs_or_exits_keeps_no_event_from_the_others(
    error: BaseException | None,
) -> None:
    bus, seen = EventBusManager(), list[Event]()

    async def hostile(_: Event) -> None:
        if error is None:
            await asyncio.Event().wait()
        else:
            raise error

    async def keep(event: Event) -> None:
        seen.append(event)

    bus.subscribe("*", hostile)
    bus.subscribe("*", keep)
    async with open_test_manager(events=bus) as tasks:

        def dropped() -> float:
            return metric(tasks.registry, names.EVENTS_DROPPED.name + "_total", kind="event")

        for _ in range(100):
            assert await tasks.run(asyncio.sleep, 0, "works") == "works"
        await until(lambda: len(seen) == 300)
        if error is None:
            await bus.shutdown()
        await until(lambda: dropped() == 300)


@pytest.mark.parametrize("error", ESCAPING, ids=repr)
async def test_a_bus_an_observer_and_a_logger_that_exit_break_no_task(error: BaseException) -> None:
    class Logs(CapturedLogs):
        def _keep(self, logger: Any, method: str, event: Any) -> Any:
            raise error

    class Bus(CapturedEvents):
        async def publish(self, **_: Any) -> None:
            raise error

    def observer(_: object) -> None:
        raise error

    registry = CollectorRegistry()
    async with open_test_manager(logs=Logs(), events=Bus(), registry=registry) as tasks:
        tasks.observe("hostile", observer, EventKind)
        for _ in range(3):
            assert await tasks.run(asyncio.sleep, 0, "works") == "works"
        await tasks.shutdown()
        assert tasks.state is ManagerState.STOPPED
        assert metric(registry, names.TASKS_FINISHED.name + "_total") == 3
        assert metric(registry, names.EVENTS_DROPPED.name + "_total", kind="event") == 9
        assert metric(registry, names.TELEMETRY_ERRORS.name + "_total", component="hostile") == 1
        assert metric(registry, names.TELEMETRY_ERRORS.name + "_total", component="log") >= 1


@virtual_time
async def test_a_bus_that_never_returns_is_given_the_next_event_after_its_deadline() -> None:
    class Stuck(CapturedEvents):
        given = 0

        async def publish(self, **_: Any) -> None:
            self.given += 1
            await asyncio.Event().wait()

    events = Stuck()
    async with open_test_manager(events=events) as tasks:
        await tasks.run(asyncio.sleep, 0)
        await asyncio.sleep(3 * DEADLINE_SECONDS + 1)
        assert events.given == 3
        assert metric(tasks.registry, names.EVENTS_DROPPED.name + "_total", kind="event") == 3


class BlockedBus(CapturedEvents):
    """Lets nothing through until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()

    async def publish(self, **event: Any) -> None:
        await self.open.wait()
        await super().publish(**event)


async def test_a_blocked_subscriber_delays_no_task_and_loses_nothing_up_to_the_bound() -> None:
    bus = BlockedBus()
    async with open_test_manager(events=bus) as tasks:
        for _ in range(100):
            await tasks.run(asyncio.sleep, 0)
        assert bus.events == []
        bus.open.set()
        await tasks.shutdown()
        assert len(bus.events) == 300
        assert metric(tasks.registry, names.EVENTS_DROPPED.name + "_total") == 0


async def test_beyond_the_bound_progress_is_dropped_first_then_events_and_all_are_counted() -> None:
    bus = BlockedBus()

    async def reports() -> None:
        current_task().progress(50)

    async with open_test_manager(events=bus) as tasks:

        def dropped(kind: str) -> float:
            return metric(tasks.registry, names.EVENTS_DROPPED.name + "_total", kind=kind)

        for _ in range(10):
            await tasks.run(reports)
        told = 4 * 10
        while told < CAPACITY + 1:  # one is on its way already
            await tasks.run(asyncio.sleep, 0)
            told += 3
        over = told - CAPACITY - 1
        assert (dropped("progress"), dropped("event")) == (over, 0)
        for _ in range(10):
            await tasks.run(asyncio.sleep, 0)
        assert (dropped("progress"), dropped("event")) == (10, 30 + over - 10)
        bus.open.set()
        await tasks.shutdown()
        kinds = collections.Counter(event.event_type for event in bus.events)
        assert len(bus.events) == CAPACITY + 1
        assert kinds["task/progress"] == 0


@virtual_time
async def test_a_subscriber_that_never_returns_holds_up_shutdown_for_a_bounded_time() -> None:
    class Stuck(CapturedEvents):
        async def publish(self, **_: Any) -> None:
            await asyncio.Event().wait()

    async with open_test_manager(events=Stuck()) as tasks:
        await tasks.run(asyncio.sleep, 0)
        started = asyncio.get_running_loop().time()
        await tasks.shutdown()
        assert asyncio.get_running_loop().time() - started <= 5
        assert metric(tasks.registry, names.EVENTS_DROPPED.name + "_total", kind="event") == 3


@virtual_time
async def test_a_subscriber_that_ignores_its_cancellation_is_left_behind() -> None:
    release = asyncio.Event()

    class Stubborn(CapturedEvents):
        async def publish(self, **_: Any) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

    async with open_test_manager(events=Stubborn()) as tasks:
        await tasks.run(asyncio.sleep, 0)
        await tasks.shutdown()
        assert asyncio.get_running_loop().time() <= 5
        release.set()
        await turns()


@pytest.mark.parametrize("error", [OSError("bus is down"), asyncio.CancelledError()], ids=repr)
async def test_a_bus_that_fails_is_told_about_once_and_tried_again(error: BaseException) -> None:
    class Flaky(CapturedEvents):
        fails = 5

        async def publish(self, **event: Any) -> None:
            if self.fails:
                self.fails -= 1
                raise error
            await super().publish(**event)

    logs, events = CapturedLogs(), Flaky()
    async with open_test_manager(logs=logs, events=events) as tasks:
        for _ in range(3):
            assert await tasks.run(asyncio.sleep, 0, "works") == "works"
        await tasks.shutdown()
        assert len(events.events) == 4
        assert metric(tasks.registry, names.EVENTS_DROPPED.name + "_total", kind="event") == 5
        assert tasks.looks.metrics.telemetry_errors == {}
    assert len(logs.of(names.LOG_LISTENER_FAILED)) == 1


def told_of(tasks: TaskManager, logs: CapturedLogs) -> tuple[float, int]:
    """How many ends the metrics and the log know of."""
    return metric(tasks.registry, names.RUN_DURATION.name + "_count"), len(logs.of(names.LOG_FINISHED))


async def test_a_task_that_still_runs_is_in_no_histogram_and_has_no_line() -> None:
    logs, gate = CapturedLogs(), Gate()
    async with open_test_manager(settings(), logs=logs) as tasks:
        task_id = await tasks.submit_task(gate)
        await gate.holds(1)
        assert told_of(tasks, logs) == (0, 0)
        gate.open()
        await tasks.wait_for_task(task_id)
        assert told_of(tasks, logs) == (1, 1)


async def test_who_waits_for_a_task_that_ended_in_this_very_turn_of_the_loop_finds_it_told() -> None:
    logs = CapturedLogs()
    found: list[tuple[float, int]] = []
    async with open_test_manager(settings(), logs=logs) as tasks:

        async def first() -> None:
            pass

        async def second(task_id: str) -> None:  # begins when the first has ended, before the loop turns
            await tasks.wait_for_task(task_id)
            found.append(told_of(tasks, logs))

        await tasks.run(second, await tasks.submit_task(first))
    assert found == [(1, 1)]


async def test_an_observer_and_a_subscriber_of_an_end_find_it_told() -> None:
    logs, bus = CapturedLogs(), EventBusManager()
    seen: list[str] = []
    async with open_test_manager(settings(), logs=logs, events=bus) as tasks:

        async def subscriber(_: Event) -> None:
            seen.append(f"subscriber {told_of(tasks, logs)}")

        bus.subscribe("task/completed", subscriber)
        await tasks.run(asyncio.sleep, 0)
        await until(lambda: len(seen) == 1)
        tasks.observe(
            "test", lambda _: seen.append(f"observer {told_of(tasks, logs)}"), [EventKind.COMPLETED]
        )
        await tasks.run(asyncio.sleep, 0)
        await until(lambda: len(seen) == 3)
    assert seen == ["subscriber (1, 1)", "observer (2, 2)", "subscriber (2, 2)"]


@virtual_time
async def test_a_configuration_that_hangs_when_it_is_left_holds_up_no_stop() -> None:
    class Config(ConfigManager):
        async def unregister_listener(self, key: str, listener: Any) -> None:
            await asyncio.Event().wait()

    with pytest.raises(ManagerShutdownError, match="TimeoutError: it took longer than 1 s"):
        async with open_test_manager(config=Config(settings())) as tasks:
            pass
    assert tasks.state is ManagerState.STOPPED
