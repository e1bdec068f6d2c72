"""What cancelling does to tasks that wait, run, give in, refuse, or have ended."""

import asyncio
import math
import threading
from typing import Any

import pytest

from qorzen_obs import TaskStatus, current_task
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.errors import TaskCancelled, TaskNotCancellableError, TaskNotFoundError
from qorzen_obs.settings import Settings
from qorzen_obs.tasks import CategoryName
from qorzen_obs.telemetry import names
from qorzen_obs.testing import CapturedEvents, open_test_manager
from tests.support import PATIENCE_SECONDS, Gate, ThreadGate, metric, settings, turns, until, virtual_time

BRIEF = 0.05  # seconds of grace where threads need real time


def ended(tasks: TaskManager, task_id: str) -> bool:
    info = tasks.find(task_id)
    return info is not None and info.status.final


async def test_a_cancelled_pending_task_never_starts() -> None:
    gate, events = Gate(), CapturedEvents()
    async with open_test_manager(settings(max_concurrent_tasks=1), events=events) as tasks:
        await tasks.submit_task(gate, "running")
        pending = await tasks.submit_task(gate, "pending")
        assert await tasks.cancel_task(pending, reason="not wanted")
        info = await tasks.get_task_info(pending)
        assert info is not None
        assert (info.status, info.attempt, info.started_at) == (TaskStatus.CANCELLED, 0, None)
        assert (info.cancel_reason, info.duration_seconds, info.error) == ("not wanted", None, None)
        assert info.completed_at is not None
        gate.open()
        await tasks.shutdown()
        assert gate.arrived == ["running"]
        assert events.of(pending) == ["task/submitted", "task/cancelled"]


async def test_a_running_async_task_is_interrupted_at_its_await_and_cleans_up() -> None:
    gate, steps = Gate(), list[str]()

    async def work() -> None:
        try:
            await gate()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(work)
        await gate.holds(1)
        assert await tasks.cancel_task(task_id)
        info = await tasks.wait_for_task(task_id)
        assert (info.status, info.abandoned, info.cancel_reason) == (
            TaskStatus.CANCELLED,
            False,
            "cancel_task",
        )
        assert steps == ["cleaned up"]


async def test_an_async_task_cancelled_before_its_first_step_never_begins() -> None:
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)

    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(work)
        assert await tasks.cancel_task(task_id)
        assert (await tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED
        await turns()
        assert begun == []


async def test_a_main_thread_task_cancelled_before_its_turn_never_begins() -> None:
    begun: list[int] = []
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(begun.append, 1, category="ui")
        assert await tasks.cancel_task(task_id)
        assert (await tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED
        await turns()
        assert begun == []
        assert await tasks.run(int, category="ui") == 0


async def test_cancelling_is_idempotent_and_false_only_once_the_task_had_ended() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow_to_stop() -> None:
        try:
            entered.set()
            await asyncio.Event().wait()
        finally:
            await leave.wait()

    events = CapturedEvents()
    async with open_test_manager(events=events) as tasks:
        task_id = await tasks.submit_task(slow_to_stop)
        await entered.wait()
        assert await tasks.cancel_task(task_id, reason="first")
        assert await tasks.cancel_task(task_id, reason="second")
        await turns()
        assert tasks.find(task_id).status is TaskStatus.RUNNING  # type: ignore[union-attr]  # it is known
        leave.set()
        info = await tasks.wait_for_task(task_id)
        assert (info.status, info.cancel_reason) == (TaskStatus.CANCELLED, "first")
        assert not await tasks.cancel_task(task_id)
        await tasks.shutdown()
        assert events.of(task_id) == ["task/submitted", "task/started", "task/cancelled"]


async def test_an_ended_task_stays_cancellable_in_vain_even_when_only_its_outline_is_left() -> None:
    async with open_test_manager(settings(keep_completed_tasks=0)) as tasks:
        task_id = await tasks.submit_task(asyncio.sleep, 0)
        await tasks.wait_for_task(task_id)
        assert not await tasks.cancel_task(task_id)
        assert tasks.status()["tasks"]["by_status"]["cancelled"] == 0


async def test_cancelling_an_unknown_id_is_an_error() -> None:
    async with open_test_manager() as tasks:
        with pytest.raises(TaskNotFoundError, match="no task has the id 'nobody'"):
            await tasks.cancel_task("nobody")


async def test_a_task_that_is_not_cancellable_is_left_alone_pending_and_running() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        ids = [await tasks.submit_task(gate, name="payment", cancellable=False) for _ in range(2)]
        await gate.holds(1)
        for task_id in ids:
            with pytest.raises(TaskNotCancellableError, match="'payment'") as caught:
                await tasks.cancel_task(task_id)
            assert caught.value.task_id == task_id
        gate.open()
        for task_id in ids:
            info = await tasks.wait_for_task(task_id)
            assert (info.status, info.cancellable) == (TaskStatus.COMPLETED, False)
            assert not await tasks.cancel_task(task_id)


@pytest.mark.parametrize(
    ("reaction", "status"),
    [("returns", TaskStatus.COMPLETED), ("raises", TaskStatus.FAILED), ("gives in", TaskStatus.CANCELLED)],
)
async def test_what_a_task_does_when_it_is_cancelled_decides_how_it_ended(
    reaction: str, status: TaskStatus
) -> None:
    entered = asyncio.Event()

    async def work() -> str:
        try:
            entered.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if reaction == "raises":
                raise ValueError("no") from None
            if reaction == "gives in":
                raise
        return "saved"

    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(work)
        await entered.wait()
        await tasks.cancel_task(task_id)
        info = await tasks.wait_for_task(task_id)
        assert info.status is status
        assert info.result == ("saved" if status is TaskStatus.COMPLETED else None)
        assert info.error_type == ("ValueError" if status is TaskStatus.FAILED else None)


@pytest.mark.parametrize("how", ["raised", "by its own asyncio task"])
async def test_a_cancellation_that_nobody_asked_for_is_a_failure(how: str) -> None:
    async def work() -> None:
        if how == "raised":
            raise asyncio.CancelledError
        inner = asyncio.current_task()
        assert inner is not None
        inner.cancel()
        await asyncio.sleep(0)

    async with open_test_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(work))
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "asyncio.exceptions.CancelledError")


async def test_a_cancel_in_the_same_turn_as_the_end_leaves_one_outcome() -> None:
    events, ends = CapturedEvents(), set[tuple[TaskStatus, object]]()
    async with open_test_manager(events=events) as tasks:
        for steps in range(8):
            gate = asyncio.Event()

            async def work(gate: asyncio.Event = gate) -> str:
                await gate.wait()
                return "value"

            task_id = await tasks.submit_task(work)
            await turns()
            gate.set()
            await turns(steps)
            await tasks.cancel_task(task_id)
            info = await tasks.wait_for_task(task_id)
            ends.add((info.status, info.result))
            await turns()
            assert len(events.of(task_id)) == 3
        assert ends == {(TaskStatus.COMPLETED, "value"), (TaskStatus.CANCELLED, None)}


@virtual_time
async def test_cleanup_has_the_whole_grace_and_is_disturbed_by_nobody() -> None:
    gate, cleaned = Gate(), list[float]()

    async def work() -> None:
        try:
            await gate()
        finally:
            await asyncio.sleep(3)
            cleaned.append(asyncio.get_running_loop().time())

    async with open_test_manager(settings(cancel_grace_seconds=4)) as tasks:
        loop = asyncio.get_running_loop()
        ids = [await tasks.submit_task(work), await tasks.submit_task(work, timeout=5)]
        await gate.holds(2)
        began = loop.time()
        await tasks.cancel_task(ids[0])
        infos = [await tasks.wait_for_task(task_id) for task_id in ids]
        assert [(info.status, info.error_type, info.abandoned) for info in infos] == [
            (TaskStatus.CANCELLED, None, False),
            (TaskStatus.FAILED, "timeout", False),
        ]
        assert [at - began for at in cleaned] == pytest.approx([3, 8], abs=0.2)


@virtual_time
async def test_a_task_that_gives_in_to_the_second_cancellation_is_not_abandoned() -> None:
    gate, interrupted_at = Gate(), list[float]()

    async def below() -> None:
        await asyncio.gather(asyncio.create_task(gate()))

    async def work() -> None:
        while True:
            try:
                await asyncio.gather(asyncio.create_task(below()))
            except asyncio.CancelledError:
                interrupted_at.append(asyncio.get_running_loop().time())
                if len(interrupted_at) == 2:
                    raise

    async with open_test_manager(settings(cancel_grace_seconds=4)) as tasks:
        task_id = await tasks.submit_task(work)
        await gate.holds(1)
        asked = asyncio.get_running_loop().time()
        await tasks.cancel_task(task_id)
        info = await tasks.wait_for_task(task_id)
        assert (info.status, info.abandoned) == (TaskStatus.CANCELLED, False)
        assert [at - asked for at in interrupted_at] == pytest.approx([0, 4])


class Stubborn:
    """An async callable that swallows every cancellation until it is released."""

    def __init__(self) -> None:
        self.interrupted_at: list[float] = []
        self.entered = asyncio.Event()
        self._release = asyncio.Event()

    async def __call__(self) -> str:
        self.entered.set()
        while not self._release.is_set():
            try:
                await self._release.wait()
            except asyncio.CancelledError:
                self.interrupted_at.append(asyncio.get_running_loop().time())
        return "too late"

    def release(self) -> None:
        self._release.set()


@virtual_time
async def test_f5_a_task_that_swallows_its_cancellation_is_interrupted_again_then_abandoned() -> None:
    stubborn, next_one, events = Stubborn(), Gate(), CapturedEvents()
    one_slot = settings(max_concurrent_tasks=1, cancel_grace_seconds=2)
    async with open_test_manager(one_slot, events=events) as tasks:
        task_id = await tasks.submit_task(stubborn)
        await tasks.submit_task(next_one)
        await stubborn.entered.wait()
        asked = tasks.loop.time()  # type: ignore[union-attr]  # it is initialized
        await tasks.cancel_task(task_id)
        info = await tasks.wait_for_task(task_id)
        assert (info.status, info.abandoned, info.result) == (TaskStatus.CANCELLED, True, None)
        assert tasks.loop.time() - asked == pytest.approx(2)  # type: ignore[union-attr]  # as above
        assert [at - asked for at in stubborn.interrupted_at] == pytest.approx([0, 2])
        await asyncio.sleep(0.1)
        assert len(next_one.arrived) == 1, "its slot is replaced within 100 ms"
        assert tasks.status()["slots"]["loop"]["abandoned"] == 1
        assert metric(tasks.registry, names.TASKS_ABANDONED.name, category="core") == 1

        assert info.code_ended_at is None, "it still runs"
        await asyncio.sleep(540)
        stubborn.release()
        await turns()
        ended = tasks.find(task_id)
        assert ended is not None
        assert info.completed_at is not None
        assert ended.code_ended_at == pytest.approx(info.completed_at + 540.1)
        assert ended == info.replace(code_ended_at=ended.code_ended_at), "a late result changes nothing else"
        assert tasks.status()["slots"]["loop"]["abandoned"] == 0
        assert metric(tasks.registry, names.TASKS_ABANDONED.name) == 0
        assert metric(tasks.registry, names.EVENTS_DROPPED.name + "_total", kind="late_result") == 1
        assert tasks.status()["tasks"]["by_status"]["cancelled"] == 1
        assert events.of(task_id) == ["task/submitted", "task/started", "task/cancelled"]


async def test_f6_a_thread_that_ignores_its_token_is_abandoned_and_its_slot_replaced() -> None:
    with ThreadGate() as gate:
        one_thread = settings(worker_threads=1, cancel_grace_seconds=BRIEF)
        async with open_test_manager(one_thread) as tasks:
            stuck = await tasks.submit_task(gate, "stuck")
            behind = await tasks.submit_task(threading.get_ident)
            await gate.holds(1)
            await tasks.cancel_task(stuck)
            info = await tasks.wait_for_task(stuck)
            assert (info.status, info.abandoned, info.result) == (TaskStatus.CANCELLED, True, None)
            assert (await tasks.wait_for_task(behind)).status is TaskStatus.COMPLETED
            assert tasks.status()["slots"]["thread"] == {"limit": 1, "busy": 0, "lent": 0, "abandoned": 1}
            gate.open()
            await until(lambda: tasks.status()["slots"]["thread"]["abandoned"] == 0)
            ended = tasks.find(stuck)
            assert ended is not None
            assert ended.code_ended_at is not None
            assert ended == info.replace(code_ended_at=ended.code_ended_at)
            assert metric(tasks.registry, names.EVENTS_DROPPED.name + "_total", kind="late_result") == 1


async def test_beyond_max_abandoned_a_stuck_thread_keeps_its_slot_until_it_ends() -> None:
    with ThreadGate() as gate:
        capped = settings(worker_threads=1, cancel_grace_seconds=BRIEF, max_abandoned=1)
        async with open_test_manager(capped) as tasks:
            stuck = [await tasks.submit_task(gate) for _ in range(2)]
            for number, task_id in enumerate(stuck, start=1):
                await gate.holds(number)
                await tasks.cancel_task(task_id)
                assert (await tasks.wait_for_task(task_id)).abandoned
            behind = await tasks.submit_task(threading.get_ident)
            await turns()
            assert not ended(tasks, behind)
            assert tasks.status()["slots"]["thread"] == {"limit": 1, "busy": 1, "lent": 0, "abandoned": 2}
            gate.open()
            assert (await tasks.wait_for_task(behind)).status is TaskStatus.COMPLETED
            await until(lambda: tasks.status()["slots"]["thread"]["abandoned"] == 0)
            assert tasks.status()["slots"]["thread"]["busy"] == 0


@pytest.mark.parametrize("category", ["core", "io"])
async def test_a_thread_stops_by_its_token(category: CategoryName) -> None:
    entered = threading.Event()

    def work() -> None:
        me = current_task()
        me.raise_if_cancelled()
        entered.set()
        assert me.wait(PATIENCE_SECONDS), "nobody asked"
        assert me.cancelled
        me.raise_if_cancelled()

    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(work, category=category)
        await asyncio.to_thread(entered.wait)
        await tasks.cancel_task(task_id)
        info = await tasks.wait_for_task(task_id)
        assert (info.status, info.abandoned, info.cancel_reason) == (
            TaskStatus.CANCELLED,
            False,
            "cancel_task",
        )


@pytest.mark.parametrize("seconds", [math.inf, 1e10, 1e308, 10**400], ids=["inf", "1e10", "1e308", "10**400"])
async def test_a_thread_may_wait_for_its_token_as_long_as_it_likes(seconds: float) -> None:
    waits = threading.Event()

    def wait() -> bool:
        waits.set()
        return current_task().wait(seconds)

    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(wait)
        await until(waits.is_set)
        await tasks.cancel_task(task_id)
        assert (await tasks.wait_for_task(task_id)).result is True


async def test_a_wait_for_the_token_ends_by_itself_where_nobody_asks() -> None:
    async with open_test_manager() as tasks:
        assert await tasks.run(lambda: current_task().wait(0.001)) is False


async def test_a_thread_that_raises_task_cancelled_unasked_has_failed() -> None:
    def work() -> None:
        raise TaskCancelled(current_task().task_id)

    async with open_test_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(work))
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "qorzen_obs.errors.TaskCancelled")


async def test_cancelling_the_wait_leaves_the_task_alone() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(gate, "value")
        waiting = [asyncio.create_task(tasks.wait_for_task(task_id)) for _ in range(2)]
        await gate.holds(1)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        assert waiting[0].cancelled()
        gate.open()
        assert (await waiting[1]).result == "value"


async def test_cancelling_the_caller_of_run_cancels_the_task_where_it_is_cancellable() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        callers = [
            asyncio.create_task(tasks.run(gate, cancellable=cancellable)) for cancellable in (True, False)
        ]
        await gate.holds(2)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        gate.open()
        await tasks.shutdown()
        infos = await tasks.get_tasks()
        assert [(info.status, info.cancellable) for info in infos] == [
            (TaskStatus.CANCELLED, True),
            (TaskStatus.COMPLETED, False),
        ]
        assert infos[0].cancel_reason == "the caller of run() was cancelled"


async def test_cancelling_a_parent_cancels_the_child_that_it_runs() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:

        async def parent() -> None:
            await tasks.run(gate, name="child")

        task_id = await tasks.submit_task(parent)
        await gate.holds(1)
        await tasks.cancel_task(task_id)
        assert (await tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED
        await until(lambda: not tasks.status()["tasks"]["by_status"]["running"])
        assert tasks.status()["tasks"]["by_status"]["cancelled"] == 2


async def test_the_time_from_asked_to_stopped_is_observed_per_engine() -> None:
    gate = Gate()
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(gate)
        await gate.holds(1)
        await tasks.cancel_task(task_id)
        await tasks.wait_for_task(task_id)
        count = names.CANCEL_LATENCY.name + "_count"
        assert metric(tasks.registry, count, engine="loop") == 1
        assert metric(tasks.registry, count) == 1


@pytest.mark.parametrize("setting", [0.5, 4.0])
def test_the_grace_is_the_settings(setting: float) -> None:
    @virtual_time
    async def main() -> None:
        stubborn = Stubborn()
        configured: Settings = settings(cancel_grace_seconds=setting)
        async with open_test_manager(configured) as tasks:
            task_id = await tasks.submit_task(stubborn)
            await stubborn.entered.wait()
            started: Any = tasks.loop.time()  # type: ignore[union-attr]  # it is initialized
            await tasks.cancel_task(task_id)
            await tasks.wait_for_task(task_id)
            assert tasks.loop.time() - started == pytest.approx(setting)  # type: ignore[union-attr]  # as above
            stubborn.release()
            await turns()

    main()
