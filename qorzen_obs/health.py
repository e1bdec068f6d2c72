"""Defines the program's own health checks: `@health_check` marks a function and sets how it is run.

Like `@task`, it only sets a definition on the callable. core/health_checks.py runs the checks added to a manager.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Final, TypedDict, TypeVar, Unpack, overload

from qorzen_obs import foreign
from qorzen_obs.errors import InvalidHealthCheckError

F = TypeVar("F", bound=Callable[[], object])

#: The names of the service's own checks.
BUILT_IN: Final = frozenset(
    (
        "ops-plane",
        "work-loop",
        "initialized",
        "accepting",
        "scheduler",
        "history",
        "queue",
        "abandoned",
        "telemetry",
    )
)
MIN_AGE_SECONDS: Final = 0.1
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ATTRIBUTE: Final = "__qorzen_health_check__"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckDefinition:
    """The options of a health check, as `@health_check` sets them."""

    #: Its name in probes, /health and metrics: 1 to 63 letters, digits, dots, hyphens and underscores. None means the
    #: function's name.
    name: str | None = None
    critical: bool = False  #: True: the service is not ready while it fails; False: /health only warns
    timeout: float = 1.0  #: seconds after which a run counts as failed
    max_age: float = 5.0  #: seconds for which a result is reused, at least 0.1


class CheckOptions(TypedDict, total=False):
    """The options of `@health_check` and `HealthChecks.add`. CheckDefinition has the defaults."""

    name: str
    critical: bool
    timeout: float
    max_age: float


@overload
def health_check(check: F, /) -> F: ...
@overload
def health_check(**options: Unpack[CheckOptions]) -> Callable[[F], F]: ...
def health_check(check: F | None = None, /, **options: Unpack[CheckOptions]) -> F | Callable[[F], F]:
    """Mark a function without arguments as a health check of the service; `serve` finds the checks of its modules.

    The check fails when the function raises or returns False, and passes when it returns anything else. A returned
    text is shown. See CheckDefinition for the options.

    Raises:
        InvalidHealthCheckError: an option is unknown or out of bounds.
    """
    definition = with_check_options(CheckDefinition(), options)

    def define(function: F) -> F:
        setattr(function, _ATTRIBUTE, definition)
        return function

    return define if check is None else define(check)


def checks_in(module: ModuleType) -> list[Callable[[], object]]:
    """Return the callables that `module` marks with @health_check."""
    found = (
        value
        for value in vars(module).values()
        if foreign.is_a(foreign.attribute_as_it_stands(value, _ATTRIBUTE), CheckDefinition)
    )  # static: a lazy proxy may raise when an attribute is read
    return list(dict.fromkeys(found))  # one callable may have several names


def definition_of(check: Callable[[], object]) -> CheckDefinition:
    """Return the definition that @health_check set on a callable, or the default one."""
    found = foreign.attribute(check, _ATTRIBUTE)
    return found if foreign.is_a(found, CheckDefinition) else CheckDefinition()


def with_check_options(definition: CheckDefinition, options: CheckOptions) -> CheckDefinition:
    """Return the definition overridden by these options, checked.

    Raises:
        InvalidHealthCheckError: an option is unknown or out of bounds.
    """
    known = {field.name for field in dataclasses.fields(CheckDefinition)}
    for option in options:
        if option not in known:
            problem = f"is not an option of a check; use one of {', '.join(sorted(known))}"
            raise InvalidHealthCheckError(option, problem)
    made = dataclasses.replace(definition, **options)
    if made.name is not None:
        check_check_name(made.name)
    _check_seconds("timeout", made.timeout, 0.0)
    _check_seconds("max_age", made.max_age, MIN_AGE_SECONDS)
    return made


def check_check_name(name: object) -> None:
    """Raise InvalidHealthCheckError if `name` cannot name a check, since it appears in paths, lines and labels."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problem = f"{name!r} must have 1 to 63 letters, digits, dots, hyphens or underscores"
        raise InvalidHealthCheckError("name", f"{problem}; give it with name=…")
    if name in BUILT_IN:
        raise InvalidHealthCheckError("name", f"{name!r} is a check of the service itself; take another name")


def _check_seconds(option: str, value: object, least: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value < math.inf or value == 0:  # type: ignore[operator]  # it is a number
        problem = f"{value!r} must be a positive number of seconds"
        raise InvalidHealthCheckError(option, problem + (f", at least {least:g}" if least else ""))
