"""GET /api/registry: the tasks known by name, and what each takes. Nothing else is submitted over HTTP."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Literal

from aiohttp import web
from msgspec import Struct

from qorzen_obs.definition import TaskDefinition
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.server.arguments import Arguments, UnreadableHintsError
from qorzen_obs.server.documents import EngineName, PriorityName, json_response
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.tasks import TaskCategory


@dataclass(frozen=True, slots=True)
class Known:
    """One registered task; `arguments` is why not where they cannot be read."""

    name: str
    func: Callable[..., Any]
    definition: TaskDefinition
    arguments: Arguments | UnreadableHintsError


class Catalogue:
    """The registered tasks with their arguments, each read when it is first asked for."""

    def __init__(self, registry: TaskRegistry) -> None:
        self._registry = registry
        self._known: dict[str, Known] = {}

    def __iter__(self) -> Iterator[Known]:
        for name, func, definition in self._registry:
            known = self._known.get(name)
            if known is None:
                known = self._known[name] = Known(name, func, definition, _arguments(func))
            yield known

    def find(self, name: str) -> Known | None:
        """Return the task of this name, where one is registered."""
        return next((known for known in self if known.name == name), None)


def _arguments(func: Callable[..., Any]) -> Arguments | UnreadableHintsError:
    try:
        return Arguments(func)
    except UnreadableHintsError as error:
        return error


class RegisteredTask(Struct, frozen=True, kw_only=True):
    """A task known by name. What is null is left to the submission and the settings."""

    name: str
    description: str | None
    category: TaskCategory | None
    priority: PriorityName | None
    engine: EngineName | None
    timeout_seconds: float | Literal["inf"] | None
    arguments: dict[str, Any] | None  #: JSON Schema of them by name; null where it cannot be submitted
    positional: list[str]  #: those that may be given in `args` as well, in this order
    problem: str | None  #: why it cannot be submitted over HTTP


class Registered(Struct, frozen=True, kw_only=True):
    """The tasks known by name."""

    items: list[RegisteredTask]
    allow_submit: bool  #: whether POST /api/tasks takes them


CATALOGUE: Final = web.AppKey("catalogue", Catalogue)
ALLOW_SUBMIT: Final = web.AppKey("allow_submit", bool)


async def get_registry(request: web.Request) -> web.Response:
    """Answer with the tasks known by name, by name."""
    items = [_describe(known) for known in request.app[CATALOGUE]]
    return json_response(Registered(items=items, allow_submit=request.app[ALLOW_SUBMIT]))


def _describe(known: Known) -> RegisteredTask:
    definition = known.definition
    arguments = known.arguments if isinstance(known.arguments, Arguments) else None
    return RegisteredTask(
        name=known.name,
        description=_first_sentence(known.func),
        category=definition.category,
        priority=definition.priority.label if definition.priority is not None else None,
        engine=definition.engine,
        timeout_seconds="inf" if definition.timeout == inf else definition.timeout,
        arguments=arguments.schema if arguments else None,
        positional=arguments.positional if arguments else [],
        problem=None if arguments else str(known.arguments),
    )


def _first_sentence(func: Any) -> str | None:
    """Return the first paragraph of a callable's docstring."""
    while isinstance(func, functools.partial):
        func = func.func
    text = inspect.getdoc(func)
    return " ".join(text.partition("\n\n")[0].split()) if text else None


ROUTES: Final = (
    Route(
        "/api/registry",
        get_registry,
        Access.READ,
        summary="The tasks known by name, with the JSON Schema of their arguments.",
        tag=Tag.TASKS,
        description="These can be submitted over HTTP where `allow_submit` says so.",
        answers={200: Answer("All of them, by name.", Registered)},
    ),
)
