"""POST /api/tasks and /api/tasks/{id}/rerun: what makes a new task. The first is off but for `server.allow_submit`.

A name is looked up in the registry and nowhere else, and each argument is held against its type hint before anything
crosses to the work loop.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta, Struct
from opentelemetry import context as otel_context
from opentelemetry.context import Context

from qorzen_obs.arguments import parse_priority
from qorzen_obs.callables import BoundCall
from qorzen_obs.core.admission import MAX_METADATA_BYTES, MAX_METADATA_DEPTH
from qorzen_obs.core.idempotency import MAX_KEY_LENGTH
from qorzen_obs.errors import (
    HistoryUnavailableError,
    IdempotencyConflictError,
    InvalidTaskError,
    TaskManagerClosedError,
    TaskNotFoundError,
    TaskNotRerunnableError,
    TaskQueueFullError,
)
from qorzen_obs.server.arguments import UnreadableHintsError
from qorzen_obs.server.body import read_body, unprocessable
from qorzen_obs.server.caller import caller_of
from qorzen_obs.server.commands import busy, on_work_loop
from qorzen_obs.server.documents import json_response
from qorzen_obs.server.problems import ProblemError, problem
from qorzen_obs.server.query import PriorityChoice
from qorzen_obs.server.registry import ALLOW_SUBMIT, CATALOGUE, Catalogue
from qorzen_obs.server.routes import Access, Answer, Parameter, Route, Tag
from qorzen_obs.server.sources import COMMANDS
from qorzen_obs.server.tasks import UNKNOWN_TASK, location_of, unknown_task
from qorzen_obs.tasks import TaskCategory

T = TypeVar("T")

#: When a client should ask again while the service stops: another one may answer by then.
DRAINED_SECONDS: Final = 10

_TAKES: Final = {
    "metadata": f"takes an object of at most {MAX_METADATA_BYTES} bytes of JSON and {MAX_METADATA_DEPTH} levels"
}

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
    commands, caller = request.app[COMMANDS], caller_of(request.headers)
    call = _call(request.app[CATALOGUE], submission)
    options = _options(submission)
    key = _idempotency_key(request, submission)
    with _refusals_as_problems():
        if key is None:
            submit = functools.partial(commands.submit_task, call, **options)
            task_id, first = await on_work_loop(request, as_caller(caller, submit)), True
        else:
            digest = _digest(submission)  # here, and not on the work loop
            once = functools.partial(commands.submit_once, call, key=key, digest=digest, **options)
            task_id, first = await on_work_loop(request, as_caller(caller, once))
    return _accepted(request, task_id, HTTPStatus.ACCEPTED if first else HTTPStatus.OK)


async def rerun_task(request: web.Request) -> web.Response:
    """Run a failed or cancelled task again, as a new one: 202."""
    with _refusals_as_problems():
        try:
            rerun = functools.partial(request.app[COMMANDS].rerun, request.match_info["task_id"])
            again = await on_work_loop(request, as_caller(caller_of(request.headers), rerun))
        except TaskNotFoundError:
            raise unknown_task() from None
        except TaskNotRerunnableError as error:
            detail = f"this task cannot be run again: {error.reason}"
            raise ProblemError(HTTPStatus.CONFLICT, detail) from None
    return _accepted(request, again, HTTPStatus.ACCEPTED)


def _call(catalogue: Catalogue, submission: Submission) -> BoundCall:
    """Return the task with its arguments, each as its type hint has it."""
    known = catalogue.find(submission.task)
    if known is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, "no task is registered under this name; see /api/registry")
    if isinstance(known.arguments, UnreadableHintsError):
        raise unprocessable("task", f"cannot be submitted over HTTP: {known.arguments}")
    args, kwargs = known.arguments.bind(submission.args, submission.kwargs)
    return BoundCall(known.func, *args, **kwargs)


def _options(submission: Submission) -> dict[str, Any]:
    """Return what goes before the definition's own options."""
    options: dict[str, Any] = {"metadata": submission.metadata or None}
    if submission.timeout is not None:
        options["timeout"] = float(submission.timeout)
    if submission.category is not None:
        options["category"] = submission.category.value  # CORE itself would mean the definition's
    if submission.priority is not None:
        options["priority"] = int(parse_priority(submission.priority))  # as would NORMAL
    return options


async def as_caller(caller: Context, command: Callable[[], Awaitable[T]]) -> T:
    """Run a command in the trace and with the baggage of who asks for it; a submitted task takes them over."""
    otel_context.attach(caller)  # in the context of this asyncio task, which ends with it
    return await command()


def _idempotency_key(request: web.Request, submission: Submission) -> str | None:
    """Return the key of the body or of the header; both may be there when they are the same."""
    keys = set(request.headers.getall("Idempotency-Key", []))
    if submission.idempotency_key is not None:
        keys.add(submission.idempotency_key)
    if len(keys) > 1:
        raise unprocessable("idempotency_key", "it differs from the header Idempotency-Key")
    for key in keys:
        if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
            raise unprocessable("idempotency_key", f"takes 1 to {MAX_KEY_LENGTH} printable characters")
        return key
    return None


def _digest(submission: Submission) -> bytes:
    """Return what tells one body from another, wherever their keys stand and in whatever order."""
    body = msgspec.structs.replace(submission, idempotency_key=None)
    return sha256(msgspec.json.encode(body, order="sorted")).digest()


@contextmanager
def _refusals_as_problems() -> Iterator[None]:
    try:
        yield
    except TaskQueueFullError:
        raise busy("the queue is full; try again later") from None
    except HistoryUnavailableError:
        raise busy("the history cannot record a task now; /health says why") from None
    except TaskManagerClosedError:
        raise busy("the service takes no new tasks", retry_after=DRAINED_SECONDS) from None
    except IdempotencyConflictError:
        raise unprocessable("idempotency_key", "it was used with another body") from None
    except InvalidTaskError as error:  # its text may repeat the value
        raise unprocessable(error.argument, _TAKES.get(error.argument, "takes something else")) from None


def _accepted(request: web.Request, task_id: str, status: HTTPStatus) -> web.Response:
    response = json_response(Submitted(task_id), status=status)
    response.headers[hdrs.LOCATION] = location_of(request, task_id)
    return response


TRACE_PARAMETERS: Final = (
    Parameter("traceparent", str, "The trace that the task belongs to (W3C).", "header"),
    Parameter("tracestate", str, "What its vendors add to it (W3C).", "header"),
    Parameter("baggage", str, "What the task can read as its baggage (W3C).", "header"),
)

_NOT_NOW: Final = problem(
    "The queue is full, the history cannot record a task, the service stops, or its work loop does not answer.",
    hdrs.RETRY_AFTER,
)

ROUTES: Final = (
    Route(
        "/api/tasks",
        submit_task,
        Access.CONTROL,
        method="POST",
        summary="Submit a registered task.",
        tag=Tag.TASKS,
        description="Off unless `server.allow_submit` is set. The task belongs to the trace and has the baggage "
        "of the request. Its result is never shown.",
        parameters=(
            Parameter(
                "Idempotency-Key",
                IdempotencyKey,
                "Makes a repeat safe, as `idempotency_key` in the body does: the same key and body answer with the "
                "first id.",
                "header",
            ),
            *TRACE_PARAMETERS,
        ),
        body=Submission,
        answers={
            200: Answer("The same was submitted before.", Submitted, headers=(hdrs.LOCATION,)),
            202: Answer("It is accepted.", Submitted, headers=(hdrs.LOCATION,)),
            400: problem("The request body is not valid JSON."),
            403: problem("Submitting is off, the token is for reading only, or a page of another site asks."),
            404: problem("No task is registered under this name."),
            408: problem("The body did not come in time.", hdrs.CONNECTION),
            413: problem("The body is too large."),
            422: problem("An argument or an option is not what is taken."),
            503: _NOT_NOW,
        },
    ),
    Route(
        "/api/tasks/{task_id}/rerun",
        rerun_task,
        Access.CONTROL,
        method="POST",
        summary="Run a failed or cancelled task again, as a new one.",
        tag=Tag.TASKS,
        description="The new task has the callable, arguments and options of the first one, while these are kept, "
        "and `rerun_of` names it.",
        parameters=TRACE_PARAMETERS,
        answers={
            202: Answer("The new task is accepted.", Submitted, headers=(hdrs.LOCATION,)),
            404: UNKNOWN_TASK,
            409: problem("It has not failed and was not cancelled, or what it needs is not kept."),
            503: _NOT_NOW,
        },
    ),
)
