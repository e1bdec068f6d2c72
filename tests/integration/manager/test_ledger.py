"""The time ledger: each moment of a task's life is in one phase, so the phases sum to the whole."""

import asyncio
import threading
import time
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qorzen_obs import Retry, TaskInfo, TaskManager, TaskStatus, current_task, task
from qorzen_obs.engines.traits import LOOP, PROCESS
from qorzen_obs.ledger import Meter
from qorzen_obs.record import TaskEvent
from qorzen_obs.retry import exponential
from qorzen_obs.server.tasks import Order, TaskFilter, select
from qorzen_obs.settings import Settings, TelemetrySettings
from qorzen_obs.tasks import CategoryName
from qorzen_obs.telemetry import names
from qorzen_obs.testing import VirtualTimeLoop, open_test_manager
from tests import process_tasks
from tests.services.process_service import process_service
from tests.support import Gate, Spans, ThreadGate, metric, settings, turns, until, virtual_time

OFF = Settings(telemetry=TelemetrySettings(time_ledger=False))


def block(seconds: float) -> None:
    """Let time pass while nothing else runs, as code that holds the loop does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.jump(seconds)


def lifetime(info: TaskInfo) -> float:
    assert info.completed_at is not None
    return info.completed_at - info.created_at


def counted(tasks: TaskManager, **labels: str) -> float:
    return metric(tasks.registry, names.PHASE_SECONDS.name + "_total", **labels)


def use_processor(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Plan(NamedTuple):
    """One task of a random history."""

    submit_after: float
    delay: float
    steps: list[tuple[str, float]]
    fails: int
    backoff: float
    timeout: float
    cancel_after: float
    deadline: float


SECONDS = st.sampled_from([0.0, 0.3, 1.0, 2.5, 7.0])
PLANS = st.builds(
    Plan,
    submit_after=SECONDS,
    delay=SECONDS,
    steps=st.lists(st.tuples(st.sampled_from(["await", "block", "shield"]), SECONDS), max_size=4),
    fails=st.integers(0, 3),
    backoff=st.sampled_from([0.1, 1.0, 7.0]),
    timeout=st.sampled_from([0.5, 3.0, 100.0]),
    cancel_after=st.sampled_from([0.1, 2.0, 5.0, 1_000.0]),
    deadline=st.sampled_from([1.5, 6.0, 1_000.0]),
)


async def live_through(tasks: TaskManager, plan: Plan) -> TaskInfo:
    @task(
        name="planned",
        delay=plan.delay,
        deadline=plan.deadline,
        retry=Retry(max_attempts=3, backoff=exponential(plan.backoff, factor=1.0, jitter=False)),
    )
    async def planned() -> None:
        for kind, seconds in plan.steps:
            if kind == "block":
                block(seconds)
            elif kind == "await":
                await asyncio.sleep(seconds)
            else:
                try:
                    await asyncio.sleep(seconds)
                except asyncio.CancelledError:
                    await asyncio.sleep(seconds)
        if current_task().number <= plan.fails:
            raise OSError

    await asyncio.sleep(plan.submit_after)
    task_id = await tasks.submit_task(planned, timeout=plan.timeout)
    try:
        async with asyncio.timeout(plan.cancel_after):
            return await tasks.wait_for_task(task_id)
    except TimeoutError:
        await tasks.cancel_task(task_id)
        return await tasks.wait_for_task(task_id)


@hypothesis_settings(max_examples=60, deadline=None)
@given(plans=st.lists(PLANS, min_size=1, max_size=6), slots=st.integers(1, 3))
def test_the_phases_sum_to_the_whole_whatever_happens(plans: list[Plan], slots: int) -> None:
    @virtual_time
    async def run() -> None:
        async with open_test_manager(settings(max_concurrent_tasks=slots)) as tasks:
            infos = await asyncio.gather(*(live_through(tasks, plan) for plan in plans))
            for plan, info in zip(plans, infos, strict=True):
                assert sum(info.phases.values()) == pytest.approx(lifetime(info), abs=1e-5)
                assert all(seconds > 0 for seconds in info.phases.values())
                assert info.phases.get("scheduled", 0.0) <= plan.delay + 1e-5
                assert info.phases.get("retry_wait", 0.0) <= plan.backoff * info.attempt + 1e-5
                blocked = sum(seconds for kind, seconds in plan.steps if kind == "block")
                assert info.phases.get("loop", 0.0) <= blocked * info.attempt + 1e-5
                if info.status is TaskStatus.COMPLETED:
                    assert info.phases.get("loop", 0.0) == pytest.approx(blocked * info.attempt, abs=1e-5)
            assert counted(tasks) == pytest.approx(sum(map(lifetime, infos)), abs=1e-4)

    run()


@virtual_time
async def test_a_whole_life_phase_by_phase() -> None:
    spans = Spans()

    @task(
        name="job", delay=2, retry=Retry(max_attempts=2, backoff=exponential(7.0, factor=1.0, jitter=False))
    )
    async def job() -> None:
        block(0.5)
        await asyncio.sleep(4)
        block(0.25)
        if current_task().number == 1:
            raise OSError

    async with open_test_manager(settings(max_concurrent_tasks=1), tracer_provider=spans.provider) as tasks:
        await tasks.submit_task(asyncio.sleep, 5, category="io")
        info = await tasks.wait_for_task(await tasks.submit_task(job))
        assert info.phases == pytest.approx(
            {"scheduled": 2, "queued": 3, "loop": 1.5, "await": 8, "retry_wait": 7}, abs=1e-5
        )
        for phase, seconds in info.phases.items():
            assert counted(tasks, category="core", phase=phase) == pytest.approx(seconds)
        for span in spans.all():
            if span.name == "run job":
                shown = {
                    key: value for key, value in (span.attributes or {}).items() if names.TASK_PHASE in key
                }
                assert shown == {
                    names.TASK_PHASE + "loop": pytest.approx(0.75),
                    names.TASK_PHASE + "await": pytest.approx(4),
                }


@virtual_time
async def test_a_list_of_tasks_shows_the_phases_of_live_ones_up_to_now_and_an_event_those_of_its_moment() -> (
    None
):
    events: list[TaskEvent] = []
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        tasks.observe("events", events.append)
        ids = [await tasks.submit_task(asyncio.sleep, 60) for _ in range(2)]
        await asyncio.sleep(7)
        (running, waiting), _ = select(tasks.looks.records(), TaskFilter(), Order.OLDEST, None, 10)
        assert [running.task_id, waiting.task_id] == ids
        assert running.phases == pytest.approx({"await": 7.0})
        assert waiting.phases == pytest.approx({"queued": 7.0})
        assert [event.info.phases for event in events] == [{}] * 3


def test_the_clock_may_have_been_read_before_the_use_began_that_another_thread_sees() -> None:
    meter = Meter(lambda: 0.0)
    meter.use_since = meter.call_since = 4.5
    assert meter.phases(LOOP, 4.0, 4.0) == {"await": 4.0}
    assert meter.phases(PROCESS, 4.0, 4.0) == {"transfer": 4.0}


@virtual_time
async def test_a_live_task_shows_its_phases_up_to_now() -> None:
    @task(delay=1)
    async def job() -> None:
        await asyncio.sleep(3)
        block(2)
        shown.append(tasks.find(current_task().task_id))

    shown: list[TaskInfo | None] = []
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        await tasks.submit_task(asyncio.sleep, 5)
        task_id = await tasks.submit_task(job)
        for wait, phases in [
            (0.5, {"scheduled": 0.5}),
            (2.5, {"scheduled": 1, "queued": 2}),
            (3, {"scheduled": 1, "queued": 4, "await": 1}),
        ]:
            await asyncio.sleep(wait)
            info = tasks.find(task_id)
            assert info is not None
            assert info.phases == pytest.approx(phases, abs=1e-5)
        await tasks.wait_for_task(task_id)
        assert shown[0] is not None
        assert shown[0].phases == pytest.approx(
            {"scheduled": 1, "queued": 4, "await": 3, "loop": 2}, abs=1e-5
        )


@virtual_time
async def test_a_lender_awaits() -> None:
    async def parent() -> None:
        await tasks.run(asyncio.sleep, 4)

    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(parent))
        assert info.phases == pytest.approx({"await": 4}, abs=1e-5)


@virtual_time
async def test_what_a_shutdown_ends_has_its_time_accounted_for() -> None:
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        running = await tasks.submit_task(asyncio.sleep, 100)
        pending = await tasks.submit_task(asyncio.sleep, 100)
        await asyncio.sleep(3)
    for task_id, phase in [(running, "await"), (pending, "queued")]:
        info = tasks.find(task_id)
        assert info is not None
        assert info.phases == pytest.approx({phase: 3}, abs=1e-5)


@virtual_time
async def test_an_abandoned_attempt_has_what_it_used_until_it_was_given_up() -> None:
    async def stubborn(gate: Gate) -> None:
        block(2)
        while not gate.arrived:
            try:
                await asyncio.sleep(3)
            except asyncio.CancelledError:
                block(0.1)

    gate = Gate()
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(stubborn, gate)
        await turns()
        await tasks.cancel_task(task_id)
        info = await tasks.wait_for_task(task_id)
        assert info.abandoned
        assert info.phases["loop"] >= 2.1 - 1e-5
        assert sum(info.phases.values()) == pytest.approx(lifetime(info), abs=1e-5)
        gate.arrived.append("stop")
        await asyncio.sleep(5)
        ended = tasks.find(task_id)
        assert ended is not None
        assert ended == info.replace(code_ended_at=ended.code_ended_at)


@virtual_time
async def test_a_call_on_the_loops_own_thread_is_on_the_loop_and_waits_for_its_turn() -> None:
    async with open_test_manager() as tasks:
        first = await tasks.submit_task(block, 3, category="ui")
        info = await tasks.wait_for_task(first)
        assert info.engine == "main"
        assert info.phases == pytest.approx({"loop": 3}, abs=1e-5)


@pytest.mark.parametrize("category", ["io", "core"])
async def test_a_thread_uses_a_processor_or_waits(category: CategoryName) -> None:
    def job() -> None:
        use_processor(0.05)
        current_task().wait(0.05)

    async with open_test_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(job, category=category))
        assert info.phases["thread_cpu"] >= 0.05
        assert info.phases["thread_wait"] >= 0.04
        assert sum(info.phases.values()) == pytest.approx(lifetime(info), abs=0.01)


async def test_the_processor_time_of_a_call_that_still_runs_is_seen() -> None:
    def spin() -> None:
        while not stop.is_set():
            pass

    def cpu() -> float:
        info = tasks.find(task_id)
        assert info is not None
        return info.phases.get("thread_cpu", 0.0)

    stop = threading.Event()
    try:
        async with open_test_manager(settings(cancel_grace_seconds=0.1)) as tasks:
            task_id = await tasks.submit_task(spin)
            await until(lambda: cpu() > 0.02)
            await tasks.cancel_task(task_id)
            info = await tasks.wait_for_task(task_id)
            assert info.abandoned
            assert info.phases["thread_cpu"] > 0.02
            stop.set()
            await until(lambda: not tasks.looks.slots()["thread"]["abandoned"])
            ended = tasks.find(task_id)
            assert ended is not None
            assert ended == info.replace(code_ended_at=ended.code_ended_at)
    finally:
        stop.set()


async def test_a_thread_that_waits_uses_no_processor() -> None:
    with ThreadGate() as gate:
        async with open_test_manager() as tasks:
            task_id = await tasks.submit_task(gate)
            await gate.holds(1)
            began = time.monotonic()
            await until(lambda: time.monotonic() - began > 0.05)
            info = tasks.find(task_id)
            gate.open()
            assert info is not None
            assert info.phases["thread_wait"] > 0.04
            assert info.phases.get("thread_cpu", 0.0) < 0.04


async def test_a_worker_process_says_what_its_call_used() -> None:
    async with process_service() as service:
        info = await service.end(process_tasks.use_processor, 0.1, 0.1)
        assert info.phases["process_cpu"] == pytest.approx(0.1, abs=0.05)
        assert info.phases["process_wait"] >= 0.09
        assert info.phases["transfer"] > 0
        assert sum(info.phases.values()) == pytest.approx(lifetime(info), abs=0.02)
        failed = await service.end(process_tasks.raise_it, ValueError, "no")
        assert set(failed.phases) >= {"process_cpu", "transfer"}
        asynchronous = await service.end(process_tasks.async_echo, 1)
        assert asynchronous.phases["process_cpu"] > 0


async def test_of_a_killed_worker_all_that_is_known_is_when_its_call_began() -> None:
    async with process_service(grace_seconds=0.1) as service:
        task_id, _ = await service.start(process_tasks.spin)
        await service.tasks.cancel_task(task_id)
        info = await service.tasks.wait_for_task(task_id)
        assert "process_cpu" not in info.phases
        assert info.phases["process_wait"] >= 0.09
        assert sum(info.phases.values()) == pytest.approx(lifetime(info), abs=0.02)


class _Foreign:
    """A concurrency manager of another kind."""

    async def run_in_thread(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(func, *args, **kwargs)


async def test_what_a_foreign_manager_runs_is_awaited() -> None:
    async with open_test_manager(concurrency=_Foreign()) as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(use_processor, 0.01))
        assert info.engine == "external"
        assert set(info.phases) <= {"queued", "await"}
        assert info.phases["await"] >= 0.01


async def test_switched_off_there_are_no_phases_anywhere() -> None:
    spans = Spans()
    async with open_test_manager(OFF, tracer_provider=spans.provider) as tasks:
        gate = Gate()
        for func in (asyncio.sleep, time.sleep):
            info = await tasks.wait_for_task(await tasks.submit_task(func, 0, name=func.__module__))
            assert info.phases == {}
        task_id = await tasks.submit_task(gate)
        await gate.holds(1)
        live = tasks.find(task_id)
        assert live is not None
        assert live.phases == {}
        gate.open()
        await tasks.wait_for_task(task_id)
        assert not [key for span in spans.all() for key in span.attributes or {} if names.TASK_PHASE in key]
        samples = [
            sample.name
            for family in tasks.registry.collect()
            if family.name == names.PHASE_SECONDS.name
            for sample in family.samples
        ]
        assert samples == []


async def test_every_known_series_starts_at_0() -> None:
    async with open_test_manager() as tasks:
        series = [
            sample
            for family in tasks.registry.collect()
            if family.name == names.PHASE_SECONDS.name
            for sample in family.samples
        ]
        assert len(series) == 6 * 4 * len(names.PHASES)
        assert {sample.value for sample in series} == {0.0}
