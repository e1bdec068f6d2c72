"""What a registered task takes: its parameters by their type hints, as JSON Schema and as a check.

What a hint says is what is let in. A task whose hints neither msgspec nor user_types.py can read is not submitted over
HTTP.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any, Final

import msgspec

from qorzen_obs.server.body import convert, unprocessable
from qorzen_obs.server.user_types import JsonSchemas

_BY_POSITION: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
_GIVEN_BY_THE_RUNNER: Final = "progress_reporter"


class UnreadableHintsError(Exception):
    """A parameter's type hint cannot be read, or is of no type that JSON has."""


class Arguments:
    """The parameters of one callable.

    Raises:
        UnreadableHintsError: a hint cannot be followed; a parameter without one takes any JSON.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        signature = _signature(func)
        parameters = [p for p in signature.parameters.values() if p.name != _GIVEN_BY_THE_RUNNER]
        self._signature = Signature(parameters)
        self._rest = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
        reporter = signature.parameters.get(_GIVEN_BY_THE_RUNNER)
        if self._rest and reporter is not None and reporter.kind is Parameter.POSITIONAL_OR_KEYWORD:
            problem = f"its {_GIVEN_BY_THE_RUNNER} stands before others by position; make it keyword-only"
            raise UnreadableHintsError(problem)
        self.schema = _schema(parameters)
        self.positional = [_shown_name(p) for p in parameters if p.kind in _BY_POSITION]

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments as the callable takes them, each as its hint has it.

        Raises:
            ProblemError: they do not fit.
        """
        try:
            bound = self._signature.bind(*args, **kwargs).arguments
        except TypeError:
            raise unprocessable("args and kwargs", self._misfit(args, kwargs)) from None
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for name, value in bound.items():
            parameter = self._signature.parameters[name]
            kind = _hint(parameter)
            match parameter.kind:
                case Parameter.VAR_POSITIONAL:
                    positional += [
                        convert(item, kind, f"{name}[{index}]") for index, item in enumerate(value)
                    ]
                case Parameter.VAR_KEYWORD:
                    named |= {key: convert(item, kind, f"{name}[...]") for key, item in value.items()}
                case Parameter.POSITIONAL_ONLY:
                    positional.append(convert(value, kind, name))
                case Parameter.POSITIONAL_OR_KEYWORD if self._rest:
                    positional.append(convert(value, kind, name))
                case _:  # by name, since the reporter may stand before it
                    named[name] = convert(value, kind, name)
        return positional, named

    def _misfit(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Return what the callable takes, and what of it is missing where that is all that is wrong."""
        parameters = self._signature.parameters.values()
        names = ", ".join(map(_shown_name, parameters)) or "no arguments"
        problem = f"they do not fit; the task takes {names}"
        try:
            given = self._signature.bind_partial(*args, **kwargs).arguments
        except TypeError:
            return problem
        required = (p.name for p in parameters if p.default is Parameter.empty and p.name == _shown_name(p))
        return f"{problem}; missing: {', '.join(name for name in required if name not in given)}"


def _signature(func: Callable[..., Any]) -> Signature:
    try:
        return inspect.signature(func, eval_str=True)
    except Exception as error:  # hints are code
        raise UnreadableHintsError(_unreadable(func)) from error


def _unreadable(func: Callable[..., Any]) -> str:
    """Return which hint of a callable cannot be read, as far as can be found out."""
    try:
        parameters = inspect.signature(func).parameters
        namespace = getattr(inspect.unwrap(func), "__globals__", {})
    except Exception:  # noqa: BLE001 - an object may answer by code of its own
        return "its signature cannot be read"
    for name, parameter in parameters.items():
        if isinstance(parameter.annotation, str):
            try:
                eval(parameter.annotation, namespace)
            except Exception:  # noqa: BLE001 - hints are code
                return f"the type hint of its parameter {name} cannot be read"
    return "its type hints cannot be read"


def _hint(parameter: Parameter) -> Any:
    return Any if parameter.annotation is Parameter.empty else parameter.annotation


def _shown_name(parameter: Parameter) -> str:
    match parameter.kind:
        case Parameter.VAR_POSITIONAL:
            return f"*{parameter.name}"
        case Parameter.VAR_KEYWORD:
            return f"**{parameter.name}"
        case _:
            return parameter.name


def _schema(parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the JSON Schema of all arguments by name. Defaults are left out: they may be secrets."""
    hook = JsonSchemas()
    try:
        schemas, definitions = _components([_hint(parameter) for parameter in parameters], hook)
    except Exception as error:  # hints are objects of all kinds
        raise UnreadableHintsError(_without_schema(parameters)) from error
    definitions |= hook.definitions
    by_parameter = list(zip(parameters, schemas, strict=True))
    named = [p for p in by_parameter if p[0].kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {parameter.name: schema for parameter, schema in named},
        "required": [parameter.name for parameter, _ in named if parameter.default is Parameter.empty],
        "additionalProperties": next(
            (schema for parameter, schema in by_parameter if parameter.kind is Parameter.VAR_KEYWORD), False
        ),
    }
    return {**schema, "$defs": definitions} if definitions else schema


def _components(hints: Sequence[Any], hook: JsonSchemas) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    return msgspec.json.schema_components(hints, ref_template="#/$defs/{name}", schema_hook=hook)


def _without_schema(parameters: Sequence[Parameter]) -> str:
    """Return which parameter has a hint without a JSON Schema."""
    for parameter in parameters:
        try:
            _components([_hint(parameter)], JsonSchemas())
        except Exception:  # noqa: BLE001 - as above
            return f"the type hint of its parameter {parameter.name} has no JSON Schema"
    return "the type hints of its parameters have no JSON Schema together"
