"""Remembers what was computed of a function. Knows nothing of tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, Final, Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)

MAX_KNOWN: Final = 10_000  #: functions in one cache; one more empties it


class CodeCache(Generic[T_co]):
    """A function of a callable, computed once for all Python functions with the same code and name.

    So a closure that is made anew for each call is computed once. Other callables are computed each time, and so are
    functions that have attributes unless `with_attributes` says that the result does not depend on those.
    """

    def __init__(self, compute: Callable[[Any], T_co], *, with_attributes: bool = False) -> None:
        functools.update_wrapper(self, compute)
        self._compute = compute
        self._with_attributes = with_attributes
        #: By the id of the code. The entry holds the code, so that no other object gets the same id.
        self._known: dict[int, tuple[CodeType, str, T_co]] = {}

    def __call__(self, func: object) -> T_co:
        """Return what `compute` returns for `func`."""
        if type(func) is not FunctionType or (func.__dict__ and not self._with_attributes):
            return self._compute(func)
        code = func.__code__
        try:  # a subscript that finds is cheaper than `get`
            known = self._known[id(code)]
            if known[0] is code and known[1] == func.__qualname__:
                return known[2]
        except BaseException:  # noqa: BLE001 - unknown, or a name that cannot be compared
            pass
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        known = self._known[id(code)] = (code, func.__qualname__, self._compute(func))
        return known[2]
