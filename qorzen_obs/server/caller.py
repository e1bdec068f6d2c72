"""The trace and the baggage that a request comes with, by the headers of the W3C.

A header that is malformed is left out before OpenTelemetry reads it: it would write what it was sent into the log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATORS: Final = (TraceContextTextMapPropagator(), W3CBaggagePropagator())
_MAX_HEADER: Final = 4_096
_MAX_MEMBERS: Final = 32

_TRACEPARENT: Final = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
#: One member of a list, with its key. https://www.w3.org/TR/trace-context/#list, https://www.w3.org/TR/baggage/
_MEMBERS: Final = {
    "tracestate": re.compile(r"([a-z0-9][a-z0-9_*/@-]{0,240})=[!-+\--<>-~]{1,256}"),
    "baggage": re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256})[ \t]*=[ \t]*[!#-+\--:<-\[\]-~]{0,2048}"),
}


def caller_of(headers: Mapping[str, str]) -> Context:
    """Return what goes on from a request in the tasks that it makes; an empty context where it says nothing."""
    carrier = {}
    traceparent = headers.get("traceparent", "")
    if _TRACEPARENT.fullmatch(traceparent):
        carrier["traceparent"] = traceparent
    for name, member in _MEMBERS.items():
        text = headers.get(name, "")
        if _is_list(text, member):
            carrier[name] = text
    context = Context()
    for propagator in _PROPAGATORS:
        context = propagator.extract(carrier, context)
    return context


def _is_list(text: str, member: re.Pattern[str]) -> bool:
    members = text.split(",")
    if len(text) > _MAX_HEADER or len(members) > _MAX_MEMBERS:
        return False
    found = [member.fullmatch(each.strip(" \t")) for each in members]
    keys = {each[1] for each in found if each is not None}
    return len(keys) == len(members)
