"""The span of an attempt; most of its construction is deferred until somebody wants to see it.

A busy service records each attempt and keeps a few traces a second. Here a span is an identity and references to
facts; the SDK's own span is created from them when user code writes to it, or when its trace is kept. So limits, events
and everything shown are the SDK's, and a dropped span costs almost nothing (docs/decisions/0013-task-spans.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from random import getrandbits
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from qorzen_obs.record import Attempt, TaskRecord, TaskState
from qorzen_obs.tasks import FAILED
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.forks import ForkSafeLock
from qorzen_obs.telemetry.span_facts import Facts, Outcome, UserAttributes, span_name
from qorzen_obs.telemetry.trace_context import KNOWN_FLAGS

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_FLAGS: Final = [TraceFlags(flags) for flags in range(KNOWN_FLAGS + 1)]
_NO_STATE: Final = TraceState()
_new_tuple: Final = tuple.__new__

#: Guards the states of all spans; held only while one becomes the SDK's. One lock for all, and re-entrant, since the
#: garbage collector may run user code that writes to another span.
_STATES: Final = ForkSafeLock()


class TaskSpanSink(Protocol):
    """Takes the spans of attempts; see TailSampler.

    For each span that has ended it calls `detach` if somebody may still want to see it, else `discard`.
    """

    def on_task_start(self, span: TaskSpan) -> None: ...
    def on_task_ends(self, spans: Sequence[TaskSpan]) -> None: ...


class _Open(msgspec.Struct):
    """The attempt runs. The span's content can be read from it."""

    attempt: Attempt
    #: kept here because the record drops it before the span is notified of the end
    func: Callable[..., Any] | None
    previous: SpanContext | None  #: the previous attempt's

    def facts(self) -> Facts:
        return Facts.of(self.attempt.record, self.attempt.number, self.func, self.previous)

    def make(self, span: TaskSpan) -> Any:
        return span.maker.make(span, self.facts())


class _Ended(msgspec.Struct):
    """The attempt has ended. The span still refers to it, until it is known whether the trace is kept."""

    before: _Open
    state: TaskState
    phases: Mapping[str, float]
    will_retry: bool

    def detached(self) -> _Detached:
        return _Detached(self.before.facts(), Outcome.of(self.state, self.phases, self.will_retry))

    def make(self, span: TaskSpan) -> Any:
        return self.detached().make(span)


class _Detached(msgspec.Struct, gc=False):  # no cycle leads through it
    """Its trace is kept or undecided. The span's content is a copy, which keeps nothing of the task alive."""

    facts: Facts
    outcome: Outcome

    def make(self, span: TaskSpan) -> Any:
        made = span.maker.make(span, self.facts)
        self.outcome.end_by(made, span.ended_at)
        return made


class _Empty(msgspec.Struct):
    """Only name and times are left: its trace is dropped, or the SDK's span has everything."""

    def make(self, span: TaskSpan) -> Any:
        made = span.maker.make(span, None)
        made.end(span.ended_at)
        return made


_EMPTY: Final = _Empty()


class TaskSpan(Span):
    """The span of one attempt: the API's Span, and through `readable` the SDK's ReadableSpan. From any thread.

    Its state goes from _Open to _Ended, and then to _Detached or _Empty. When somebody writes to it or reads it, the
    SDK's span is created from its state, which is _Empty from then on.
    """

    __slots__ = (
        "_made",
        "_state",
        "context",
        "definition_name",
        "end_time",
        "keep",
        "maker",
        "parent",
        "sink",
        "span_id",
        "start_time",
        "trace_id",
    )

    def __init__(self, maker: SpanMaker, attempt: Attempt, start_time: int, sink: TaskSpanSink) -> None:
        """Make it a child of the span that the task was submitted in. The caller notifies the sink."""
        record = attempt.record
        parent = record.submitter
        if parent is not None and record.new_trace:
            parent = None
        if parent is not None:
            flags = _FLAGS[parent.trace_flags & KNOWN_FLAGS]
            trace_id, span_id = parent.trace_id, maker.ids.generate_span_id()
            context = SpanContext(trace_id, span_id, False, flags, parent.trace_state)
        elif maker.ids_are_random:  # what the SDK's own generator and constructor do, without calling them
            trace_id, span_id = getrandbits(128) or 1, getrandbits(64) or 1
            context = _new_tuple(SpanContext, (trace_id, span_id, False, _SAMPLED, _NO_STATE, True))
        else:
            trace_id, span_id = maker.ids.generate_trace_id(), maker.ids.generate_span_id()
            context = SpanContext(trace_id, span_id, False, _SAMPLED, _NO_STATE)
        self._state: _Open | _Ended | _Detached | _Empty = _Open(attempt, record.func, record.state.span)
        self._made: Any = None  # the SDK's span, once there is one
        self.maker = maker
        self.sink = sink
        self.context = context
        self.trace_id, self.span_id = trace_id, span_id  #: as in `context`, where reading each is a call
        self.parent = parent
        self.start_time = start_time  #: Unix nanoseconds
        self.end_time: int | None = None  #: Unix nanoseconds
        self.keep = record.definition.keep_trace  #: its trace was requested before it began
        self.definition_name = record.definition_name or record.name

    @property
    def ended_at(self) -> int:
        """The end time of a span that has ended."""
        assert self.end_time is not None, "asked for once it has ended"
        return self.end_time

    def why_kept(self, slow_seconds: float) -> str | None:
        """Return which of names.TRACE_REASONS keeps its trace whatever the budget, once it has ended."""
        state, made, keep = self._state, self._made, self.keep
        if type(state) is _Ended:
            failed = state.state.status is FAILED
        else:
            failed = type(state) is _Detached and state.outcome.status is FAILED
        if made is not None:  # the task's code may have set something else
            failed = made.status.status_code is StatusCode.ERROR
            keep = bool((made.attributes or {}).get(names.TRACE_KEEP))
        if failed:
            return names.BY_ERROR
        if keep:
            return names.BY_MARK
        assert self.end_time is not None, "asked for once it has ended"
        return names.BY_SLOW if self.end_time - self.start_time >= slow_seconds * 1e9 else None

    def finish(self, state: TaskState, phases: Mapping[str, float], will_retry: bool, end_time: int) -> bool:
        """End it with the decision; return False if the task's code has ended it. The caller notifies the sink."""
        with _STATES.lock:
            if self.end_time is not None:
                return False
            self.end_time = end_time
            before = self._state
            if type(before) is _Open:
                self._state = _Ended(before, state, phases, will_retry)
            else:
                Outcome.of(state, phases, will_retry).end_by(self._made, end_time)
        return True

    def detach(self) -> None:
        """Copy its content: somebody may ask for it, and the span may long outlive the attempt."""
        with _STATES.lock:
            if type(self._state) is _Ended:
                self._state = self._state.detached()

    def discard(self) -> None:
        """Release the attempt, and the span's content unless it was copied: nobody will ask for it.

        Needs no lock: only code that may call `detach` calls this, and `_sdk_span` leaves the same state behind.
        """
        if type(self._state) is _Ended:
            self._state = _EMPTY

    def readable(self) -> ReadableSpan:
        """Return the ended span as the SDK's own.

        A detached one is made again each time, since it takes three times the memory of its parts, and without the
        lock, or the loop would wait for the exporter's thread.
        """
        state = self._state
        made: ReadableSpan = state.make(self) if type(state) is _Detached else self._sdk_span()
        return made

    def heading(self) -> tuple[str, bool] | None:
        """Return the name to show and whether it has failed; None where only the SDK's span can say."""
        state = self._state
        if type(state) is not _Detached:
            return None
        return span_name(state.facts.task_name), state.outcome.status is FAILED

    @property
    def bytes(self) -> int:
        """How many bytes an ended span takes while it is kept, about."""
        state, made = self._state, self._made
        if made is not None:
            return TASK_SPAN_BYTES + bytes_of(made)
        if type(state) is _Detached and state.outcome.traceback is not None:
            return TASK_SPAN_BYTES + str.__sizeof__(state.outcome.traceback)
        return TASK_SPAN_BYTES

    def _sdk_span(self) -> Any:
        with _STATES.lock:
            if self._made is None:
                self._made, self._state = self._state.make(self), _EMPTY
            return self._made

    # The API's methods. Everything except the identity is the SDK's.

    def get_span_context(self) -> SpanContext:
        return self.context

    def is_recording(self) -> bool:
        return self.end_time is None

    def end(self, end_time: int | None = None) -> None:
        with _STATES.lock:
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

    if TYPE_CHECKING:  # see below

        def __getattr__(self, name: str) -> Any: ...


def _of_the_sdk(name: str) -> property:
    return property(lambda span: getattr(span._sdk_span(), name))


# The SDK span's other attributes. Without __getattr__, which makes each attribute of a class ten times as slow.
for _name in dir(SdkSpan):
    if not hasattr(TaskSpan, _name):
        setattr(TaskSpan, _name, _of_the_sdk(_name))


AnySpan = ReadableSpan | TaskSpan

#: What a span takes, measured, see tests/performance/sizes.py: one of an attempt; one of the SDK, each of its
#: attributes, its events and links.
TASK_SPAN_BYTES: Final = 900
SPAN_BYTES: Final = 2_500
_ATTRIBUTE_BYTES: Final = 120
_EVENT_BYTES: Final = 400


def span_bytes(span: AnySpan) -> int:
    """Return how many bytes an ended span takes while it is kept, about; O(n) in its texts, which are few."""
    return span.bytes if isinstance(span, TaskSpan) else bytes_of(span)


def bytes_of(span: ReadableSpan) -> int:
    """Return how many bytes an ended span of the SDK takes."""
    events = span.events
    size = SPAN_BYTES + _EVENT_BYTES * (len(events) + len(span.links)) + _texts_of(span.attributes)
    return size + sum(_texts_of(event.attributes) for event in events)


def _texts_of(attributes: Mapping[str, Any] | None) -> int:
    if not attributes:
        return 0
    texts = (value for value in attributes.values() if isinstance(value, str))
    return _ATTRIBUTE_BYTES * len(attributes) + sum(map(len, texts))


def readable(span: AnySpan) -> ReadableSpan:
    """Return a span as the SDK's own."""
    return span.readable() if isinstance(span, TaskSpan) else span


def why_kept(span: AnySpan, slow_seconds: float) -> str | None:
    """Return which of names.TRACE_REASONS keeps an ended span's trace whatever the budget."""
    if isinstance(span, TaskSpan):
        return span.why_kept(slow_seconds)
    if span.status.status_code is StatusCode.ERROR:
        return names.BY_ERROR
    attributes = span.attributes
    if attributes:
        if attributes.get(names.TRACE_KEEP):
            return names.BY_MARK
        seconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
        if seconds >= slow_seconds and span.kind is SpanKind.CONSUMER and names.TASK_ATTEMPT in attributes:
            return names.BY_SLOW
    return None


class SpanMaker:
    """The parts that the spans of attempts share, for one SDK provider with tail sampling."""

    def __init__(
        self,
        sampler: Any,
        resource: Resource,
        limits: SpanLimits,
        ids: IdGenerator,
        scope: str,
        version: str,
        users: UserAttributes,
        meter_provider: MeterProvider,
    ) -> None:
        self.ids = ids
        self.ids_are_random = type(ids) is RandomIdGenerator
        self._users = users
        self._given = _GivenIds()
        # Without a processor: spans created here are offered as TaskSpans.
        provider = TracerProvider(
            sampler=sampler,
            resource=resource,
            span_limits=limits,
            id_generator=self._given,
            meter_provider=meter_provider,
            shutdown_on_exit=False,
        )
        self._tracer = provider.get_tracer(scope, version, names.SCHEMA_URL)

    def make(self, span: TaskSpan, facts: Facts | None) -> Span:
        """Start the SDK's span with the identity of ours, and the facts if there are any; from any thread."""
        self._given.set(span.context.trace_id, span.context.span_id)
        context = Context()
        if span.parent is not None:
            context = trace.set_span_in_context(NonRecordingSpan(span.parent), context)
        if facts is None:
            return self._tracer.start_span(
                span_name(span.definition_name), context=context, start_time=span.start_time
            )
        return facts.start_by(self._tracer, context, self._users, span.start_time)


class RememberedSpans:
    """Recreates the spans of ended tasks from their records: a large trace or the store may have dropped them."""

    def __init__(
        self, provider: trace.TracerProvider, scope: str, version: str, users: UserAttributes
    ) -> None:
        self._resource = provider.resource if isinstance(provider, TracerProvider) else Resource.get_empty()
        self._scope = InstrumentationScope(scope, version, names.SCHEMA_URL)
        self._users = users

    def of(self, record: TaskRecord) -> ReadableSpan | None:
        """Return the span of the last attempt; None if it has not ended or had none.

        It lacks what the record does not hold: the attempt's phases, its link to the previous one, and what user code
        has put on it. So it is marked as partial.
        """
        state = record.state
        if state.span is None or state.completed_at is None or state.duration_seconds is None:
            return None
        facts = Facts.of(record, state.attempt, record.func, None)
        outcome = Outcome.of(state, {}, will_retry=False)
        ended_at = int(state.completed_at * 1e9)
        event = Event(names.EXCEPTION_EVENT, outcome.exception(), ended_at)
        return ReadableSpan(
            facts.span_name,
            context=state.span,
            parent=None if record.new_trace else record.submitter,
            resource=self._resource,
            attributes={**facts.attributes(self._users), **outcome.attributes(), names.TRACE_PARTIAL: True},
            events=[event] if state.status is FAILED else (),
            links=[Link(one) for one in facts.links],
            kind=SpanKind.CONSUMER,
            status=outcome.span_status(),
            start_time=ended_at - int(state.duration_seconds * 1e9),
            end_time=ended_at,
            instrumentation_scope=self._scope,
        )


class _GivenIds(threading.local, IdGenerator):
    """Returns the ids that its thread has set."""

    trace_id = span_id = 0

    def set(self, trace_id: int, span_id: int) -> None:
        self.trace_id, self.span_id = trace_id, span_id

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id
