"""Where a callable's code is, by OpenTelemetry's semantic conventions for source code."""

from __future__ import annotations

from collections.abc import Mapping
from types import CodeType
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.code_cache import code_cache
from qorzen_obs.telemetry import names


def _source_of(func: Any) -> Mapping[str, str | int]:
    """Return the attributes for `func`; for a partial, those of the function inside."""
    inner = foreign.inside_partial(func)
    attributes: dict[str, str | int] = {names.FUNCTION_NAME: foreign.full_name_of(inner)}
    code = foreign.attribute(inner, "__code__")
    if type(code) is CodeType:
        attributes[names.CODE_FILE] = code.co_filename
        attributes[names.CODE_LINE] = code.co_firstlineno
    return attributes


source_of: Final = code_cache(_source_of, with_attributes=True)
