"""The kept traces of this process, in memory: the page and `/api/traces` show them without a collector.

A span processor, called by the thread that ends a span. It knows spans but not tasks.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import StatusCode, format_trace_id

from qorzen_obs.telemetry.forks import call_in_child
from qorzen_obs.telemetry.task_span import AnySpan, readable, span_bytes, why_kept
from qorzen_obs.telemetry.traces import TRACE_ID, TraceSummary, is_root, summarize

#: What a trace takes besides its spans; measured, see tests/performance/sizes.py.
TRACE_BYTES: Final = 500


class _Trace:
    __slots__ = ("bytes", "dropped", "must_keep", "ordinary", "spans", "summary")

    def __init__(self) -> None:
        self.bytes = TRACE_BYTES
        self.spans: list[AnySpan] = []  # in the order in which they ended
        self.dropped = 0
        self.must_keep = False
        # once it is full: the positions of spans that may be displaced
        self.ordinary: list[int] | None = None
        self.summary: TraceSummary | None = None  # as of the last reading


class SpanStore(SpanProcessor):
    """The most recently ended spans, by trace; all methods from any thread.

    Holds at most `keep_traces` traces of at most `keep_spans_per_trace` spans, `keep_spans` and about `keep_bytes` in
    all. Beyond that it evicts the trace whose last span ended the longest ago. A trace that was kept for a reason of
    its own, such as an error, is evicted only when no other is left. A full trace drops and counts later spans, with
    two exceptions: failed, slow (`slow_task_seconds`) and marked spans, which readers look for; and spans without a
    parent in this process, since the root ends last. Each of these takes the place of the newest other span. If none is
    left, the trace grows up to `keep_spans`.
    """

    def __init__(
        self,
        *,
        keep_traces: int = 10_000,
        keep_spans_per_trace: int = 2_000,
        keep_spans: int = 40_000,
        keep_bytes: int = 36 * 2**20,
        slow_task_seconds: float = math.inf,
    ) -> None:
        self.keep_traces = keep_traces
        self.keep_spans_per_trace = keep_spans_per_trace
        self.keep_spans = keep_spans
        self.keep_bytes = keep_bytes
        self._slow_task_seconds = slow_task_seconds
        self.dropped_spans = 0  #: not kept, because their trace was full
        self.evicted_traces = 0
        self._taking = True
        self._reset()
        call_in_child(self._reset)  # a fork may copy the lock while another thread holds it

    def _reset(self) -> None:
        # Re-entrant: while it is held, the garbage collector may close an unreferenced coroutine, whose span then ends
        # in the thread that holds the lock.
        self._lock = threading.RLock()
        self._spans = 0  # in all traces
        self.bytes = 0  #: that they take, about
        self._traces: OrderedDict[int, _Trace] = OrderedDict()  # by the last end of a span, oldest first
        self._ordinary: OrderedDict[int, None] = OrderedDict()  # those that go first, in the same order

    def on_end(self, span: ReadableSpan) -> None:
        """Take an ended span. This only stores it, since the work loop waits; readers summarize."""
        self.put((span,), span.status.status_code is StatusCode.ERROR)

    def put(self, spans: Sequence[AnySpan], must_keep: bool) -> None:
        """Take ended spans of one trace, as on_end takes one; `must_keep` applies to the trace from then on."""
        if not self._taking or not spans:
            return
        trace_id: int = spans[0].context.trace_id
        with self._lock:
            trace = self._traces.get(trace_id)
            if trace is None:
                trace = self._traces.setdefault(trace_id, _Trace())
                self.bytes += TRACE_BYTES
            else:
                self._traces.move_to_end(trace_id)
            if must_keep or trace.must_keep:
                trace.must_keep = True
                self._ordinary.pop(trace_id, None)
            else:
                self._ordinary.pop(trace_id, None)
                self._ordinary[trace_id] = None
            room = max(0, self.keep_spans_per_trace - len(trace.spans))
            taken = spans if len(spans) <= room else spans[:room]
            trace.spans.extend(taken)
            self._spans += len(taken)
            self._grow(trace, sum(map(span_bytes, taken)))
            for span in spans[len(taken) :]:
                self._put_in_full(trace, span)
            evicted = self._evict()
        del evicted  # outside the lock: freeing 2,000 spans takes a millisecond

    def _put_in_full(self, trace: _Trace, span: AnySpan) -> None:
        """Take a span of a trace that has no room left, or drop it."""
        spans = trace.spans
        if trace.ordinary is None:
            trace.ordinary = [place for place, one in enumerate(spans) if not self._displaces(one)]
        if self._displaces(span):
            if trace.ordinary:
                # The last of them, so that the others keep their positions.
                gone = spans.pop(trace.ordinary.pop())
            elif len(spans) < self.keep_spans and trace.bytes < self.keep_bytes:
                self._spans += 1
                self._grow(trace, span_bytes(span))
                spans.append(span)
                return
            else:
                gone = spans.pop(0)
            self._grow(trace, span_bytes(span) - span_bytes(gone))
            spans.append(span)
        trace.dropped += 1
        self.dropped_spans += 1

    def _grow(self, trace: _Trace, size: int) -> None:
        trace.bytes += size
        self.bytes += size

    def _displaces(self, span: AnySpan) -> bool:
        return is_root(span) or why_kept(span, self._slow_task_seconds) is not None

    def _evict(self) -> list[_Trace]:
        evicted = []
        while len(self._traces) > 1 and (
            self._spans > self.keep_spans
            or len(self._traces) > self.keep_traces
            or self.bytes > self.keep_bytes
        ):
            # Each step is complete, since the garbage collector may end a span in between, which also comes here.
            try:
                oldest_id, _ = self._ordinary.popitem(last=False)
                oldest = self._traces.pop(oldest_id, None)
            except KeyError:
                _, oldest = self._traces.popitem(last=False)
            if oldest is None:
                continue
            self._spans -= len(oldest.spans)
            self.bytes -= oldest.bytes
            self.evicted_traces += 1
            evicted.append(oldest)
        return evicted

    def shutdown(self) -> None:
        """Take no more spans; kept ones stay readable. Idempotent."""
        self._taking = False

    @property
    def traces_kept(self) -> int:
        return len(self._traces)

    def trace(self, trace_id: str) -> list[ReadableSpan]:
        """Return the kept spans of a trace in the order in which they ended; empty if the trace is unknown.

        `trace_id` is hexadecimal, as in `TaskInfo.trace_id`.
        """
        try:
            key = int(trace_id, 16)
        except ValueError:
            return []
        with self._lock:
            trace = self._traces.get(key)
            kept = list(trace.spans) if trace else []
        return [readable(span) for span in kept]

    def summaries(
        self, limit: int = 100, *, errors: bool = False, ids: Collection[str] = ()
    ) -> list[TraceSummary]:
        """Return at most `limit` kept traces, the one with the most recently ended span first; see `Traces`.

        Reads only the spans of traces that have changed since the last call.
        """
        wanted = {int(one, 16) for one in ids if TRACE_ID.fullmatch(one)}
        with self._lock:
            newest_first = reversed(self._traces.items())
            if ids:
                traces = [item for item in newest_first if item[0] in wanted]
            else:
                traces = list(newest_first if errors else itertools.islice(newest_first, limit))
        if not errors:
            return [self._summary(*item) for item in traces]
        summaries = (self._summary(*item) for item in traces if item[1].must_keep)
        failed = (summary for summary in summaries if summary.errors)
        return list(itertools.islice(failed, limit))

    def _summary(self, trace_id: int, trace: _Trace) -> TraceSummary:
        with self._lock:
            known, dropped = trace.summary, trace.dropped
            if known and (known.spans, known.dropped) == (len(trace.spans), dropped):
                return known
            spans = list(trace.spans)
        trace.summary = summary = summarize(format_trace_id(trace_id), spans, dropped)
        return summary
