"""POST /api/tasks: submitting a registered task. Off unless `server.allow_submit` is on.

A name is looked up in the registry and nowhere else, and each argument is held against its type hint before anything
crosses to the work loop.
"""

from __future__ import annotations

import functools
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

from aiohttp import hdrs, web
from msgspec import Meta, Struct
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from qorzen_obs.errors import InvalidTaskError, TaskManagerClosedError, TaskQueueFullError
from qorzen_obs.registry import parse_priority
from qorzen_obs.server.arguments import UnreadableHintsError
from qorzen_obs.server.body import read_body, unprocessable
from qorzen_obs.server.commands import busy, on_work_loop
from qorzen_obs.server.documents import json_response
from qorzen_obs.server.problems import ProblemError, problem
from qorzen_obs.server.query import PriorityChoice
from qorzen_obs.server.registry import ALLOW_SUBMIT, CATALOGUE
from qorzen_obs.server.routes import Access, Answer, Parameter, Route
from qorzen_obs.server.sources import MANAGER, ManagerSource
from qorzen_obs.server.tasks import location_of
from qorzen_obs.tasks import TaskCategory

MAX_KEY_LENGTH: Final = 128
DRAINED_SECONDS: Final = 10
"""When to ask again while the service stops: another one may answer by then."""

_PROPAGATORS: Final = (TraceContextTextMapPropagator(), W3CBaggagePropagator())

IdempotencyKey = Annotated[str, Meta(min_length=1, max_length=MAX_KEY_LENGTH)]


class Submission(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task to run: its name in the registry, its arguments, and what differs from its own defaults."""

    task: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    category: TaskCategory | None = None
    priority: PriorityChoice | None = None
    timeout: Annotated[float, Meta(gt=0)] | Literal["inf"] | None = None
    metadata: dict[str, Any] = {}
    idempotency_key: IdempotencyKey | None = None


class Submitted(Struct, frozen=True):
    """What was accepted."""

    task_id: str


async def submit_task(request: web.Request) -> web.Response:
    """Accept a task: 202, or 200 with the first id for a repeat with the same idempotency key."""
    if not request.app[ALLOW_SUBMIT]:
        raise ProblemError(
            HTTPStatus.FORBIDDEN, "submitting over HTTP is off; server.allow_submit switches it on"
        )
    submission = await read_body(request, Submission)
    known = request.app[CATALOGUE].find(submission.task)
    if known is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, "no task is registered by this name; see /api/registry")
    if isinstance(known.arguments, UnreadableHintsError):
        raise unprocessable("task", f"cannot be submitted over HTTP: {known.arguments}")
    args, kwargs = known.arguments.bind(submission.args, submission.kwargs)
    # A partial, since a task may have parameters that are named as the options of submit_task are.
    call = functools.partial(known.func, *args, **kwargs)
    command = _submit(request.app[MANAGER], call, submission, _caller(request))
    try:
        task_id = await on_work_loop(request, command)
    except TaskQueueFullError:
        raise busy("as many tasks are pending as may be; submit again later") from None
    except TaskManagerClosedError:
        raise busy("the service takes no new tasks", retry_after=DRAINED_SECONDS) from None
    except InvalidTaskError as error:  # its text may repeat the value
        raise unprocessable(error.argument, "takes something else, or less of it") from None
    headers = {hdrs.LOCATION: location_of(request, task_id)}
    response = json_response(Submitted(task_id), status=HTTPStatus.ACCEPTED)
    response.headers.update(headers)
    return response


async def _submit(
    manager: ManagerSource, call: functools.partial[Any], submission: Submission, caller: Context
) -> str:
    otel_context.attach(caller)  # in this asyncio task's own context, which the submitted one takes over
    options: dict[str, Any] = {}
    if submission.category is not None:
        options["category"] = submission.category
    if submission.priority is not None:
        options["priority"] = parse_priority(submission.priority)
    return await manager.submit_task(
        call,
        timeout=None if submission.timeout is None else float(submission.timeout),
        metadata=submission.metadata or None,
        **options,
    )


def _caller(request: web.Request) -> Context:
    """Return the trace and the baggage that a request comes with, by the W3C's headers; what is malformed is none."""
    carrier = {
        name: request.headers.getall(name)
        for name in ("traceparent", "tracestate", "baggage")
        if name in request.headers
    }
    context = Context()
    for propagator in _PROPAGATORS:
        context = propagator.extract(carrier, context)
    return context


ROUTES: Final = (
    Route(
        "/api/tasks",
        submit_task,
        Access.CONTROL,
        method="POST",
        summary="Submit a registered task.",
        parameters=(
            Parameter(
                "Idempotency-Key",
                IdempotencyKey,
                "Makes a repeat safe, as `idempotency_key` in the body does: the same key and body answer with the "
                "first id.",
                "header",
            ),
            Parameter("traceparent", str, "The trace that the task belongs to (W3C).", "header"),
            Parameter("tracestate", str, "What its vendors add to it (W3C).", "header"),
            Parameter("baggage", str, "What the task can read as its baggage (W3C).", "header"),
        ),
        body=Submission,
        answers={
            200: Answer("The same was submitted before.", Submitted, headers=(hdrs.LOCATION,)),
            202: Answer("It is accepted.", Submitted, headers=(hdrs.LOCATION,)),
            400: problem("The body is no JSON that can be read."),
            403: problem("Submitting is off, the token is for reading only, or a page of another site asks."),
            404: problem("No task is registered by this name."),
            413: problem("The body is too large."),
            422: problem("An argument or an option is not what is taken."),
            503: problem(
                "The queue is full, the service stops, or its work loop does not answer.", hdrs.RETRY_AFTER
            ),
        },
    ),
)
