"""When a failed attempt is followed by another, and after what wait. Pure, except for a user's own backoff."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from types import CoroutineType
from typing import Final

from qorzen_obs import foreign
from qorzen_obs.clock import MAX_WAIT_SECONDS
from qorzen_obs.errors import InvalidTaskError, RetryLater, TaskTimeoutError
from qorzen_obs.tasks import TIMEOUT

#: Takes the number of the failed attempt, from 1, and a source of randomness; returns the seconds to wait. At most a
#: hundred years; a negative number counts as 0. It must not block.
Backoff = Callable[[int, random.Random], float]


def exponential(
    base_seconds: float = 1.0, *, factor: float = 2.0, max_seconds: float = 60.0, jitter: bool = True
) -> Backoff:
    """Return a backoff that grows by `factor` from `base_seconds` up to `max_seconds`.

    With `jitter` the wait is drawn uniformly between 0 and that value ("full jitter": M. Brooker, Exponential
    Backoff And Jitter, 2015), so that tasks that failed together do not retry together.

    Raises:
        InvalidTaskError: a number of seconds is not positive or above a hundred years, or `factor` is below 1.
    """
    for name, value in (("base_seconds", base_seconds), ("max_seconds", max_seconds)):
        seconds = foreign.number(value)
        if seconds is None or not 0 < seconds <= MAX_WAIT_SECONDS:
            problem = (
                f"{foreign.shown(value)} must be a positive number of seconds, at most {MAX_WAIT_SECONDS:.0f}"
            )
            raise InvalidTaskError(name, problem)
    if not (foreign.number(factor) or 0) >= 1:
        raise InvalidTaskError("factor", f"{foreign.shown(factor)} must be a number of at least 1")

    def wait_seconds(attempt: int, source: random.Random) -> float:
        steps = min(attempt - 1, 1_000)  # a float cannot hold more
        try:
            longest = min(max_seconds, base_seconds * factor**steps)
        except OverflowError:
            longest = max_seconds
        return source.uniform(0.0, longest) if jitter else longest

    return wait_seconds


DEFAULT_BACKOFF: Final = exponential()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The retry policy of a definition.

    An attempt that raised one of `on`, but none of `give_up_on`, is followed by another one, up to `max_attempts` in
    all. An attempt that passed its timeout counts as a TimeoutError. An attempt that was cancelled, or abandoned while
    its code still runs, is never followed by another.

    `backoff` is called once for the first attempt when the policy is created, to check that it returns seconds. If it
    fails later, the default one replaces it for that attempt; see the log line `task.backoff_failed`.

    Raises:
        InvalidTaskError: an argument is unusable.
    """

    max_attempts: int = 3  #: including the first one; at least 1
    backoff: Backoff = DEFAULT_BACKOFF  #: how long to wait after a failed attempt
    #: the exceptions after which another attempt may follow
    on: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()  #: those of them after which none may follow

    def __post_init__(self) -> None:
        attempts: object = self.max_attempts
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            raise InvalidTaskError("max_attempts", f"{attempts!r} must be a whole number of at least 1")
        _check_backoff(self.backoff)
        _check_kinds("on", self.on)
        _check_kinds("give_up_on", self.give_up_on)


def _check_backoff(backoff: Backoff) -> None:
    expected = "it takes the number of the attempt and a random.Random, and returns seconds"
    if not callable(backoff):
        raise InvalidTaskError(
            "backoff", f"{foreign.shown(backoff)} is not callable; {expected}, as exponential() does"
        )
    try:
        _seconds(backoff(1, random.Random(0)))
    except Exception as error:
        problem = f"{foreign.described(error)}, when it was tried; {expected}"
        raise InvalidTaskError("backoff", problem) from error


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
    on_broken: Callable[[str], None],
) -> float | None:
    """Return how long to wait before the attempt after `attempt`, or None if there will be none.

    If the user's code fails, `on_broken` gets the error, and the default backoff replaces a user's.
    """
    if policy is not None and attempt >= policy.max_attempts:
        return None
    says_when = foreign.is_a(error, RetryLater)
    try:
        if not (says_when or (policy is not None and _is_for(policy, error, error_type))):
            return None
    except BaseException as broken:  # noqa: BLE001 - classes may decide with code of their own what belongs to them
        on_broken(foreign.shown(broken))
        return None
    asked: Backoff = (lambda *_: error.seconds) if says_when else policy.backoff  # type: ignore[union-attr]  # as looked at above
    return backoff_seconds(asked, attempt, source, on_broken)


def backoff_seconds(
    backoff: Backoff, attempt: int, source: random.Random, on_broken: Callable[[str], None]
) -> float:
    """Return the wait from a user's backoff; if it fails, `on_broken` gets the error and the default is used."""
    try:
        return _seconds(backoff(attempt, source))
    except BaseException as broken:  # noqa: BLE001 - the user's code may raise anything
        on_broken(foreign.shown(broken))
        return DEFAULT_BACKOFF(attempt, source)


def _is_for(policy: Retry, error: BaseException | None, error_type: str | None) -> bool:
    kind = TaskTimeoutError if error_type == TIMEOUT else type(error)
    return issubclass(kind, policy.on) and not issubclass(kind, policy.give_up_on)


def _seconds(value: object) -> float:
    """Return a user's wait in seconds.

    Raises:
        TypeError, ValueError: it is not a number of seconds, or exceeds a hundred years.
    """
    if type(value) is CoroutineType:
        value.close()
    seconds = foreign.number(value)
    if seconds is None:
        raise TypeError(f"{foreign.shown(value)} is not a number of seconds")
    if not seconds <= MAX_WAIT_SECONDS:
        raise ValueError(
            f"{seconds!r} is more than {MAX_WAIT_SECONDS:.0f} seconds, which are a hundred years"
        )
    return max(0.0, float(seconds))
