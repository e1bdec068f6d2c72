"""Types of parameters that msgspec does not know: paths, and the models of pydantic where the program has that.

pydantic is not imported here: a hint that is a model of it has done so. What a model says of a value is not repeated
where it may come from the value.
"""

from __future__ import annotations

import re
import sys
from pathlib import PurePath
from typing import Any, Final

import msgspec

_SOMETHING_ELSE: Final = "takes something else"

#: The errors of pydantic whose texts come from the model alone.
_OF_THE_MODEL_ALONE: Final = frozenset(
    {
        "bool_parsing",
        "bool_type",
        "date_type",
        "datetime_type",
        "decimal_parsing",
        "decimal_type",
        "dict_type",
        "enum",
        "extra_forbidden",
        "finite_number",
        "float_parsing",
        "float_type",
        "greater_than",
        "greater_than_equal",
        "int_from_float",
        "int_parsing",
        "int_type",
        "less_than",
        "less_than_equal",
        "list_type",
        "literal_error",
        "missing",
        "model_type",
        "multiple_of",
        "none_required",
        "set_type",
        "string_pattern_mismatch",
        "string_too_long",
        "string_too_short",
        "string_type",
        "too_long",
        "too_short",
        "tuple_type",
        "uuid_type",
    }
)


class RefusedByModelError(ValueError):
    """A model of pydantic does not take a value."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__("refused by a model")
        #: Below the model, such as `address.zip` or `sizes[2]`; empty for the model itself.
        self.place = place
        self.problem = problem


def from_json(kind: type[Any], value: Any) -> Any:
    """Return a part of a JSON document as a type of the user's. A hook of msgspec.

    Raises:
        ValueError, TypeError: it cannot be that. msgspec adds the place to it.
        NotImplementedError: the type is neither.
    """
    if issubclass(kind, PurePath):
        if not isinstance(value, str):
            raise TypeError("Expected `str`")
        return kind(value)
    if not _is_model(kind):
        raise NotImplementedError
    try:
        return kind.model_validate_json(msgspec.json.encode(value))
    except sys.modules["pydantic"].ValidationError as error:
        raise _refused(kind, error) from None


class JsonSchemas:
    """JSON Schemas of such types, as a hook of msgspec; `definitions` are what they refer to, by name."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def __call__(self, kind: type[Any]) -> dict[str, Any]:
        """Return the schema of one.

        Raises:
            NotImplementedError: the type is neither.
        """
        if issubclass(kind, PurePath):
            return {"type": "string", "format": "path"}
        if not _is_model(kind):
            raise NotImplementedError
        prefix = re.sub(r"[^\w.]", "_", f"{kind.__module__}.{kind.__qualname__}")
        schema: dict[str, Any] = _without_defaults(_schema_of(kind, f"#/$defs/{prefix}.{{model}}"))
        for name, definition in schema.pop("$defs", {}).items():
            self.definitions[f"{prefix}.{name}"] = definition
        return schema


def _is_model(kind: type[Any]) -> bool:
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None and hasattr(kind, "model_validate_json") and issubclass(kind, pydantic.BaseModel)
    )


def _schema_of(kind: Any, references: str = "#/$defs/{model}") -> dict[str, Any]:
    schema: dict[str, Any] = kind.model_json_schema(ref_template=references)
    return schema


def _without_defaults(schema: Any, *, of_names: bool = False) -> Any:
    """Return a schema without default values, which may be secrets; `of_names` where its keys are names of fields."""
    if isinstance(schema, list):
        return [_without_defaults(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_defaults(value, of_names=key in ("properties", "$defs") and not of_names)
        for key, value in schema.items()
        if of_names or key != "default"
    }


def _refused(kind: Any, error: Any) -> RefusedByModelError:
    """Return the first thing that a model has to say, without names and words that the value chose."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    known = _names_in(_schema_of(kind))
    place = ""
    for step in first["loc"]:
        if isinstance(step, int):
            place += f"[{step}]"
        elif step in known:
            place += f".{step}"
        else:
            place += "[...]"
    problem = first["msg"] if first["type"] in _OF_THE_MODEL_ALONE else _SOMETHING_ELSE
    return RefusedByModelError(place.removeprefix("."), problem)


def _names_in(schema: Any) -> set[str]:
    """Return the names of all fields that a schema has, at any depth."""
    if isinstance(schema, list):
        return set().union(*map(_names_in, schema))
    if not isinstance(schema, dict):
        return set()
    properties = schema.get("properties")
    here = set(properties) if isinstance(properties, dict) else set()
    return here.union(*map(_names_in, schema.values()))
