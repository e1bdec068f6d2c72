"""Ended spans as OTLP/JSON: the format in which `/api/traces/{trace_id}` returns a trace and viewers import it.

The mapping of https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding: ids in hexadecimal, integers
of 64 bits as strings, enums as numbers, fields at their default left out. Pure; same content as the exporter's.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, format_span_id, format_trace_id

JsonObject: TypeAlias = dict[str, Any]

_HAS_IS_REMOTE = 0x100  # SpanFlags in opentelemetry/proto/trace/v1/trace.proto
_IS_REMOTE = 0x200


def to_otlp_json(spans: Iterable[ReadableSpan]) -> JsonObject:
    """Return `{"resourceSpans": [...]}`, grouped by resource and scope, with values that any encoder takes."""
    by_resource: dict[Resource, dict[InstrumentationScope | None, list[JsonObject]]] = {}
    # Hashing a resource encodes it as JSON. The spans of one provider share theirs, so compare identities first.
    known: dict[tuple[int, int], list[JsonObject]] = {}
    for span in spans:
        resource, scope = span.resource, span.instrumentation_scope
        group = known.get((id(resource), id(scope)))
        if group is None:
            group = by_resource.setdefault(resource, {}).setdefault(scope, [])
            known[id(resource), id(scope)] = group
        group.append(_span(span))
    return {
        "resourceSpans": [
            _filled(
                resource=_filled(attributes=_attributes(resource.attributes)),
                scopeSpans=[
                    _filled(scope=_scope(scope), spans=group, schemaUrl=scope.schema_url if scope else None)
                    for scope, group in by_scope.items()
                ],
                schemaUrl=resource.schema_url,
            )
            for resource, by_scope in by_resource.items()
        ]
    }


def _filled(**fields: Any) -> JsonObject:
    """Leave out default values; an empty message, `{}`, was set and stays."""
    return {name: value for name, value in fields.items() if value or isinstance(value, dict)}


def _scope(scope: InstrumentationScope | None) -> JsonObject:
    if scope is None:
        return {}
    return _filled(name=_text(scope.name), version=scope.version, attributes=_attributes(scope.attributes))


def _span(span: ReadableSpan) -> JsonObject:
    context, parent, status = span.context, span.parent, span.status
    return _filled(
        traceId=format_trace_id(context.trace_id),
        spanId=format_span_id(context.span_id),
        traceState=context.trace_state.to_header() if context.trace_state else None,
        parentSpanId=format_span_id(parent.span_id) if parent else None,
        flags=_flags(parent),
        name=_text(span.name),
        kind=span.kind.value + 1,  # the SDK counts from 0, the protocol keeps 0 for unspecified
        startTimeUnixNano=str(span.start_time) if span.start_time else None,
        endTimeUnixNano=str(span.end_time) if span.end_time else None,
        attributes=_attributes(span.attributes),
        droppedAttributesCount=span.dropped_attributes,
        events=[_event(event) for event in span.events],
        droppedEventsCount=span.dropped_events,
        links=[_link(link) for link in span.links],
        droppedLinksCount=span.dropped_links,
        status=_filled(code=status.status_code.value, message=_text(status.description or "")),
    )


def _event(event: Event) -> JsonObject:
    return _filled(
        name=_text(event.name),
        timeUnixNano=str(event.timestamp) if event.timestamp else None,
        attributes=_attributes(event.attributes),
        droppedAttributesCount=event.dropped_attributes,
    )


def _link(link: Link) -> JsonObject:
    return _filled(
        traceId=format_trace_id(link.context.trace_id),
        spanId=format_span_id(link.context.span_id),
        flags=_flags(link.context),
        attributes=_attributes(link.attributes),
        droppedAttributesCount=link.dropped_attributes,
    )


def _flags(other: SpanContext | None) -> int:
    return _HAS_IS_REMOTE | _IS_REMOTE if other and other.is_remote else _HAS_IS_REMOTE


def _attributes(attributes: Mapping[str, object] | None) -> list[JsonObject]:
    return [{"key": _text(key), "value": _value(value)} for key, value in (attributes or {}).items()]


def _value(value: object) -> JsonObject:
    match value:
        case None:
            return {}
        case bool():
            return {"boolValue": value}
        case str():
            return {"stringValue": _text(value)}
        case int():
            # The protocol has no integers beyond 64 bits; the exporter leaves such an attribute out.
            return {"intValue" if -(2**63) <= value < 2**63 else "stringValue": str(value)}
        case float():
            return {"doubleValue": value if math.isfinite(value) else _NOT_FINITE[str(value)]}
        case bytes():
            return {"bytesValue": b64encode(value).decode("ascii")}
        case Sequence():
            return {"arrayValue": _filled(values=[_value(item) for item in value])}
        case Mapping():
            return {"kvlistValue": _filled(values=_attributes(value))}
        case _:
            return {"stringValue": _text(str(value))}


_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _text(text: str) -> str:
    """Replace lone surrogates, as in file names that are not UTF-8: no JSON encoder takes them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text
