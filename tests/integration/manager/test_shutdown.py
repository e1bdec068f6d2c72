"""How a manager starts and stops: in order, once, in bounded time, whatever its tasks and its parts do."""

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from qorzen_obs import TaskInfo, TaskManager, TaskStatus, with_options
from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.errors import (
    ManagerInitializationError,
    ManagerShutdownError,
    SettingsError,
    TaskCancelled,
    TaskManagerClosedError,
)
from qorzen_obs.telemetry import names
from qorzen_obs.testing import CapturedEvents, CapturedLogs, open_test_manager
from tests.services.program import environment
from tests.support import PATIENCE_SECONDS, Gate, ThreadGate, metric, settings, turns, until, virtual_time


def new_manager(
    *, config: Any = None, concurrency: Any = None, events: Any = None, registry: Any = None
) -> TaskManager:
    class Concurrency:
        async def run_in_thread(self, func: Any, *args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(func, *args, **kwargs)

    return TaskManager(
        concurrency or Concurrency(),
        events or CapturedEvents(),
        CapturedLogs(),
        config or ConfigManager(settings()),
        registry=registry,
    )


@virtual_time
async def test_shutdown_lets_running_and_pending_tasks_end() -> None:
    events = CapturedEvents()
    async with open_test_manager(settings(max_concurrent_tasks=1), events=events) as tasks:
        ids = [await tasks.submit_task(asyncio.sleep, 5) for _ in range(3)]
        await tasks.shutdown(grace_seconds=20)
        assert tasks.loop.time() == pytest.approx(15, abs=1)  # type: ignore[union-attr]  # it is initialized
        assert [tasks.find(task_id).status for task_id in ids] == [TaskStatus.COMPLETED] * 3  # type: ignore[union-attr]  # known
        assert (tasks.state.value, tasks.initialized, tasks.healthy) == ("stopped", False, False)
        assert [event.event_type for event in events.events].count("task/completed") == 3


@virtual_time
async def test_at_its_deadline_shutdown_cancels_the_rest_and_no_pending_task_is_started() -> None:
    begun: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(100)

    async with open_test_manager(settings(max_concurrent_tasks=2, shutdown_grace_seconds=7)) as tasks:
        ids = [await tasks.submit_task(work, number, cancellable=number > 0) for number in range(5)]
        await tasks.shutdown()
        assert tasks.loop.time() == pytest.approx(7, abs=0.5)  # type: ignore[union-attr]  # it is initialized
        infos = [tasks.find(task_id) for task_id in ids]
        assert [(info.status, info.cancel_reason) for info in infos if info is not None] == [
            (TaskStatus.CANCELLED, "shutdown")
        ] * 5
        assert begun == [0, 1]


async def test_with_a_grace_of_0_everything_is_cancelled_at_once_and_nothing_new_begins() -> None:
    gate, events, begun = Gate(), CapturedEvents(), list[int]()
    one_slot = settings(max_concurrent_tasks=1)
    async with open_test_manager(one_slot, events=events) as tasks:

        async def work() -> None:
            begun.append(1)

        await tasks.submit_task(gate)
        await tasks.submit_task(work)
        pending = await tasks.submit_task(begun.append, 2)
        await gate.holds(1)
        gate.open()  # it ends in the turn in which everything is cancelled, and its slot is free then
        await tasks.shutdown(grace_seconds=0)
        await turns()
        assert begun == []
        assert events.of(pending) == ["task/submitted", "task/cancelled"]


async def test_a_second_call_awaits_the_first_and_a_grace_of_0_ends_its_patience() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(gate)
        await gate.holds(1)
        calls = [asyncio.create_task(tasks.shutdown(grace_seconds=1_000)) for _ in range(2)]
        await turns()
        assert tasks.state.value == "draining"
        assert not any(call.done() for call in calls)
        await tasks.shutdown(grace_seconds=0)
        await asyncio.gather(*calls)
        assert tasks.find(task_id).status is TaskStatus.CANCELLED  # type: ignore[union-attr]  # it is known
        await tasks.shutdown()


async def test_a_cancelled_caller_ends_the_patience_and_the_manager_is_stopped_all_the_same() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        await tasks.submit_task(gate)
        await gate.holds(1)
        stopping = asyncio.create_task(tasks.shutdown(grace_seconds=1_000))
        await turns()
        stopping.cancel()
        await asyncio.wait([stopping])
        assert stopping.cancelled()
        assert tasks.state.value == "stopped"


async def test_shutdown_before_initialize_is_safe_and_final() -> None:
    tasks = new_manager()
    await tasks.shutdown()
    await tasks.shutdown()
    assert tasks.status()["state"] == "stopped"
    with pytest.raises(ManagerInitializationError, match="is stopped already"):
        await tasks.initialize()


@pytest.mark.parametrize("state", ["new", "draining", "stopped"])
async def test_work_is_refused_with_a_typed_error_and_counted_when_the_manager_takes_none(state: str) -> None:
    gate = Gate()
    tasks = new_manager()
    stopping = None
    if state != "new":
        await tasks.initialize()
        if state == "draining":
            await tasks.submit_task(gate)
        stopping = asyncio.create_task(tasks.shutdown())
        await until(lambda: tasks.state.value == state)
    with pytest.raises(TaskManagerClosedError) as caught:
        await tasks.submit_task(gate)
    assert caught.value.state == state
    assert ("await initialize() first" in str(caught.value)) == (state == "new")
    assert tasks.status()["tasks"]["rejected"] == 1
    gate.open()
    if stopping is not None:
        await stopping


async def test_waiters_are_released_by_shutdown() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        ids = [await tasks.submit_task(gate) for _ in range(2)]
        waiting = [asyncio.create_task(tasks.wait_for_task(task_id)) for task_id in ids]
        running = asyncio.create_task(tasks.run(gate))
        await turns()
        await tasks.shutdown(grace_seconds=0)
        assert [info.status for info in await asyncio.gather(*waiting)] == [TaskStatus.CANCELLED] * 2
        with pytest.raises(TaskCancelled, match="shutdown"):
            await running


async def test_what_would_not_stop_is_abandoned_and_shown_so() -> None:
    with ThreadGate() as gate:
        brief = settings(cancel_grace_seconds=0.05)
        async with open_test_manager(brief) as tasks:
            stuck = await tasks.submit_task(gate)
            await gate.holds(1)
            await tasks.shutdown(grace_seconds=0)
            info = tasks.find(stuck)
            assert info is not None
            assert (info.status, info.abandoned) == (TaskStatus.CANCELLED, True)
            assert tasks.status()["slots"]["thread"]["abandoned"] == 1
            gate.open()
            await until(lambda: tasks.status()["slots"]["thread"]["abandoned"] == 0)


async def test_idle_threads_end_with_the_concurrency_manager() -> None:
    before = set(threading.enumerate())
    async with open_test_manager() as tasks:
        await asyncio.gather(*(tasks.run(threading.get_ident, category="io") for _ in range(5)))
        await tasks.run(threading.get_ident)
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


async def test_a_task_may_shut_its_own_manager_down() -> None:
    async with open_test_manager(settings(cancel_grace_seconds=0.05)) as tasks:

        async def stop() -> None:
            await tasks.shutdown(grace_seconds=0)

        task_id = await tasks.submit_task(stop)
        assert (await tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED
        await until(lambda: tasks.state.value == "stopped")


async def test_a_second_initialize_is_an_error_and_changes_nothing() -> None:
    async with open_test_manager() as tasks:
        with pytest.raises(ManagerInitializationError, match="is ready already"):
            await tasks.initialize()
        assert await tasks.run(asyncio.sleep, 0, "works") == "works"


class FlakyConfig(ConfigManager):
    """Fails once, where it is told to."""

    def __init__(self, fails_at: str) -> None:
        super().__init__(settings(max_concurrent_tasks=3))
        self.fails_at = fails_at

    async def get(self, key: str, default: Any = None) -> Any:
        self._fail("get")
        return await super().get(key, default)

    async def register_listener(self, key: str, listener: Any) -> None:
        self._fail("register_listener")
        await super().register_listener(key, listener)

    def _fail(self, where: str) -> None:
        if self.fails_at == where:
            self.fails_at = ""
            raise OSError(f"{where} failed")


@pytest.mark.parametrize("fails_at", ["get", "register_listener"])
async def test_a_manager_that_did_not_start_can_be_started_once_the_cause_is_mended(fails_at: str) -> None:
    registry = CollectorRegistry()
    tasks = new_manager(config=FlakyConfig(fails_at), registry=registry)
    with pytest.raises(ManagerInitializationError, match=f"{fails_at} failed") as caught:
        await tasks.initialize()
    assert isinstance(caught.value.__cause__, OSError)
    assert (tasks.initialized, tasks.state.value) == (False, "new")
    assert list(registry.collect()) == []
    await tasks.initialize()
    assert tasks.status()["config"]["max_concurrent_tasks"] == 3
    assert await tasks.run(asyncio.sleep, 0, "works") == "works"
    assert metric(registry, names.TASKS.name) == 1
    await tasks.shutdown()


async def test_a_cancelled_initialize_leaves_it_able_to_be_started() -> None:
    class SlowConfig(ConfigManager):
        reached = asyncio.Event()
        go_on = asyncio.Event()

        async def get(self, key: str, default: Any = None) -> Any:
            self.reached.set()
            await self.go_on.wait()
            return await super().get(key, default)

    config = SlowConfig(settings())
    tasks = new_manager(config=config)
    starting = asyncio.create_task(tasks.initialize())
    await config.reached.wait()
    with pytest.raises(ManagerShutdownError, match="is starting"):
        await tasks.shutdown()
    with pytest.raises(ManagerInitializationError, match="is starting already"):
        await tasks.initialize()
    starting.cancel()
    await asyncio.wait([starting])
    config.go_on.set()
    await tasks.initialize()
    await tasks.shutdown()


async def test_a_bad_setting_stops_the_start_by_its_name() -> None:
    class Config(ConfigManager):
        async def get(self, key: str, default: Any = None) -> Any:
            return {"max_pending": 0}

    with pytest.raises(SettingsError, match=r"tasks\.max_pending"):
        await new_manager(config=Config()).initialize()


async def test_a_concurrency_manager_that_is_not_ready_or_none_at_all_is_named() -> None:
    with pytest.raises(ManagerInitializationError, match=r"await initialize\(\) first"):
        await new_manager(concurrency=ConcurrencyManager()).initialize()
    with pytest.raises(ManagerInitializationError, match="neither engine nor run_in_thread"):
        await new_manager(concurrency=object.__new__(type("Empty", (), {}))).initialize()


async def test_two_managers_cannot_share_a_registry_of_metrics() -> None:
    async with open_test_manager() as first:
        second = new_manager(registry=first.registry)
        with pytest.raises(ManagerInitializationError, match="give each a CollectorRegistry"):
            await second.initialize()
        assert await first.run(asyncio.sleep, 0, "works") == "works"


async def test_after_shutdown_the_configuration_tells_the_manager_nothing_more() -> None:
    config = ConfigManager(settings(max_concurrent_tasks=3))
    tasks = new_manager(config=config)
    await tasks.initialize()
    await tasks.shutdown()
    await config.set("tasks.max_concurrent_tasks", 9)
    assert tasks.status()["config"]["max_concurrent_tasks"] == 3


async def test_a_configuration_that_fails_at_the_end_leaves_a_stopped_manager_and_a_typed_error() -> None:
    class Config(ConfigManager):
        async def unregister_listener(self, key: str, listener: Any) -> None:
            raise OSError("gone")

    tasks = new_manager(config=Config(settings()))
    await tasks.initialize()
    with pytest.raises(ManagerShutdownError, match="gone"):
        await tasks.shutdown()
    assert tasks.status()["state"] == "stopped"


async def test_the_service_state_is_a_metric() -> None:
    async with open_test_manager() as tasks:
        name = names.SERVICE_STATE.name
        assert metric(tasks.registry, name, **{name: "ready"}) == 1
        assert metric(tasks.registry, name) == 1
        await tasks.shutdown()
        assert metric(tasks.registry, name, **{name: "stopped"}) == 1
        assert metric(tasks.registry, name) == 1


async def test_status_can_be_asked_in_every_state() -> None:
    tasks = new_manager()
    assert tasks.status()["state"] == "new"
    await tasks.initialize()
    status = tasks.status()
    assert (status["name"], status["initialized"], status["healthy"], status["state"]) == (
        "task_manager",
        True,
        True,
        "ready",
    )
    await tasks.shutdown()
    assert tasks.status()["state"] == "stopped"


@virtual_time
async def test_while_it_drains_a_running_task_may_have_children_and_nobody_else_any_work() -> None:
    gate, drains, refused = Gate(), asyncio.Event(), list[str]()
    kept: list[str] = []

    async def child(number: int) -> int:
        await asyncio.sleep(1)
        return number

    async def parent() -> list[int]:
        await drains.wait()
        kept.append(await tasks.submit_task(asyncio.sleep, 1_000))
        return [await tasks.run(child, 1), await asyncio.create_task(tasks.run(child, 2))]

    async def asked_to_stop() -> None:
        try:
            await gate()
        finally:
            try:
                await tasks.submit_task(child, 3)
            except TaskManagerClosedError as error:
                refused.append(error.state)

    async with open_test_manager(settings(max_concurrent_tasks=2)) as tasks:
        parent_id, other_id = await tasks.submit_task(parent), await tasks.submit_task(asked_to_stop)
        await gate.holds(1)
        loop = asyncio.get_running_loop()
        began, stopping = loop.time(), asyncio.create_task(tasks.shutdown(grace_seconds=30))
        await turns()
        with pytest.raises(TaskManagerClosedError):
            await tasks.submit_task(child, 4)
        await tasks.cancel_task(other_id)
        drains.set()
        info = await tasks.wait_for_task(parent_id)
        assert (info.status, info.result) == (TaskStatus.COMPLETED, [1, 2])
        await stopping
        assert loop.time() - began < 10, "what it did not wait for ends with it"
        (left,) = kept
        end = tasks.find(left)
        assert end is not None
        assert (end.status, end.cancel_reason) == (TaskStatus.CANCELLED, "shutdown")
        assert refused == ["draining"]


@pytest.mark.parametrize("hindrance", ["its category is paused", "its time is after the grace"])
@virtual_time
async def test_a_child_that_cannot_start_any_more_does_not_hold_up_the_stop(hindrance: str) -> None:
    drains = asyncio.Event()
    child = with_options(asyncio.sleep, delay=1_000.0 if "time" in hindrance else 0.0, category="plugin")

    async def parent() -> tuple[TaskInfo | None, str | None]:
        await drains.wait()
        submitted = tasks.find(await tasks.submit_task(child, 0))
        with pytest.raises(TaskCancelled) as caught:
            await tasks.run(child, 0)
        return submitted, caught.value.reason

    async with open_test_manager() as tasks:
        if "paused" in hindrance:
            await tasks.pause("plugin")
        parent_id = await tasks.submit_task(parent)
        await turns()
        loop = asyncio.get_running_loop()
        began, stopping = loop.time(), asyncio.create_task(tasks.shutdown(grace_seconds=30))
        await turns()
        drains.set()
        submitted, reason = (await tasks.wait_for_task(parent_id)).result
        assert (submitted.status, submitted.cancel_reason) == (TaskStatus.CANCELLED, "shutdown")
        assert reason == "shutdown"
        await stopping
        assert loop.time() - began < 10, "nobody waits for it"


@pytest.mark.timeout(60)  # where it waits by looking again and again, no time passes
@virtual_time
async def test_a_running_task_waits_for_room_in_the_queue_while_the_manager_drains() -> None:
    drains, refused, left = asyncio.Event(), list[str](), list[asyncio.Task[None]]()
    child = with_options(asyncio.sleep, max_concurrent=1)

    async def parent() -> int:
        await drains.wait()
        return len(await asyncio.gather(*(tasks.run(child, 5) for _ in range(4))))

    async def submit() -> None:
        try:
            await tasks.submit_task(child, 5)
        except TaskManagerClosedError as error:
            refused.append(error.state)

    async def asked_to_stop() -> None:
        await drains.wait()
        left.extend(asyncio.create_task(submit()) for _ in range(3))
        await asyncio.sleep(1_000)

    async with open_test_manager(settings(max_pending=1, when_full="wait")) as tasks:
        parent_id, other_id = await tasks.submit_task(parent), await tasks.submit_task(asked_to_stop)
        await turns()
        stopping = asyncio.create_task(tasks.shutdown(grace_seconds=60))
        await turns()
        drains.set()
        await turns()
        await tasks.cancel_task(other_id)
        assert (await tasks.wait_for_task(parent_id)).result == 4
        await stopping
        await asyncio.gather(*left)
        assert refused == ["draining"] * 3


@virtual_time
async def test_at_the_end_of_the_grace_the_children_of_running_tasks_are_cancelled_too() -> None:
    drains = asyncio.Event()

    async def parent() -> None:
        await drains.wait()
        await tasks.run(asyncio.sleep, 1_000)

    async with open_test_manager() as tasks:
        parent_id = await tasks.submit_task(parent)
        await turns()
        stopping = asyncio.create_task(tasks.shutdown(grace_seconds=7))
        await turns()
        drains.set()
        await stopping
        infos = {info.name: info.status for info in await tasks.get_tasks()}
        assert infos == {tasks.find(parent_id).name: TaskStatus.CANCELLED, "sleep": TaskStatus.CANCELLED}  # type: ignore[union-attr]  # it is known


STUBBORN = """
import asyncio
import sys

from qorzen_obs import open_task_manager
from qorzen_obs.settings import Settings, TaskSettings


async def stubborn(below):
    if below:
        return await asyncio.gather(asyncio.create_task(stubborn(below - 1)))
    while True:
        try:
            await asyncio.sleep(3600)
        except BaseException as error:
            if isinstance(error, RuntimeError):
                raise


async def main():
    async with open_task_manager(Settings(tasks=TaskSettings(cancel_grace_seconds=0.1))) as tasks:
        for below in range(2):
            task_id = await tasks.submit_task(stubborn, below)
            await asyncio.sleep(0.05)
            await tasks.cancel_task(task_id)
            assert (await tasks.wait_for_task(task_id)).status.final
    print(sum(slots["abandoned"] for slots in tasks.status()["slots"].values()), "left")


asyncio.run(main())
print("over")
"""


def test_f5_a_program_ends_that_has_abandoned_what_never_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STUBBORN],
        env=environment({"OTEL_SDK_DISABLED": "true"}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, lines) == (0, [])
    assert done.stdout.split() == ["2", "left", "over"]
