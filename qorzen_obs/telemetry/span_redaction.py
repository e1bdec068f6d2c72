"""Removes secrets from spans: what user code puts on its spans is redacted before anything shows or sends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Status

from qorzen_obs.telemetry.export import encodable
from qorzen_obs.telemetry.redaction import Redactor

T = TypeVar("T")


def redact_span(span: ReadableSpan, redactor: Redactor) -> ReadableSpan:
    """Return the ended span without secrets in name, attributes, events, links and status; itself if it has none.

    Also removes lone surrogates from names and the description, since OTLP's encoder raises on them. For the exporting
    thread and for readers of kept spans; not for the work loop.
    """
    name, seen = encodable(redactor.text(span.name)), span.attributes
    attributes = _attributes(seen, span.dropped_attributes, redactor)
    events = [_event(event, redactor) for event in span.events]
    links = [_link(link, redactor) for link in span.links]
    description = span.status.description
    scope = _scope(span.instrumentation_scope)
    shown = None if description is None else encodable(redactor.text(description))
    if (
        name is span.name
        and attributes is seen
        and shown is description
        and scope is span.instrumentation_scope
        and all(new is old for new, old in zip(events, span.events, strict=True))
        and all(new is old for new, old in zip(links, span.links, strict=True))
    ):
        return span
    return ReadableSpan(
        name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=_bounded(events, span.dropped_events),
        links=_bounded(links, span.dropped_links),
        kind=span.kind,
        instrumentation_scope=scope,
        status=Status(span.status.status_code, shown),
        start_time=span.start_time,
        end_time=span.end_time,
    )


def _attributes(attributes: Mapping[str, Any] | None, dropped: int, redactor: Redactor) -> Any:
    """Return the same object if it has no secrets. The mapping itself counts dropped attributes."""
    if not attributes:
        return attributes
    clean = {redactor.text(key): redactor.field(key, value) for key, value in attributes.items()}
    same = all(new is old for new, old in zip(clean.values(), attributes.values(), strict=False))
    if same and all(key in attributes for key in clean):
        return attributes
    bounded = BoundedAttributes(attributes=clean)
    bounded.dropped = dropped
    return bounded


def _bounded(items: list[T], dropped: int) -> BoundedList[T]:
    """Return a list that knows how many items were dropped."""
    bounded: BoundedList[T] = BoundedList.from_seq(max(1, len(items)), items)
    bounded.dropped = dropped
    return bounded


def _event(event: Event, redactor: Redactor) -> Event:
    name, seen = encodable(redactor.text(event.name)), event.attributes
    attributes = _attributes(seen, event.dropped_attributes, redactor)
    return event if name is event.name and attributes is seen else Event(name, attributes, event.timestamp)


def _scope(scope: InstrumentationScope | None) -> InstrumentationScope | None:
    if scope is None or (name := encodable(scope.name)) is scope.name:
        return scope
    return InstrumentationScope(name, scope.version, scope.schema_url, scope.attributes)


def _link(link: Link, redactor: Redactor) -> Link:
    seen = link.attributes
    attributes = _attributes(seen, link.dropped_attributes, redactor)
    return link if attributes is seen else Link(link.context, attributes)
