"""A task before anyone submits it: the defaults that `@task` sets on a callable, without changing anything else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from qorzen_obs import foreign
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.retry import Retry
from qorzen_obs.tasks import TaskCategory, TaskPriority

#: When `serve` submits a standing task again: `always` after every end, `on_failure` after a failure. This continues
#: until the service stops.
Restart = Literal["never", "on_failure", "always"]

_ATTRIBUTE: Final = "__qorzen_task__"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """The defaults of one callable. None leaves the choice to the submission and the settings."""

    name: str | None = None  #: 1 to 200 printable characters; None means the function's
    category: TaskCategory | None = None  #: None means CORE
    priority: TaskPriority | None = None  #: None means NORMAL
    #: Seconds of one attempt. math.inf means no limit, None means `tasks.default_timeout`.
    timeout: float | None = None
    deadline: float | None = None  #: seconds from acceptance to the end of the last attempt
    retry: Retry | None = None  #: when a failed attempt is followed by another; None means never
    delay: float = 0.0  #: seconds from acceptance until it may start; at most a hundred years
    #: Unix seconds before which it does not start. `@task` also takes an aware datetime.
    run_at: float | None = None
    #: maximum number of tasks of this definition that run at once, at least 1
    max_concurrent: int | None = None
    #: The engine that runs it. None means the loop for async callables, and the category's engine for others.
    engine: str | None = None
    new_trace: bool = False  #: start a trace of its own, linked to the submitter's
    keep_trace: bool = False  #: keep its traces whatever the sampling rate
    at_start: bool = False  #: `serve` submits it once the service has started, without the default timeout
    #: With `at_start`: when `serve` submits it again after it has ended and the retry's backoff has passed.
    restart: Restart = "never"
    required: bool = False  #: with `at_start`: /readyz fails while it does not run

    starts_later: bool = field(init=False)  #: whether its tasks may have to wait for their time

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts_later", self.delay > 0 or self.run_at is not None)


NO_DEFINITION: Final = TaskDefinition()


def define(func: object, definition: TaskDefinition) -> None:
    """Set the definition of a callable, replacing any that it has.

    Raises:
        InvalidTaskError: the callable takes no attributes.
    """
    problem: BaseException | None = None
    try:
        setattr(func, _ATTRIBUTE, definition)
    except BaseException as error:  # noqa: BLE001 - a __setattr__ of its own may raise anything
        problem = error
    if definition_of(func) is not definition:
        kind = foreign.kind_name(type(func))
        advice = "put @task directly above its def, below other decorators, or use with_options(…)"
        raise InvalidTaskError(
            "func", f"a {kind} takes no attributes to keep options in; {advice}"
        ) from problem


def definition_of(func: object) -> TaskDefinition:
    """Return the definition set on a callable itself, NO_DEFINITION if there is none."""
    found = foreign.attribute(func, _ATTRIBUTE)  # a remote proxy claims to have every attribute
    return found if foreign.is_a(found, TaskDefinition) else NO_DEFINITION


def is_defined(value: object) -> bool:
    """Return whether `value` carries a definition; runs none of the value's code.

    A lazy proxy, such as a web framework's request, may raise when an attribute is read.
    """
    return foreign.is_a(foreign.attribute_as_it_stands(value, _ATTRIBUTE), TaskDefinition)
