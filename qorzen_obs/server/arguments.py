"""What a registered task takes: its parameters by their type hints, as JSON Schema and as a check.

What a hint says is what is let in. A task whose hints msgspec cannot read is not submitted over HTTP.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any, Final

import msgspec

from qorzen_obs.server.body import convert, unprocessable

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
        try:
            signature = inspect.signature(func, eval_str=True)
        except Exception as error:  # hints are code
            raise UnreadableHintsError("its signature and type hints cannot be read") from error
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
    try:
        schemas, definitions = msgspec.json.schema_components(
            [_hint(parameter) for parameter in parameters], ref_template="#/$defs/{name}"
        )
    except Exception as error:  # hints are objects of all kinds
        raise UnreadableHintsError("a type hint of its parameters has no JSON Schema") from error
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
