"""What a collector receives is what ran."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.services.backends import collector, demo_after_one_round
from tests.services.otlp_receiver import OtlpReceiver

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
