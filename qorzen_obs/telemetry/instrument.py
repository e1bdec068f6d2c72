"""The spans of tasks: one for each attempt, current while it runs, ended when its end is decided.

Uses the OpenTelemetry API, and a shortcut if the provider is ours (task_span.py). An attempt has a context of its own,
so making the span current needs no undoing.
"""

from __future__ import annotations

import contextvars
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, runtime_checkable

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracerProvider, Span, SpanContext, SpanKind, TracerProvider

from qorzen_obs.current import CURRENT
from qorzen_obs.record import Attempt, End, TaskRecord
from qorzen_obs.tasks import FAILED, EventKind
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.span_facts import Facts, Outcome, UserAttributes, identity
from qorzen_obs.telemetry.task_span import RememberedSpans, SpanMaker, TaskSpan, TaskSpanSink

#: The key under which the API keeps the current span; looked up, since each process creates a new one.
_SPAN_KEY: Final = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))
_RETRYING: Final = EventKind.RETRYING
_set_current: Final = CURRENT.set
_NOTHING_AROUND: Final = Context()
_MAX_USER_ATTRIBUTES: Final = 16
_MAX_USER_KEY_LENGTH: Final = 64
_MAX_USER_TEXT_LENGTH: Final = 256
_MAX_INT: Final = 2**63  # OTLP's range; one larger number would lose the whole batch


@runtime_checkable
class TaskSpanProvider(Protocol):
    """A provider that takes spans whose construction is deferred, see task_span.py."""

    def task_sink(self) -> TaskSpanSink | None:
        """Return where they go now; None while some processor needs each span as the SDK's own."""
        ...

    def span_maker(self, scope: str, version: str, users: UserAttributes) -> SpanMaker: ...


class SpanInstrument:
    """Creates the spans of one manager. A tracer's exceptions go to `on_error` and no further."""

    def __init__(
        self,
        provider: TracerProvider,
        version: str,
        *,
        on_error: Callable[[BaseException], None],
        redactor: Redactor | None = None,
    ) -> None:
        self._redactor = redactor or Redactor()
        self._on_error = on_error
        self._off = isinstance(provider, NoOpTracerProvider)
        self._tracer = provider.get_tracer(names.SCOPE, version, names.SCHEMA_URL)
        self.remembered = RememberedSpans(provider, names.SCOPE, version, self._user_attributes)
        self._provider = provider if isinstance(provider, TaskSpanProvider) else None
        self._variable = _context_variable()
        self._maker = (
            None
            if self._provider is None
            else self._provider.span_maker(names.SCOPE, version, self._user_attributes)
        )

    def submitted(self, record: TaskRecord) -> None:
        """Mark the submission inside the caller's span, if there is one, and make that the parent of the run."""
        if self._off:
            return
        try:
            variable, context = self._variable, record.context
            if variable is None or context is None:
                around = otel_context.get_current()
            else:
                around = context.get(variable) or _NOTHING_AROUND
            if _SPAN_KEY in around:
                caller = trace.get_current_span(around).get_span_context()
                if caller.is_valid:
                    self._mark(record, caller)
        except BaseException as error:  # noqa: BLE001 - observation must not break the observed
            self._on_error(error)

    def _mark(self, record: TaskRecord, caller: SpanContext) -> None:
        record.submitter = caller
        span = self._tracer.start_span(
            f"submit {record.name}", kind=SpanKind.PRODUCER, attributes=identity(record)
        )
        span.end()
        if not record.new_trace and record.context is not None:
            record.submitter = span.get_span_context()
            record.context.run(otel_context.attach, trace.set_span_in_context(span))

    def begin(self, attempt: Attempt) -> SpanContext | None:
        """Make the attempt and its span current in its context.

        Return the reference to the span, None if there is none.
        """
        inside = attempt.context
        inside.run(_set_current, attempt)
        if self._off:
            return None
        try:
            started_at = int(attempt.started_wall * 1e9)
            sink = None if self._provider is None else self._provider.task_sink()
            maker, variable = self._maker, self._variable
            if maker is None or sink is None or variable is None:
                return inside.run(self._begin_by_api, attempt, started_at, sink)
            span = TaskSpan(maker, attempt, started_at, sink)
            sink.on_task_start(span)
            attempt.span = span
            around = inside.get(variable)
            inside.run(variable.set, Context({**around, _SPAN_KEY: span} if around else {_SPAN_KEY: span}))
        except BaseException as error:  # noqa: BLE001 - as in submitted
            self._on_error(error)
            return None
        return span.context

    def _begin_by_api(
        self, attempt: Attempt, started_at: int, sink: TaskSpanSink | None
    ) -> SpanContext | None:
        span: Span
        if sink is not None and self._maker is not None:
            span = TaskSpan(self._maker, attempt, started_at, sink)
            sink.on_task_start(span)
        else:
            context = Context() if attempt.record.new_trace else None
            record = attempt.record
            facts = Facts.of(record, attempt.number, record.func, record.state.span)
            span = facts.start_by(self._tracer, context, self._user_attributes, started_at)
        attempt.span = span
        otel_context.attach(trace.set_span_in_context(span))
        found = span.get_span_context()
        return found if found.is_valid else None

    def _user_attributes(self, metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the first plain values of the metadata, redacted, then cut; nested ones are left out."""
        plain = [
            (key, value) for key, value in metadata.items() if isinstance(value, (bool, int, float, str))
        ]
        for key, value in plain[:_MAX_USER_ATTRIBUTES]:
            name = names.TASK_ATTR + self._redactor.text(key)[:_MAX_USER_KEY_LENGTH]
            shown = self._redactor.field(key, value)
            if isinstance(shown, str):
                yield name, shown[:_MAX_USER_TEXT_LENGTH]
            elif isinstance(shown, int) and not -_MAX_INT <= shown < _MAX_INT:
                yield name, str(shown)
            else:
                yield name, shown

    def keep(self, attempt: Attempt) -> None:
        """Mark the attempt's span so that its trace is kept; has no effect once the attempt has ended."""
        span = attempt.span  # it may end on another thread
        if span is not None and span.is_recording():
            span.set_attribute(names.TRACE_KEEP, True)

    def on_ends(self, ends: Sequence[End]) -> None:
        """End the spans of attempts that have ended."""
        ended: list[TaskSpan] = []
        for end in ends:
            attempt, state, will_retry = end.attempt, end.state, end.kind is _RETRYING
            span = None if attempt is None else attempt.span
            if attempt is None or span is None:
                continue
            if will_retry:  # its task is pending again; the attempt has failed
                state = state.but(status=FAILED, traceback=end.traceback)
            try:
                # Its length is the monotonic duration.
                end_time = int((attempt.started_wall + (state.duration_seconds or 0.0)) * 1e9)
                if type(span) is TaskSpan:
                    attempt.span = None  # the exception leads back to the attempt
                    if span.finish(state, attempt.phases, will_retry, end_time):
                        ended.append(span)
                else:
                    Outcome.of(state, attempt.phases, will_retry).end_by(span, end_time)
            except BaseException as error:  # noqa: BLE001 - as in submitted
                self._on_error(error)
        for sink, spans in itertools.groupby(ended, operator.attrgetter("sink")):
            sink.on_task_ends(tuple(spans))


def _context_variable() -> contextvars.ContextVar[Context] | None:
    """Return the variable in which the API keeps the current context; None if that is not a context variable."""
    inside, mark = contextvars.Context(), Context()
    inside.run(otel_context.attach, mark)
    return next((variable for variable, value in inside.items() if value is mark), None)
