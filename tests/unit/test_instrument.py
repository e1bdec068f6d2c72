"""The spans of an attempt, made by the OpenTelemetry API with whatever provider there is."""

import functools
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from qorzen_obs.current import CURRENT
from qorzen_obs.record import Attempt, End, TaskRecord, TaskState
from qorzen_obs.tasks import EventKind, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.instrument import SpanInstrument
from tests.support import Spans, attempt, record


def instrument(provider: trace.TracerProvider, errors: list[BaseException] | None = None) -> SpanInstrument:
    kept: list[BaseException] = [] if errors is None else errors
    return SpanInstrument(provider, "1.2.3", on_error=kept.append)


def run(made: SpanInstrument, of: TaskRecord, **state: Any) -> Attempt:
    """The life of an attempt, from its submission to its end."""
    made.submitted(of)
    running = attempt(of)
    running.started_wall = 100.0
    made.begin(running)
    ended = TaskState(**{"status": TaskStatus.COMPLETED, "duration_seconds": 2.5, **state})
    made.on_ends([End(EventKind.COMPLETED, 1.0, of, ended, running, None)])
    return running


def test_a_span_begins_and_ends_when_it_is_told_to() -> None:
    spans = Spans()
    run(instrument(spans.provider), record())
    span = spans.one("run job")
    assert (span.start_time, span.end_time) == (100_000_000_000, 102_500_000_000)
    assert span.kind is SpanKind.CONSUMER


def test_it_is_current_in_the_attempts_context_and_nowhere_else() -> None:
    spans = Spans()
    made, running = instrument(spans.provider), attempt(record())
    made.begin(running)
    assert running.context.run(trace.get_current_span) is running.span
    assert running.context.run(CURRENT.get) is running
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert CURRENT.get() is None


def test_a_submission_outside_any_span_leaves_none() -> None:
    spans = Spans()
    run(instrument(spans.provider), record())
    assert [span.name for span in spans.all()] == ["run job"]


def test_a_long_description_is_cut() -> None:
    spans = Spans()
    run(instrument(spans.provider), record(), status=TaskStatus.FAILED, error="x" * 5_000, error_type="E")
    status = spans.one("run job").status
    assert status.status_code is StatusCode.ERROR
    assert status.description == "E: " + "x" * 253


def test_an_unsampled_span_costs_no_attributes_and_still_carries_its_ids() -> None:
    spans = Spans(sampler=ALWAYS_OFF)
    running = run(instrument(spans.provider), record())
    assert spans.all() == ()
    assert running.span is not None
    assert running.span.get_span_context().is_valid


def test_without_an_sdk_there_is_no_span_and_the_attempt_is_current_all_the_same() -> None:
    running = run(instrument(trace.NoOpTracerProvider()), record())
    assert running.span is None
    assert running.context.run(CURRENT.get) is running


def test_the_function_is_named_through_partials_and_callable_objects() -> None:
    class Job:
        def __call__(self) -> None: ...

    spans = Spans()
    made = instrument(spans.provider)
    for func in (run, functools.partial(run), Job(), "text".join):
        run(made, record(func))
    named = [str(dict(span.attributes or {})[names.FUNCTION_NAME]) for span in spans.all()]
    assert named[0] == named[1] == f"{__name__}.run"
    assert named[2].endswith("Job")
    assert named[3].endswith("str.join")


class Broken(SpanProcessor):
    def __init__(self, where: str) -> None:
        self.where = where

    def on_start(self, *_: Any, **__: Any) -> None:
        if self.where == "start":
            raise OSError("no span today")

    def on_end(self, *_: Any) -> None:
        if self.where == "end":
            raise OSError("no span today")


@pytest.mark.parametrize("where", ["start", "end"])
def test_what_a_tracer_raises_is_told_and_the_task_is_current_all_the_same(where: str) -> None:
    errors: list[BaseException] = []
    spans = Spans()
    spans.provider.add_span_processor(Broken(where))
    made = instrument(spans.provider, errors)

    def inside_a_span() -> Attempt:
        span = trace.NonRecordingSpan(
            trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1))
        )
        with trace.use_span(span):
            of = record(context=copy_context())
            return run(made, of)

    running = copy_context().run(inside_a_span)
    assert running.context.run(CURRENT.get) is running
    assert [str(error) for error in errors] == ["no span today"] * 2
