"""Checks of what a task is submitted or defined with. Each returns the value in its final form, or says what to do."""

from __future__ import annotations

import math
import sys
from typing import Final

from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.tasks import TaskCategory, TaskPriority

MAX_NAME_LENGTH: Final = 200


def check_name(argument: str, value: object) -> str:
    """Return `value` when it may name a task or a plugin: 1 to 200 printable characters."""
    if not isinstance(value, str):
        raise InvalidTaskError(argument, f"{value!r} is not a string")
    if not 0 < len(value) <= MAX_NAME_LENGTH or not value.isprintable():
        shown = value if len(value) <= 40 else value[:40] + "…"
        raise InvalidTaskError(argument, f"{shown!r} must have 1 to {MAX_NAME_LENGTH} printable characters")
    return value


def check_timeout(value: object, argument: str = "timeout") -> float | None:
    """Return `value` when it is None, or positive seconds (math.inf is no limit)."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        problem = f"{value!r} must be a positive number of seconds, or math.inf for no limit"
        raise InvalidTaskError(argument, problem)
    return math.inf if value > sys.float_info.max else float(value)


def parse_category(value: TaskCategory | str) -> TaskCategory:
    """Return the category, given as itself or by its value."""
    try:
        return TaskCategory(value)
    except ValueError:
        known = ", ".join(category.value for category in TaskCategory)
        raise InvalidTaskError("category", f"{value!r} is unknown; use one of {known}") from None


def parse_priority(value: TaskPriority | str | int) -> TaskPriority:
    """Return the priority, given as itself, by number or by name."""
    if isinstance(value, str):
        found = _PRIORITY_BY_LABEL.get(value.lower())
        if found is not None:
            return found
    elif not isinstance(value, bool):
        try:
            return TaskPriority(value)
        except ValueError:
            pass
    known = ", ".join(f"{priority.label} ({priority.value})" for priority in TaskPriority)
    raise InvalidTaskError("priority", f"{value!r} is unknown; use one of {known}") from None


_PRIORITY_BY_LABEL: Final = {
    text: priority for priority in TaskPriority for text in (priority.label, str(priority.value))
}
