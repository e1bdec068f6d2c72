"""Where a callable's code stands, by the semantic conventions of OpenTelemetry for source code."""

from __future__ import annotations

from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any, Final

from qorzen_obs.telemetry import names

#: Of functions, by the id of their code, which is held so that the id stays its own.
_KNOWN: Final[dict[int, tuple[CodeType, str, Mapping[str, str | int]]]] = {}
_MAX_KNOWN: Final = 10_000


def source_of(func: Any) -> Mapping[str, str | int]:
    """Return the attributes for `func`; of a partial those of its own function."""
    if type(func) is not FunctionType:
        return _source_of(func)
    code = func.__code__
    known = _KNOWN.get(id(code))
    if known is None or known[0] is not code or known[1] != func.__qualname__:
        if len(_KNOWN) >= _MAX_KNOWN:
            _KNOWN.clear()
        known = _KNOWN[id(code)] = (code, func.__qualname__, _source_of(func))
    return known[2]


def _source_of(func: Any) -> Mapping[str, str | int]:
    inner = getattr(func, "func", func)
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    attributes: dict[str, str | int] = {
        names.FUNCTION_NAME: f"{getattr(inner, '__module__', None) or '?'}.{name}"
    }
    code = getattr(inner, "__code__", None)
    if code is not None:
        attributes[names.CODE_FILE] = code.co_filename
        attributes[names.CODE_LINE] = code.co_firstlineno
    return attributes
