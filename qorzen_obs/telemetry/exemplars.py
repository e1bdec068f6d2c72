"""Exemplars, which link metrics to traces, and who may write them.

An exemplar for a trace that nobody kept is worse than none, so the component that decides about traces writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from opentelemetry.trace import SpanContext, format_span_id, format_trace_id

from qorzen_obs.telemetry.exposition import WrittenExemplar


class ExemplarSlot:
    """The newest exemplar of one bucket or counter. Writers take turns; any thread reads."""

    __slots__ = ("_held", "_shown")

    def __init__(self) -> None:
        self._held: tuple[SpanContext, float, float] | None = None
        self._shown: tuple[object, WrittenExemplar] | None = None  #: the exemplar for which it was created

    def put(self, span: SpanContext, value: float, at: float) -> None:
        """Show `span` for a `value` observed `at` (Unix seconds), unless a newer one is shown."""
        held = self._held
        if held is None or held[2] <= at:
            self._held = (span, value, at)

    def read(self) -> WrittenExemplar | None:
        """Return the exemplar for the exposition; the same object until there is a newer one."""
        held, shown = self._held, self._shown
        if held is None:
            return None
        if shown is None or shown[0] is not held:
            span, value, at = held
            labels = {"trace_id": format_trace_id(span.trace_id), "span_id": format_span_id(span.span_id)}
            shown = self._shown = (held, WrittenExemplar(labels, value, at))
        return shown[1]


class Exemplars(Protocol):
    """Decides which observations become exemplars."""

    def may_keep(self, span: SpanContext) -> bool:
        """Return whether an offer for this span may succeed."""
        ...

    def offer(self, span: SpanContext, observations: Sequence[tuple[ExemplarSlot, float]], at: float) -> None:
        """Take observations of this span's task, made `at` (Unix seconds): each slot with its value."""
        ...


class IfSampled:
    """Writes at once if the span is sampled; no more is known without a tail sampler."""

    def may_keep(self, span: SpanContext) -> bool:
        return span.trace_flags.sampled

    def offer(self, span: SpanContext, observations: Sequence[tuple[ExemplarSlot, float]], at: float) -> None:
        if span.trace_flags.sampled:
            for slot, value in observations:
                slot.put(span, value, at)
