"""The span of an attempt that is made late: the same as the SDK's own, and a span like any other to the task's code."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from qorzen_obs import Retry, task
from qorzen_obs.settings import TelemetrySettings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.setup import Tracing, set_up_tracing
from qorzen_obs.telemetry.task_span import TaskSpan
from qorzen_obs.testing import open_test_manager, virtual_time
from tests.support import PATIENCE_SECONDS, settings


def set_up(per_second: float = math.inf) -> Tracing:
    return set_up_tracing(TelemetrySettings(traces_per_second=per_second), {}, set_global=False)


def parts(tracing: Tracing) -> TelemetryParts:
    return TelemetryParts(exemplars=tracing.exemplars)


async def returns() -> None:
    """A task with nothing to say."""


async def writes() -> None:
    span = trace.get_current_span()
    span.set_attribute("user.number", 3)
    span.set_attributes({"user.text": "x", "user.list": [1, 2]})
    span.add_event("happened", {"how": "well"}, timestamp=5)
    span.add_link(trace.SpanContext(1, 2, is_remote=True))
    span.update_name("another name")
    span.set_status(Status(StatusCode.ERROR, "says the task"))
    await asyncio.sleep(1)
    span.record_exception(ValueError("on purpose"), timestamp=7)


async def opens_a_span() -> None:
    with trace.get_tracer("user", tracer_provider=PROVIDERS[-1]).start_as_current_span("inner"):
        await asyncio.sleep(1)


@task(retry=Retry(max_attempts=2, backoff=lambda *_: 1.0))
async def fails() -> None:
    raise RuntimeError("as it should")


@task(new_trace=True, keep_trace=True, name="a task of its own")
async def apart() -> None:
    await asyncio.sleep(0)


PROVIDERS: list[Any] = []


def shown(spans: list[ReadableSpan]) -> list[dict[str, Any]]:
    """Return spans as the SDK shows them, with ids by the order in which they appear."""
    spans = sorted(spans, key=lambda span: (span.name, span.end_time or 0))
    text = json.dumps([json.loads(span.to_json()) for span in spans])
    for number, span in enumerate(spans):
        text = text.replace(f"{span.context.trace_id:032x}", "the trace")
        text = text.replace(f"{span.context.span_id:016x}", f"span {number}")
    text = re.sub("0x([0-9a-f]{32}|[0-9a-f]{16})", "of another trace", text)
    documents: list[dict[str, Any]] = json.loads(text)
    for document in documents:
        for one_s_own in (names.TASK_ID, names.MESSAGING_ID):
            document["attributes"].pop(one_s_own, None)
        document["resource"]["attributes"].pop("service.instance.id", None)
        for event in document["events"]:  # an exception's event shows where it was recorded
            event["attributes"].pop("exception.stacktrace", None)
        if names.TASK_STATUS not in document["attributes"]:  # not an attempt's: by the SDK's own clock
            del document["start_time"], document["end_time"]
    return documents


@pytest.mark.parametrize("func", [returns, writes, opens_a_span, fails, apart])
def test_it_is_the_span_that_the_sdk_would_have_made(func: Callable[..., Any]) -> None:
    found = {}

    @virtual_time
    async def scenario(late: bool) -> None:
        tracing = set_up()
        PROVIDERS.append(tracing.provider)
        if not late:  # somebody else looks at each span: they have to be the SDK's from the beginning
            tracing.provider.add_span_processor(SpanProcessor())  # type: ignore[attr-defined]  # it is the SDK's
        async with open_test_manager(tracer_provider=tracing.provider, telemetry=parts(tracing)) as tasks:
            with trace.get_tracer("caller", tracer_provider=tracing.provider).start_as_current_span("calls"):
                task_id = await tasks.submit_task(
                    func, plugin_id="p", metadata={"n": 1, "text": "t", "no": []}
                )
            await tasks.wait_for_task(task_id)
            alone = await tasks.submit_task(func)
            await tasks.wait_for_task(alone)
        summaries = reversed(tracing.traces.summaries())
        found[late] = [shown(tracing.traces.trace(summary.trace_id)) for summary in summaries]

    scenario(True)
    scenario(False)
    assert found[True] == found[False]
    assert any(document["name"].startswith(("run ", "another")) for one in found[True] for document in one)


async def test_to_the_code_of_the_task_it_is_a_span_like_any_other() -> None:
    seen: list[Any] = []

    async def looks() -> None:
        span = trace.get_current_span()
        seen.append((span, span.is_recording(), span.get_span_context().is_valid))

    tracing = set_up()
    async with open_test_manager(tracer_provider=tracing.provider) as tasks:
        await tasks.run(looks)
    (span, recording, valid) = seen[0]
    assert isinstance(span, TaskSpan)
    assert (recording, valid, span.is_recording()) == (True, True, False)
    assert (span.name.endswith("looks"), span.kind) == (True, SpanKind.CONSUMER)
    assert span.attributes[names.TASK_STATUS] == "completed"


async def test_readers_on_many_threads_get_the_same_span_of_the_sdk_and_it_takes_no_more_room_for_it() -> (
    None
):
    spans: list[Any] = []

    async def keeps_its_span() -> None:
        spans.append(trace.get_current_span())

    tracing = set_up()
    async with open_test_manager(tracer_provider=tracing.provider) as tasks:
        for _ in range(20):
            await tasks.run(keeps_its_span)
    begin = threading.Barrier(4)

    def read() -> list[ReadableSpan]:
        begin.wait()
        return [span.readable() for span in spans]

    before = [span.bytes for span in spans]
    first, *others = await asyncio.gather(*(asyncio.to_thread(read) for _ in range(4)))
    for other in others:
        assert [span.to_json() for span in other] == [span.to_json() for span in first]
    assert [span.bytes for span in spans] == before
    for span, made in zip(spans, first, strict=True):
        assert made.get_span_context() == span.get_span_context()
        assert (made.attributes or {})[names.TASK_STATUS] == "completed"


async def test_a_span_whose_trace_is_dropped_has_name_and_times_and_keeps_nothing_of_its_task_alive() -> None:
    class Result:
        """What a task returns."""

    results: list[weakref.ref[Result]] = []
    spans: list[Any] = []

    async def gives() -> Result:
        spans.append(trace.get_current_span())
        result = Result()
        results.append(weakref.ref(result))
        return result

    tracing = set_up(per_second=0)
    async with open_test_manager(
        settings(keep_completed_tasks=0), tracer_provider=tracing.provider, telemetry=parts(tracing)
    ) as tasks:
        await tasks.run(gives)
        await tasks.run(asyncio.sleep, 0)  # the loop holds on to the last one
        gc.collect()
        assert results[0]() is None
    assert tracing.traces.summaries() == []
    (span,) = spans
    assert span.name.endswith("gives")
    assert span.end_time >= span.start_time
    assert names.TASK_STATUS not in (span.attributes or {})


async def test_a_span_that_the_tasks_code_has_ended_stays_as_it_was_then() -> None:
    async def ends() -> None:
        trace.get_current_span().end(9_000_000_000)
        trace.get_current_span().end()

    tracing = set_up()
    async with open_test_manager(tracer_provider=tracing.provider) as tasks:
        await tasks.run(ends)
        (info,) = await tasks.get_tasks()
    assert info.trace_id is not None
    (span,) = tracing.traces.trace(info.trace_id)
    assert span.end_time == 9_000_000_000
    assert names.TASK_STATUS not in (span.attributes or {})
    assert tracing.span_outcomes()[names.SPAN_KEPT] == 1


async def test_its_trace_waits_for_it_as_soon_as_there_is_another_span() -> None:
    async def opens_and_fails() -> None:
        with trace.get_tracer("user", tracer_provider=tracing.provider).start_as_current_span("inner"):
            await asyncio.sleep(0)
        assert tracing.status()["undecided_traces"] == 1
        raise RuntimeError("so its trace is kept whole")

    tracing = set_up(0.0)
    async with open_test_manager(tracer_provider=tracing.provider) as tasks:
        task_id = await tasks.submit_task(opens_and_fails)
        info = await tasks.wait_for_task(task_id)
    assert info.error_type == "RuntimeError"
    assert [span.name for span in tracing.traces.trace(info.trace_id or "")] == ["inner", f"run {info.name}"]
    assert tracing.status()["undecided_traces"] == 0


async def test_an_attempt_that_was_cancelled_before_its_code_began_has_one_too() -> None:
    tracing = set_up()
    async with open_test_manager(tracer_provider=tracing.provider) as tasks:
        task_id = await tasks.submit_task(returns)
        await tasks.cancel_task(task_id)
        info = await tasks.wait_for_task(task_id)
    assert info.status.value == "cancelled"
    (span,) = tracing.traces.trace(info.trace_id or "")
    assert (span.attributes or {})[names.TASK_STATUS] == "cancelled"


ROUNDS = """
import asyncio, gc
from qorzen_obs.settings import TelemetrySettings
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.setup import set_up_tracing
from qorzen_obs.testing import open_test_manager

async def returns(): ...
async def waits(): await asyncio.sleep(0)
def threaded(): ...

async def round_of(tasks):
    for func in (returns, waits, threaded):
        for _ in range(50):
            await tasks.run(func)

async def main():
    tracing = set_up_tracing(TelemetrySettings(traces_per_second=0.0), {}, set_global=False)
    parts = TelemetryParts(exemplars=tracing.exemplars)
    async with open_test_manager(tracer_provider=tracing.provider, telemetry=parts) as tasks:
        await round_of(tasks)
        gc.collect()
        gc.disable()
        await round_of(tasks)
        print(gc.collect())

asyncio.run(main())
"""


def test_a_task_leaves_nothing_for_the_garbage_collector() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    assert int(done.stdout) < 50, "of 150 tasks: no cycle was left by each"
