"""When a failed attempt is followed by another, and how long it waits. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from qorzen_obs import foreign
from qorzen_obs.errors import InvalidTaskError, RetryLater, TaskTimeoutError
from qorzen_obs.tasks import TIMEOUT

#: (number of the attempt that failed, from 1; a source of randomness) -> seconds to wait
Backoff = Callable[[int, random.Random], float]


def exponential(
    base_seconds: float = 1.0, *, factor: float = 2.0, max_seconds: float = 60.0, jitter: bool = True
) -> Backoff:
    """Return a backoff that grows by `factor` from `base_seconds` up to `max_seconds`.

    With `jitter` the wait is drawn evenly between 0 and that value ("full jitter": M. Brooker, Exponential
    Backoff And Jitter, 2015), so that what failed together does not come back together.

    Raises:
        InvalidTaskError: a number is not positive, or `factor` is below 1.
    """
    for name, value in (("base_seconds", base_seconds), ("max_seconds", max_seconds)):
        if not (value > 0 and math.isfinite(value)):
            raise InvalidTaskError(name, f"{value!r} must be a positive, finite number of seconds")
    if not factor >= 1:
        raise InvalidTaskError("factor", f"{factor!r} must be at least 1")

    def wait_seconds(attempt: int, source: random.Random) -> float:
        steps = min(attempt - 1, 1_000)  # a float has no room for more
        try:
            longest = min(max_seconds, base_seconds * factor**steps)
        except OverflowError:
            longest = max_seconds
        return source.uniform(0.0, longest) if jitter else longest

    return wait_seconds


_DEFAULT_BACKOFF: Final = exponential()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The retry policy of a definition.

    An attempt that raised one of `on`, and none of `give_up_on`, is followed by another one, until there were
    `max_attempts`. An attempt that passed its timeout counts as a TimeoutError. One that was cancelled, or was
    abandoned while its code still runs, is never tried again.
    """

    max_attempts: int = 3
    backoff: Backoff = _DEFAULT_BACKOFF
    on: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise InvalidTaskError(
                "max_attempts", f"{self.max_attempts!r} must be a whole number of at least 1"
            )
        _check_kinds("on", self.on)
        _check_kinds("give_up_on", self.give_up_on)


def _check_kinds(name: str, kinds: object) -> None:
    good = isinstance(kinds, tuple) and all(
        isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds
    )
    if not good:
        raise InvalidTaskError(name, f"{kinds!r} must be a tuple of exception classes")


def retry_wait_seconds(
    policy: Retry | None,
    attempt: int,
    error: BaseException | None,
    error_type: str | None,
    source: random.Random,
) -> float | None:
    """Return how long to wait before the attempt after `attempt`, or None when there will be none."""
    if policy is not None and attempt >= policy.max_attempts:
        return None
    if foreign.is_a(error, RetryLater):
        return max(0.0, error.seconds)
    if policy is None:
        return None
    kind = TaskTimeoutError if error_type == TIMEOUT else type(error)
    if issubclass(kind, policy.give_up_on) or not issubclass(kind, policy.on):
        return None
    return max(0.0, policy.backoff(attempt, source))
