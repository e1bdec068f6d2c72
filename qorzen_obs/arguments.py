"""Checks the arguments of submissions and definitions. Each returns the final value, or raises and says what to do."""

from __future__ import annotations

import math
import sys
from typing import Final

from qorzen_obs import foreign
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.tasks import TaskCategory, TaskPriority

MAX_NAME_LENGTH: Final = 200
#: The options of `submit_task`, which are passed among the keyword arguments of the callable.
SUBMIT_OPTIONS: Final = frozenset(
    {"name", "category", "plugin_id", "priority", "metadata", "timeout", "cancellable"}
)


def check_name(argument: str, value: object) -> str:
    """Return `value` when it may name a task or a plugin: 1 to 200 printable characters."""
    if not foreign.is_a(value, str):
        raise InvalidTaskError(argument, f"{foreign.shown(value)} is not a string")
    value = foreign.text(value)
    if not 0 < len(value) <= MAX_NAME_LENGTH or not value.isprintable():
        shown = value if len(value) <= 40 else value[:40] + "…"
        raise InvalidTaskError(argument, f"{shown!r} must have 1 to {MAX_NAME_LENGTH} printable characters")
    return value


def as_name(text: str) -> str:
    """Return a callable's own name, made usable as the name of a task.

    >>> as_name("report\\x1b[2K\\u202e")
    'report\\\\x1b[2K\\\\u202e'
    """
    if not text.isprintable():
        text = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode()
            for character in text
        )
    return text[:MAX_NAME_LENGTH]


def check_timeout(value: object, argument: str = "timeout") -> float | None:
    """Return `value` when it is None, or positive seconds (math.inf means no limit)."""
    if value is None:
        return None
    seconds = foreign.number(value)
    if seconds is None or not seconds > 0:
        problem = f"{foreign.shown(value)} must be a positive number of seconds, or math.inf for no limit"
        raise InvalidTaskError(argument, problem)
    return math.inf if seconds > sys.float_info.max else float(seconds)


def parse_category(value: TaskCategory | str) -> TaskCategory:
    """Return the category, given as a member or by its value."""
    found = _CATEGORY_BY_VALUE.get(foreign.plain(value)) if foreign.is_a(value, str) else None
    if found is None:
        known = ", ".join(_CATEGORY_BY_VALUE)
        raise InvalidTaskError("category", f"{foreign.shown(value)} is unknown; use one of {known}")
    return found


def parse_priority(value: TaskPriority | str | int) -> TaskPriority:
    """Return the priority, given as a member, by number or by name."""
    if foreign.is_a(value, str):
        found = _PRIORITY_BY_LABEL.get(foreign.plain(value).lower())
    else:
        found = _PRIORITY_BY_VALUE.get(foreign.number(value))
    if found is None:
        known = ", ".join(f"{priority.label} ({priority.value})" for priority in TaskPriority)
        raise InvalidTaskError("priority", f"{foreign.shown(value)} is unknown; use one of {known}")
    return found


_CATEGORY_BY_VALUE: Final = {category.value: category for category in TaskCategory}
_PRIORITY_BY_VALUE: Final[dict[object, TaskPriority]] = {
    priority.value: priority for priority in TaskPriority
}
_PRIORITY_BY_LABEL: Final = {
    text: priority for priority in TaskPriority for text in (priority.label, str(priority.value))
}
