"""`@task` and its options: how a callable gets its definition."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, ParamSpec, TypedDict, TypeVar, Unpack, get_args, overload

from qorzen_obs import foreign
from qorzen_obs.arguments import SUBMIT_OPTIONS, check_name, check_timeout, parse_category, parse_priority
from qorzen_obs.callables import takes_keyword, traits_of
from qorzen_obs.clock import END_OF_TIME, MAX_WAIT_SECONDS
from qorzen_obs.definition import Restart, TaskDefinition, define
from qorzen_obs.engines.traits import ENGINES, EngineTraits
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.retry import Retry
from qorzen_obs.tasks import CategoryOrName, EngineOrName, PriorityOrName

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")


class TaskOptions(TypedDict, total=False):
    """The options of `@task` and `with_options`. TaskDefinition has the defaults."""

    name: str
    category: CategoryOrName
    priority: PriorityOrName
    timeout: float
    deadline: float
    retry: Retry
    delay: float
    run_at: datetime | float
    max_concurrent: int
    engine: EngineOrName
    new_trace: bool
    keep_trace: bool
    at_start: bool
    restart: Restart
    required: bool


class SubmitOptions(TypedDict, total=False):
    """The options of `submit_task` beside the callable and its arguments; None means unset."""

    name: str | None  #: 1 to 200 printable characters; unset, the definition's or the function's
    category: CategoryOrName | None  #: unset, the definition's, else CORE
    plugin_id: str | None  #: the extension that the task is for; 1 to 200 printable characters
    priority: PriorityOrName | None  #: unset, the definition's, else NORMAL
    #: Kept with the task, in JSON's types, and on its span. JSON must be able to show it.
    metadata: Mapping[str, Any] | None
    #: Seconds of one attempt, math.inf for no limit. Unset, the definition's, else `tasks.default_timeout`.
    timeout: float | None
    cancellable: bool  #: False makes `cancel_task` refuse; a shutdown cancels the task anyway


#: The options of a definition that a submission does not have.
DEFINITION_OPTIONS: Final = frozenset(TaskOptions.__annotations__) - SUBMIT_OPTIONS


@overload
def task(func: F, /) -> F: ...
@overload
def task(**options: Unpack[TaskOptions]) -> Callable[[F], F]: ...
def task(func: F | None = None, /, **options: Unpack[TaskOptions]) -> F | Callable[[F], F]:
    """Set the defaults for submitting a callable, and a name to find it by; it stays callable as before.

    See TaskDefinition for the options. In a class it may be above or below @staticmethod and @classmethod.

    Raises:
        InvalidTaskError: an option is unknown or out of bounds, the engine cannot run this kind of callable, or it is
            a generator function or keeps no attributes.
    """
    checked = {option: _check_option(option, value) for option, value in options.items()}

    def mark(function: F) -> F:
        inner = _function_in(function)
        traits = traits_of(inner)
        definition = dataclasses.replace(traits.definition, **checked)
        _check_engine(definition.engine, is_async=traits.is_async)
        _check_standing(definition)
        define(inner, definition)
        return function

    return mark if func is None else mark(func)


def with_options(func: Callable[P, R], /, **options: Unpack[TaskOptions]) -> Callable[P, R]:
    """Return `func` with other options for one submission, such as `with_options(fetch, delay=5)`.

    It has the parameters and the result of `func`. Use it to give a task both options and keyword arguments:
    `tasks.run(with_options(fetch, timeout=5), url, follow=True)`. Options that are not given come from `func`'s own
    `@task`; `func` itself does not change.

    Raises:
        InvalidTaskError: as `task`.
    """
    traits_of(func)
    return task(**options)(functools.partial(func))


def refuse_definition_options(func: Callable[..., Any], keywords: Iterable[str]) -> None:
    """Refuse a definition's option among the arguments of a submission, unless `func` takes it as an argument.

    Raises:
        InvalidTaskError: with what to do.
    """
    for option in sorted(DEFINITION_OPTIONS.intersection(keywords)):
        if not takes_keyword(func, option):
            name = traits_of(func).name
            problem = (
                f"is an option of a definition, and {name} takes no such argument; submit with_options({name}, "
                f"{option}=…), or put it into @task({option}=…)"
            )
            raise InvalidTaskError(option, problem)


def _function_in(func: Any) -> Any:
    """Return the function inside a method's decorator, which will hand it out later; else `func`.

    Raises:
        InvalidTaskError: it is another kind of object that only a class can turn into a callable.
    """
    while foreign.is_a(func, staticmethod) or foreign.is_a(func, classmethod):
        func = func.__func__
    if not callable(func) and foreign.has_of_its_kind(func, "__get__"):
        kind = foreign.kind_name(type(func))
        raise InvalidTaskError(
            "func", f"a {kind} is not callable; put @task directly above def, below @{kind}"
        )
    return func


def _check_option(option: str, value: Any) -> Any:
    try:
        check = _CHECKS[option]
    except KeyError:
        known = ", ".join(sorted(_CHECKS))
        raise InvalidTaskError(option, f"is not an option of a task; use one of {known}") from None
    return check(value)


def _check_engine(kind: str | None, *, is_async: bool) -> None:
    if kind is None or ENGINES[kind].runs(is_async=is_async):
        return
    function = "an async" if is_async else "a synchronous"
    *others, last = (repr(engine.kind) for engine in _choosable() if engine.runs(is_async=is_async))
    right = f"{', '.join(others)} or {last}"
    raise InvalidTaskError("engine", f"{kind!r} cannot run {function} function; use {right} or leave it out")


def _check_standing(definition: TaskDefinition) -> None:
    for option, is_set in (("restart", definition.restart != "never"), ("required", definition.required)):
        if is_set and not definition.at_start:
            problem = "is for tasks that `serve` submits itself; add at_start=True or leave it out"
            raise InvalidTaskError(option, problem)


def _check_restart(value: object) -> str:
    known = get_args(Restart)
    if value not in known:
        raise InvalidTaskError("restart", f"{value!r} is unknown; use one of {', '.join(known)}")
    return str(value)


def _check_deadline(value: object) -> float | None:
    seconds = check_timeout(value, "deadline")
    return None if seconds == math.inf else seconds


def _check_delay(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_WAIT_SECONDS:
        problem = f"{value!r} must be a number of seconds, from 0 to {MAX_WAIT_SECONDS:.0f} (a hundred years)"
        raise InvalidTaskError("delay", problem)
    return float(value)


def _check_run_at(value: object) -> float:
    at = value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidTaskError("run_at", f"{value.isoformat()} has no time zone; use an aware datetime")
        at = max(0.0, value.timestamp())
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not 0 <= at < END_OF_TIME:
        problem = (
            f"{value!r} must be Unix seconds (not milliseconds) or an aware datetime, before the year 9999"
        )
        raise InvalidTaskError("run_at", problem)
    return float(at)


def _check_count(argument: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidTaskError(argument, f"{value!r} must be a whole number of at least 1")
    return value


def _check_retry(value: object) -> Retry:
    if not isinstance(value, Retry):
        raise InvalidTaskError("retry", f"{value!r} must be a Retry, such as Retry(max_attempts=3)")
    return value


def parse_engine(value: object) -> str:
    """Return the name of an engine that a task may ask for.

    Raises:
        InvalidTaskError: it is unknown, or a task cannot choose it.
    """
    engine = ENGINES.get(value) if isinstance(value, str) else None
    if engine is None or not engine.choosable:
        problem = "is unknown" if engine is None else "cannot be chosen"
        known = ", ".join(engine.kind for engine in _choosable())
        raise InvalidTaskError("engine", f"{value!r} {problem}; use one of {known}")
    return engine.kind


def _choosable() -> list[EngineTraits]:
    return [engine for engine in ENGINES.values() if engine.choosable]


_CHECKS: Final[dict[str, Callable[[Any], Any]]] = {
    "name": functools.partial(check_name, "name"),
    "category": parse_category,
    "priority": parse_priority,
    "timeout": check_timeout,
    "deadline": _check_deadline,
    "retry": _check_retry,
    "delay": _check_delay,
    "run_at": _check_run_at,
    "max_concurrent": functools.partial(_check_count, "max_concurrent"),
    "engine": parse_engine,
    "new_trace": bool,
    "keep_trace": bool,
    "at_start": bool,
    "restart": _check_restart,
    "required": bool,
}
