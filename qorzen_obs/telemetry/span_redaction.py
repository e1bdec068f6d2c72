"""Spans without secrets: what user code puts on its spans is redacted before anything shows or sends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, Status

from qorzen_obs.telemetry.redaction import Redactor


def redact_span(span: ReadableSpan, redactor: Redactor) -> ReadableSpan:
    """Return the ended span without secrets in name, attributes, events, links and status; itself where it has none.

    For the thread that exports and for whoever reads kept spans; not for the work loop.
    """
    name = redactor.text(span.name)
    attributes = _attributes(span.attributes, redactor)
    events = [_event(event, redactor) for event in span.events]
    links = [_link(link, redactor) for link in span.links]
    description = span.status.description
    shown = None if description is None else redactor.text(description)
    if (
        name is span.name
        and attributes is span.attributes
        and shown is description
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
        events=events,
        links=links,
        kind=span.kind,
        instrumentation_scope=span.instrumentation_scope,
        status=Status(span.status.status_code, shown),
        start_time=span.start_time,
        end_time=span.end_time,
    )


def _attributes(attributes: Mapping[str, Any] | None, redactor: Redactor) -> Any:
    """Keep how many were dropped, which the SDK counts on the mapping itself."""
    if not attributes:
        return attributes
    clean = {redactor.text(key): redactor.field(key, value) for key, value in attributes.items()}
    if all(new is old for new, old in zip(clean.values(), attributes.values(), strict=False)) and all(
        key in attributes for key in clean
    ):
        return attributes
    bounded = BoundedAttributes(attributes=clean, immutable=False)
    bounded.dropped = getattr(attributes, "dropped", 0)
    return bounded


def _event(event: Event, redactor: Redactor) -> Event:
    name, attributes = redactor.text(event.name), _attributes(event.attributes, redactor)
    if name is event.name and attributes is event.attributes:
        return event
    return Event(name, attributes, event.timestamp)


def _link(link: Link, redactor: Redactor) -> Link:
    attributes = _attributes(link.attributes, redactor)
    return link if attributes is link.attributes else Link(link.context, attributes)
