"""GET /api/tasks/{id}/trace: the spans of a task and of everything below it, or its whole trace.

What the traces in memory do not hold is made of the records of the tasks: a record says what the span of its last
attempt said, but for what user code has put on it. Spans of a task that is only stored come from the store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Final, Literal, TypeVar

import msgspec
from aiohttp import web

from qorzen_obs.history.base import StoredTasks
from qorzen_obs.record import TaskRecord
from qorzen_obs.server.documents import json_response
from qorzen_obs.server.problems import Missing, ProblemError, problem
from qorzen_obs.server.query import BAD_PARAMETER, check_parameters, read_one, refuse
from qorzen_obs.server.routes import Access, Answer, Parameter, Route, Tag
from qorzen_obs.server.sources import LOOKS, REDACTOR, SPANS, Looks
from qorzen_obs.server.stored import STORE_READS, UNREADABLE_STORE, UnreadableStoreError, unreadable_store
from qorzen_obs.server.tasks import find_task
from qorzen_obs.server.traces import TRACE_ID, OtlpTrace, without_resource
from qorzen_obs.tasks import PENDING, RUNNING, TaskInfo
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.otlp_json import JsonObject, to_otlp_json
from qorzen_obs.telemetry.span_redaction import redact_span
from qorzen_obs.telemetry.task_lines import KeptLines
from qorzen_obs.telemetry.task_span import AnySpan, readable
from qorzen_obs.telemetry.traces import Traces

T = TypeVar("T")

PARAMETERS: Final = (
    Parameter("whole", Literal["true"], "All spans of the traces of its attempts, not only those below it."),
)
_MAX_TRACES: Final = 10  #: of attempts that have one of their own; the last ones
_MAX_MADE: Final = 2_000  #: spans that are made of records for one answer


class _Line(msgspec.Struct):
    """What a kept log line, which may be a user's, says of an attempt that was followed by another."""

    event: str = ""
    trace_id: object = None

    @property
    def trace(self) -> str | None:
        """The trace of that attempt, as 32 hexadecimal digits."""
        found = self.trace_id if self.event == names.LOG_RETRYING else None
        return found if isinstance(found, str) and TRACE_ID.fullmatch(found) else None


async def get_task_trace(request: web.Request) -> web.Response:
    """Answer with the spans of a task and of all below it, or of its whole trace, as OTLP/JSON.

    Raises:
        ProblemError: there is no such task, or no span yet, or none any more; `missing` says which of the two.
    """
    check_parameters(request.query, [parameter.name for parameter in PARAMETERS])
    whole = read_one(request.query, "whole")
    if whole not in {None, "true"}:
        refuse("whole", "true")
    info, stored = await find_task(request)
    looks, recent = request.app[LOOKS], request.app.get(SPANS)
    spans = [] if recent is None else spans_of(info, looks, recent, whole=whole is not None)
    if spans:
        redactor = request.app[REDACTOR]
        return json_response(to_otlp_json(redact_span(readable(span), redactor) for span in spans))
    if stored and looks.stored is not None:
        return await _answer_from(looks.stored, request, info, whole=whole is not None)
    if recent is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, "this service keeps no traces")
    raise _nothing_of(info)


async def _answer_from(
    stored: StoredTasks, request: web.Request, info: TaskInfo, *, whole: bool
) -> web.Response:
    try:
        spans = await request.app[STORE_READS].read(lambda: stored_spans(info, stored, whole=whole))
    except UnreadableStoreError:
        raise unreadable_store() from None
    if not spans:
        raise _nothing_of(info, was_stored=True)
    return json_response(without_resource(spans))


def spans_of(info: TaskInfo, looks: Looks, recent: Traces, *, whole: bool) -> list[AnySpan]:
    """Return the spans of a task and of what lies below it, or all of the traces that its attempts belong to."""
    traces = _trace_ids(info, _decoded(looks.log_of(info.task_id)))
    kept = [span for trace_id in traces for span in recent.trace(trace_id)]
    ids = {int(trace_id, 16) for trace_id in traces}
    own = set() if info.span_id is None else {int(info.span_id, 16)}
    records: dict[int, TaskRecord] = {}  # of the task and of those below it, by the span of the last attempt
    tasks = {info.task_id}
    for record in _below_task(info.task_id, looks):
        span = record.span_of(record.state)
        if span is not None and span.trace_id in ids:
            records[span.span_id] = record
            tasks.add(record.task_id)
    own.update(records)
    own.update(span.context.span_id for span in kept if _task_of(span) in tasks)
    below = _ids_below(
        own, ((span.context.span_id, None if span.parent is None else span.parent.span_id) for span in kept)
    )
    found = kept if whole else [span for span in kept if span.context.span_id in below]
    known = {span.context.span_id for span in found}
    missing = [record.task_id for span_id, record in records.items() if span_id not in known]
    made = (looks.span_of(task_id) for task_id in missing[:_MAX_MADE])
    return [*found, *(span for span in made if span is not None)]


def stored_spans(info: TaskInfo, stored: StoredTasks, *, whole: bool) -> list[JsonObject]:
    """Return the stored spans of a task and of what lies below it, or of its traces. Blocks for the store."""
    traces = _trace_ids(info, (msgspec.convert(line, _Line) for line in stored.logs(info.task_id)))
    kept = [span for trace_id in traces for span in stored.spans(trace_id)]
    if whole:
        return kept
    mark = {"key": names.TASK_ID, "value": {"stringValue": info.task_id}}
    own = {span["spanId"] for span in kept if mark in span.get("attributes", ())}
    below = _ids_below({info.span_id, *own}, ((span["spanId"], span.get("parentSpanId")) for span in kept))
    return [span for span in kept if span["spanId"] in below]


def _decoded(log: KeptLines) -> Iterator[_Line]:
    return (msgspec.json.decode(line, type=_Line) for line in log.items)


def _trace_ids(info: TaskInfo, lines: Iterable[_Line]) -> Sequence[str]:
    """Return the traces of a task: an attempt that its submitter's trace does not hold has one of its own."""
    every = [*(line.trace for line in lines), info.trace_id]
    return list(dict.fromkeys(trace_id for trace_id in every if trace_id is not None))[-_MAX_TRACES:]


def _below_task(task_id: str, looks: Looks) -> Iterator[TaskRecord]:
    """Yield the records of a task and of all below it, as far as they live or are kept whole."""
    children: defaultdict[str, list[TaskRecord]] = defaultdict(list)
    waiting: list[TaskRecord] = []
    for record in looks.records():
        if record.task_id == task_id:
            waiting.append(record)
        elif record.parent_id is not None:
            children[record.parent_id].append(record)
    waiting = waiting or children.pop(task_id, [])  # an outline is left of it
    while waiting:
        record = waiting.pop()
        yield record
        waiting += children.pop(record.task_id, ())


def _ids_below(own: Iterable[T], spans: Iterable[tuple[T, T | None]]) -> Collection[T]:
    """Return the ids of `own` spans and of all below them; `spans` are the ids of each span and of its parent."""
    children: defaultdict[T, list[T]] = defaultdict(list)
    for span_id, parent_id in spans:
        if parent_id is not None:
            children[parent_id].append(span_id)
    found: set[T] = set()
    waiting = list(own)
    while waiting:
        span_id = waiting.pop()
        if span_id not in found:
            found.add(span_id)
            waiting += children.get(span_id, ())
    return found


def _task_of(span: AnySpan) -> object:
    return (span.attributes or {}).get(names.TASK_ID)


def _nothing_of(info: TaskInfo, *, was_stored: bool = False) -> ProblemError:
    missing: Missing | None = None
    if info.status is PENDING:
        detail, missing = "too early: this task has not started, so it has no span yet", Missing.EARLY
    elif info.status is RUNNING:
        detail = "too early: this task still runs, and no span of it or below it has ended yet"
        missing = Missing.EARLY
    elif info.evicted:
        detail = "too late: this task was evicted, and its spans are not kept any more"
        missing = Missing.LATE
    elif info.started_at is None:
        detail = "this task has no trace: it ended before it started"
    elif was_stored and info.trace_id is not None:
        detail = "too late: the spans of this task were not stored"
        missing = Missing.LATE
    else:
        detail = "this task has no trace: spans are switched off"
    return ProblemError(HTTPStatus.NOT_FOUND, detail, missing=missing)


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "/api/tasks/{task_id}/trace",
        get_task_trace,
        Access.READ,
        summary="The spans of a task and of everything below it, as OTLP/JSON.",
        tag=Tag.TRACES,
        description="The spans of its attempts, of its code and of the tasks that it submitted, and so on. While a "
        "task is kept, the span of its last attempt is always in it; made of its record, it is marked as "
        "`qorzen.trace.partial`. `whole` adds the rest of the traces, such as the spans of its parents. A task that "
        "is only stored has its stored spans, without their resource.",
        parameters=PARAMETERS,
        answers={
            200: Answer("Its spans so far.", OtlpTrace),
            404: problem(
                "No task has this id, or no span of it is there: `missing` says whether yet or any more."
            ),
            422: BAD_PARAMETER,
            503: UNREADABLE_STORE,
        },
    ),
)
