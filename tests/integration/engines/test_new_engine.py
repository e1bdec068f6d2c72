"""What it takes to add an engine: its class, its traits, and the concurrency manager that makes it. Nothing else."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from qorzen_obs import TaskManager, TaskStatus, task
from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.engines.base import Ended, Engine
from qorzen_obs.engines.traits import ENGINES, EngineTraits, Place
from qorzen_obs.errors import InvalidTaskError, TaskCancelled
from qorzen_obs.record import Attempt
from qorzen_obs.server.documents import task_document
from qorzen_obs.tasks import CancelGuarantee
from qorzen_obs.telemetry import names
from qorzen_obs.testing import open_test_manager
from tests.support import Spans, metric, settings, turns, virtual_time

NAME: Any = "fake"  # no type checker knows it
FAKE = EngineTraits(
    kind="fake",
    place=Place.PROCESS,
    cancel_guarantee=CancelGuarantee.KILL,
    use_phase="fake_use",
    wait_phase="fake_wait",
    measures_transfer=True,
    runs_sync=True,
)
TRANSFER_SECONDS, CALL_SECONDS, USE_SECONDS = 1.0, 3.0, 2.0


class FakeEngine:
    """A machine far away: each call takes a second to get there, and works for two of its three seconds."""

    traits = FAKE
    slots: int | None = 2

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def start(self, attempt: Attempt, ended: Ended) -> None:
        begin = self._loop.call_later(TRANSFER_SECONDS, self._begin, attempt, ended)
        attempt.driver = (begin, ended)

    def _begin(self, attempt: Attempt, ended: Ended) -> None:
        assert attempt.meter is not None
        attempt.meter.call_since = attempt.meter.clock()
        end = self._loop.call_later(CALL_SECONDS, self._end, attempt, ended)
        attempt.driver = (end, ended)

    def _end(self, attempt: Attempt, ended: Ended) -> None:
        assert attempt.meter is not None
        attempt.meter.call_seconds, attempt.meter.use_seconds = CALL_SECONDS, USE_SECONDS
        func: Any = attempt.record.func
        ended(attempt, func(*attempt.record.args, **attempt.kwargs), None)

    def interrupt(self, attempt: Attempt) -> None: ...

    def kill(self, attempt: Attempt) -> bool:
        timer, ended = attempt.driver
        timer.cancel()
        ended(attempt, None, TaskCancelled(attempt.task_id, attempt.reason))
        return True

    def abandon(self, attempt: Attempt) -> None: ...

    def close(self) -> None: ...

    def status(self) -> Mapping[str, Any]:
        return {"machines": 1}


class OneEngineMore(ConcurrencyManager):
    async def initialize(self) -> None:
        await super().initialize()
        self._fake = FakeEngine(asyncio.get_running_loop())

    @property
    def engines(self) -> Mapping[str, Engine]:
        return {**super().engines, FAKE.kind: self._fake}


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what engines/traits.py would: add a line."""
    monkeypatch.setitem(ENGINES, FAKE.kind, FAKE)


@asynccontextmanager
async def manager(spans: Spans | None = None, **tasks: Any) -> AsyncIterator[TaskManager]:
    concurrency = OneEngineMore()
    await concurrency.initialize()
    provider = None if spans is None else spans.provider
    async with open_test_manager(
        settings(**tasks), concurrency=concurrency, tracer_provider=provider
    ) as opened:
        yield opened
    await concurrency.shutdown()


def triple() -> Any:
    """Return a callable for the engine, which is known only within a test."""

    @task(name="triple", engine=NAME)
    def function(number: int) -> int:
        return 3 * number

    return function


@virtual_time
async def test_it_is_chosen_by_name_and_runs_the_task() -> None:
    async with manager() as tasks:
        task_id = await tasks.submit_task(triple(), 7)
        await turns()
        (attempt,) = tasks.looks.attempts()
        assert attempt.record.engine is FAKE
        info = await tasks.wait_for_task(task_id)
        assert (info.status, info.result) == (TaskStatus.COMPLETED, 21)
        assert (info.engine, info.cancel_guarantee) == ("fake", "kill")
        document = task_document(info, tasks.looks.redactor)
        assert (document.engine, document.cancel_guarantee) == ("fake", CancelGuarantee.KILL)


@virtual_time
async def test_its_phases_are_in_the_ledger_and_in_the_metrics_from_the_start() -> None:
    async with manager() as tasks:
        phase = names.PHASE_SECONDS.name + "_total"
        series = [sample for family in tasks.registry.collect() for sample in family.samples]
        assert {s.value for s in series if s.labels.get("phase") in {"fake_use", "fake_wait"}} == {0.0}
        info = await tasks.wait_for_task(await tasks.submit_task(triple(), 7))
        assert info.phases == pytest.approx({"fake_use": 2.0, "fake_wait": 1.0, "transfer": 1.0})
        assert metric(tasks.registry, phase, phase="fake_use") == pytest.approx(2.0)
        assert metric(tasks.registry, phase, phase="fake_wait") == pytest.approx(1.0)


@virtual_time
async def test_its_slots_are_limited_and_shown_and_what_it_says_stands_in_the_status() -> None:
    async with manager() as tasks:
        ids = [await tasks.submit_task(triple(), number) for number in range(3)]
        await turns()
        assert tasks.looks.slots()["fake"] == {"limit": 2, "busy": 2, "lent": 0, "abandoned": 0}
        why = tasks.why_pending(ids[2])
        assert why is not None
        assert why.held_by == "the slots of engine fake"
        assert metric(tasks.registry, names.ENGINE_SLOTS_BUSY.name, engine="fake") == 2
        assert tasks.status()["engines"]["fake"] == {"machines": 1}
        for task_id in ids:
            await tasks.wait_for_task(task_id)


@virtual_time
async def test_it_keeps_its_cancel_guarantee_and_its_deadlines() -> None:
    async with manager() as tasks:
        count = names.CANCEL_LATENCY.name + "_count"
        assert metric(tasks.registry, count, engine="fake") == 0
        cancelled = await tasks.submit_task(triple(), 1)
        late = await tasks.submit_task(triple(), 2, timeout=2)
        await turns()
        await tasks.cancel_task(cancelled)
        info = await tasks.wait_for_task(cancelled)
        assert (info.status, info.abandoned) == (TaskStatus.CANCELLED, False)
        assert metric(tasks.registry, count, engine="fake") == 1
        info = await tasks.wait_for_task(late)
        assert (info.status, info.error_type, info.abandoned) == (TaskStatus.FAILED, "timeout", False)


@virtual_time
async def test_its_spans_and_its_outlines_name_it() -> None:
    spans = Spans()
    async with manager(spans, keep_completed_tasks=0) as tasks:
        task_id = await tasks.submit_task(triple(), 7)
        await tasks.wait_for_task(task_id)
        await turns()
        attributes = spans.one("run triple").attributes
        assert attributes is not None
        assert attributes[names.TASK_ENGINE] == "fake"
        info = await tasks.get_task_info(task_id)
        assert info is not None
        assert (info.evicted, info.engine) == (True, "fake")


def test_its_traits_say_what_it_can_run() -> None:
    async def function() -> None: ...

    with pytest.raises(
        InvalidTaskError, match="'fake' cannot run an async function; use 'loop' or 'process'"
    ):
        task(engine=NAME)(function)

    with pytest.raises(InvalidTaskError, match="use 'io', 'thread', 'process', 'main' or 'fake'"):
        task(engine="loop")(print)


@pytest.mark.parametrize(
    "error", [RuntimeError("no thread"), FileNotFoundError(2, "gone"), LookupError(), MemoryError("full")]
)
@virtual_time
async def test_whatever_an_engine_raises_at_the_start_fails_the_attempt_and_nothing_is_left(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: FakeEngine, attempt: Attempt, ended: Ended) -> None:
        attempt.driver = "half done"
        raise error

    async with manager(max_concurrent_tasks=1) as tasks:
        real = FakeEngine.start
        monkeypatch.setattr(FakeEngine, "start", start)
        info = await tasks.wait_for_task(await tasks.submit_task(triple(), 1))
        assert (info.status, info.error_type) == (TaskStatus.FAILED, type(error).__qualname__)
        assert str(error) in (info.error or "")
        status = tasks.status()
        assert status["tasks"]["by_status"]["running"] == 0
        assert status["slots"]["fake"] == {"limit": 2, "busy": 0, "lent": 0, "abandoned": 0}
        monkeypatch.setattr(FakeEngine, "start", real)
        assert await tasks.run(triple(), 2) == 6
