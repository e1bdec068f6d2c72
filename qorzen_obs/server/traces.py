"""GET /api/traces and /api/traces/{trace_id}: the traces that this process keeps, and single ones that are stored."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, Literal

from aiohttp import web
from msgspec import Struct

from qorzen_obs.clock import rfc_3339
from qorzen_obs.in_thread import run_in_daemon_thread
from qorzen_obs.server.documents import Moment, encode_json, json_response
from qorzen_obs.server.problems import ProblemError, problem
from qorzen_obs.server.query import (
    BAD_PARAMETER,
    LIMIT,
    check_parameters,
    read_choice,
    read_limit,
    read_names,
    read_one,
    refuse,
)
from qorzen_obs.server.routes import Access, Answer, Parameter, Route, Tag
from qorzen_obs.server.sources import LOOKS, REDACTOR, SPANS
from qorzen_obs.server.stored import STORE_READS, UNREADABLE_STORE, UnreadableStoreError, unreadable_store
from qorzen_obs.server.tasks import ONE_LIST
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.otlp_json import JsonObject, to_otlp_json
from qorzen_obs.telemetry.span_redaction import redact_span
from qorzen_obs.telemetry.traces import MAX_UNDECIDED, TraceSummary


class Sort(Enum):
    """Which traces come first."""

    NEWEST = "newest"  #: by when a span of them ended last
    SLOWEST = "slowest"  #: by how long they took
    FAILED = "failed"  #: those with a failed span, then the others, each newest first


PARAMETERS: Final = (
    LIMIT,
    Parameter("errors", Literal["true"], "Only traces with a failed span."),
    Parameter("sort", Sort, "Which come first; newest where nothing is said."),
    Parameter("trace_id", str, "Only the traces with these ids, in hexadecimal."),
    Parameter("q", str, "Traces whose root's name or id contains this text, in whatever case."),
)
_NAMES: Final = [parameter.name for parameter in PARAMETERS]
TRACE_ID: Final = re.compile("[0-9a-fA-F]{32}")


class OtlpTrace(Struct, frozen=True):
    """Spans as OTLP/JSON has them, with ids in hexadecimal."""

    resourceSpans: list[dict[str, Any]]  # noqa: N815 - OTLP's own name


class Trace(Struct, frozen=True, kw_only=True):
    """What is known of a trace without its spans."""

    trace_id: str
    root_name: str
    started_at: Moment
    duration_seconds: float
    spans: int
    errors: int
    dropped: int  #: spans that were not kept


class TraceList(Struct, frozen=True):
    """Traces, first the one in which a span ended last, or as was asked for."""

    items: list[Trace]


def select(
    traces: Sequence[TraceSummary], sort: Sort, text: str, ids: Collection[str] = ()
) -> list[TraceSummary]:
    """Return the traces that contain `text`, with one of `ids` where there are any, sorted.

    `traces` come newest first; text and ids are in lower case.
    """
    found = [
        trace
        for trace in traces
        if (text in trace.root_name.lower() or text in trace.trace_id) and (not ids or trace.trace_id in ids)
    ]
    if sort is Sort.SLOWEST:
        found.sort(key=lambda trace: trace.duration_seconds, reverse=True)
    elif sort is Sort.FAILED:
        found.sort(key=lambda trace: not trace.errors)
    return found


async def get_traces(request: web.Request) -> web.Response:
    """Answer with traces, a line each: those in which a span ended last, unless others are asked for.

    Raises:
        ProblemError: a parameter is unknown, or takes something else.
    """
    check_parameters(request.query, _NAMES)
    errors = read_one(request.query, "errors")
    if errors not in {None, "true"}:
        refuse("errors", "true")
    limit, sort = read_limit(request.query), read_choice(request.query, "sort", Sort.NEWEST)
    text = (read_one(request.query, "q") or "").lower()
    ids = {one.lower() for one in read_names(request.query, "trace_id")}
    all_of_them = bool(text or ids) or sort is not Sort.NEWEST
    recent, redactor = request.app.get(SPANS), request.app[REDACTOR]

    def write_list() -> bytes:
        found: list[TraceSummary] = []
        if recent is not None:
            looked_at = recent.keep_traces + MAX_UNDECIDED if all_of_them else limit
            found = recent.summaries(looked_at, errors=errors is not None, ids=ids)
            if ids:
                found.sort(key=lambda trace: trace.started_at + trace.duration_seconds, reverse=True)
        # Redacted before they are searched, or a reader could guess a secret letter by letter.
        name = lru_cache(maxsize=None)(redactor.text)
        found = [replace(trace, root_name=name(trace.root_name)) for trace in found]
        return encode_json(TraceList([_line(trace) for trace in select(found, sort, text, ids)[:limit]]))

    if not all_of_them or ids:
        return web.Response(body=write_list(), content_type="application/json")
    # A walk over all traces takes a tenth of a second, which the loop has better use for.
    async with request.app[ONE_LIST]:
        body = await run_in_daemon_thread(write_list, name="qorzen-traces")
    return web.Response(body=body, content_type="application/json")


def _line(trace: TraceSummary) -> Trace:
    return Trace(
        trace_id=trace.trace_id,
        root_name=trace.root_name,
        started_at=rfc_3339(trace.started_at),
        duration_seconds=trace.duration_seconds,
        spans=trace.spans,
        errors=trace.errors,
        dropped=trace.dropped,
    )


async def get_trace(request: web.Request) -> web.Response:
    """Answer with one trace as OTLP/JSON, which trace viewers import.

    Raises:
        ProblemError: no span of it is kept or stored, or only the store may have some and cannot be read now.
    """
    recent, trace_id = request.app.get(SPANS), request.match_info["trace_id"]
    is_id = TRACE_ID.fullmatch(trace_id) is not None
    if spans := recent.trace(trace_id) if recent is not None and is_id else []:
        redactor = request.app[REDACTOR]
        return json_response(to_otlp_json(redact_span(span, redactor) for span in spans))
    tasks = request.app[LOOKS].stored
    if tasks is not None and is_id:
        try:
            stored = await request.app[STORE_READS].read(lambda: tasks.spans(trace_id.lower()))
        except UnreadableStoreError:
            raise unreadable_store() from None
        if stored:
            return json_response(without_resource(stored))
    raise ProblemError(
        HTTPStatus.NOT_FOUND, "no span of this trace is kept: unknown, too old, or none has ended yet"
    )


def without_resource(spans: Sequence[JsonObject]) -> JsonObject:
    """Return stored spans as OTLP/JSON. The store keeps no resource or scope; only spans of tasks are ours."""
    ours = [span for span in spans if _is_of_task(span)]
    others = [span for span in spans if not _is_of_task(span)]
    scopes: list[JsonObject] = [
        {"scope": {"name": names.SCOPE}, "spans": ours},
        {"scope": {}, "spans": others},
    ]
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [scope for scope in scopes if scope["spans"]]}]}


def _is_of_task(span: JsonObject) -> bool:
    return any(attribute["key"] == names.TASK_ID for attribute in span.get("attributes", ()))


ROUTES: Final = (
    Route(
        "/api/traces",
        get_traces,
        Access.READ,
        summary="The traces in which a span ended last, or those that are asked for.",
        tag=Tag.TRACES,
        description="A line for each trace in memory: its root, duration, number of spans and failures.",
        parameters=PARAMETERS,
        answers={
            200: Answer("A line of each.", TraceList),
            422: BAD_PARAMETER,
        },
    ),
    Route(
        "/api/traces/{trace_id}",
        get_trace,
        Access.READ,
        summary="One trace as OTLP/JSON, which trace viewers import.",
        tag=Tag.TRACES,
        description="All of its spans that are kept in memory; if there are none, those that are stored.",
        answers={
            200: Answer("Its spans.", OtlpTrace),
            404: problem("No span of this trace is kept: unknown, too old, or none has ended yet."),
            503: UNREADABLE_STORE,
        },
    ),
)
