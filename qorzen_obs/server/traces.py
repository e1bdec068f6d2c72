"""GET /api/traces and /api/traces/{trace_id}: the traces that this process keeps."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Final, Literal

from aiohttp import web
from msgspec import Struct

from qorzen_obs.clock import rfc_3339
from qorzen_obs.server.documents import Moment, json_response
from qorzen_obs.server.problems import ProblemError, problem
from qorzen_obs.server.query import LIMIT, check_parameters, read_limit, read_one, refuse
from qorzen_obs.server.routes import Access, Answer, Parameter, Route
from qorzen_obs.server.sources import REDACTOR, SPANS
from qorzen_obs.telemetry.otlp_json import to_otlp_json
from qorzen_obs.telemetry.span_redaction import redact_span

PARAMETERS: Final = (
    LIMIT,
    Parameter("errors", Literal["true"], "Only traces with a failed span."),
)
_NAMES: Final = [parameter.name for parameter in PARAMETERS]
_TRACE_ID: Final = re.compile("[0-9a-fA-F]{32}")


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
    """Traces, first the one in which a span ended last."""

    items: list[Trace]


def trace_response(request: web.Request, trace_id: str) -> web.Response:
    """Answer with one trace as OTLP/JSON, which trace viewers import.

    Raises:
        ProblemError: no span of it is kept.
    """
    store = request.app.get(SPANS)
    spans = store.trace(trace_id) if store is not None and _TRACE_ID.fullmatch(trace_id) else []
    if not spans:
        raise ProblemError(
            HTTPStatus.NOT_FOUND, "no span of this trace is kept: unknown, too old, or none has ended yet"
        )
    redactor = request.app[REDACTOR]
    return json_response(to_otlp_json(redact_span(span, redactor) for span in spans))


async def get_traces(request: web.Request) -> web.Response:
    """Answer with the traces in which a span ended last, a line each; `errors=true` asks for those with a failed one.

    Raises:
        ProblemError: a parameter is unknown, or takes something else.
    """
    check_parameters(request.query, _NAMES)
    errors = read_one(request.query, "errors")
    if errors not in {None, "true"}:
        refuse("errors", "true")
    limit = read_limit(request.query)
    store = request.app.get(SPANS)
    redactor = request.app[REDACTOR]
    items = [
        Trace(
            trace_id=trace.trace_id,
            root_name=redactor.text(trace.root_name),
            started_at=rfc_3339(trace.started_at),
            duration_seconds=trace.duration_seconds,
            spans=trace.spans,
            errors=trace.errors,
            dropped=trace.dropped,
        )
        for trace in (store.summaries(limit, errors=errors is not None) if store is not None else [])
    ]
    return json_response(TraceList(items))


async def get_trace(request: web.Request) -> web.Response:
    """Answer with one trace."""
    return trace_response(request, request.match_info["trace_id"])


ROUTES: Final = (
    Route(
        "/api/traces",
        get_traces,
        Access.READ,
        summary="The traces in which a span ended last.",
        parameters=PARAMETERS,
        answers={
            200: Answer("A line of each.", TraceList),
            422: problem("A parameter takes something else."),
        },
    ),
    Route(
        "/api/traces/{trace_id}",
        get_trace,
        Access.READ,
        summary="One trace as OTLP/JSON, which trace viewers import.",
        answers={
            200: Answer("Its spans.", OtlpTrace),
            404: problem("No span of this trace is kept: unknown, too old, or none has ended yet."),
        },
    ),
)
