"""What the manager learns of a callable by looking at it, without calling it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

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
            "func", f"{func!r} is not callable; pass a function and its arguments after it"
        )
    inner: Any = func
    definition = definition_of(inner)
    while isinstance(inner, functools.partial):
        inner = inner.func
        if definition is NO_DEFINITION:
            definition = definition_of(inner)
    qualname = getattr(inner, "__qualname__", None)
    name = definition.name or (qualname if isinstance(qualname, str) else type(inner).__qualname__)
    is_async = inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(
        getattr(type(inner), "__call__", None)  # noqa: B004 - not a test for being callable: the method is wanted
    )
    return CallableTraits(name, is_async, _has_parameter(func, "progress_reporter"), definition)


def _traits_of_function(func: FunctionType) -> CallableTraits:
    code = func.__code__
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    definition = definition_of(func)
    is_async = bool(code.co_flags & inspect.CO_COROUTINE) or inspect.iscoroutinefunction(func)
    return CallableTraits(
        definition.name or func.__qualname__, is_async, "progress_reporter" in named, definition
    )


def _has_parameter(func: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(func).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return False
