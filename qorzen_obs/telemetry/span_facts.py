"""The content of an attempt's span: attributes, links and status. Holds no record: a span may outlive its task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer

from qorzen_obs.counts import CELL_LABELS
from qorzen_obs.engines.traits import EngineTraits
from qorzen_obs.record import Rerun, TaskRecord, TaskState
from qorzen_obs.tasks import FAILED, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.source import source_of

_MAX_DESCRIPTION: Final = 256
_MAX_STACKTRACE: Final = 8_192  #: characters; the limit that setup.py sets for attributes of events

#: Yields the attributes that a user's metadata becomes.
UserAttributes = Callable[[Mapping[str, Any]], Iterator[tuple[str, Any]]]


def span_name(definition_name: str) -> str:
    """Return the name of an attempt's span. There are few names, so that readers can group spans."""
    return f"run {definition_name}"


def identity(record: TaskRecord) -> dict[str, Any]:
    """Return the attributes of a submission that identify the task."""
    attributes = _identity(record.task_id, record.name, record.cell, record.plugin_id, record.rerun)
    return attributes | _message("submit", "send", record.definition_name or record.name, record.task_id)


def _message(operation: str, operation_type: str, destination: str, message_id: str) -> dict[str, Any]:
    """Return what spans of kind PRODUCER and CONSUMER need, see docs/decisions/0076-messaging-attributes.md."""
    return {
        names.MESSAGING_SYSTEM: names.SCOPE,
        names.MESSAGING_OPERATION: operation,
        names.MESSAGING_OPERATION_TYPE: operation_type,
        names.MESSAGING_DESTINATION: destination,
        names.MESSAGING_ID: message_id,
    }


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


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What is known about an attempt when it starts."""

    task_id: str
    task_name: str
    definition_name: str
    cell: int
    plugin_id: str | None
    rerun: Rerun | None
    engine: EngineTraits
    metadata: dict[str, Any] | None
    keep: bool  #: its trace was requested
    source: Mapping[str, str | int]
    number: int  #: of the attempt
    links: tuple[SpanContext, ...]

    @property
    def span_name(self) -> str:
        return span_name(self.definition_name or self.task_name)

    @staticmethod
    def of(
        record: TaskRecord, number: int, func: Callable[..., Any] | None, previous: SpanContext | None
    ) -> Facts:
        """Return the facts of an attempt, a run of `func`; `previous` is the span of the attempt before it."""
        rerun = record.rerun
        # If it has a trace of its own, that is linked to the submitter's.
        linked = (record.submitter if record.new_trace else None, previous, rerun and rerun.span)
        return Facts(
            task_id=record.task_id,
            task_name=record.name,
            definition_name=record.definition_name,
            cell=record.cell,
            plugin_id=record.plugin_id,
            rerun=rerun,
            engine=record.engine,
            metadata=record.metadata,
            keep=record.definition.keep_trace,
            source=source_of(func),
            number=number,
            links=tuple(one for one in linked if one is not None),
        )

    def start_by(
        self, tracer: Tracer, context: Context | None, users: UserAttributes, start_time: int
    ) -> Span:
        """Start the span through the API, at `start_time` in Unix nanoseconds."""
        return tracer.start_span(
            self.span_name,
            context=context,
            kind=SpanKind.CONSUMER,
            attributes=self.attributes(users),
            links=[Link(one) for one in self.links],
            start_time=start_time,
            record_exception=False,
            set_status_on_exception=False,
        )

    def attributes(self, users: UserAttributes) -> dict[str, Any]:
        """Return the attributes that are set at the start."""
        attributes = _identity(self.task_id, self.task_name, self.cell, self.plugin_id, self.rerun)
        attributes |= _message("run", "process", self.definition_name or self.task_name, self.task_id)
        attributes[names.TASK_ATTEMPT] = self.number
        attributes[names.TASK_ENGINE] = self.engine.kind
        attributes.update(self.source)
        if self.metadata:
            attributes.update(users(self.metadata))
        if self.keep:
            attributes[names.TRACE_KEEP] = True
        return attributes


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How an attempt ended. Fields as in TaskInfo."""

    status: TaskStatus
    queue_wait_seconds: float | None
    cancel_reason: str | None
    abandoned: bool
    error: str | None
    error_type: str | None
    traceback: str | None
    phases: Mapping[str, float]
    will_retry: bool

    @staticmethod
    def of(state: TaskState, phases: Mapping[str, float], will_retry: bool) -> Outcome:
        """Return the outcome of an attempt that led to `state`, without its result and exception."""
        return Outcome(
            status=state.status,
            queue_wait_seconds=state.queue_wait_seconds,
            cancel_reason=state.cancel_reason,
            abandoned=state.abandoned,
            error=state.error,
            error_type=state.error_type,
            traceback=state.traceback,
            phases=phases,
            will_retry=will_retry,
        )

    def end_by(self, span: Span, end_time: int) -> None:
        """End a span through the API, at `end_time` in Unix nanoseconds."""
        span.set_attributes(self.attributes())
        if self.status is FAILED:
            span.set_status(self.span_status())
            span.add_event(names.EXCEPTION_EVENT, self.exception(), end_time)
        span.end(end_time)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes that are set at the end."""
        attributes: dict[str, Any] = {
            names.TASK_STATUS: self.status.value,
            names.TASK_QUEUE_WAIT: self.queue_wait_seconds or 0.0,
        }
        if self.cancel_reason is not None:
            attributes[names.TASK_CANCEL_REASON] = self.cancel_reason
        if self.abandoned:
            attributes[names.TASK_ABANDONED] = True
        if self.will_retry:
            attributes[names.TASK_WILL_RETRY] = True
        if self.error_type is not None:
            attributes[names.ERROR_TYPE] = self.error_type
        return attributes | {names.TASK_PHASE + phase: value for phase, value in self.phases.items()}

    def span_status(self) -> Status:
        """Return the status of its span: ERROR only if it failed."""
        if self.status is not FAILED:
            return Status()
        return Status(StatusCode.ERROR, f"{self.error_type}: {self.error}"[:_MAX_DESCRIPTION])

    def exception(self) -> dict[str, str]:
        """Return the attributes of the `exception` event. All texts are already redacted."""
        said = {names.EXCEPTION_TYPE: self.error_type, names.EXCEPTION_MESSAGE: self.error}
        if self.traceback is not None:
            said[names.EXCEPTION_STACKTRACE] = self.traceback[-_MAX_STACKTRACE:]  # its end says what failed
        return {name: text for name, text in said.items() if text is not None}
