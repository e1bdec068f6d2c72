"""How an attempt may end, by what was asked of it and what its code did: the rules, written a second time."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from qorzen_obs.errors import TaskCancelled
from qorzen_obs.tasks import TaskStatus

COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED


class Ask(NamedTuple):
    """Somebody, or a clock, wants an attempt to stop."""

    kind: str  #: "cancel" or "timeout"
    at: float
    reason: str


class End(NamedTuple):
    """How an attempt may end."""

    status: TaskStatus
    error_type: str | None = None
    cancel_reason: str | None = None
    abandoned: bool = False


def unasked(how: str, what: Any) -> End:
    """Nobody asked it to stop: what its code did stands."""
    return End(COMPLETED) if how == "returned" else End(FAILED, qualified(what))


def asked(ask: Ask, how: str, what: Any) -> End:
    """It was asked to stop, and its code ended within the grace."""
    if ask.kind == "timeout":
        return End(FAILED, "timeout")
    if how == "raised" and isinstance(what, (asyncio.CancelledError, TaskCancelled)):
        return End(CANCELLED, cancel_reason=ask.reason)
    return unasked(how, what)


def given_up(ask: Ask) -> End:
    """It was asked to stop, and its code went on past the grace."""
    if ask.kind == "timeout":
        return End(FAILED, "timeout", abandoned=True)
    return End(CANCELLED, cancel_reason=ask.reason, abandoned=True)


def qualified(error: BaseException) -> str:
    """Return an exception's name as records show it."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
