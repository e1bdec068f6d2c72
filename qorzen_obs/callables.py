"""What the manager learns of a callable by looking at it, without calling it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from qorzen_obs import foreign
from qorzen_obs.code_cache import CodeCache
from qorzen_obs.definition import NO_DEFINITION, TaskDefinition, definition_of
from qorzen_obs.errors import InvalidTaskError


@dataclass(frozen=True, slots=True)
class CallableTraits:
    """What the manager needs to know of a callable."""

    name: str
    is_async: bool
    wants_progress: bool  #: it has a parameter named `progress_reporter`
    definition: TaskDefinition


@CodeCache
def traits_of(func: Callable[..., Any]) -> CallableTraits:
    """Return what the manager needs to know of `func`; partials and callable objects are looked through.

    Raises:
        InvalidTaskError: `func` is not callable.
    """
    if type(func) is FunctionType:  # the usual case, without inspect's 4 µs
        return _traits_of_function(func)
    if not callable(func):
        raise InvalidTaskError(
            "func", f"{foreign.shown(func)} is not callable; pass a function and its arguments after it"
        )
    inner: Any = func
    definition = definition_of(inner)
    while foreign.is_a(inner, functools.partial):
        inner = foreign.func_of_partial(inner)
        if definition is NO_DEFINITION:
            definition = definition_of(inner)
    name = definition.name or foreign.name_of(inner)
    # Of an object its method is asked as well.
    is_async = _is_async(inner) or _is_async(foreign.attribute(type(inner), "__call__"))
    return CallableTraits(name, is_async, _has_parameter(func, "progress_reporter"), definition)


def _traits_of_function(func: FunctionType) -> CallableTraits:
    code = func.__code__
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    definition = definition_of(func)
    is_async = bool(code.co_flags & inspect.CO_COROUTINE) or inspect.iscoroutinefunction(func)
    return CallableTraits(
        definition.name or foreign.name_of(func), is_async, "progress_reporter" in named, definition
    )


def _has_parameter(func: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(func).parameters
    except BaseException:  # noqa: BLE001 - some builtins have none, and an object may answer by code of its own
        return False


def _is_async(func: object) -> bool:
    try:
        return inspect.iscoroutinefunction(func)
    except BaseException:  # noqa: BLE001 - as above
        return False
