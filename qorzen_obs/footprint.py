"""Estimates how many bytes a value keeps alive, by its texts, buffers and containers.

The value is a user's, so it is inspected only from outside, through what Python itself knows about it.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable
from itertools import islice
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, Final

from qorzen_obs import foreign

MAX_OBJECTS: Final = 4_096  #: most objects inspected in one value; any beyond count as nothing
_MAX_DEPTH: Final = 8
_DATA: Final = (str, bytes, bytearray)
_CONTAINERS: Final = (list, tuple, dict, set, frozenset, deque)
#: Kinds that do not belong to the value: what they lead to lives without it.
_SHARED: Final = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, CodeType, FrameType)


def footprint_of(value: object) -> int:
    """Return approximately how many bytes `value` keeps alive.

    Counts texts, buffers such as bytes and arrays, and containers of them eight levels deep. An object's own attributes
    count, but not those of the objects that it leads to.
    """
    if foreign.is_scalar(value):
        return 0
    total, left = 0, MAX_OBJECTS
    seen: set[int] = set()
    level: list[tuple[object, bool]] = [(value, False)]  # with whether it belongs to an object
    for _ in range(_MAX_DEPTH):
        below: list[tuple[object, bool]] = []
        for one, is_inside in level[:left]:
            if id(one) not in seen:
                seen.add(id(one))
                size, members, is_object = _look_at(one, is_inside)
                total += size
                below += ((member, is_inside or is_object) for member in islice(members, left))
        left -= min(left, len(level))
        level = below
    return total


def _look_at(value: object, is_inside: bool) -> tuple[int, Iterable[Any], bool]:
    """Return the size of a value without its contents, the contents, and whether it is an object."""
    for kind in _DATA:
        if foreign.is_a(value, kind):
            return kind.__sizeof__(value), (), False
    for container in _CONTAINERS:
        if foreign.is_a(value, container):
            return container.__sizeof__(value), gc.get_referents(value), False
    if type(value) is memoryview:
        return 0, _exporter_of(value), False
    size = _buffer_size(value)
    if size is not None or is_inside or foreign.is_a(value, _SHARED):
        return size or 0, (), True
    return object.__sizeof__(value), gc.get_referents(value), True


def _exporter_of(view: memoryview) -> Iterable[object]:
    try:
        return (view.obj,)
    except ValueError:  # it was released
        return ()


def _buffer_size(value: object) -> int | None:
    """Return the bytes of an array from any library; None for anything else."""
    try:
        with memoryview(value) as view:  # type: ignore[arg-type]  # it says so by raising
            return view.nbytes
    except BaseException:  # noqa: BLE001 - since Python 3.12 a class may provide its buffer with code of its own
        pass
    if not foreign.has_of_its_kind(value, "nbytes"):
        return None
    size = foreign.number(foreign.attribute(value, "nbytes"))
    return size if type(size) is int and size >= 0 else None
