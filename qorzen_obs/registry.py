"""Definitions: what a task is before anyone submits it.

`@task` puts a TaskDefinition on the callable and nothing else: no global table. `serve` collects the definitions
of the modules that it hosts in a TaskRegistry.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final, TypedDict, TypeVar, Unpack, overload

from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.retry import Retry
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
    deadline: float | None = None  #: seconds from acceptance to the end of the last attempt
    retry: Retry | None = None
    delay: float = 0.0  #: seconds from acceptance until it may start
    run_at: float | None = None  #: Unix seconds before which it does not start
    max_concurrent: int | None = None  #: tasks of this definition that run at once
    engine: EngineKind | None = None
    new_trace: bool = False  #: start a trace of its own, linked to the submitter's
    keep_trace: bool = False  #: keep its traces whatever the rate at which traces are sampled
    at_start: bool = False  #: `serve` submits it once, when the service has started

    @property
    def waits(self) -> bool:
        """Whether a task of it may not start at once."""
        return self.delay > 0 or self.run_at is not None


NO_DEFINITION: Final = TaskDefinition()


class DefinitionLimit:
    """How many tasks of one definition may run, and how many do."""

    __slots__ = ("__weakref__", "held", "maximum", "name")

    def __init__(self, name: str, maximum: int) -> None:
        self.name = name
        self.maximum = maximum
        self.held = 0


@dataclass(frozen=True, slots=True)
class CallableTraits:
    """What the manager needs to know of a callable."""

    name: str
    is_async: bool
    wants_progress: bool  #: it has a parameter named `progress_reporter`
    definition: TaskDefinition
    on_loop: bool = field(init=False)  #: it is async, and its definition asks for no other engine

    def __post_init__(self) -> None:
        on_loop = self.is_async and self.definition.engine in (None, EngineKind.LOOP)
        object.__setattr__(self, "on_loop", on_loop)


class TaskOptions(TypedDict, total=False):
    """What `@task` takes, as a user writes it; TaskDefinition says what each means."""

    name: str
    category: TaskCategory | str
    priority: TaskPriority | str | int
    timeout: float
    deadline: float
    retry: Retry
    delay: float
    run_at: datetime | float
    max_concurrent: int
    engine: EngineKind | str
    new_trace: bool
    keep_trace: bool
    at_start: bool


@overload
def task(func: F, /) -> F: ...
@overload
def task(**options: Unpack[TaskOptions]) -> Callable[[F], F]: ...
def task(func: F | None = None, /, **options: Unpack[TaskOptions]) -> F | Callable[[F], F]:
    """Give a callable the defaults it is submitted with, and a name to be found by; it stays callable as before.

    See TaskDefinition for the options.

    Raises:
        InvalidTaskError: an option is unknown or out of bounds, or the engine cannot run this kind of callable.
    """
    checked = {option: _check_option(option, value) for option, value in options.items()}

    def define(function: F) -> F:
        traits = traits_of(function)
        definition = dataclasses.replace(traits.definition, **checked)
        _check_engine(definition.engine, traits.is_async)
        setattr(function, _ATTRIBUTE, definition)
        return function

    return define if func is None else define(func)


def with_options(func: Callable[..., Any], **options: Unpack[TaskOptions]) -> Callable[..., Any]:
    """Return `func` with other options for one submission, such as `with_options(fetch, delay=5)`.

    What is not given stays as `func`'s own `@task` has it; `func` itself does not change.
    """
    return task(**options)(functools.partial(func))


def _check_option(option: str, value: Any) -> Any:
    try:
        check = _CHECKS[option]
    except KeyError:
        known = ", ".join(sorted(_CHECKS))
        raise InvalidTaskError(option, f"is no option of a task; use one of {known}") from None
    return check(value)


def _check_engine(engine: EngineKind | None, is_async: bool) -> None:
    if engine in (None, EngineKind.PROCESS):  # a worker process runs both
        return
    assert engine is not None
    if is_async != (engine is EngineKind.LOOP):
        kind, right = (
            ("an async", "'loop' or 'process'")
            if is_async
            else ("a synchronous", "'io', 'thread', 'process' or 'main'")
        )
        raise InvalidTaskError(
            "engine", f"{engine.value!r} cannot run {kind} function; use {right} or leave it out"
        )


def traits_of(func: Callable[..., Any]) -> CallableTraits:
    """Return what the manager needs to know of `func`; partials and callable objects are looked through.

    Raises:
        InvalidTaskError: `func` is not callable.
    """
    if type(func) is FunctionType:  # the usual case, without inspect's 4 µs
        code = func.__code__
        if func.__dict__:  # a definition, a mark, or what another decorator has left
            return _traits_of_function(func)
        known = _KNOWN.get(id(code))
        if known is None or known[0] is not code or known[1].name != func.__qualname__:
            if len(_KNOWN) >= _MAX_KNOWN:
                _KNOWN.clear()
            known = _KNOWN[id(code)] = (code, _traits_of_function(func))
        return known[1]
    if not callable(func):
        raise InvalidTaskError(
            "func", f"{func!r} is not callable; pass a function and its arguments after it"
        )
    inner: Any = func
    definition = _definition_of(inner)
    while isinstance(inner, functools.partial):
        inner = inner.func
        if definition is NO_DEFINITION:
            definition = _definition_of(inner)
    qualname = getattr(inner, "__qualname__", None)
    name = definition.name or (qualname if isinstance(qualname, str) else type(inner).__qualname__)
    is_async = inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(
        getattr(type(inner), "__call__", None)  # noqa: B004 - not a test for being callable: the method is wanted
    )
    return CallableTraits(name, is_async, _has_parameter(func, "progress_reporter"), definition)


#: Of functions without attributes, by the id of their code, which is held so that the id stays its own.
_KNOWN: Final[dict[int, tuple[CodeType, CallableTraits]]] = {}
_MAX_KNOWN: Final = 10_000


def _traits_of_function(func: FunctionType) -> CallableTraits:
    code = func.__code__
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    definition = _definition_of(func)
    is_async = bool(code.co_flags & inspect.CO_COROUTINE) or inspect.iscoroutinefunction(func)
    return CallableTraits(
        definition.name or func.__qualname__, is_async, "progress_reporter" in named, definition
    )


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


def check_timeout(value: object, argument: str = "timeout") -> float | None:
    """Return `value` when it is None, or positive seconds (math.inf is no limit)."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        problem = f"{value!r} must be a positive number of seconds, or math.inf for no limit"
        raise InvalidTaskError(argument, problem)
    return math.inf if value > sys.float_info.max else float(value)


def _check_deadline(value: object) -> float | None:
    seconds = check_timeout(value, "deadline")
    return None if seconds == math.inf else seconds


def _check_seconds(argument: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise InvalidTaskError(argument, f"{value!r} must be a finite number of seconds, 0 or more")
    return float(value)


def _check_run_at(value: object) -> float:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidTaskError("run_at", f"{value.isoformat()} has no time zone; use an aware datetime")
        return value.timestamp()
    return _check_seconds("run_at", value)


def _check_count(argument: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidTaskError(argument, f"{value!r} must be a whole number of at least 1")
    return value


def _check_retry(value: object) -> Retry:
    if not isinstance(value, Retry):
        raise InvalidTaskError("retry", f"{value!r} must be a Retry, such as Retry(max_attempts=3)")
    return value


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


_CHECKS: Final[dict[str, Callable[[Any], Any]]] = {
    "name": functools.partial(check_name, "name"),
    "category": parse_category,
    "priority": parse_priority,
    "timeout": check_timeout,
    "deadline": _check_deadline,
    "retry": _check_retry,
    "delay": functools.partial(_check_seconds, "delay"),
    "run_at": _check_run_at,
    "max_concurrent": functools.partial(_check_count, "max_concurrent"),
    "engine": _parse_engine,
    "new_trace": bool,
    "keep_trace": bool,
    "at_start": bool,
}
