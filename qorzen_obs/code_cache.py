"""Caches values computed from a function. Knows nothing about tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, Final, TypeVar

T = TypeVar("T")

MAX_KNOWN: Final = 10_000  #: most functions in one cache; one more empties it


def code_cache(compute: Callable[[Any], T], *, with_attributes: bool = False) -> Callable[[Any], T]:
    """Return a function like `compute` that computes once for all Python functions with the same code and name.

    So a closure that is created again for each call is computed once. Other callables are computed each time. So are
    functions that have attributes, unless `with_attributes` says that the result does not depend on those.
    """
    # Keyed by the id of the code. The entry holds the code, so that no other object gets the same id.
    all_known: dict[int, tuple[CodeType, str, T]] = {}

    @functools.wraps(compute)
    def computed_once(func: Any) -> T:
        if type(func) is not FunctionType or (func.__dict__ and not with_attributes):
            return compute(func)
        code = func.__code__
        try:  # a successful subscript is cheaper than `get`
            known = all_known[id(code)]
            if known[0] is code and known[1] == func.__qualname__:
                return known[2]
        except BaseException:  # noqa: BLE001 - unknown, or a name that cannot be compared
            pass
        if len(all_known) >= MAX_KNOWN:
            all_known.clear()
        known = all_known[id(code)] = (code, func.__qualname__, compute(func))
        return known[2]

    return computed_once
