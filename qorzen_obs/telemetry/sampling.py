"""Tail sampling: every span is recorded, and its trace is kept or dropped when its outcome is known.

Nothing here blocks the thread that ends a span, which may be the work loop: calls are put in a queue, and the thread
that gets the lock drains the queue.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.util.types import Attributes

from qorzen_obs.clock import Clock
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.exemplars import ExemplarSlot
from qorzen_obs.telemetry.forks import call_in_child
from qorzen_obs.telemetry.task_span import AnySpan, TaskSpan, readable, why_kept
from qorzen_obs.telemetry.trace_buffer import Bounds, Budget, TraceBuffer


class RecordAll(Sampler):
    """Records every span. The propagated flag is the parent's, or 1 if there is no parent."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        parent = trace.get_current_span(parent_context).get_span_context()
        if not parent.is_valid:
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        sampled = parent.trace_flags.sampled
        decision = Decision.RECORD_AND_SAMPLE if sampled else Decision.RECORD_ONLY
        return SamplingResult(decision, attributes, parent.trace_state)

    def get_description(self) -> str:
        return "RecordAll"


class SpanSink(Protocol):
    """Takes the spans of kept traces."""

    def put(self, spans: Sequence[AnySpan], must_keep: bool) -> None:
        """Take ended spans of one trace, kept for its own reason or by the budget. Non-blocking; from any thread."""
        ...

    def shutdown(self) -> None: ...
    def force_flush(self, timeout_millis: int = ...) -> bool: ...


#: An item of the queue: a method of TraceBuffer and its arguments.
_Call = tuple[Callable[..., None], tuple[Any, ...]]


class TailSampler(SpanProcessor):
    """Passes on the spans of kept traces, see TraceBuffer; all methods from any thread.

    It also writes exemplars, since it knows which traces are kept. A trace that its caller in another service has not
    sampled is kept only if it must be, unless `follows_parent` is False.
    """

    def __init__(
        self,
        sinks: Sequence[SpanSink],
        budget: Budget,
        *,
        slow_task_seconds: float,
        clock: Clock,
        bounds: Bounds | None = None,
        follows_parent: bool = True,
    ) -> None:
        self._sinks = tuple(sinks)
        self._budget = budget
        self._slow_task_seconds = slow_task_seconds
        self._clock = clock
        self._bounds = bounds
        self._follows_parent = follows_parent
        self._taking = True
        self.kept = 0  #: spans of kept traces
        self.dropped_shutdown = 0  #: spans that ended after their trace was decided
        self._reset()
        # a fork copies the lock in its present state, and traces that end in the parent
        call_in_child(self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._line: deque[_Call] = deque()
        # open spans of attempts, by trace: no other span of the trace was seen
        self._alone: dict[int, int] = {}
        self._buffer: TraceBuffer[AnySpan] = TraceBuffer(self._budget, self._hand_on, self._bounds)
        self.may_keep = self._buffer.may_keep  #: whether a span's trace is not already dropped

    # ------------------------------------------------------------------ what happens

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Count an open span. A marked one, or one with a sampled caller elsewhere, decides at once."""
        parent = span.parent
        must_keep = None
        if parent is not None and parent.is_remote and parent.trace_flags.sampled:
            must_keep = names.BY_UPSTREAM
        elif span.kind is SpanKind.CONSUMER and _has(span, names.TRACE_KEEP):
            must_keep = names.BY_MARK
        context: SpanContext = span.context
        self._do(self._start, context, must_keep, self._clock.monotonic())

    def on_end(self, span: ReadableSpan) -> None:
        """Take an ended span; after `close`, only count it."""
        context: SpanContext = span.context
        why = why_kept(span, self._slow_task_seconds)
        now = self._clock.monotonic()
        self._do(self._end, context, span, why, now)

    def on_task_start(self, span: TaskSpan) -> None:
        """As on_start, for the span of an attempt. Most are alone in their trace, and are processed only when they end.

        If another span of the trace comes meanwhile, this one is counted first.
        """
        parent = span.parent
        if parent is None and not span.keep and self._taking:
            self._alone[span.trace_id] = span.span_id
            return
        must_keep = None
        if parent is not None and parent.is_remote and parent.trace_flags.sampled:
            must_keep = names.BY_UPSTREAM
        elif span.keep:
            must_keep = names.BY_MARK
        self._do(self._start, span.context, must_keep, self._clock.monotonic())

    def on_task_ends(self, spans: Sequence[TaskSpan]) -> None:
        """As on_end, for spans of attempts."""
        self._do(self._end_tasks, spans, self._clock.monotonic())

    # Whether spans are still taken is checked here, where no other thread works: a thread that checked earlier
    # would put its span after the last decision.

    def _start(self, context: SpanContext, must_keep: str | None, now: float) -> None:
        if self._taking:
            trace_id, span_id, _, flags = context[:4]
            self._count_root(trace_id, now)
            unsampled = self._follows_parent and not flags & TraceFlags.SAMPLED
            self._buffer.start(trace_id, span_id, must_keep, now, unsampled)

    def _end(self, context: SpanContext, span: AnySpan, must_keep: str | None, now: float) -> None:
        trace_id, span_id, _, flags = context[:4]
        if not self._taking:
            self.dropped_shutdown += 1
        else:
            self._count_root(trace_id, now)
            unsampled = self._follows_parent and not flags & TraceFlags.SAMPLED
            self._buffer.end(trace_id, span_id, span, must_keep, now, unsampled)

    def _end_tasks(self, spans: Sequence[TaskSpan], now: float) -> None:
        alone, slow_seconds = self._alone, self._slow_task_seconds
        for span in spans:
            must_keep = span.why_kept(slow_seconds)
            trace_id = span.trace_id
            if self._taking and alone.get(trace_id) == span.span_id:
                del alone[trace_id]
                self._buffer.end_alone(trace_id, span, must_keep, now)
                span.discard()  # a kept one was already detached
            else:
                span.detach()
                self._end(span.context, span, must_keep, now)

    def _count_root(self, trace_id: int, now: float) -> None:
        """Count the span of an attempt that is no longer alone in its trace."""
        if trace_id in self._alone:
            self._buffer.start(trace_id, self._alone.pop(trace_id), None, now)

    def offer(self, span: SpanContext, observations: Sequence[tuple[ExemplarSlot, float]], at: float) -> None:
        """Write these exemplars if the span's trace is kept."""
        self._do(self._buffer.offer, span, observations, at)

    def tick(self) -> None:
        """Decide traces that have waited too long, for a process in which nothing else happens."""
        self._do(self._buffer.tick, self._clock.monotonic())

    def _do(self, method: Callable[..., None], *args: Any) -> None:
        line = self._line
        if not line and self._lock.acquire(blocking=False):  # the usual case, without the queue
            try:
                method(*args)
            finally:
                self._lock.release()
        else:
            line.append((method, args))
        if line:
            self._work()

    def _work(self) -> None:
        """Drain the queue, unless another thread does: that one checks again after it releases the lock.

        Never waits, so the garbage collector may end the span of an unreferenced coroutine in the middle of this.
        """
        line = self._line
        while line and self._lock.acquire(blocking=False):
            try:
                while line:
                    method, args = line.popleft()
                    method(*args)
            finally:
                self._lock.release()

    def _hand_on(self, spans: Sequence[AnySpan], partial: bool, must_keep: bool) -> None:
        self.kept += len(spans)
        for span in spans:
            if isinstance(span, TaskSpan):
                span.detach()
        if partial:
            spans = [_marked_partial(readable(span)) for span in spans]
        for sink in self._sinks:
            sink.put(spans, must_keep)

    # ------------------------------------------------------------------ figures

    @property
    def sampled_out(self) -> int:
        """How many spans were dropped with their traces."""
        return self._buffer.dropped_spans

    @property
    def decisions(self) -> Mapping[tuple[str, str], int]:
        """How many traces were decided, by decision and reason as names.py has them."""
        return dict(self._buffer.decisions)

    @property
    def closed(self) -> bool:
        """Whether it takes no more spans."""
        return not self._taking

    @property
    def undecided(self) -> int:
        """How many traces wait for their decision."""
        return self._buffer.undecided

    def ended_spans(self, trace_id: int) -> list[AnySpan]:
        """Return the spans of an undecided trace that have ended."""
        with self._exclusively():
            return self._buffer.ended_spans(trace_id)

    def newest(self, limit: int) -> list[tuple[int, list[AnySpan]]]:
        """Return at most `limit` undecided traces with their ended spans, the youngest first."""
        with self._exclusively():
            return self._buffer.newest(limit)

    def add(self, sink: SpanSink) -> None:
        """Pass the spans of traces that are kept from now on to this sink too; not for two threads at once."""
        self._sinks = (*self._sinks, sink)

    def remove(self, sink: SpanSink) -> None:
        """Undo an `add`."""
        self._sinks = tuple(one for one in self._sinks if one is not sink)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        with self._lock:
            yield
        self._work()  # what other threads have put in the queue meanwhile

    # ------------------------------------------------------------------ how it ends

    def close(self) -> None:
        """Decide about all waiting traces, by the budget, and only count later spans. Idempotent."""
        self._work()
        with self._exclusively():
            self._taking = False
            self._buffer.decide_all(self._clock.monotonic())

    def shutdown(self) -> None:
        """Close, and shut down the sinks of kept spans."""
        self.close()
        for sink in self._sinks:
            sink.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the sinks of kept spans. Undecided traces stay undecided, since they are not over."""
        flushed = [sink.force_flush(timeout_millis) for sink in self._sinks]
        return all(flushed)


def _has(span: ReadableSpan, key: str) -> bool:
    attributes = span.attributes
    return attributes is not None and key in attributes


def _marked_partial(span: ReadableSpan) -> ReadableSpan:
    """Return a copy with that attribute, since the attributes of an ended span cannot change."""
    return ReadableSpan(
        span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes={**(span.attributes or {}), names.TRACE_PARTIAL: True},
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


#: Ratios of the SDK's samplers; None means the argument's.
_BASE_RATIO: Final[Mapping[str, float | None]] = {
    "": 1.0,
    "always_on": 1.0,
    "always_off": 0.0,
    "traceidratio": None,
    "parentbased_always_on": 1.0,
    "parentbased_always_off": 0.0,
    "parentbased_traceidratio": None,
}


def base_ratio(sampler: str, argument: str) -> float | None:
    """Return the ratio from OTEL_TRACES_SAMPLER and its argument; None for another kind of sampler.

    Raises:
        ValueError: the argument is not a number from 0 to 1.
    """
    name = sampler.strip().lower()
    if name not in _BASE_RATIO:
        return None
    ratio = _BASE_RATIO[name]
    if ratio is None:
        ratio = float(argument) if argument.strip() else 1.0
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"{argument!r} is not a number from 0 to 1")
    return ratio


def follows_parent(sampler: str) -> bool:
    """Return whether OTEL_TRACES_SAMPLER asks to follow the caller's decision; True if it is unset."""
    name = sampler.strip().lower()
    return not name or name.startswith("parentbased_")
