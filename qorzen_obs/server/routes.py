"""What a route is: a path, its method and handler, who may call it, and what the OpenAPI document says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any, Final, Literal, NamedTuple

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON: Final = "application/json"
#: Of the HTTP interface, in its document and in every answer. What changes which part: docs/operations.md.
API_VERSION: Final = "1.0"
VERSION_HEADER: Final = "Qorzen-API-Version"


class Access(Enum):
    """Who may call a route where a token is set."""

    OPEN = "open"  #: anyone: it shows nothing of the service
    PROBE = "probe"  #: anyone, by any name, as long as no details are asked for
    READ = "read"  #: anyone with a token
    CONTROL = "control"  #: anyone with a token for control, but not a page of another site


class Tag(Enum):
    """What an operation is about: how the OpenAPI document groups them."""

    TASKS = "tasks"
    TRACES = "traces"
    EVENTS = "events"
    METRICS = "metrics"
    HEALTH = "health"
    SERVICE = "service"


class Parameter(NamedTuple):
    """What a request may say in its query or in a header. A list in the query may be repeated."""

    name: str
    type: Any  #: as a msgspec model would have it, such as `Annotated[int, Meta(ge=1)]` or `list[TaskStatus]`
    description: str
    where: Literal["query", "header"] = "query"


class Answer(NamedTuple):
    """One answer of a route. For an error see problems.problem."""

    description: str
    model: Any = None  #: the type of its JSON; None where it is text
    media_types: tuple[str, ...] = (JSON,)
    headers: tuple[str, ...] = ()  #: which it carries besides those of every answer


class Route(NamedTuple):
    """One route. What its access makes it answer besides (401, 421 …) is added to the document by itself."""

    path: str
    handler: Handler
    access: Access
    method: str = "GET"  #: which answers HEAD too
    summary: str = ""  #: a sentence; no route is served without one
    description: str = ""  #: what the summary leaves out
    tag: Tag | None = None  #: None for what is not a part of the API
    answers: Mapping[int, Answer] = {}  #: by status
    parameters: tuple[Parameter, ...] = ()
    body: Any = None  #: the type of the JSON that it takes; None: none is read


#: When a request was answered, of one whose answer goes on for long.
ANSWERED_AT: Final = web.RequestKey("answered_at", float)
#: What the caller may do; not set where anyone may ask.
SCOPE: Final = web.RequestKey("scope", Access)
RouteKey = tuple[web.AbstractResource, str]  #: a path of the router, and a method


def route_of(request: web.Request, routes: Mapping[RouteKey, Route]) -> Route | None:
    """Return the route that a request has found; None where there is nothing, or not by this method."""
    resource = request.match_info.route.resource
    return None if resource is None else routes.get((resource, request.method))
