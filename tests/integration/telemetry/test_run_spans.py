"""The span that a task leaves: what it says, where it belongs, and when it ends."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from qorzen_obs import Retry, TaskStatus, current_task, task
from qorzen_obs.tasks import CategoryName
from qorzen_obs.telemetry import names
from qorzen_obs.testing import CapturedLogs, VirtualTimeLoop, open_test_manager
from tests.integration.telemetry.ends import fail
from tests.support import PATIENCE_SECONDS, Gate, Spans, metric, settings, turns, virtual_time

ROOT = Path(__file__).parents[3]


async def overrun() -> None:
    await asyncio.sleep(10)


async def test_a_task_is_one_span_with_what_is_worth_knowing() -> None:
    spans = Spans()
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        info = await tasks.wait_for_task(
            await tasks.submit_task(
                overrun,
                name="slow",
                category="io",
                priority="high",
                plugin_id="reports",
                timeout=0.01,
            )
        )
        (span,) = spans.all()
        assert span.name == "run overrun", "of which there are few; what it was submitted as is an attribute"
        assert span.kind is SpanKind.CONSUMER
        assert span.parent is None
        attributes = dict(span.attributes or {})
        assert attributes.pop(names.TASK_QUEUE_WAIT) == info.queue_wait_seconds
        parts = [attributes.pop(names.TASK_PHASE + phase) for phase in ("loop", "await")]
        assert parts == [info.phases["loop"], info.phases["await"]]
        assert attributes == {
            "messaging.system": "qorzen_obs",
            "messaging.operation.name": "run",
            "messaging.operation.type": "process",
            "messaging.destination.name": "overrun",
            "messaging.message.id": info.task_id,
            names.TASK_ID: info.task_id,
            names.TASK_NAME: "slow",
            names.TASK_CATEGORY: "io",
            names.TASK_PRIORITY: "high",
            names.TASK_PLUGIN_ID: "reports",
            names.TASK_ATTEMPT: 1,
            names.TASK_ENGINE: "loop",
            names.FUNCTION_NAME: f"{__name__}.overrun",
            names.CODE_FILE: __file__,
            names.CODE_LINE: overrun.__code__.co_firstlineno,
            names.TASK_STATUS: "failed",
            names.ERROR_TYPE: "timeout",
        }
        assert (info.trace_id, info.span_id) == (
            trace.format_trace_id(span.context.trace_id),
            trace.format_span_id(span.context.span_id),
        )
        assert span.instrumentation_scope is not None
        assert (span.instrumentation_scope.name, span.instrumentation_scope.version) == (
            names.SCOPE,
            tasks.looks.version,
        )


async def test_only_a_failed_task_has_an_error_status() -> None:
    spans, gate = Spans(), Gate()
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        await tasks.wait_for_task(await tasks.submit_task(asyncio.sleep, 0, name="completed"))
        await tasks.wait_for_task(await tasks.submit_task(fail, name="failed"))
        cancelled = await tasks.submit_task(gate, name="cancelled")
        await gate.holds(1)
        await tasks.cancel_task(cancelled, reason="enough")
        await tasks.wait_for_task(cancelled)
    status = {name: spans.one(f"run {name}").status for name in ("completed", "failed", "cancelled")}
    assert status["completed"].status_code is StatusCode.UNSET
    assert status["cancelled"].status_code is StatusCode.UNSET
    assert (status["failed"].status_code, status["failed"].description) == (
        StatusCode.ERROR,
        "ValueError: on purpose",
    )
    attributes = spans.one("run cancelled").attributes or {}
    assert (attributes[names.TASK_STATUS], attributes[names.TASK_CANCEL_REASON]) == ("cancelled", "enough")
    assert names.ERROR_TYPE not in attributes


@task(retry=Retry(max_attempts=2, backoff=lambda *_: 0.0))
async def fails_for_a_long_reason() -> None:
    raise ValueError("token=hunter2-secret, and the rest") from RuntimeError("x" * 9_000)


def failure_of(span: ReadableSpan) -> dict[str, Any]:
    """The attributes of its only event, which is at its end."""
    (event,) = span.events
    assert (event.name, event.timestamp) == ("exception", span.end_time)
    return dict(event.attributes or {})


async def test_each_failed_attempt_says_what_was_raised_and_where_redacted_and_then_cut() -> None:
    spans, logs = Spans(), CapturedLogs()
    async with open_test_manager(tracer_provider=spans.provider, logs=logs) as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(fails_for_a_long_reason))
    first, last = (failure_of(span) for span in spans.all())
    assert info.traceback is not None
    assert last == {
        "exception.type": "ValueError",
        "exception.message": "token=[redacted], and the rest",
        "exception.stacktrace": info.traceback[-8_192:],
    }
    assert first == last, "an attempt that is followed by another has failed as well"
    assert len(last["exception.stacktrace"]) == 8_192
    assert last["exception.stacktrace"].endswith("ValueError: token=[redacted], and the rest\n")
    for event in (names.LOG_RETRYING, names.LOG_FINISHED):
        (line,) = logs.of(event)
        assert line["exception"] == last["exception.stacktrace"]


async def test_an_attempt_that_raised_nothing_has_no_stack_trace() -> None:
    spans, logs = Spans(), CapturedLogs()
    async with open_test_manager(tracer_provider=spans.provider, logs=logs) as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(overrun, name="slow", timeout=0.005))
        await tasks.wait_for_task(await tasks.submit_task(asyncio.sleep, 0, name="fine"))
    assert failure_of(spans.one("run slow")) == {
        "exception.type": "timeout",
        "exception.message": info.error,
    }
    assert spans.one("run fine").events == ()
    assert all("exception" not in line for line in logs.of(names.LOG_FINISHED))


@virtual_time
async def test_an_abandoned_task_ends_its_span_when_it_is_decided() -> None:
    spans, release = Spans(), asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        await tasks.wait_for_task(await tasks.submit_task(stubborn, name="stuck", timeout=5))
        attributes = spans.one("run stuck").attributes or {}
        assert attributes[names.TASK_ABANDONED] is True
        release.set()
        await turns()
        assert len(spans.all()) == 1


@pytest.mark.parametrize("category", ["core", "io", "ui"])
async def test_spans_of_user_code_inside_a_task_are_its_children_on_every_engine(
    category: CategoryName,
) -> None:
    spans = Spans()

    def work() -> None:
        with spans.tracer.start_as_current_span("inside"):
            pass

    async def work_async() -> None:
        await asyncio.sleep(0)
        work()

    for func in (work, work_async):
        async with open_test_manager(tracer_provider=spans.provider) as tasks:
            await tasks.run(func, category=category)
    inside = [span for span in spans.all() if span.name == "inside"]
    outside = {span.context.span_id: span for span in spans.all() if span.name.startswith("run ")}
    assert len(inside) == len(outside) == 2
    for span in inside:
        assert span.parent is not None
        assert span.parent.span_id in outside


async def test_a_task_submitted_inside_a_span_is_below_its_submission_even_when_it_runs_later() -> None:
    spans, gate = Spans(), Gate()
    one_slot = settings(max_concurrent_tasks=1)
    async with open_test_manager(one_slot, tracer_provider=spans.provider) as tasks:
        await tasks.submit_task(gate, name="first")
        with spans.tracer.start_as_current_span("request") as request:
            queued = await tasks.submit_task(max, 1, 2, name="queued")
        gate.open()
        await tasks.wait_for_task(queued)
    submit, run = spans.one("submit queued"), spans.one("run queued")
    assert submit.kind is SpanKind.PRODUCER
    assert submit.parent is not None
    assert submit.parent.span_id == request.get_span_context().span_id
    assert run.parent is not None
    assert run.parent.span_id == submit.context.span_id
    assert run.context.trace_id == request.get_span_context().trace_id
    assert [span.name for span in spans.all() if span.name == "submit first"] == []


async def test_a_task_with_a_trace_of_its_own_is_linked_to_its_submitter() -> None:
    spans = Spans()

    @task(name="nightly", new_trace=True)
    async def nightly() -> None: ...

    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        with spans.tracer.start_as_current_span("request") as request:
            await tasks.run(nightly)
        await tasks.wait_for_task(await tasks.submit_task(nightly))
    runs = [span for span in spans.all() if span.name == "run nightly"]
    assert [span.parent for span in runs] == [None, None]
    assert len({span.context.trace_id for span in [*runs, spans.one("request")]}) == 3
    assert [[link.context.span_id for link in span.links] for span in runs] == [
        [request.get_span_context().span_id],
        [],
    ]


@virtual_time
async def test_a_span_is_as_long_as_the_attempt_by_the_monotonic_clock() -> None:
    spans, loop = Spans(), asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        task_id = await tasks.submit_task(asyncio.sleep, 30, name="jump")
        await asyncio.sleep(10)
        loop.clock.wall_offset -= 10_000
        info = await tasks.wait_for_task(task_id)
    span = spans.one("run jump")
    assert span.start_time is not None
    assert span.end_time is not None
    assert info.duration_seconds == pytest.approx(30)
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(info.duration_seconds, abs=1e-6)


@pytest.mark.parametrize("provider", ["NoOpTracerProvider", "ProxyTracerProvider"])
def test_without_an_sdk_nothing_breaks_and_there_is_no_trace(provider: str) -> None:
    # In a process of its own: a proxy stands for the provider that another test may have set.
    command = f"from {__name__} import without_an_sdk; without_an_sdk({provider!r})"
    subprocess.run(
        [sys.executable, "-W", "error", "-c", command], cwd=ROOT, check=True, timeout=PATIENCE_SECONDS
    )


def without_an_sdk(provider: str) -> None:
    async def scenario() -> None:
        logs = CapturedLogs()
        async with open_test_manager(tracer_provider=getattr(trace, provider)(), logs=logs) as tasks:
            info = await tasks.wait_for_task(await tasks.submit_task(fail))
            assert (info.status, info.trace_id, info.span_id) == (TaskStatus.FAILED, None, None)
            assert await tasks.run(max, 1, 2) == 2
        assert all("trace_id" not in line for line in logs.lines)

    asyncio.run(scenario())


@pytest.mark.parametrize("where", ["start", "end"])
async def test_a_tracer_that_raises_breaks_no_task_and_is_counted(where: str) -> None:
    class Broken(SpanProcessor):
        def on_start(self, *_: Any, **__: Any) -> None:
            if where == "start":
                raise OSError("no span today")

        def on_end(self, *_: Any) -> None:
            if where == "end":
                raise OSError("no span today")

    spans, logs = Spans(), CapturedLogs()
    spans.provider.add_span_processor(Broken())
    async with open_test_manager(tracer_provider=spans.provider, logs=logs) as tasks:

        async def parent() -> str:
            assert current_task().name == "parent"
            return str(await tasks.run(asyncio.sleep, 0, "child"))

        for _ in range(3):
            assert await tasks.run(parent, name="parent") == "child"
        counted = metric(tasks.registry, names.TELEMETRY_ERRORS.name + "_total", component="spans")
        assert counted >= 6
        assert tasks.status()["tasks"]["by_status"]["completed"] == 6
    (line,) = logs.of(names.LOG_OBSERVER_FAILED)
    assert (line["component"], line["error"]) == ("spans", "OSError('no span today')")
