"""The span of an attempt, of which most of the work waits until somebody wants to see it.

A busy service records each attempt and keeps a few traces a second. Here a span is an identity and references to
facts; the SDK's own span is made of them when user code writes to it, or when its trace is kept. So limits, events
and all that is shown are the SDK's, and what is dropped costs next to nothing (docs/decisions/0013-task-spans.md).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import getrandbits
from typing import Any, Final, Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
)

from qorzen_obs.counts import CELL_LABELS
from qorzen_obs.record import Attempt, Rerun, TaskRecord, TaskState
from qorzen_obs.tasks import FAILED
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.source import source_of

_MAX_DESCRIPTION: Final = 256
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NO_STATE: Final = TraceState()

#: Yields the attributes that a user's metadata becomes.
UserAttributes = Callable[[Mapping[str, Any]], Iterator[tuple[str, Any]]]


def identity(record: TaskRecord) -> dict[str, Any]:
    """Return the attributes that say which task it is."""
    return _identity(record.task_id, record.name, record.cell, record.plugin_id, record.rerun)


def _identity(
    task_id: str, name: str, cell: int, plugin_id: str | None, rerun: Rerun | None
) -> dict[str, Any]:
    category, priority = CELL_LABELS[cell]
    attributes: dict[str, Any] = {
        names.TASK_ID: task_id,
        names.TASK_NAME: name,
        names.TASK_CATEGORY: category,
        names.TASK_PRIORITY: priority,
    }
    if plugin_id is not None:
        attributes[names.TASK_PLUGIN_ID] = plugin_id
    if rerun is not None:
        attributes[names.TASK_RERUN_OF] = rerun.task_id
    return attributes


class Facts:
    """What a span says of an attempt. Holds no record: a span may outlive by far what the task has returned."""

    __slots__ = (
        "abandoned",
        "cancel_reason",
        "cell",
        "engine",
        "error",
        "error_type",
        "keep",
        "metadata",
        "number",
        "outcome",
        "phases",
        "plugin_id",
        "previous",
        "queue_wait",
        "rerun",
        "source",
        "submitter",
        "task_id",
        "task_name",
        "will_retry",
    )

    def __init__(
        self, attempt: Attempt, func: Callable[..., Any] | None, previous: SpanContext | None
    ) -> None:
        record = attempt.record
        self.task_id = record.task_id
        self.task_name = record.name
        self.cell = record.cell
        self.plugin_id = record.plugin_id
        self.rerun = record.rerun
        self.engine = record.engine
        self.metadata = record.metadata
        self.keep = record.definition.keep_trace
        self.source = source_of(func)
        self.number = attempt.number
        self.previous = previous
        submitter = record.submitter
        #: What a trace of its own is linked to.
        self.submitter = submitter if submitter is not None and record.new_trace else None

    def decide(self, state: TaskState, phases: Mapping[str, float], will_retry: bool) -> None:
        """Add how it ended."""
        self.outcome = state.status
        self.queue_wait = state.queue_wait_seconds
        self.cancel_reason = state.cancel_reason
        self.abandoned = state.abandoned
        self.error_type = state.error_type
        self.error = state.error
        self.phases = phases
        self.will_retry = will_retry

    def start_by(
        self, tracer: Tracer, context: Context | None, users: UserAttributes, start_time: int
    ) -> Span:
        """Start the span by the API, at `start_time` in Unix nanoseconds."""
        attributes = _identity(self.task_id, self.task_name, self.cell, self.plugin_id, self.rerun)
        attributes[names.TASK_ATTEMPT] = self.number
        attributes[names.TASK_ENGINE] = self.engine.kind
        attributes.update(self.source)
        if self.metadata:
            attributes.update(users(self.metadata))
        if self.keep:
            attributes[names.TRACE_KEEP] = True
        linked = (self.submitter, self.previous, self.rerun and self.rerun.span)
        return tracer.start_span(
            f"run {self.task_name}",
            context=context,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[Link(one) for one in linked if one is not None],
            start_time=start_time,
            record_exception=False,
            set_status_on_exception=False,
        )

    def end_by(self, span: Span, end_time: int) -> None:
        """End a span by the API, as it was decided."""
        attributes: dict[str, Any] = {
            names.TASK_STATUS: self.outcome.value,
            names.TASK_QUEUE_WAIT: self.queue_wait or 0.0,
        }
        if self.cancel_reason is not None:
            attributes[names.TASK_CANCEL_REASON] = self.cancel_reason
        if self.abandoned:
            attributes[names.TASK_ABANDONED] = True
        if self.will_retry:
            attributes[names.TASK_WILL_RETRY] = True
        if self.error_type is not None:
            attributes[names.ERROR_TYPE] = self.error_type
        attributes |= {names.TASK_PHASE + phase: value for phase, value in self.phases.items()}
        span.set_attributes(attributes)
        if self.outcome is FAILED:
            description = f"{self.error_type}: {self.error}"[:_MAX_DESCRIPTION]
            span.set_status(Status(StatusCode.ERROR, description))
        span.end(end_time)


class TaskSpanSink(Protocol):
    """Takes the spans of attempts; see TailSampler.

    It says of each that has ended whether anybody may still want it, by `settle` or `forget`.
    """

    def on_task_start(self, span: TaskSpan) -> None: ...
    def on_task_ends(self, spans: Sequence[TaskSpan]) -> None: ...


class TaskSpan(Span):
    """The span of one attempt: the API's Span, and by `readable` the SDK's ReadableSpan. From any thread.

    What it says is the attempt's to tell, until that ends: then it is settled, a copy that holds no record, or
    forgotten, where its trace is dropped. Of one that is forgotten only name and times can be asked.
    """

    __slots__ = (
        "_attempt",
        "_end",
        "_facts",
        "_func",
        "_maker",
        "_previous",
        "_real",
        "context",
        "end_time",
        "keep",
        "parent",
        "sink",
        "start_time",
        "task_name",
    )

    # Set by SpanMaker.start, where a call for it would cost more than what it does.
    _attempt: Attempt | None  #: until it is settled or forgotten
    _end: tuple[TaskState, Mapping[str, float], bool] | None  #: how it ended; as long as that
    _facts: Facts | None
    _func: Callable[..., Any] | None
    _maker: SpanMaker
    _previous: SpanContext | None  #: of the attempt before this one
    _real: Any  #: the SDK's, once there is one
    context: SpanContext
    end_time: int | None  #: Unix nanoseconds
    keep: bool  #: its trace was asked for before it began
    parent: SpanContext | None
    sink: TaskSpanSink
    start_time: int  #: Unix nanoseconds
    task_name: str

    def why_kept(self, slow_seconds: float) -> str | None:
        """Return for which of names.TRACE_REASONS its trace is kept whatever the budget, once it has ended."""
        real, end, keep = self._real, self._end, self.keep
        failed = end is not None and end[0].status is FAILED
        if real is not None:  # the task's code may have said otherwise
            failed = real.status.status_code is StatusCode.ERROR
            keep = bool((real.attributes or {}).get(names.TRACE_KEEP))
        if failed:
            return names.BY_ERROR
        if keep:
            return names.BY_MARK
        assert self.end_time is not None, "asked for once it has ended"
        return names.BY_SLOW if self.end_time - self.start_time >= slow_seconds * 1e9 else None

    def finish(self, state: TaskState, phases: Mapping[str, float], will_retry: bool, end_time: int) -> bool:
        """End it with what was decided; return False when the task's code has ended it. The caller tells the sink."""
        with _LOCK:
            if self.end_time is not None:
                return False
            self._end = (state, phases, will_retry)
            self.end_time = end_time
            if self._real is not None:
                facts = self._known()
                assert facts is not None, "the sink lets it be settled or forgotten, never before"
                facts.end_by(self._real, end_time)
        return True

    def settle(self) -> None:
        """Copy what it says, for it may be asked for and outlive the attempt by far."""
        with _LOCK:
            self._known()
            self.forget()

    def forget(self) -> None:
        """Let go of the attempt, and of what it says where that is not settled: nobody will ask for it."""
        self._attempt = self._func = self._end = None

    def readable(self) -> ReadableSpan:
        """Return the ended span as the SDK has it.

        Of one that is settled it is made without the lock, or the loop would wait for the exporter's thread.
        """
        span: ReadableSpan
        if self.end_time is None or self._facts is None or self._attempt is not None:
            span = self._sdk_span()
            return span
        made = self._real or self._make(self._facts)
        with _LOCK:
            span = self._real = self._real or made
        return span

    def _make(self, facts: Facts | None) -> Any:
        """Return the SDK's span with what is known; ended, where it has ended."""
        made: Any = self._maker.make(self, facts)
        if self.end_time is not None and facts is not None:
            facts.end_by(made, self.end_time)
        elif self.end_time is not None:
            made.end(self.end_time)
        return made

    def _known(self) -> Facts | None:
        """Return what it says by now; None once it is forgotten. Under the lock of all spans."""
        if self._attempt is not None and self._facts is None:
            self._facts = Facts(self._attempt, self._func, self._previous)
        if self._end is not None and self._facts is not None:
            self._facts.decide(*self._end)
        return self._facts

    def _sdk_span(self) -> Any:
        with _LOCK:
            if self._real is None:
                self._real = self._make(self._known())
            return self._real

    # What the API asks for. Everything but the identity is the SDK's.

    def get_span_context(self) -> SpanContext:
        return self.context

    def is_recording(self) -> bool:
        return self.end_time is None

    def end(self, end_time: int | None = None) -> None:
        with _LOCK:
            if self.end_time is not None:
                return
            real = self._sdk_span()
            real.end(end_time)
            self.end_time = real.end_time
        self.sink.on_task_ends((self,))

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self._sdk_span().set_attributes(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        self._sdk_span().set_attribute(key, value)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        self._sdk_span().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        self._sdk_span().add_link(context, attributes)

    def update_name(self, name: str) -> None:
        self._sdk_span().update_name(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._sdk_span().set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        self._sdk_span().record_exception(exception, attributes, timestamp, escaped)

    def __getattr__(self, name: str) -> Any:
        """Give whatever else the SDK's span has."""
        return getattr(self._sdk_span(), name)


#: Of all spans: it is held for the little while in which one becomes the SDK's. Re-entrant, for the garbage collector
#: may run user code that writes to a span.
_LOCK = threading.RLock()


def _forget_lock() -> None:
    """Leave the lock behind in a forked child, where the thread that held it is not."""
    global _LOCK  # noqa: PLW0603 - it is of all spans
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


AnySpan = ReadableSpan | TaskSpan


def readable(span: AnySpan) -> ReadableSpan:
    """Return a span as the SDK has it."""
    return span.readable() if isinstance(span, TaskSpan) else span


class SpanMaker:
    """Makes the spans of attempts for one provider of the SDK that samples at the tail."""

    def __init__(
        self,
        sampler: Any,
        resource: Resource,
        limits: SpanLimits,
        ids: IdGenerator,
        scope: str,
        version: str,
        users: UserAttributes,
    ) -> None:
        self._ids = ids
        self._random = type(ids) is RandomIdGenerator
        self._users = users
        self._given = _GivenIds()
        # Without a processor: what is made here is offered as a TaskSpan.
        provider = TracerProvider(
            sampler=sampler,
            resource=resource,
            span_limits=limits,
            id_generator=self._given,
            shutdown_on_exit=False,
        )
        self._tracer = provider.get_tracer(scope, version)

    def start(self, attempt: Attempt, start_time: int, sink: TaskSpanSink) -> TaskSpan:
        """Start the span of an attempt, as a child of the span that the task was submitted in."""
        record = attempt.record
        parent = record.submitter
        if parent is not None and record.new_trace:
            parent = None
        if parent is not None:
            flags = _SAMPLED if parent.trace_flags.sampled else _NOT_SAMPLED
            span_id = self._ids.generate_span_id()
            context = SpanContext(parent.trace_id, span_id, False, flags, parent.trace_state)
        elif self._random:  # what the SDK's own generator and constructor do, without calling them
            ids = (getrandbits(128) or 1, getrandbits(64) or 1)
            context = tuple.__new__(SpanContext, (*ids, False, _SAMPLED, _NO_STATE, True))
        else:
            trace_id, span_id = self._ids.generate_trace_id(), self._ids.generate_span_id()
            context = SpanContext(trace_id, span_id, False, _SAMPLED, _NO_STATE)
        span = TaskSpan()
        span._attempt, span._func, span._previous = attempt, record.func, record.state.span
        span._maker, span.sink, span._real = self, sink, None
        span._facts = span._end = span.end_time = None
        span.context, span.parent, span.start_time = context, parent, start_time
        span.keep, span.task_name = record.definition.keep_trace, record.name
        sink.on_task_start(span)
        return span

    def make(self, span: TaskSpan, facts: Facts | None) -> Span:
        """Start the SDK's span with the identity of ours, and the facts where there are any; from any thread."""
        self._given.trace_id, self._given.span_id = span.context.trace_id, span.context.span_id
        context = Context()
        if span.parent is not None:
            context = trace.set_span_in_context(NonRecordingSpan(span.parent), context)
        if facts is None:
            return self._tracer.start_span(
                f"run {span.task_name}", context=context, start_time=span.start_time
            )
        return facts.start_by(self._tracer, context, self._users, span.start_time)


_NOT_SAMPLED: Final = TraceFlags(TraceFlags.DEFAULT)


class _GivenIds(threading.local, IdGenerator):
    """Gives out what its thread has put here."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id
