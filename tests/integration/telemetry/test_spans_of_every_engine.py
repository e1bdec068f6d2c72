"""The span of an attempt on every engine: the whole schema, how it ended, what it carries, what it is linked to."""

from __future__ import annotations

import asyncio
import operator
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from random import Random
from typing import Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.trace import StatusCode
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from qorzen_obs import Retry, TaskManager, current_task, task
from qorzen_obs.options import with_options
from qorzen_obs.settings import TelemetrySettings
from qorzen_obs.tasks import EngineKind, TaskInfo, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.setup import Tracing, set_up_tracing
from qorzen_obs.testing import open_test_manager
from tests.support import Spans, settings

ENGINES = ["loop", "io", "thread", "process", "main", "external"]
TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")


class OnlyThreads:
    """Somebody else's concurrency manager, with the least there is."""

    async def run_in_thread(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(func, *args, **kwargs)


async def awaited_mul(left: int, right: int) -> int:
    return left * right


def multiply_on(engine: str) -> Callable[..., Any]:
    """A callable that the engine runs, and that worker processes can import."""
    if engine == "loop":
        return awaited_mul
    return operator.mul if engine == "external" else with_options(operator.mul, engine=EngineKind(engine))


@asynccontextmanager
async def service(
    engine: str = "loop", *, per_second: float = 0.0, **telemetry: Any
) -> AsyncIterator[tuple[TaskManager, Tracing]]:
    """A manager with tracing of its own that, unless told otherwise, keeps only what must be kept."""
    wanted = TelemetrySettings(traces_per_second=per_second, **telemetry)
    tracing = set_up_tracing(wanted, {}, set_global=False)
    parts = TelemetryParts(
        settings=wanted, status=tracing.status, on_spans=tracing.on_spans, exemplars=tracing.exemplars
    )
    try:
        async with open_test_manager(
            settings(cancel_grace_seconds=0.2),
            concurrency=OnlyThreads() if engine == "external" else None,
            tracer_provider=tracing.provider,
            telemetry=parts,
        ) as tasks:
            yield tasks, tracing
    finally:
        tracing.shutdown()


def attributes_of(tracing: Tracing, info: TaskInfo) -> dict[str, Any]:
    """The attributes of the task's last run span, as far as its trace is kept."""
    assert info.trace_id is not None
    for span in tracing.traces.trace(info.trace_id):
        if f"{span.context.span_id:016x}" == info.span_id:
            return dict(span.attributes or {})
    raise LookupError(info.task_id)


@pytest.mark.parametrize("engine", ENGINES)
async def test_an_attempt_has_the_whole_schema_on_every_engine(engine: str) -> None:
    async with service(engine, per_second=float("inf")) as (tasks, tracing):
        task_id = await tasks.submit_task(
            multiply_on(engine),
            6,
            7,
            name="answer",
            category="plugin",
            plugin_id="deep",
            priority="high",
            metadata={"question": "unknown", "tries": 3, "sure": True, "nested": {"a": 1}, "none": None},
        )
        info = await tasks.wait_for_task(task_id)
        assert (info.result, info.engine) == (42, engine)
        found = attributes_of(tracing, info)
    assert found.pop(names.FUNCTION_NAME).endswith("mul")
    assert found.pop(names.MESSAGING_DESTINATION).endswith("mul")
    assert found.pop(names.CODE_FILE, __file__) == __file__  # what is not written in Python has neither
    assert (names.CODE_LINE in found) == (engine == "loop")
    found.pop(names.CODE_LINE, None)
    assert found.pop(names.TASK_QUEUE_WAIT) == info.queue_wait_seconds
    phases = {name for name in found if name.startswith(names.TASK_PHASE)}
    assert {name: value for name, value in found.items() if name not in phases} == {
        names.MESSAGING_SYSTEM: "qorzen_obs",
        names.MESSAGING_OPERATION: "run",
        names.MESSAGING_OPERATION_TYPE: "process",
        names.MESSAGING_ID: task_id,
        names.TASK_ID: task_id,
        names.TASK_NAME: "answer",
        names.TASK_CATEGORY: "plugin",
        names.TASK_PRIORITY: "high",
        names.TASK_PLUGIN_ID: "deep",
        names.TASK_ATTEMPT: 1,
        names.TASK_ENGINE: engine,
        names.TASK_STATUS: "completed",
        names.TASK_ATTR + "question": "unknown",
        names.TASK_ATTR + "tries": 3,
        names.TASK_ATTR + "sure": True,
    }


@pytest.mark.parametrize("engine", ["loop", "io", "thread", "main", "external"])
async def test_baggage_and_context_variables_travel_with_the_task(engine: str) -> None:
    def look() -> tuple[object, str]:
        return baggage.get_baggage("tenant"), TENANT.get()

    async def look_on_the_loop() -> tuple[object, str]:
        return look()

    TENANT.set("acme")
    context.attach(baggage.set_baggage("tenant", "acme"))
    async with service(engine) as (tasks, _):
        looks = {"loop": look_on_the_loop, "external": look}
        func = looks.get(engine) or with_options(look, engine=EngineKind(engine))
        assert await tasks.run(func) == ("acme", "acme")


async def test_what_the_metadata_says_is_cut_in_number_and_length() -> None:
    metadata: dict[str, Any] = {"k" * 100: "v" * 1_000, "huge": 2**64 - 1, **{f"n{n}": n for n in range(50)}}
    async with service(per_second=float("inf")) as (tasks, tracing):
        info = await tasks.wait_for_task(await tasks.submit_task(awaited_mul, 1, 1, metadata=metadata))
        found = attributes_of(tracing, info)
    own = {name: value for name, value in found.items() if name.startswith(names.TASK_ATTR)}
    assert len(own) == 16
    assert own[names.TASK_ATTR + "k" * 64] == "v" * 256
    assert own[names.TASK_ATTR + "huge"] == str(2**64 - 1), "OTLP has no room for it as a number"


def mark() -> None:
    current_task().keep_trace()


async def mark_on_the_loop() -> None:
    mark()


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_task_can_ask_for_its_trace_to_be_kept(engine: str) -> None:
    marks = {"loop": mark_on_the_loop, "external": mark}
    async with service(engine) as (tasks, tracing):
        func = marks.get(engine) or with_options(mark, engine=EngineKind(engine))
        marked = await tasks.wait_for_task(await tasks.submit_task(func))
        other = await tasks.wait_for_task(await tasks.submit_task(multiply_on(engine), 2, 2))
        assert attributes_of(tracing, marked)[names.TRACE_KEEP] is True
        with pytest.raises(LookupError):
            attributes_of(tracing, other)


async def test_a_definition_can_ask_for_the_traces_of_its_tasks_to_be_kept() -> None:
    async with service() as (tasks, tracing):
        info = await tasks.wait_for_task(
            await tasks.submit_task(with_options(awaited_mul, keep_trace=True), 2, 2)
        )
        assert attributes_of(tracing, info)[names.TRACE_KEEP] is True
        assert tracing.trace_decisions()["kept", names.BY_MARK] == 1


async def test_a_slow_task_is_kept_and_a_quick_one_is_not() -> None:
    async with service(slow_task_seconds=0.05) as (tasks, tracing):
        slow = await tasks.wait_for_task(await tasks.submit_task(asyncio.sleep, 0.06))
        quick = await tasks.wait_for_task(await tasks.submit_task(asyncio.sleep, 0))
        assert attributes_of(tracing, slow)[names.TASK_STATUS] == "completed"
        with pytest.raises(LookupError):
            attributes_of(tracing, quick)
        assert tracing.trace_decisions()["kept", names.BY_SLOW] == 1


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("end", ["timeout", "lost", "cancelled", "ValueError"])
async def test_an_attempt_says_how_it_ended(end: str) -> None:
    asked = asyncio.Event()

    async def until_cancelled() -> None:
        asked.set()
        await asyncio.Event().wait()

    async with service(per_second=float("inf")) as (tasks, tracing):
        if end == "lost":
            task_id = await tasks.submit_task(with_options(die, engine="process"))
        elif end == "ValueError":
            task_id = await tasks.submit_task(int, "no number")
        else:
            task_id = await tasks.submit_task(until_cancelled, timeout=0.01 if end == "timeout" else None)
        if end == "cancelled":
            await asked.wait()
            await tasks.cancel_task(task_id, reason="enough")
        info = await tasks.wait_for_task(task_id)
        found = attributes_of(tracing, info)
    if end == "cancelled":
        assert (found[names.TASK_STATUS], found[names.TASK_CANCEL_REASON]) == ("cancelled", "enough")
        assert names.ERROR_TYPE not in found
    else:
        assert (found[names.TASK_STATUS], found[names.ERROR_TYPE]) == ("failed", end)


def at_once(attempt: int, _: Random) -> float:
    return 0.0


async def test_each_attempt_is_linked_to_the_one_before_and_says_that_another_follows() -> None:
    spans = Spans()

    @task(retry=Retry(max_attempts=3, backoff=at_once))
    async def flaky() -> None:
        raise ValueError

    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(flaky))
    assert (info.status, info.attempt) == (TaskStatus.FAILED, 3)
    first, second, third = spans.all()
    assert [[link.context.span_id for link in span.links] for span in (first, second, third)] == [
        [],
        [first.context.span_id],
        [second.context.span_id],
    ]
    will_retry = [(span.attributes or {}).get(names.TASK_WILL_RETRY) for span in (first, second, third)]
    assert will_retry == [True, True, None]
    assert {span.status.status_code for span in (first, second, third)} == {StatusCode.ERROR}


@pytest.mark.parametrize("options", [{"delay": 0.001}, {"run_at": 1.0}, {"new_trace": True}])
async def test_what_does_not_start_at_once_is_a_root_that_is_linked_to_its_submission(
    options: dict[str, Any],
) -> None:
    spans = Spans()
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        with spans.tracer.start_as_current_span("caller") as caller:
            await tasks.run(with_options(awaited_mul, **options), 1, 1, name="later")
    run = spans.one("run later")
    assert run.parent is None
    assert run.context.trace_id != caller.get_span_context().trace_id
    assert [link.context.span_id for link in run.links] == [caller.get_span_context().span_id]


async def test_exemplars_lead_to_kept_traces_alone_and_openmetrics_carries_the_counters_too() -> None:
    async with service() as (tasks, _):
        for _ in range(20):
            await tasks.run(awaited_mul, 1, 1)
        failed = await tasks.wait_for_task(await tasks.submit_task(int, "no number"))
        text = generate_openmetrics(tasks.registry).decode()  # type: ignore[no-untyped-call]  # theirs
    found = {
        sample.name: sample.exemplar
        for family in parse_openmetrics(text)  # type: ignore[no-untyped-call]  # theirs
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert set(found) == {
        names.TASKS_FINISHED.name + "_total",
        names.RUN_DURATION.name + "_bucket",
        names.QUEUE_WAIT.name + "_bucket",
    }
    assert {exemplar.labels["trace_id"] for exemplar in found.values()} == {failed.trace_id}
    assert found[names.TASKS_FINISHED.name + "_total"].value == 1.0
