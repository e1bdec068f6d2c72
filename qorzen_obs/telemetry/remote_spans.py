"""Spans that user code creates in worker processes: plain data in transit, the SDK's own spans at both ends.

In the worker, `send_spans` makes sure that spans are recorded and sent. In the service, a `RemoteSpans` passes them
to the processors of the service's own spans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from qorzen_obs.otel_variables import only_usable
from qorzen_obs.telemetry.own_log import OwnLog
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.sampling import RecordAll
from qorzen_obs.telemetry.span_redaction import redact_span
from qorzen_obs.telemetry.trace_context import EncodedContext, decode_context, encode_context

#: A span as nested tuples of numbers, strings and lists, which any pickler takes.
EncodedSpan = tuple[Any, ...]

_MAX_ATTRIBUTE_LENGTH = 1_024

_log = OwnLog(__name__)


def encode_span(span: ReadableSpan, seen: bool = False) -> EncodedSpan:
    """Return an ended span without its resource, which is the service's.

    `seen`: the user's processors have seen it in the worker.
    """
    scope = span.instrumentation_scope
    return (
        span.name,
        _encode_context(span.context),
        _encode_context(span.parent),
        span.kind.value,
        span.start_time,
        span.end_time,
        (span.status.status_code.value, span.status.description),
        dict(span.attributes or {}),
        [(event.name, event.timestamp, dict(event.attributes or {})) for event in span.events],
        [(_encode_context(link.context), dict(link.attributes or {})) for link in span.links],
        (scope.name, scope.version, scope.schema_url) if scope else None,
        seen,
    )


def decode_span(encoded: EncodedSpan, resource: Resource) -> ReadableSpan:
    """Return the span in the form for the service's processors."""
    name, context, parent, kind, start, end, (code, description), attributes, events, links, scope, _ = (
        encoded
    )
    return ReadableSpan(
        name,
        context=_decode_context(context),
        parent=_decode_context(parent),
        resource=resource,
        attributes=attributes,
        events=[Event(event, data, timestamp) for event, timestamp, data in events],
        links=[Link(context, data) for found, data in links if (context := _decode_context(found))],
        kind=SpanKind(kind),
        instrumentation_scope=InstrumentationScope(*scope) if scope else None,
        status=Status(StatusCode(code), description),
        start_time=start,
        end_time=end,
    )


class RemoteSpans:
    """Takes encoded spans for the service: `TelemetryParts(on_spans=RemoteSpans(…))`.

    Args:
        processor: ours, which gets all of them.
        provider: its other processors get them too, like its own spans; except spans from one of the user's providers
            in the worker, which has processors of its own.
    """

    def __init__(
        self, processor: SpanProcessor, resource: Resource, provider: TracerProvider | None = None
    ) -> None:
        self._processor = processor
        self._resource = resource
        # The SDK has no other access to the processors of a provider: `add_span_processor` only adds.
        every: object = getattr(provider, "_active_span_processor", None)
        self._every = every if isinstance(every, SpanProcessor) else processor
        self._reaches_every = provider is None or self._every is every
        self._failed = False
        #: Spans that did not reach the provider's other processors.
        self.unseen = 0

    def __call__(self, spans: Iterable[EncodedSpan]) -> None:
        """Pass the spans to the processors, as if ended here. A processor's exception is logged once, not raised."""
        for encoded in spans:
            seen = encoded[-1]
            self.unseen += not seen and not self._reaches_every
            try:
                (self._processor if seen else self._every).on_end(decode_span(encoded, self._resource))
            except BaseException:  # noqa: BLE001  # a processor may be the user's: its failure must fail no other task
                if not self._failed:
                    self._failed = True
                    _log.exception("a span processor failed on the span of a worker process")


@only_usable()
def send_spans(send: Callable[[str, Any], None], redactor: Redactor, recording: Callable[[], bool]) -> None:
    """Send every span that ends in this process as ('span', encoded), with whether the user's processors saw it.

    Spans without the sampled flag are sent only while `recording()`: the service records the call's own span anyway.
    If the user's modules have set an SDK provider of their own, it stays in use and gets our processor too.
    Idempotent.
    """
    provider = trace.get_tracer_provider()
    seen = not isinstance(provider, trace.ProxyTracerProvider)
    if not seen:
        provider = TracerProvider(
            sampler=RecordAll(),
            resource=Resource.get_empty(),
            shutdown_on_exit=False,
            meter_provider=metrics.get_meter_provider(),  # as in setup.py
        )
        trace.set_tracer_provider(provider)
    if isinstance(provider, TracerProvider) and not hasattr(provider, _MARK):
        setattr(provider, _MARK, True)
        provider.add_span_processor(_Sender(send, redactor, recording, seen))


_MARK = "_qorzen_sends_spans"


class _Sender(SpanProcessor):
    """Encodes each span when it ends; redacts it, since long texts are cut here."""

    def __init__(
        self,
        send: Callable[[str, Any], None],
        redactor: Redactor,
        recording: Callable[[], bool],
        seen: bool,
    ) -> None:
        self._send = send
        self._redactor = redactor
        self._recording = recording
        self._seen = seen  # by the user's processors in this process

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and (span.context.trace_flags.sampled or self._recording()):
            encoded = encode_span(redact_span(span, self._redactor), self._seen)
            self._send("span", _shortened(encoded))


def _shortened(encoded: EncodedSpan) -> EncodedSpan:
    """Cut long texts, as the service's own limit would have."""
    attributes: Mapping[str, Any] = encoded[7]
    short = {
        key: value[:_MAX_ATTRIBUTE_LENGTH] if isinstance(value, str) else value
        for key, value in attributes.items()
    }
    return (*encoded[:7], short, *encoded[8:])


def _encode_context(context: SpanContext | None) -> EncodedContext | None:
    return None if context is None else encode_context(context)


def _decode_context(encoded: EncodedContext | None) -> SpanContext | None:
    return None if encoded is None else decode_context(encoded)
