"""How values look on a terminal.

Whatever comes from a service is shown and does nothing: no escape sequence gets through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final

_SHORT_ID: Final = 8


def printable(text: str) -> str:
    """Return one line in which every character can be seen; what cannot, such as a line break, is an escape.

    >>> printable("done\\x1b[2K\\nforged\\u202e")
    'done\\\\u001b[2K\\\\u000aforged\\\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)


def short_id(task_id: str) -> str:
    """Return the beginning of an id, for where a name says the rest."""
    return printable(task_id[:_SHORT_ID])


def seconds(value: float | None) -> str:
    """Return a duration in three digits or so.

    >>> [seconds(value) for value in (0, 0.00025, 0.0312, 2.5, 59.97, 200, 90061)]
    ['0 ms', '250 µs', '31.2 ms', '2.50 s', '60.0 s', '3m20s', '1d01h']
    """
    if value is None or not math.isfinite(value):
        return "-"
    if value <= 0:
        return "0 ms"
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{_three_digits(value * 1000)} ms"
    if value < 99.95:
        return f"{_three_digits(value)} s"
    whole = round(value)
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller:02}{small_unit}"
    raise AssertionError("more than a minute")


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def moment(value: datetime | None) -> str:
    """Return a time of the day here, with the date."""
    return "-" if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def clock(value: datetime) -> str:
    """Return a time of the day here."""
    return value.astimezone().strftime("%H:%M:%S")


def number(value: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{value:,.0f}"


def rate(per_second: float) -> str:
    """Return how many a second.

    >>> rate(0.25), rate(83.4)
    ('0.2/s', '83/s')
    """
    return f"{per_second:.1f}/s" if per_second < 9.95 else f"{number(per_second)}/s"


def share(value: float) -> str:
    """Return a share of 1 as a percentage.

    >>> share(0.424), share(1.2)
    ('42%', '100%')
    """
    return f"{100 * min(max(value, 0.0), 1.0):.0f}%"


def shares(values: Sequence[float]) -> list[str]:
    """Return the share of each of these in their sum, as percentages that add up to 100.

    Each is rounded down, and what is missing goes to those that lost most by it (the largest remainder method).

    >>> shares([1, 1, 1]), shares([0.0])
    (['34%', '33%', '33%'], ['0%'])
    """
    total = math.fsum(values)
    exact = [100 * value / total if total > 0 else 0.0 for value in values]
    whole = [math.floor(value) for value in exact]
    missing = round(math.fsum(exact)) - sum(whole)
    by_loss = sorted(range(len(exact)), key=lambda index: whole[index] - exact[index])
    for index in by_loss[:missing]:
        whole[index] += 1
    return [f"{value}%" for value in whole]


def progress(percent: float) -> str:
    """Return how far something is; it says 100% at the end and not before.

    >>> progress(99.97), progress(100)
    ('99%', '100%')
    """
    return f"{math.floor(percent)}%"
