"""The objectives of the categories as PromQL over the base metrics, so that the dashboards need no recording rules.

A burn of 1 uses up exactly what an objective allows. What is left is 1 less the burn: of what is allowed in the shown
time, not of the budget of the whole period.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from dashboards.objectives import OBJECTIVES, bounds
from dashboards.promql import in_range, share, total
from qorzen_obs.telemetry.names import (
    CANCELLED_WAIT,
    NEVER_STARTED,
    QUEUE_WAIT,
    TASKS_FINISHED,
    MetricName,
)

_DONE: Final = "~completed|failed"


class Count(Protocol):
    """`in_range` of the shown time, or `per_second` of now."""

    def __call__(
        self, metric: MetricName, /, *by: str, part: str = "", wide: bool = False, **matchers: str
    ) -> str: ...


def completed() -> str:
    """Return, by category, the share of tasks that completed, of those that completed or failed."""
    done = in_range(TASKS_FINISHED, "category", status=_DONE)
    return share(in_range(TASKS_FINISHED, "category", status="completed"), done)


def started() -> str:
    """Return, by category, the share of starts that came no later than its objective says."""
    return f"1 - {_late(in_range)}"


def completion_burn(count: Count) -> str:
    """Return, by category, how fast failures use up what may fail."""
    allowed = _constants((each.category.value, 1 - each.completed) for each in OBJECTIVES)
    return f"{failed(count)} / on (category) ({allowed})"


def start_burn(count: Count) -> str:
    """Return, by category, how fast late starts use up what may start late."""
    allowed = _constants((each.category.value, 1 - each.started) for each in OBJECTIVES)
    return f"{_late(count)} / on (category) ({allowed})"


def left(burn: str) -> str:
    """Return what a burn leaves of what is allowed; below 0 more was used than that."""
    return f"1 - {burn}"


def failed(count: Count) -> str:
    """Return, by category, the share of tasks that failed, of those that completed or failed."""
    return share(
        count(TASKS_FINISHED, "category", status="failed"), count(TASKS_FINISHED, "category", status=_DONE)
    )


def _late(count: Count) -> str:
    """Return, by category, the share of starts that came too late, or not before the task's deadline."""
    due = total(
        ["category"],
        count(QUEUE_WAIT, "category", part="count"),
        count(NEVER_STARTED, "category", status="failed"),
        f"-{count(CANCELLED_WAIT, 'category', part='count')}",
    )
    in_time = total(["category"], _in_time(count, QUEUE_WAIT), f"-{_in_time(count, CANCELLED_WAIT)}")
    return f"(1 - {share(in_time, due)})"


def _in_time(count: Count, metric: MetricName) -> str:
    counts = (
        count(metric, "category", part="bucket", category=categories, le=bound)
        for bound, categories in bounds()
    )
    return f"({' or '.join(counts)})"


def _constants(values: Iterable[tuple[str, float]]) -> str:
    """Return a vector of a number for each category."""
    return " or ".join(
        f'label_replace(vector({round(value, 9):g}), "category", "{category}", "", "")'
        for category, value in values
    )
