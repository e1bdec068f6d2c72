"""A task submitted for a caller in another service belongs to that one's trace, and its baggage comes along."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from qorzen_obs import TaskManager, current_task
from qorzen_obs.options import with_options
from qorzen_obs.settings import TelemetrySettings
from qorzen_obs.tasks import EngineName
from qorzen_obs.telemetry.setup import set_up_tracing
from qorzen_obs.telemetry.trace_context import CallerState
from qorzen_obs.testing import open_test_manager
from tests.support import Spans

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {
    "traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01",
    "tracestate": "vendor=opaque",
    "baggage": "tenant=acme,region=eu%20west",
}
UNSAMPLED = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-00"}


def upstream(headers: Mapping[str, str]) -> Context:
    """What the caller's headers say, and nothing of the server's own context."""
    found = TraceContextTextMapPropagator().extract(headers, Context())
    return W3CBaggagePropagator().extract(headers, found)


async def submit_for(
    headers: Mapping[str, str], tasks: TaskManager, func: Callable[..., Any], **options: Any
) -> str:
    """Submit on the work loop as a server does that honours W3C headers."""
    token = context.attach(upstream(headers))
    try:
        return await tasks.submit_task(func, **options)
    finally:
        context.detach(token)


def look() -> dict[str, object]:
    return dict(baggage.get_all())


async def look_on_the_loop() -> dict[str, object]:
    with trace.get_tracer("user").start_as_current_span("child"):
        return look()


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def id_of(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


async def test_the_submission_and_the_run_are_below_the_caller_in_the_other_service() -> None:
    spans = Spans()
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        task_id = await submit_for(HEADERS, tasks, look, name="job")
        info = await tasks.wait_for_task(task_id)
    submit, run = spans.one("submit job"), spans.one("run job")
    assert parent_of(submit) == SPAN_ID
    assert parent_of(run) == id_of(submit)
    for span in (submit, run):
        assert format_trace_id(span.context.trace_id) == TRACE_ID
        assert span.context.trace_flags.sampled
        assert span.context.trace_state.get("vendor") == "opaque"
    assert info.trace_id == TRACE_ID


@pytest.mark.parametrize("engine", ["loop", "io", "thread", "main", "process"])
async def test_its_baggage_is_current_inside_the_task(engine: EngineName) -> None:
    func = look_on_the_loop if engine == "loop" else with_options(look, engine=engine)
    async with open_test_manager(tracer_provider=Spans().provider) as tasks:
        info = await tasks.wait_for_task(await submit_for(HEADERS, tasks, func))
    assert info.result == {"tenant": "acme", "region": "eu west"}


@pytest.mark.parametrize("engine", ["loop", "io", "process"])
async def test_what_opentelemetry_would_not_write_into_a_header_reaches_the_task_too(
    engine: EngineName,
) -> None:
    func: Callable[[], Any] = read_on_the_loop if engine == "loop" else with_options(read, engine=engine)
    caller = called_with(CallerState({"foo@": "1"}), {"long": "x" * 5_000})
    async with open_test_manager(tracer_provider=Spans().provider) as tasks:
        token = context.attach(caller)
        try:
            state, carried = await tasks.run(func)
        finally:
            context.detach(token)
    assert (state, carried) == ("foo@=1", {"long": "x" * 5_000})


def called_with(state: CallerState, carried: Mapping[str, str]) -> Context:
    span = SpanContext(int(TRACE_ID, 16), int(SPAN_ID, 16), is_remote=True, trace_state=state)
    found = trace.set_span_in_context(trace.NonRecordingSpan(span), Context())
    for name, value in carried.items():
        found = baggage.set_baggage(name, value, found)
    return found


def read() -> tuple[str, dict[str, object]]:
    return trace.get_current_span().get_span_context().trace_state.to_header(), look()


async def read_on_the_loop() -> tuple[str, dict[str, object]]:
    return read()


async def test_nothing_of_it_is_left_for_the_next_submission_and_the_tasks_own_children_inherit_it() -> None:
    spans = Spans()
    async with open_test_manager(tracer_provider=spans.provider) as tasks:

        async def parent() -> object:
            return await tasks.run(look, name="child")

        first = await tasks.wait_for_task(await submit_for(HEADERS, tasks, parent, name="parent"))
        second = await tasks.wait_for_task(await submit_for({}, tasks, look, name="other"))
    assert first.result["tenant"] == "acme"
    assert format_trace_id(spans.one("run child").context.trace_id) == TRACE_ID
    assert second.result == {}
    assert second.trace_id != TRACE_ID
    assert spans.one("run other").parent is None


async def test_what_starts_a_trace_of_its_own_links_to_the_caller() -> None:
    spans = Spans()
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        func = with_options(look, new_trace=True)
        await tasks.wait_for_task(await submit_for(HEADERS, tasks, func, name="job"))
    run = spans.one("run job")
    assert run.parent is None
    assert [format_trace_id(link.context.trace_id) for link in run.links] == [TRACE_ID]
    assert format_trace_id(run.context.trace_id) != TRACE_ID


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "nonsense"},
        {"traceparent": f"00-{'0' * 32}-{SPAN_ID}-01"},
        {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}"},
        {"traceparent": HEADERS["traceparent"] + "x" * 10_000},
        {"baggage": "=,;=" * 1_000},
    ],
    ids=["nonsense", "no trace id", "no flags", "too long", "baggage"],
)
async def test_headers_that_are_malformed_start_a_trace_of_its_own(headers: dict[str, str]) -> None:
    async with open_test_manager(tracer_provider=Spans().provider) as tasks:
        info = await tasks.wait_for_task(await submit_for(headers, tasks, look))
    assert info.result == {}
    assert info.trace_id not in (None, TRACE_ID)


@pytest.mark.parametrize(("headers", "kept"), [(HEADERS, True), (UNSAMPLED, False)], ids=["sampled", "not"])
async def test_a_trace_that_the_caller_has_sampled_is_kept_whatever_the_rate(
    headers: dict[str, str], kept: bool
) -> None:
    tracing = set_up_tracing(TelemetrySettings(traces_per_second=0.0), {}, set_global=False)
    try:
        async with open_test_manager(tracer_provider=tracing.provider) as tasks:
            await tasks.wait_for_task(await submit_for(headers, tasks, look, name="job"))
        names = sorted(span.name for span in tracing.traces.trace(TRACE_ID))
        assert names == (["run look", "submit job"] if kept else [])
    finally:
        tracing.shutdown()


async def test_a_server_on_another_loop_hands_the_context_over_by_attaching_it_in_the_crossing_coroutine() -> (
    None
):
    async with open_test_manager(tracer_provider=Spans().provider) as tasks:
        loop = asyncio.get_running_loop()

        async def serve() -> str:
            crossing = submit_for(HEADERS, tasks, look)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(crossing, loop))

        task_id = await asyncio.to_thread(asyncio.run, serve())
        assert (await tasks.wait_for_task(task_id)).trace_id == TRACE_ID


async def test_a_rerun_for_such_a_caller_is_in_its_trace_and_links_to_the_failed_run() -> None:
    spans = Spans()

    async def fail() -> None:
        raise OSError(current_task().task_id)

    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        first = await tasks.wait_for_task(await tasks.submit_task(fail, name="job"))
        token = context.attach(upstream(HEADERS))
        again = await tasks.rerun(first.task_id)
        context.detach(token)
        info = await tasks.wait_for_task(again)
    assert (info.trace_id, info.rerun_of) == (TRACE_ID, first.task_id)
    (run,) = (span for span in spans.all() if id_of(span) == info.span_id)
    assert [f"{link.context.span_id:016x}" for link in run.links] == [first.span_id]
