"""GET /openapi.json: what every route takes and answers, made of the routes themselves.

JSON Schema comes from the types of the models, so a model that changes changes the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from importlib import metadata
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from qorzen_obs.server.address import address_of
from qorzen_obs.server.documents import encode_json
from qorzen_obs.server.problems import problem
from qorzen_obs.server.routes import API_VERSION, JSON, VERSION_HEADER, Access, Answer, Parameter, Route, Tag
from qorzen_obs.tasks import TaskCategory

#: What stands in braces in a path.
PATH_PARAMETERS: Final[Mapping[str, tuple[Any, str]]] = {
    "task_id": (str, "The id of a task."),
    "trace_id": (str, "The id of a trace: 32 hexadecimal digits."),
    "check": (str, "The name of a check; the verbose probe lists them."),
    "category": (TaskCategory, "A category of tasks."),
}
UNREADABLE: Final = problem("The request is no HTTP/1.1 that can be read.")
UNAUTHORIZED: Final = problem("No token, or one that is not known.", hdrs.WWW_AUTHENTICATE)
FORBIDDEN: Final = problem("The token is for reading only, or a page of another site asks.")
UNSUPPORTED: Final = problem("The request has a body and does not say that it is JSON.")
MISDIRECTED: Final = problem("The Host is none that this service goes by.")
#: What many routes answer, by the name under which it is described once.
SHARED: Final = {
    UNREADABLE: "Unreadable",
    UNAUTHORIZED: "Unauthorized",
    FORBIDDEN: "Forbidden",
    UNSUPPORTED: "Unsupported",
    MISDIRECTED: "Misdirected",
}

DESCRIPTION: Final = (
    "What scrapers, probes, scripts and people ask of a running service. Times are RFC 3339, durations are seconds, "
    "errors are application/problem+json (RFC 9457). Each GET answers HEAD too. Every answer has the version of this "
    f"interface in its header {VERSION_HEADER}; a minor version only adds to it."
)
TAGS: Final[Mapping[Tag, str]] = {
    Tag.TASKS: "List, look into, submit, cancel and run again.",
    Tag.TRACES: "What tasks and their children did, as OTLP/JSON.",
    Tag.EVENTS: "What happens, as it happens.",
    Tag.METRICS: "How many, how long, how late.",
    Tag.HEALTH: "Probes, checks, and who blocks the work loop.",
    Tag.SERVICE: "The service itself: its state, its settings, its page.",
}
_REFERENCE: Final = "#/components/schemas/{name}"


class OpenApi:
    """The document of one application. `secured`: whether it asks for a token."""

    def __init__(self, routes: Sequence[Route], *, secured: bool) -> None:
        self._routes = routes
        self._secured = secured
        self._texts: dict[str, bytes] = {}

    def text(self, address: str) -> bytes:
        """Return the document in JSON, for an application that clients find at `address`; made once."""
        if address not in self._texts:
            self._texts[address] = encode_json(openapi_document(self._routes, address, secured=self._secured))
        return self._texts[address]


class _Schemas:
    """JSON Schemas of types; what has a name is described once, in `components`."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        (schema,), components = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
        for name, component in components.items():
            plain = _for_generators(component)
            assert self.components.setdefault(name, plain) == plain, f"two models are named {name}"
        plain_schema: dict[str, Any] = _for_generators(schema)
        return plain_schema


def _for_generators(schema: Any) -> Any:
    """Return a schema that says the same in the words that generators of clients know.

    They leave out operations with an array of anything that does not say so, or with a choice of several types.

    >>> _for_generators({"enum": [0, "low"]})
    {'anyOf': [{'type': 'integer', 'enum': [0]}, {'type': 'string', 'enum': ['low']}]}
    """
    if isinstance(schema, list):
        return [_for_generators(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _for_generators(value) for key, value in schema.items()}
    if plain.get("type") == "array" and not plain.keys() & {"items", "prefixItems"}:
        plain["items"] = {}
    choices = plain.get("enum")
    if isinstance(choices, list) and len({type(choice) for choice in choices}) > 1:
        del plain["enum"]
        plain["anyOf"] = [
            {"type": name, "enum": found}
            for name, kind in (("integer", int), ("string", str), ("null", type(None)))
            if (found := [choice for choice in choices if type(choice) is kind])
        ]
    return plain


def openapi_document(routes: Iterable[Route], address: str = "", *, secured: bool) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of these routes."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.tag is None:
            continue
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas, secured)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "qorzen_obs",
            "version": API_VERSION,
            "x-qorzen-obs-version": metadata.version("qorzen-obs"),
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": address or "/"}],
        "tags": [{"name": tag.value, "description": TAGS[tag]} for tag in Tag],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": {name: _described(answer, schemas) for answer, name in SHARED.items()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def answers_of(route: Route, *, secured: bool) -> dict[int, Answer]:
    """Return what a route may answer, by status: its own, and what its access adds."""
    answers: dict[int, Answer] = {
        HTTPStatus.BAD_REQUEST: UNREADABLE,
        HTTPStatus.MISDIRECTED_REQUEST: MISDIRECTED,
    }
    if secured and route.access is not Access.OPEN:
        answers[HTTPStatus.UNAUTHORIZED] = UNAUTHORIZED
    if route.access is Access.CONTROL:
        answers[HTTPStatus.FORBIDDEN] = FORBIDDEN
        answers[HTTPStatus.UNSUPPORTED_MEDIA_TYPE] = UNSUPPORTED
    return dict(sorted({**answers, **route.answers}.items()))


def _operation(route: Route, schemas: _Schemas, secured: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *re.findall(r"\w+", route.path)]),
        "summary": route.summary,
        "description": route.description,
        "tags": [] if route.tag is None else [route.tag.value],
        "parameters": [*_path_parameters(route.path, schemas), *_parameters(route.parameters, schemas)],
        "responses": {
            str(int(status)): _response(answer, schemas)
            for status, answer in answers_of(route, secured=secured).items()
        },
    }
    if secured:
        operation["security"] = _security(route.access)
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schemas.of(route.body)}}}
    return operation


def _path_parameters(path: str, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", path):
        kind, description = PATH_PARAMETERS[name]
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": description,
            "schema": schemas.of(kind),
        }


def _parameters(parameters: Iterable[Parameter], schemas: _Schemas) -> Iterator[dict[str, Any]]:
    for parameter in parameters:
        yield {
            "name": parameter.name,
            "in": parameter.where,
            "description": parameter.description,
            "schema": schemas.of(parameter.type),
        }


def _response(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    if answer in SHARED:
        return {"$ref": f"#/components/responses/{SHARED[answer]}"}
    return _described(answer, schemas)


def _described(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    schema = {"type": "string"} if answer.model is None else schemas.of(answer.model)
    return {
        "description": answer.description,
        "headers": {name: {"schema": {"type": "string"}} for name in answer.headers},
        "content": {media_type: {"schema": schema} for media_type in answer.media_types},
    }


def _security(access: Access) -> list[dict[str, list[str]]]:
    match access:
        case Access.OPEN:
            return []
        case Access.PROBE:  # a token opens its details
            return [{}, {"token": [Access.READ.value]}]
        case _:
            return [{"token": [access.value]}]


OPENAPI: Final = web.AppKey("openapi", OpenApi)


async def get_openapi(request: web.Request) -> web.Response:
    """Answer with the OpenAPI 3.1 document of this application."""
    return web.Response(body=request.app[OPENAPI].text(address_of(request, "")), content_type=JSON)


ROUTES: Final = (
    Route(
        "/openapi.json",
        get_openapi,
        Access.READ,
        summary="This document.",
        tag=Tag.SERVICE,
        description="OpenAPI 3.1, made of the routes that this service has.",
        answers={200: Answer("The OpenAPI 3.1 document of this service.", dict[str, Any])},
    ),
)
