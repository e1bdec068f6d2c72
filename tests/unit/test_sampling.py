"""The tail sampler with the SDK's own spans: what travels on, what is shown meanwhile, who may call it."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from qorzen_obs.settings import TelemetrySettings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.exemplars import ExemplarSlot
from qorzen_obs.telemetry.remote_spans import RemoteSpans, encode_span
from qorzen_obs.telemetry.sampling import TailSampler
from qorzen_obs.telemetry.setup import Tracing, set_up_tracing


def set_up(per_second: float = 0.0, **settings: Any) -> Tracing:
    """Private tracing that keeps only what must be kept, unless told otherwise."""
    telemetry = TelemetrySettings(traces_per_second=per_second, **settings)
    return set_up_tracing(telemetry, {}, set_global=False)


def tracer(tracing: Tracing) -> trace.Tracer:
    return tracing.provider.get_tracer("test")


def kept(tracing: Tracing) -> list[str]:
    return sorted(
        span.name for found in tracing.traces.summaries() for span in spans_of(tracing, found.trace_id)
    )


def spans_of(tracing: Tracing, trace_id: str) -> list[ReadableSpan]:
    return tracing.traces.trace(trace_id)


def remote(sampled: bool) -> Any:
    context = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(int(sampled)))
    return trace.set_span_in_context(NonRecordingSpan(context))


def test_every_span_is_recorded_and_without_a_caller_the_flag_says_sampled() -> None:
    tracing = set_up()
    with tracer(tracing).start_as_current_span("root") as root:
        assert root.is_recording()
        assert root.get_span_context().trace_flags.sampled
    assert kept(tracing) == []
    assert tracing.span_outcomes()[names.SPAN_SAMPLED_OUT] == 1


@pytest.mark.parametrize("sampled", [True, False])
def test_the_callers_flag_travels_on_and_a_sampled_one_keeps_the_trace(sampled: bool) -> None:
    tracing = set_up()
    with tracer(tracing).start_as_current_span("called", context=remote(sampled)) as called:
        child = tracer(tracing).start_span("child")
        assert child.is_recording()
        assert called.get_span_context().trace_flags.sampled is sampled
        assert child.get_span_context().trace_flags.sampled is sampled
        child.end()
    assert kept(tracing) == (["called", "child"] if sampled else [])
    reason = (("kept", names.BY_UPSTREAM), ("dropped", names.BY_BUDGET))[not sampled]
    assert tracing.trace_decisions()[reason] == 1


def test_what_the_caller_did_not_sample_is_kept_by_our_rules_all_the_same() -> None:
    tracing = set_up()
    with tracer(tracing).start_as_current_span("called", context=remote(False)) as called:
        called.set_status(StatusCode.ERROR)
    assert kept(tracing) == ["called"]


@pytest.mark.parametrize(
    ("sampler", "follows"),
    [
        ("", True),
        ("parentbased_always_on", True),
        ("ParentBased_TraceIdRatio", True),
        ("always_on", False),
        ("traceidratio", False),
    ],
)
def test_what_the_caller_did_not_sample_is_dropped_unless_it_must_be_kept(
    sampler: str, follows: bool
) -> None:
    tracing = set_up_tracing(TelemetrySettings(), {"OTEL_TRACES_SAMPLER": sampler}, set_global=False)
    with tracer(tracing).start_as_current_span("called", context=remote(False)):
        tracer(tracing).start_span("child").end()
    tracer(tracing).start_span("of our own").end()
    assert kept(tracing) == (["of our own"] if follows else ["called", "child", "of our own"])
    assert tracing.span_outcomes()[names.SPAN_SAMPLED_OUT] == (2 if follows else 0)


def test_a_failure_below_an_unsampled_caller_keeps_the_whole_trace() -> None:
    tracing = set_up(per_second=100.0)
    with tracer(tracing).start_as_current_span("called", context=remote(False)):
        tracer(tracing).start_span("before").end()
        with tracer(tracing).start_as_current_span("failed") as failed:
            failed.set_status(StatusCode.ERROR)
    assert kept(tracing) == ["before", "called", "failed"]


@pytest.mark.parametrize(
    ("seconds", "kind", "attributes", "reason"),
    [
        (10.0, SpanKind.CONSUMER, {names.TASK_ATTEMPT: 1}, names.BY_SLOW),
        (9.9, SpanKind.CONSUMER, {names.TASK_ATTEMPT: 1}, None),
        (10.0, SpanKind.CONSUMER, {"a": 1}, None),
        (10.0, SpanKind.INTERNAL, {names.TASK_ATTEMPT: 1}, None),
        (0.0, SpanKind.INTERNAL, {names.TRACE_KEEP: True}, names.BY_MARK),
        (0.0, SpanKind.INTERNAL, {names.TRACE_KEEP: False}, None),
        (0.0, SpanKind.CONSUMER, {names.TRACE_KEEP: True}, names.BY_MARK),
    ],
)
def test_slow_tasks_and_marked_spans_are_kept(
    seconds: float, kind: SpanKind, attributes: dict[str, Any], reason: str | None
) -> None:
    tracing = set_up(slow_task_seconds=10.0)
    span = tracer(tracing).start_span("run", kind=kind, attributes=attributes, start_time=10**18)
    span.end(10**18 + int(seconds * 1e9))
    assert kept(tracing) == ([] if reason is None else ["run"])
    if reason is not None:
        assert tracing.trace_decisions()["kept", reason] == 1


def test_the_rest_of_a_dropped_trace_says_that_it_is_partial() -> None:
    tracing = set_up()
    with tracer(tracing).start_as_current_span("first") as first:
        pass
    late = trace.set_span_in_context(first)
    with tracer(tracing).start_as_current_span("failed", context=late, attributes={"a": 1}) as failed:
        failed.set_status(StatusCode.ERROR)
    (span,) = spans_of(tracing, f"{first.get_span_context().trace_id:032x}")
    assert span.name == "failed"
    assert dict(span.attributes or {}) == {"a": 1, names.TRACE_PARTIAL: True}


def test_the_ended_spans_of_an_undecided_trace_are_shown() -> None:
    tracing = set_up()
    with tracer(tracing).start_as_current_span("root") as root:
        tracer(tracing).start_span("child").end()
        trace_id = f"{root.get_span_context().trace_id:032x}"
        assert [span.name for span in spans_of(tracing, trace_id)] == ["child"]
        (summary,) = tracing.traces.summaries()
        assert (summary.trace_id, summary.root_name, summary.spans) == (trace_id, "child", 1)
        assert tracing.status()["undecided_traces"] == 1
    assert spans_of(tracing, trace_id) == []
    assert tracing.traces.summaries() == []


def test_spans_of_a_worker_belong_to_the_trace_of_the_open_run_span() -> None:
    tracing, elsewhere = set_up(), set_up(float("inf"))
    with tracer(tracing).start_as_current_span("run") as run:
        tracer(elsewhere).start_span("in the worker").end()
        (made,) = elsewhere.store.trace(elsewhere.store.summaries()[0].trace_id)
        take = tracing.on_spans
        assert isinstance(take, RemoteSpans)
        take([encode_span(made)])
        run.set_status(StatusCode.ERROR)
    assert "run" in kept(tracing)


def test_at_the_end_what_is_undecided_is_decided_by_the_budget() -> None:
    rich, poor = set_up(float("inf")), set_up(0.0)
    for tracing in (rich, poor):
        root = tracer(tracing).start_span("root")
        tracer(tracing).start_span("child", context=trace.set_span_in_context(root)).end()
        tracing.shutdown()
        root.end()
    assert (kept(rich), kept(poor)) == (["child"], [])
    assert poor.span_outcomes()[names.SPAN_SAMPLED_OUT] == 1


def test_a_span_that_ends_while_the_rest_is_decided_has_a_fate_all_the_same() -> None:
    """Of a thread that ends a span of a trace with an open one, and stands in the line when the end comes."""
    tracing = set_up(float("inf"))
    sampler = tracing.exemplars
    assert isinstance(sampler, TailSampler)
    root = tracer(tracing).start_span("root")
    child = tracer(tracing).start_span("child", trace.set_span_in_context(root))
    decide_all = sampler._buffer.decide_all

    def decide_and_end(now: float) -> None:
        decide_all(now)
        late = tracer(tracing).start_span("late root")
        tracer(tracing).start_span("late child", trace.set_span_in_context(late)).end()
        child.end()

    sampler._buffer.decide_all = decide_and_end  # type: ignore[method-assign]
    tracing.shutdown()
    root.end()
    assert tracing.span_outcomes()[names.SPAN_DROPPED_SHUTDOWN] == 3
    assert sum(tracing.span_outcomes().values()) == 3
    assert tracing.status()["undecided_traces"] == 0


def test_threads_that_end_spans_at_once_lose_none() -> None:
    tracing, each, threads = set_up(0.0), 500, 4

    def work() -> None:
        for number in range(each):
            with (
                tracer(tracing).start_as_current_span("outer"),
                tracer(tracing).start_as_current_span("inner") as inner,
            ):
                if number % 10 == 0:
                    inner.set_status(StatusCode.ERROR)

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    outcomes = tracing.span_outcomes()
    assert outcomes[names.SPAN_KEPT] == 2 * threads * each // 10
    assert sum(outcomes.values()) == 2 * threads * each
    assert tracing.status()["undecided_traces"] == 0


def test_a_span_that_ends_while_another_is_being_filed_is_filed_after_it() -> None:
    tracing = set_up(float("inf"))
    inner = tracer(tracing).start_span("inner")

    class EndsASpan:
        def put(self, spans: object, must_keep: bool) -> None:
            inner.end()
            gc.collect()

        def shutdown(self) -> None: ...
        def force_flush(self, timeout_millis: int = 0) -> bool:
            return True

    sampler = tracing.exemplars
    assert isinstance(sampler, TailSampler)
    sampler._sinks = (EndsASpan(), tracing.store)
    tracer(tracing).start_span("outer").end()
    assert kept(tracing) == ["inner", "outer"]


def test_exemplars_are_written_for_kept_traces_alone() -> None:
    tracing, failed, good = set_up(0.0), ExemplarSlot(), ExemplarSlot()
    for slot, status in ((failed, StatusCode.ERROR), (good, StatusCode.OK)):
        with tracer(tracing).start_as_current_span("run") as span:
            tracing.exemplars.offer(span.get_span_context(), [(slot, 1.5)], 10.0)
            assert slot.read() is None
            span.set_status(status)
    assert failed.read() is not None
    assert good.read() is None


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_has_none_of_the_open_traces_and_a_free_lock() -> None:
    tracing = set_up(float("inf"))
    sampler = tracing.exemplars
    assert isinstance(sampler, TailSampler)
    open_span = tracer(tracing).start_span("open")
    with sampler._lock:  # as another thread might hold it
        child = os.fork()
        if child == 0:
            tracer(tracing).start_span("in the child").end()
            os._exit(0 if sampler.undecided == 0 and kept(tracing) == ["in the child"] else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    open_span.end()
    assert kept(tracing) == ["open"]
