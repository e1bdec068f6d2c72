"""Reading query strings. What cannot be read is answered with 422, naming the parameter and what it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from enum import Enum
from http import HTTPStatus
from typing import Annotated, Final, Literal, NoReturn, TypeVar

from msgspec import Meta
from multidict import MultiMapping

from qorzen_obs.server.problems import ProblemError, problem
from qorzen_obs.server.routes import Parameter

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 100
LIMIT: Final = Parameter(
    "limit",
    Annotated[int, Meta(ge=1, le=MAX_LIMIT)],
    f"How many at most; {DEFAULT_LIMIT} where nothing is said.",
)

#: A priority as a request may name it.
PriorityChoice = Literal["low", "normal", "high", "critical", 0, 50, 100, 200]

#: A moment as a request may name it; empty is none.
MomentChoice = Annotated[str, Meta(extra_json_schema={"anyOf": [{"format": "date-time"}, {"maxLength": 0}]})]

T = TypeVar("T")
E = TypeVar("E", bound=Enum)
_RFC_3339: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
Query = MultiMapping[str]

#: The answer of a route that reads parameters.
BAD_PARAMETER: Final = problem("A parameter has a value that it does not take.")


def refuse(parameter: str, takes: str) -> NoReturn:
    """Answer 422: `parameter` takes something else.

    Raises:
        ProblemError: always.
    """
    raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{parameter} takes {takes}", parameter=parameter)


def check_parameters(query: Query, known: Collection[str]) -> None:
    """Refuse a query with a parameter that is not known: a typing error must not widen what is asked for."""
    if not set(query) <= set(known):
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"the query has an unknown parameter; known are {', '.join(known)}",
        )


def read_one(query: Query, parameter: str) -> str | None:
    """Return the value of a parameter that may be given once; None where it is missing or empty."""
    values = [value for value in query.getall(parameter, []) if value]
    if len(values) > 1:
        refuse(parameter, "one value")
    return values[0] if values else None


def read_choice(query: Query, parameter: str, default: E) -> E:
    """Return the member of an enum that a parameter names by its value; `default` where it is missing or empty."""
    choices = type(default)
    text = read_one(query, parameter)
    try:
        return default if text is None else choices(text)
    except ValueError:
        refuse(parameter, f"one of {', '.join(str(choice.value) for choice in choices)}")


def read_limit(query: Query) -> int:
    """Return how many items are asked for."""
    text = read_one(query, "limit")
    if text is None:
        return DEFAULT_LIMIT
    if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    refuse("limit", f"a whole number from 1 to {MAX_LIMIT}")


def read_moment(query: Query, parameter: str) -> datetime | None:
    """Return the moment that a parameter names by RFC 3339; None where it is missing or empty."""
    text = read_one(query, parameter)
    if text is None:
        return None
    try:
        if _RFC_3339.fullmatch(text):
            return datetime.fromisoformat(text.upper())
    except ValueError:
        pass
    refuse(parameter, "a moment by RFC 3339, such as 2026-01-31T12:00:00Z")


def read_choices(
    query: Query, parameter: str, parse: Callable[[str], T], allowed: Iterable[str]
) -> frozenset[T]:
    """Return the values of a parameter of a closed set, repeated or separated by commas; empty means any.

    `parse` raises ValueError for a value outside the set.
    """
    texts = [part.strip() for value in query.getall(parameter, []) for part in value.split(",")]
    try:
        return frozenset(parse(text.lower()) for text in texts if text)
    except ValueError:
        refuse(parameter, f"one or more of {', '.join(allowed)}")


def read_names(query: Query, parameter: str) -> frozenset[str]:
    """Return the values of a parameter of free names, repeated or separated by commas; empty means any.

    A name may itself contain a comma, so a value stands for its whole and for each of its parts.
    """
    values = query.getall(parameter, [])
    return frozenset(
        filter(None, [*values, *(part.strip() for value in values for part in value.split(","))])
    )
