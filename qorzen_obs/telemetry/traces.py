"""Reads recent traces, whichever component holds their spans.

Knows spans, and tasks only by their attributes; knows nothing about sampling, or where the spans are kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode, format_trace_id

from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.task_span import AnySpan, TaskSpan, readable

MAX_UNDECIDED: Final = 1_000  #: number of youngest undecided traces shown beside the kept ones
TRACE_ID: Final = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """A summary of one trace, from its ended and kept spans."""

    trace_id: str  #: 32 hexadecimal digits
    #: of the first span without a parent in this process; until that one ends, of the first span
    root_name: str
    started_at: float  #: Unix seconds
    duration_seconds: float  #: from the first start to the last end
    spans: int
    errors: int  #: of them with status ERROR
    dropped: int  #: spans that ended and are not kept, because the trace was full


class Traces(Protocol):
    """Recent traces; all methods from any thread."""

    @property
    def keep_traces(self) -> int:
        """How many traces are kept at most; up to MAX_UNDECIDED may be listed beside them."""
        ...

    def trace(self, trace_id: str) -> list[ReadableSpan]:
        """Return the ended spans of a trace by its hexadecimal id; empty if the trace is unknown."""
        ...

    def summaries(
        self, limit: int = ..., *, errors: bool = ..., ids: Collection[str] = ...
    ) -> list[TraceSummary]:
        """Return at most `limit` traces, most recently changed first; with `errors` only those with a failed span.

        With `ids`, hexadecimal and in lower case, only those, without reading the others.
        """
        ...


class Undecided(Protocol):
    """Holds the ended spans of traces that are neither kept nor dropped yet."""

    def ended_spans(self, trace_id: int) -> list[AnySpan]: ...
    def newest(self, limit: int) -> list[tuple[int, list[AnySpan]]]: ...


class AllTraces:
    """The undecided traces and then the kept ones, as one `Traces`."""

    def __init__(self, kept: Traces, undecided: Undecided) -> None:
        self._kept = kept
        self._undecided = undecided

    @property
    def keep_traces(self) -> int:
        return self._kept.keep_traces

    def trace(self, trace_id: str) -> list[ReadableSpan]:
        """Return the ended spans of a trace, kept ones first."""
        try:
            key = int(trace_id, 16)
        except ValueError:
            return []
        # first: a trace that is decided meanwhile is found among the kept
        waiting = self._undecided.ended_spans(key)
        kept = self._kept.trace(trace_id)
        known = {span.context.span_id for span in kept}
        return kept + [readable(span) for span in waiting if span.context.span_id not in known]

    def summaries(
        self, limit: int = 100, *, errors: bool = False, ids: Collection[str] = ()
    ) -> list[TraceSummary]:
        """Return at most `limit` traces. With `errors` all are kept ones: a failed span makes its trace kept."""
        if errors:
            return self._kept.summaries(limit, errors=True, ids=ids)
        if ids:
            keys = [(one, int(one, 16)) for one in ids if TRACE_ID.fullmatch(one)]
            ended = [(one, self._undecided.ended_spans(key)) for one, key in keys]
            found = self._kept.summaries(limit, ids=ids)
            decided = {summary.trace_id for summary in found}
            others = [summarize(one, spans) for one, spans in ended if spans and one not in decided]
            return sorted(others, key=lambda one: -(one.started_at + one.duration_seconds)) + found
        waiting = self._undecided.newest(min(limit, MAX_UNDECIDED))  # first, as above
        kept = self._kept.summaries(limit)
        known = {summary.trace_id for summary in kept}
        undecided = [
            summarize(trace_id, spans)
            for trace_id, spans in ((format_trace_id(key), spans) for key, spans in waiting)
            if trace_id not in known
        ]
        return (undecided + kept)[:limit]


def is_root(span: AnySpan) -> bool:
    """Return whether a span has no parent in this process."""
    return span.parent is None or span.parent.is_remote


def name_of(span: ReadableSpan) -> str:
    """Return the name to show for a span; for an attempt it includes the task's own name, which readers look for."""
    attributes = span.attributes or {}
    name = attributes.get(names.TASK_NAME) if names.TASK_ATTEMPT in attributes else None
    return span.name if name is None else f"run {name}"


def summarize(trace_id: str, ended: Sequence[AnySpan], dropped: int = 0) -> TraceSummary:
    """Return the summary of a trace, from at least one span."""
    root = min(ended, key=lambda span: (not is_root(span), span.start_time))
    start = min(span.start_time or 0 for span in ended)
    return TraceSummary(
        trace_id=trace_id,
        root_name=_heading(root)[0],
        started_at=start / 1e9,
        duration_seconds=(max(span.end_time or 0 for span in ended) - start) / 1e9,
        spans=len(ended),
        errors=sum(_heading(span)[1] for span in ended),
        dropped=dropped,
    )


def _heading(span: AnySpan) -> tuple[str, bool]:
    """Return the name to show of a span, and whether it has failed, where possible without making it."""
    known = span.heading() if isinstance(span, TaskSpan) else None
    if known is not None:
        return known
    span = readable(span)
    return name_of(span), span.status.status_code is StatusCode.ERROR
