"""Spans that remember everything that was done to them, also what an SDK would not tell: a second end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes, AttributeValue

NOBODY = trace.INVALID_SPAN_CONTEXT


class Recorded(Span):
    """One span and its story."""

    def __init__(
        self,
        context: SpanContext,
        parent: SpanContext,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Any],
        links: Sequence[Link],
        start_time: int | None,
    ) -> None:
        self.context, self.parent, self.name, self.kind = context, parent, name, kind
        self.attributes = dict(attributes)
        self.links = [link.context for link in links]
        self.start_time, self.end_time = start_time, start_time
        self.status = StatusCode.UNSET
        self.ends = 0

    def get_span_context(self) -> SpanContext:
        return self.context

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self.attributes.update(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self.attributes[key] = value

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        pass

    def update_name(self, name: str) -> None:
        self.name = name

    def is_recording(self) -> bool:
        return not self.ends

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self.status = status.status_code if isinstance(status, Status) else status

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        pass

    def end(self, end_time: int | None = None) -> None:
        self.ends += 1
        self.end_time = end_time


class SpanRecorder(trace.TracerProvider, trace.Tracer):
    """A provider that is its only tracer."""

    def __init__(self) -> None:
        self.spans: list[Recorded] = []

    def get_tracer(self, *_: object, **__: object) -> trace.Tracer:
        return self

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Any = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Recorded:
        parent = trace.get_current_span(context).get_span_context()
        number = len(self.spans) + 1
        trace_id = parent.trace_id if parent.is_valid else number
        own = SpanContext(trace_id, number, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        span = Recorded(own, parent, name, kind, attributes or {}, links or (), start_time)
        self.spans.append(span)
        return span

    @contextmanager
    def start_as_current_span(self, name: str, *args: Any, **options: Any) -> Iterator[Recorded]:  # type: ignore[override]  # the API wants its own decorator class
        with trace.use_span(self.start_span(name)) as span:
            yield span  # type: ignore[misc]  # ours, as it came
