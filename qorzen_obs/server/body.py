"""Reading what a request carries as JSON, and saying what is wrong with it without repeating any of it."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec
import msgspec.inspect
from aiohttp import hdrs, web

from qorzen_obs.server.problems import ProblemError
from qorzen_obs.server.user_types import RefusedByModelError, from_json

MAX_BODY_BYTES: Final = 64 * 1024
BODY_SECONDS: Final = 10.0  #: how long a body may take to arrive: as long as its headers

T = TypeVar("T")

#: Those of msgspec's words that come from the types alone. Others may repeat a value, or are a user's own.
_NAMES_TYPES_ONLY: Final = re.compile(
    r"Expected `[a-z |]+`(?: of length (?:[<>]=? )?\d+| [<>]=? [-+.\de]+)?(?:, got (?:`[a-z]+`|\d+))?"
    r"|Object missing required field `\w+`"
    r"|Invalid (?:UUID|decimal string|RFC3339 encoded (?:datetime|date|time)|ISO8601 duration)"
)
_SOMETHING_ELSE: Final = "takes something else"


async def read_body(request: web.Request, model: type[T]) -> T:
    """Return the body of a request as `model`.

    Raises:
        ProblemError: it is compressed, late, too large, no JSON, or not as the model has it.
    """
    if hdrs.CONTENT_ENCODING in request.headers:
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body as it is, without compressing it"
        )
    body = await _read(request)
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as error:
        raise unprocessable(*explain(error, "the body", model)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "the request body is not valid JSON") from None


async def _read(request: web.Request) -> bytes:
    """Return the body. The limit is held here, since a mounted application has that of its host."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise ProblemError(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {MAX_BODY_BYTES} bytes"
                    )
    except TimeoutError:
        raise ProblemError(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body did not come within {BODY_SECONDS:g} s",
            headers={"Connection": "close"},
        ) from None
    return bytes(body)


def convert(value: object, kind: Any, place: str) -> Any:
    """Return a part of a body, which stands at `place`, as a type that may be a user's own.

    Raises:
        ProblemError: it cannot be that.
    """
    try:
        return msgspec.convert(value, kind, str_keys=True, dec_hook=from_json)
    except msgspec.ValidationError as error:
        raise unprocessable(*explain(error, place, kind)) from None
    except Exception:  # noqa: BLE001 - what a user's type raises of itself says no more than this
        raise unprocessable(place, _SOMETHING_ELSE) from None


def unprocessable(place: str, problem: str) -> ProblemError:
    """Return the 422 for what stands at `place`, by its name in the body."""
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{place}: {problem}", parameter=place)


def explain(error: msgspec.ValidationError, root: str, kind: Any) -> tuple[str, str]:
    """Return where something is wrong and what is right, in words that a request cannot choose.

    >>> explain(msgspec.ValidationError("Expected `int`, got `str` - at `$.args[0]`"), "the body", object)
    ('args[0]', 'Expected `int`, got `str`')
    >>> from typing import Literal
    >>> explain(msgspec.ValidationError("Invalid enum value 'x'"), "form", Literal["jpeg", "png"])
    ('form', 'takes one of jpeg, png')
    """
    problem, _, path = str(error).partition(" - at `")
    steps = re.sub(r"^(?:key` in `)?\$\.?", "", path.removesuffix("`"))
    refused = error.__cause__
    if isinstance(refused, RefusedByModelError):
        problem, steps = refused.problem, f"{steps}.{refused.place}".strip(".")
    elif not _NAMES_TYPES_ONLY.fullmatch(problem):
        problem = _said_by_type(problem, kind, steps)
    if not steps:
        return root, problem
    return (steps if root == "the body" else f"{root}.{steps}").replace(".[", "["), problem


def _said_by_type(problem: str, kind: Any, steps: str) -> str:
    """Return what the type itself says where msgspec's words repeat the value."""
    unknown, choice = problem.startswith("Object contains unknown"), problem.startswith("Invalid enum value")
    if not (unknown or choice):
        return _SOMETHING_ELSE
    found: Any = msgspec.inspect.type_info(kind)
    for step in steps.split(".") if steps else ():
        fields = found.fields if isinstance(found, msgspec.inspect.StructType) else ()
        found = next((field.type for field in fields if field.encode_name == step), None)
    if unknown and isinstance(found, msgspec.inspect.StructType):
        return f"has an unknown field; known are {', '.join(field.encode_name for field in found.fields)}"
    choices = _choices(found)
    return f"takes one of {', '.join(map(str, choices))}" if choice and choices else _SOMETHING_ELSE


def _choices(kind: Any) -> list[object]:
    match kind:
        case msgspec.inspect.LiteralType(values=values):
            return list(values)
        case msgspec.inspect.EnumType(cls=cls):
            return [member.value for member in cls]
        case msgspec.inspect.UnionType(types=types):
            return [choice for each in types for choice in _choices(each)]
        case _:
            return []
