"""What a collector receives is what ran: all of it, or every failure and as much else as the budget allows."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from qorzen_obs.settings import Settings, TaskSettings, TelemetrySettings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.export import TracingMetrics
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.setup import set_up_tracing
from qorzen_obs.testing import open_test_manager
from tests.services.backends import collector, demo_after_one_round
from tests.services.otlp_receiver import OtlpReceiver
from tests.support import metric

pytestmark = pytest.mark.integration


def attribute(span: Span, key: str) -> str:
    return next((a.value.string_value for a in span.attributes if a.key == key), "")


def test_a_real_collector_gets_every_span_and_a_batch_is_one_trace_with_its_children(tree: Path) -> None:
    with OtlpReceiver() as receiver, collector(receiver.endpoint) as endpoint:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "survey"}
        with demo_after_one_round(tree, environment) as (_, summary):
            pass  # leaving the block ends the demo, which flushes its spans
        started = summary["tasks"]["completed"] + summary["tasks"]["failed"]
        spans = receiver.wait_for_spans(started)

    runs = [span for span in spans if span.name.startswith("run ")]
    assert len(runs) == started, "one span for each attempt"
    assert {
        a.value.string_value for r in receiver.resources for a in r.attributes if a.key == "service.name"
    } == {"survey"}

    batch = next(span for span in runs if "batch" in span.name)
    in_trace = {span.span_id: span for span in spans if span.trace_id == batch.trace_id}
    children = [span for span in runs if span.trace_id == batch.trace_id and span is not batch]
    assert len(children) >= 9, "the batch's reads, hashes and parses"
    for span in children:
        ancestor = span
        while ancestor.parent_span_id:
            ancestor = in_trace[ancestor.parent_span_id]
        assert ancestor.span_id == batch.span_id

    failed = [span for span in runs if span.status.code == Status.STATUS_CODE_ERROR]
    assert len(failed) == summary["tasks"]["failed"]
    assert {attribute(span, "error.type") for span in failed} >= {"SyntaxError"}
    assert {attribute(span, "qorzen.task.status") for span in failed} == {"failed"}


def test_spans_arrive_by_grpc_as_well(tree: Path) -> None:
    with OtlpReceiver() as receiver, collector(receiver.endpoint, protocol="grpc") as endpoint:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        with demo_after_one_round(tree, environment) as (_, summary):
            pass  # leaving the block ends the demo, which flushes its spans
        started = summary["tasks"]["completed"] + summary["tasks"]["failed"]
        spans = receiver.wait_for_spans(started)
    assert len([span for span in spans if span.name.startswith("run ")]) == started


TASKS = 10_000
FAILURES = TASKS // 20


async def work(number: int) -> None:
    """Fail one time in twenty."""
    await asyncio.sleep(0)
    if number % 20 == 0:
        raise ValueError(number)


def exemplar_traces(registry: Any) -> set[str]:
    return {
        sample.exemplar.labels["trace_id"]
        for family in registry.collect()
        for sample in family.samples
        if sample.exemplar is not None
    }


@pytest.mark.slow
async def test_of_10_000_tasks_every_failed_one_s_trace_arrives_and_the_rest_obeys_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    telemetry = TelemetrySettings(traces_per_second=1)
    settings = Settings(tasks=TaskSettings(max_concurrent_tasks=200, max_pending=TASKS), telemetry=telemetry)
    with OtlpReceiver() as receiver, collector(receiver.endpoint) as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        tracing = set_up_tracing(telemetry, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, set_global=False)
        parts = TelemetryParts(settings=telemetry, status=tracing.status, exemplars=tracing.exemplars)
        begin = time.monotonic()
        async with open_test_manager(settings, tracer_provider=tracing.provider, telemetry=parts) as tasks:
            tasks.registry.register(TracingMetrics(tracing))
            ids = [await tasks.submit_task(work, number) for number in range(TASKS)]
            infos = [await tasks.wait_for_task(task_id) for task_id in ids]
            seconds = time.monotonic() - begin
            assert await asyncio.to_thread(tracing.shutdown, 10.0), "everything was sent"
            registry = tasks.registry
            exported = metric(registry, names.SPANS.name + "_total", outcome=names.SPAN_EXPORTED)
            sampled_out = metric(registry, names.SPANS.name + "_total", outcome=names.SPAN_SAMPLED_OUT)
            by_budget = metric(registry, names.TRACES.name + "_total", decision="kept", reason="budget")
            led_to = exemplar_traces(registry)
        spans = await asyncio.to_thread(receiver.wait_for_spans, int(exported))

    assert exported + sampled_out == TASKS, "one span a task, and each has a fate"
    failed = {info.trace_id for info in infos if info.error_type == "ValueError"}
    arrived = {span.trace_id.hex() for span in spans}
    assert len(failed) == FAILURES
    assert failed <= arrived
    assert {span.trace_id.hex() for span in spans if span.status.code == Status.STATUS_CODE_ERROR} == failed
    others = len(arrived - failed)
    assert others == by_budget
    assert 1 <= others <= seconds + 1
    assert led_to
    assert led_to <= arrived, "exemplars lead to kept traces only"
