"""The spans of tasks: one for each attempt, current while it runs, ended when its end is decided.

Uses the OpenTelemetry API only. An attempt has a context of its own, so making the span current needs no undoing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider

from qorzen_obs.current import CURRENT
from qorzen_obs.record import Attempt, TaskRecord, TaskState
from qorzen_obs.tasks import TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.redaction import Redactor

_MAX_DESCRIPTION = 256
_MAX_USER_ATTRIBUTES: Final = 16
_MAX_USER_KEY_LENGTH: Final = 64
_MAX_USER_TEXT_LENGTH: Final = 256
_MAX_INT: Final = 2**63  # what OTLP has room for; one larger number would lose the whole batch


class SpanInstrument:
    """Makes the spans of one manager. What a tracer raises goes to `on_error` and no further."""

    def __init__(
        self,
        provider: TracerProvider,
        version: str,
        *,
        on_error: Callable[[Exception], None],
        redactor: Redactor | None = None,
    ) -> None:
        self._redactor = redactor or Redactor()
        self._tracer = provider.get_tracer(names.SCOPE, version)
        self._on_error = on_error

    def submitted(self, record: TaskRecord) -> None:
        """Mark the submission inside the caller's span, if there is one, and make it the parent of the run."""
        try:
            self._mark(record)
        except Exception as error:  # noqa: BLE001 - what observes must not break what it observes
            self._on_error(error)

    def _mark(self, record: TaskRecord) -> None:
        if trace.get_current_span().get_span_context().is_valid and record.context is not None:
            span = self._tracer.start_span(
                f"submit {record.name}", kind=SpanKind.PRODUCER, attributes=_identity(record)
            )
            span.end()
            if not record.new_trace:
                record.context.run(otel_context.attach, trace.set_span_in_context(span))

    def begin(self, attempt: Attempt, started_at: float) -> None:
        """Start the attempt's span (`started_at` in Unix seconds) and make it current in the attempt's context."""
        try:
            attempt.context.run(self._enter, attempt, started_at)
        except Exception as error:  # noqa: BLE001 - as in submitted
            self._on_error(error)

    def _enter(self, attempt: Attempt, started_at: float) -> None:
        CURRENT.set(attempt)
        record = attempt.record
        attributes = _identity(record)
        attributes[names.TASK_ATTEMPT] = attempt.number
        attributes[names.TASK_ENGINE] = record.engine.value
        attributes.update(_source(record.func))
        if record.metadata:
            attributes.update(self._user_attributes(record.metadata))
        if record.definition.keep_trace:
            attributes[names.TRACE_KEEP] = True
        parent, links = None, []
        if record.new_trace:
            submitter = trace.get_current_span().get_span_context()
            links += [Link(submitter)] if submitter.is_valid else []
            parent = Context()
        if record.state.span is not None:  # of the attempt before this one
            links.append(Link(record.state.span))
        if record.rerun is not None and record.rerun.span is not None:
            links.append(Link(record.rerun.span))
        attempt.span = span = self._tracer.start_span(
            f"run {record.name}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
            start_time=int(started_at * 1e9),
            record_exception=False,
            set_status_on_exception=False,
        )
        otel_context.attach(trace.set_span_in_context(span))

    def _user_attributes(self, metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the first plain values of the metadata, redacted, then cut; what is nested is left out."""
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
        """Mark the attempt's span so that its trace is kept; of no effect once the attempt has ended."""
        if attempt.span is not None and attempt.span.is_recording():
            attempt.span.set_attribute(names.TRACE_KEEP, True)

    def end(self, attempt: Attempt, state: TaskState, *, will_retry: bool = False) -> None:
        """End the attempt's span with what was decided; its length is the monotonic duration."""
        if attempt.span is not None:
            try:
                self._end(attempt, attempt.span, state, will_retry)
            except Exception as error:  # noqa: BLE001 - as in submitted
                self._on_error(error)

    def _end(self, attempt: Attempt, span: Span, state: TaskState, will_retry: bool) -> None:
        if span.is_recording():
            attributes: dict[str, Any] = {
                names.TASK_STATUS: state.status.value,
                names.TASK_QUEUE_WAIT: state.queue_wait_seconds or 0.0,
            }
            if state.cancel_reason is not None:
                attributes[names.TASK_CANCEL_REASON] = state.cancel_reason
            if state.abandoned:
                attributes[names.TASK_ABANDONED] = True
            if will_retry:
                attributes[names.TASK_WILL_RETRY] = True
            if state.error_type is not None:
                attributes[names.ERROR_TYPE] = state.error_type
            attributes |= {
                names.TASK_PHASE + phase: value for phase, value in attempt.phases.items() if value
            }
            span.set_attributes(attributes)
            if state.status is TaskStatus.FAILED:
                description = f"{state.error_type}: {state.error}"[:_MAX_DESCRIPTION]
                span.set_status(Status(StatusCode.ERROR, description))
        span.end(int((attempt.started_wall + (state.duration_seconds or 0.0)) * 1e9))


def _identity(record: TaskRecord) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        names.TASK_ID: record.task_id,
        names.TASK_NAME: record.name,
        names.TASK_CATEGORY: record.category.value,
        names.TASK_PRIORITY: record.priority.label,
    }
    if record.plugin_id is not None:
        attributes[names.TASK_PLUGIN_ID] = record.plugin_id
    if record.rerun is not None:
        attributes[names.TASK_RERUN_OF] = record.rerun.task_id
    return attributes


def _source(func: Any) -> Iterator[tuple[str, Any]]:
    """Yield where the callable's code stands, by the semantic conventions of OpenTelemetry for source code."""
    inner = getattr(func, "func", func)  # a partial's own function
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    yield names.FUNCTION_NAME, f"{getattr(inner, '__module__', None) or '?'}.{name}"
    code = getattr(inner, "__code__", None)
    if code is not None:
        yield names.CODE_FILE, code.co_filename
        yield names.CODE_LINE, code.co_firstlineno
