"""The trace and the baggage that a request comes with, by the headers that OTEL_PROPAGATORS names.

Those of the W3C are read here (telemetry/trace_context.py). Others are read by their propagator, which gets only
headers of a usual size and of usual characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from multidict import MultiMapping
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context

from qorzen_obs.telemetry.own_log import OwnLog
from qorzen_obs.telemetry.trace_context import read_baggage, read_parent

_log = OwnLog(__name__)
_MAX_HEADER: Final = 4_096
_OF_THE_W3C: Final = frozenset({"traceparent", "tracestate", "baggage"})


def caller_of(headers: MultiMapping[str]) -> Context:
    """Return what goes on from a request in the tasks that it makes; an empty context where it says nothing."""
    context = Context()
    propagator = propagate.get_global_textmap()
    fields = {field.lower() for field in propagator.fields}
    if "traceparent" in fields:
        parent = read_parent(headers.getall("traceparent", []), headers.getall("tracestate", []))
        if parent is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(parent), context)
    if "baggage" in fields:
        for name, value in read_baggage(headers.getall("baggage", [])).items():
            context = baggage.set_baggage(name, value, context)
    if carrier := _carrier(headers, propagator.fields):
        try:
            return propagator.extract(carrier, context)
        except BaseException:  # noqa: BLE001 - it may be anybody's
            _log.exception("a propagator failed; what the request says of its caller is not used")
    return context


def _carrier(headers: MultiMapping[str], fields: Iterable[str]) -> dict[str, str]:
    """Return the headers of other propagators than the W3C's, if they are well-formed."""
    carrier = {}
    for field in fields:
        text = headers.get(field, "")
        if (
            field.lower() not in _OF_THE_W3C
            and 0 < len(text) <= _MAX_HEADER
            and text.isascii()
            and text.isprintable()
        ):
            carrier[field] = text
    return carrier
