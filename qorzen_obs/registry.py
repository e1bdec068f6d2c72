"""Definitions: what a task is before anyone submits it.

`@task` puts a TaskDefinition on the callable and nothing else: no global table. `serve` collects the definitions
of the modules that it hosts in a TaskRegistry.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, Final, TypeVar, overload

from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.tasks import EngineKind, TaskCategory, TaskPriority

F = TypeVar("F", bound=Callable[..., Any])

MAX_NAME_LENGTH: Final = 200
_ATTRIBUTE: Final = "__qorzen_task__"
_CHOOSABLE: Final = (
    EngineKind.LOOP,
    EngineKind.IO,
    EngineKind.THREAD,
    EngineKind.PROCESS,
    EngineKind.MAIN,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """The defaults of one callable. None leaves the choice to the submission and the settings."""

    name: str | None = None
    category: TaskCategory | None = None
    priority: TaskPriority | None = None
    timeout: float | None = None  #: seconds of one attempt; math.inf is no limit
    engine: EngineKind | None = None
    new_trace: bool = False  #: start a trace of its own, linked to the submitter's
    at_start: bool = False  #: `serve` submits it once, when the service has started


NO_DEFINITION: Final = TaskDefinition()


@dataclass(frozen=True, slots=True)
class CallableTraits:
    """What the manager needs to know of a callable."""

    name: str
    is_async: bool
    wants_progress: bool  #: it has a parameter named `progress_reporter`
    definition: TaskDefinition


@overload
def task(func: F, /) -> F: ...
@overload
def task(
    *,
    name: str | None = None,
    category: TaskCategory | str | None = None,
    priority: TaskPriority | str | int | None = None,
    timeout: float | None = None,
    engine: EngineKind | str | None = None,
    new_trace: bool = False,
    at_start: bool = False,
) -> Callable[[F], F]: ...
def task(
    func: F | None = None,
    /,
    *,
    name: str | None = None,
    category: TaskCategory | str | None = None,
    priority: TaskPriority | str | int | None = None,
    timeout: float | None = None,
    engine: EngineKind | str | None = None,
    new_trace: bool = False,
    at_start: bool = False,
) -> F | Callable[[F], F]:
    """Give a callable the defaults it is submitted with, and a name to be found by; it stays callable as before.

    Raises:
        InvalidTaskError: a value is out of bounds, or the engine cannot run this kind of callable.
    """
    definition = TaskDefinition(
        name=check_name("name", name) if name is not None else None,
        category=parse_category(category) if category is not None else None,
        priority=parse_priority(priority) if priority is not None else None,
        timeout=check_timeout(timeout),
        engine=_parse_engine(engine) if engine is not None else None,
        new_trace=new_trace,
        at_start=at_start,
    )

    def define(function: F) -> F:
        is_async = traits_of(function).is_async
        engine = definition.engine
        fits_both = engine is None or engine is EngineKind.PROCESS
        if engine is not None and not fits_both and is_async != (engine is EngineKind.LOOP):
            kind, right = (
                ("an async", "'loop' or 'process'")
                if is_async
                else ("a synchronous", "'io', 'thread', 'process' or 'main'")
            )
            raise InvalidTaskError(
                "engine",
                f"{engine.value!r} cannot run {kind} function; use {right} or leave it out",
            )
        setattr(function, _ATTRIBUTE, definition)
        return function

    return define if func is None else define(func)


def traits_of(func: Callable[..., Any]) -> CallableTraits:
    """Return what the manager needs to know of `func`; partials and callable objects are looked through.

    Raises:
        InvalidTaskError: `func` is not callable.
    """
    if type(func) is FunctionType:  # the usual case, without inspect's 4 µs
        code = func.__code__
        named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        definition = _definition_of(func)
        is_async = bool(code.co_flags & inspect.CO_COROUTINE) or inspect.iscoroutinefunction(func)
        return CallableTraits(
            definition.name or func.__qualname__, is_async, "progress_reporter" in named, definition
        )
    if not callable(func):
        raise InvalidTaskError(
            "func", f"{func!r} is not callable; pass a function and its arguments after it"
        )
    inner: Any = func
    while isinstance(inner, functools.partial):
        inner = inner.func
    definition, qualname = _definition_of(inner), getattr(inner, "__qualname__", None)
    name = definition.name or (qualname if isinstance(qualname, str) else type(inner).__qualname__)
    is_async = inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(
        getattr(type(inner), "__call__", None)  # noqa: B004 - not a test for being callable: the method is wanted
    )
    return CallableTraits(name, is_async, _has_parameter(func, "progress_reporter"), definition)


def _definition_of(func: object) -> TaskDefinition:
    found = getattr(func, _ATTRIBUTE, None)  # a remote proxy has every attribute that it is asked for
    return found if isinstance(found, TaskDefinition) else NO_DEFINITION


def _has_parameter(func: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(func).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return False


class TaskRegistry:
    """The tasks known by name."""

    def __init__(self) -> None:
        self._tasks: dict[str, Callable[..., Any]] = {}

    def __iter__(self) -> Iterator[tuple[str, Callable[..., Any], TaskDefinition]]:
        for name, func in sorted(self._tasks.items()):
            yield name, func, traits_of(func).definition

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, func: Callable[..., Any]) -> None:
        """Add one callable under its definition's name.

        Raises:
            InvalidTaskError: another callable has the name.
        """
        name = traits_of(func).name
        if self._tasks.setdefault(name, func) is not func:
            raise InvalidTaskError("name", f"two tasks are named {name!r}; give one another @task(name=…)")

    def add_module(self, module: ModuleType) -> int:
        """Add what `module` marks with @task; return how many callables that were."""
        defined = dict.fromkeys(  # one callable may have several names
            value
            for value in vars(module).values()
            if isinstance(inspect.getattr_static(value, _ATTRIBUTE, None), TaskDefinition)
        )  # static: a lazy proxy, such as a web framework's request, may raise when it is asked for an attribute
        for func in defined:
            self.add(func)
        return len(defined)


def check_name(argument: str, value: object) -> str:
    """Return `value` when it may name a task or a plugin: 1 to 200 printable characters."""
    if not isinstance(value, str):
        raise InvalidTaskError(argument, f"{value!r} is not a string")
    if not 0 < len(value) <= MAX_NAME_LENGTH or not value.isprintable():
        shown = value if len(value) <= 40 else value[:40] + "…"
        raise InvalidTaskError(argument, f"{shown!r} must have 1 to {MAX_NAME_LENGTH} printable characters")
    return value


def check_timeout(value: object) -> float | None:
    """Return `value` when it is None, or positive seconds (math.inf is no limit)."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InvalidTaskError(
            "timeout", f"{value!r} must be a positive number of seconds, or math.inf for no limit"
        )
    return math.inf if value > sys.float_info.max else float(value)


def parse_category(value: TaskCategory | str) -> TaskCategory:
    """Return the category, given as itself or by its value."""
    try:
        return TaskCategory(value)
    except ValueError:
        known = ", ".join(category.value for category in TaskCategory)
        raise InvalidTaskError("category", f"{value!r} is unknown; use one of {known}") from None


def parse_priority(value: TaskPriority | str | int) -> TaskPriority:
    """Return the priority, given as itself, by number or by name."""
    if isinstance(value, str):
        found = _PRIORITY_BY_LABEL.get(value.lower())
        if found is not None:
            return found
    elif not isinstance(value, bool):
        try:
            return TaskPriority(value)
        except ValueError:
            pass
    known = ", ".join(f"{priority.label} ({priority.value})" for priority in TaskPriority)
    raise InvalidTaskError("priority", f"{value!r} is unknown; use one of {known}") from None


_PRIORITY_BY_LABEL: Final = {
    text: priority for priority in TaskPriority for text in (priority.label, str(priority.value))
}


def _parse_engine(value: EngineKind | str) -> EngineKind:
    known = ", ".join(kind.value for kind in _CHOOSABLE)
    try:
        kind = EngineKind(value)
    except ValueError:
        raise InvalidTaskError("engine", f"{value!r} is unknown; use one of {known}") from None
    if kind not in _CHOOSABLE:
        raise InvalidTaskError("engine", f"{value!r} cannot be chosen; use one of {known}")
    return kind
