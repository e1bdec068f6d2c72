"""Reading what a request carries as JSON, and saying what is wrong with it without repeating any of it."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import hdrs, web

from qorzen_obs.server.problems import ProblemError

MAX_BODY_BYTES: Final = 64 * 1024
BODY_SECONDS: Final = 10.0
"""How long a body may take to come; as long as its headers, it keeps a connection from others."""

T = TypeVar("T")

#: Those of msgspec's words that come from the types alone. Others may repeat a value, or are a user's own.
_TELLS_TYPES_ONLY: Final = re.compile(
    r"Expected `[a-z |]+`(?: of length (?:[<>]=? )?\d+| [<>]=? [-+.\de]+)?(?:, got (?:`[a-z]+`|\d+))?"
)
_TELLS_NOTHING: Final = "takes something else"


async def read_body(request: web.Request, model: type[T]) -> T:
    """Return the body of a request as `model`.

    Raises:
        ProblemError: it is compressed, late, no JSON, or not as the model has it.
        HTTPRequestEntityTooLarge: it is.
    """
    if hdrs.CONTENT_ENCODING in request.headers:
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body as it is, without compressing it"
        )
    body = await _read(request)
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as error:
        raise unprocessable(*explain(error, "the body")) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "the body is no JSON that can be read") from None


async def _read(request: web.Request) -> bytes:
    """Return the body. The limit is held here, since a mounted application has that of its host."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, len(body))
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
        return msgspec.convert(value, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise unprocessable(*explain(error, place)) from None
    except Exception:  # noqa: BLE001 - what a user's type raises of itself says no more than this
        raise unprocessable(place, _TELLS_NOTHING) from None


def unprocessable(place: str, problem: str) -> ProblemError:
    """Return the 422 for what stands at `place`, by its name in the body."""
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{place}: {problem}", parameter=place)


def explain(error: msgspec.ValidationError, root: str) -> tuple[str, str]:
    """Return where something is wrong and what is right, in words that a request cannot choose.

    >>> explain(msgspec.ValidationError("Expected `int`, got `str` - at `$.args[0]`"), "the body")
    ('args[0]', 'Expected `int`, got `str`')
    >>> explain(msgspec.ValidationError("Invalid enum value 'x' - at `$.category`"), "the body")
    ('category', 'takes something else')
    """
    problem, _, path = str(error).partition(" - at `")
    steps = re.sub(r"^(?:key` in `)?\$\.?", "", path.removesuffix("`"))
    if not _TELLS_TYPES_ONLY.fullmatch(problem):
        problem = _TELLS_NOTHING
    if not steps:
        return root, problem
    return (steps if root == "the body" else f"{root}.{steps}").replace(".[", "["), problem
