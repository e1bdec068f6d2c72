"""Errors as application/problem+json (RFC 9457). They say what would be right and repeat no input."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from qorzen_obs import foreign
from qorzen_obs.server.documents import json_response
from qorzen_obs.server.routes import Answer, Handler
from qorzen_obs.telemetry.own_log import OwnLog

logger = OwnLog(__name__)

PROBLEM_JSON: Final = "application/problem+json"

_DETAILS: Final = {
    HTTPStatus.NOT_FOUND: "there is nothing under this path",
    HTTPStatus.METHOD_NOT_ALLOWED: "this path does not take this method; see the Allow header",
    HTTPStatus.INTERNAL_SERVER_ERROR: "the server failed on this request; its log says why",
}


class Missing(Enum):
    """Why a detail of a task is not there."""

    EARLY = "early"  #: there is none yet
    LATE = "late"  #: it is not kept any more


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong, and what would be right."""

    type: str
    title: str
    status: int
    detail: str
    parameter: str | None = None  #: what is wrong in the query or the body
    missing: Missing | None = None  #: why a detail is not there


def problem(description: str, *headers: str) -> Answer:
    """Return the answer of a route that is an error, for its description."""
    return Answer(description, Problem, (PROBLEM_JSON,), headers)


class ProblemError(Exception):
    """A request that cannot be answered; becomes its problem document."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        parameter: str | None = None,
        missing: Missing | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.parameter = parameter  #: the parameter of the query, or the field of the body, that is wrong
        self.missing = missing  #: why a detail of a task is not there
        self.headers = headers or {}


def problem_response(
    status: HTTPStatus,
    detail: str | None = None,
    *,
    parameter: str | None = None,
    missing: Missing | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return a problem document."""
    document = Problem(
        type="about:blank",
        title=status.phrase,
        status=status.value,
        detail=detail or _DETAILS.get(status, status.description or status.phrase),
        parameter=parameter,
        missing=missing,
    )
    response = json_response(document, content_type=PROBLEM_JSON, status=status)
    response.headers.update(headers or {})
    return response


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error of a handler, and those of the router, into a problem document."""
    try:
        return await handler(request)
    except ProblemError as problem:
        return problem_response(
            problem.status,
            problem.detail,
            parameter=problem.parameter,
            missing=problem.missing,
            headers=problem.headers,
        )
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        allow = error.headers.get("Allow")
        return problem_response(HTTPStatus(error.status), headers={"Allow": allow} if allow else None)
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:  # SystemExit too: raised here it would end the loop of the server
        if foreign.is_a(error, ConnectionError) and (
            request.transport is None or request.transport.is_closing()
        ):
            raise  # the client has gone, which is not worth a line
        logger.exception("the handler of a request failed")
        return problem_response(HTTPStatus.INTERNAL_SERVER_ERROR)
