"""What the manager learns about a callable by inspection, without calling it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter
from types import FunctionType
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.arguments import SUBMIT_OPTIONS, as_name
from qorzen_obs.code_cache import code_cache
from qorzen_obs.definition import NO_DEFINITION, TaskDefinition, definition_of
from qorzen_obs.errors import InvalidTaskError

_REPORTER: Final = "progress_reporter"
_BY_NAME: Final = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_GENERATORS: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_keywords_of: Final = functools.partial.__dict__["keywords"].__get__
_function_of: Final = staticmethod.__dict__["__func__"].__get__
_FRAMES: Final = 100  #: more than it takes to look at a callable
_NOTHING: Final[frozenset[str]] = frozenset()
#: Attributes in which a decorator's wrapper, which accepts anything, names the callable that it wraps.
_SHOW_PARAMETERS: Final = ("__wrapped__", "__signature__")


class BoundCall(functools.partial[Any]):
    """A callable with all of its arguments. Any option of its submission is for the manager, whatever its name."""


@dataclass(frozen=True, slots=True)
class CallableTraits:
    """What the manager needs to know about a callable."""

    name: str
    is_async: bool
    #: The number of positional arguments before its `progress_reporter`; None if it takes none.
    reporter_place: int | None
    definition: TaskDefinition
    ambiguous: frozenset[str] = _NOTHING  #: the options of a submission that it has a parameter for


@code_cache
def traits_of(func: Callable[..., Any]) -> CallableTraits:
    """Return what the manager needs to know about `func`; looks through partials and callable objects.

    Raises:
        InvalidTaskError: `func` is not callable, or a call of it would run none of its lines.
    """
    if type(func) is FunctionType:  # the usual case, without inspect's 4 µs
        return _traits_of_function(func)
    if not callable(func):
        raise InvalidTaskError(
            "func", f"{foreign.shown(func)} is not callable; pass a function and its arguments after it"
        )
    inner: Any = func
    definition = definition_of(inner)
    bound: set[str] = set()
    while True:
        if foreign.is_a(inner, functools.partial):
            bound.update(_keywords_of(inner))
            inner = foreign.func_of_partial(inner)
        elif foreign.is_a(inner, staticmethod):
            inner = _function_of(inner)
        else:
            break
        if definition is NO_DEFINITION:
            definition = definition_of(inner)
    name = definition.name or as_name(foreign.name_of(inner))
    if _is(inspect.isgeneratorfunction, inner) or _is(inspect.isasyncgenfunction, inner):
        raise _never_runs(name)
    parameters = {key: place for key, place in _parameters(func).items() if key not in bound}
    ambiguous = _NOTHING if type(func) is BoundCall else SUBMIT_OPTIONS & parameters.keys()
    is_async = _is(inspect.iscoroutinefunction, inner)
    return CallableTraits(name, is_async, parameters.get(_REPORTER), definition, ambiguous)


def refuse_parameter(func: Callable[..., Any], option: str) -> None:
    """Refuse an option of a call that may be meant for the callable, which has a parameter of that name.

    Raises:
        InvalidTaskError: with what to do.
    """
    if type(func) is BoundCall:
        return
    inner: Any = func
    while foreign.is_a(inner, functools.partial):
        if option in _keywords_of(inner):
            return
        inner = foreign.func_of_partial(inner)
    if option in _parameters(func):
        raise InvalidTaskError(
            option,
            f"{foreign.name_of(inner)} has a parameter of this name too; give it its argument by "
            f"functools.partial(…, {option}=…)",
        )


def takes_keyword(func: Callable[..., Any], name: str) -> bool:
    """Return whether `func` accepts an argument of this name; True if that cannot be known."""
    try:
        parameters = inspect.signature(func).parameters
        return name in parameters or any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    except BaseException as error:
        if _is_for_want(error):
            raise
        return True  # as in _parameters


def _traits_of_function(func: FunctionType) -> CallableTraits:
    code = func.__code__
    definition = definition_of(func)
    name = definition.name or as_name(foreign.name_of(func))
    if code.co_flags & _GENERATORS:
        raise _never_runs(name)
    is_async = bool(code.co_flags & inspect.CO_COROUTINE) or inspect.iscoroutinefunction(func)
    last = code.co_argcount + code.co_kwonlyargcount
    named = code.co_varnames[code.co_posonlyargcount : last]
    place = None
    if _REPORTER in named:
        place = code.co_varnames.index(_REPORTER)
        place = place if place < code.co_argcount else sys.maxsize
    shown = named if func.__dict__.keys().isdisjoint(_SHOW_PARAMETERS) else _parameters(func)
    return CallableTraits(name, is_async, place, definition, SUBMIT_OPTIONS.intersection(shown))


def _is(kind: Callable[[Any], bool], func: object) -> bool:
    """Return whether a function is of this kind, or the method that makes an object callable is."""
    try:
        return kind(func) or kind(foreign.attribute(type(func), "__call__"))
    except BaseException as error:
        if _is_for_want(error):
            raise
        return False  # an object may answer with code of its own


def _is_for_want(error: BaseException, frames: int = _FRAMES) -> bool:
    """Return whether a lack of memory or stack caused the error, so that the attribute may well exist.

    An object's own code may raise a RecursionError although `frames` more frames fit. This calls itself that often.

    Raises:
        RecursionError: they do not fit.
    """
    if frames and foreign.is_a(error, RecursionError):
        return _is_for_want(error, frames - 1)
    return foreign.is_a(error, MemoryError)


def _never_runs(name: str) -> InvalidTaskError:
    problem = "is a generator function: a call runs none of its lines; submit a function that loops over it"
    return InvalidTaskError("func", f"{name} {problem}")


def _parameters(func: Callable[..., Any]) -> dict[str, int]:
    """Return the parameters that take an argument by name, each with the positional arguments that leave it free."""
    try:
        parameters = inspect.signature(func).parameters.values()
        return {
            parameter.name: sys.maxsize if parameter.kind is Parameter.KEYWORD_ONLY else place
            for place, parameter in enumerate(parameters)
            if parameter.kind in _BY_NAME
        }
    except BaseException as error:
        if _is_for_want(error):
            raise
        return {}  # some builtins have none, and an object may answer with code of its own
