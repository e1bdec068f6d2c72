"""OTLP/JSON against the official protobuf encoder, and what no encoder may choke on."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import msgspec
import pytest
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]  # it ships no types
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
)

from qorzen_obs.telemetry.otlp_json import to_otlp_json

ENCODERS = [json.dumps, msgspec.json.encode]
START = 1_700_000_000_123_456_789
REMOTE = SpanContext(
    0x0AF7651916CD43DD8448EB211C80319C,
    0x00F067AA0BA902B7,
    is_remote=True,
    trace_flags=TraceFlags(TraceFlags.SAMPLED),
    trace_state=TraceState([("vendor", "a=b"), ("other", "1")]),
)


class Spans(SpanProcessor):
    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def provider_into(spans: Spans, attributes: dict[str, Any], schema_url: str | None = None) -> TracerProvider:
    provider = TracerProvider(
        shutdown_on_exit=False,
        resource=Resource(attributes, schema_url),
        span_limits=SpanLimits(max_events=2, max_links=2, max_span_attributes=12, max_event_attributes=2),
    )
    provider.add_span_processor(spans)
    return provider


def example_spans() -> list[ReadableSpan]:
    """Every field of a span, set and unset, from two resources and several scopes."""
    spans = Spans()
    first = provider_into(spans, {"service.name": "first", "cores": 2}, "https://example.org/resource")
    tracer = first.get_tracer("scope", "1.2", "https://example.org/scope", {"k": "v"})
    bare = first.get_tracer("scope without version")
    second = provider_into(spans, {}).get_tracer("scope", "1.2")

    for kind in SpanKind:
        bare.start_span(kind.name, kind=kind, start_time=START).end(START + 1)
    tracer.start_span("").end()
    second.start_span("elsewhere").end()

    remote = trace.set_span_in_context(NonRecordingSpan(REMOTE))
    root = tracer.start_span(
        "root of ünïcode",
        remote,
        links=[Link(REMOTE, {"why": "retry"}), Link(SpanContext(1, 2, is_remote=False))],
        start_time=START,
        attributes={
            "str": "text",
            "empty": "",
            "true": True,
            "false": False,
            "int": 7,
            "big": 2**63 - 1,
            "negative": -(2**63),
            "float": 0.1,
            "strings": ["a", "b"],
            "bools": [True, False],
            "nothing": [],
        },
    )
    root.set_attributes({"bytes": b"\x00\xff", "map": {"a": 1, "b": {"c": [1.5, None]}}, "none": None})
    for number in range(4):
        root.add_event(f"event {number}", {"a": number, "b": "x", "c": "dropped"}, timestamp=START + number)
    root.add_event("without attributes")
    root.add_link(REMOTE)
    root.set_status(StatusCode.ERROR, "it failed")
    child = tracer.start_span("child", trace.set_span_in_context(root), start_time=START)
    child.set_status(StatusCode.OK)
    child.end(START + 5)
    root.end(START + 10)
    for value in (float("nan"), float("inf"), float("-inf"), 3.0, -0.0, 1e300):
        bare.start_span("float", attributes={"value": value}).end()
    return spans.ended


def official(spans: list[ReadableSpan]) -> dict[str, Any]:
    """What the exporter sends, by protobuf's own mapping to JSON, but with ids in hexadecimal as in OTLP."""
    tree: dict[str, Any] = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for resource_spans in tree["resourceSpans"]:
        for scope_spans in resource_spans["scopeSpans"]:
            for span in scope_spans["spans"]:
                for holder in (span, *span.get("links", ())):
                    for name in ("traceId", "spanId", "parentSpanId"):
                        if name in holder:
                            holder[name] = b64decode(holder[name]).hex()
    return tree


def all_spans(tree: dict[str, Any]) -> list[dict[str, Any]]:
    return [span for r in tree["resourceSpans"] for s in r["scopeSpans"] for span in s["spans"]]


def test_every_span_is_what_the_official_encoder_makes_of_it() -> None:
    spans = example_spans()
    ours, theirs = to_otlp_json(spans), official(spans)
    assert len(all_spans(ours)) == len(spans)
    for our, their in zip(all_spans(ours), all_spans(theirs), strict=True):
        assert our == their


def test_spans_are_grouped_by_resource_and_scope_as_the_official_encoder_does() -> None:
    spans = example_spans()
    assert to_otlp_json(spans) == official(spans)
    assert len(to_otlp_json(spans)["resourceSpans"]) == 2


def test_equal_resources_of_two_providers_are_one_group() -> None:
    spans = Spans()
    for _ in range(2):
        provider_into(spans, {"service.name": "same"}).get_tracer("same").start_span("x").end()
    (resource_spans,) = to_otlp_json(spans.ended)["resourceSpans"]
    (scope_spans,) = resource_spans["scopeSpans"]
    assert len(scope_spans["spans"]) == 2


def test_a_span_without_a_scope_is_encoded() -> None:
    span = ReadableSpan("bare", REMOTE, resource=Resource({}), start_time=START, end_time=START)
    assert to_otlp_json([span]) == official([span])


def test_no_spans_are_an_empty_document() -> None:
    assert to_otlp_json([]) == {"resourceSpans": []}


@pytest.mark.parametrize("encode", ENCODERS)
def test_the_examples_are_plain_values_for_any_encoder(encode: Any) -> None:
    document = to_otlp_json(example_spans())
    assert json.loads(encode(document)) == document


@pytest.mark.parametrize("encode", ENCODERS)
def test_text_that_is_no_unicode_is_replaced(encode: Any) -> None:
    spans = Spans()
    span = provider_into(spans, {}).get_tracer("scope\udc80").start_span("name\udcff")
    span.set_attribute("file\udcfe", "caf\udce9.txt")
    span.add_event("event\udcff")
    span.set_status(StatusCode.ERROR, "no\udcff")
    span.end()
    document = to_otlp_json(spans.ended)
    assert json.loads(encode(document)) == document
    (encoded,) = all_spans(document)
    assert encoded["name"] == "name?"
    assert encoded["attributes"] == [{"key": "file?", "value": {"stringValue": "caf?.txt"}}]


def test_an_integer_beyond_64_bits_is_shown_as_text() -> None:
    spans = Spans()
    provider_into(spans, {}).get_tracer("s").start_span("x", attributes={"huge": 2**63}).end()
    (span,) = all_spans(to_otlp_json(spans.ended))
    assert span["attributes"] == [{"key": "huge", "value": {"stringValue": "9223372036854775808"}}]
