"""What is promised of each category: how many of its tasks complete, and how many start in time.

The one definition behind the recording rules, the alerts and the panels. Cancelled tasks count for neither side:
somebody asked for their end. A task that passes its deadline before its first attempt has started too late.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from qorzen_obs.tasks import TaskCategory
from qorzen_obs.telemetry.names import QUEUE_WAIT

#: What an objective is promised over, and what its error budget has to last for.
PERIOD_DAYS: Final = 30
#: So many times faster than allowed burns 2 % of that budget in an hour: https://sre.google/workbook/
FASTEST_BURN: Final = 14.4


@dataclass(frozen=True, slots=True)
class Objective:
    """What a category promises. Each share is of PERIOD_DAYS; a wait is a bound of QUEUE_WAIT's buckets."""

    category: TaskCategory
    completed: float  #: share of the tasks that ended and were not cancelled
    started: float  #: share of the starts, those of retries among them, that came within `wait_seconds`
    wait_seconds: float

    def __post_init__(self) -> None:
        if self.wait_seconds not in QUEUE_WAIT.buckets:
            raise ValueError(
                f"{self.category.value}: {QUEUE_WAIT.name} has no bucket of {self.wait_seconds:g} s"
            )
        for share in (self.completed, self.started):
            if not 0 < (1 - share) * FASTEST_BURN < 1:
                raise ValueError(
                    f"{self.category.value}: no failure could burn the budget of {share} fast enough"
                )


#: A task of `ui` is somebody's click, one of `background` can wait: change them to what your users were promised.
OBJECTIVES: Final = (
    Objective(TaskCategory.CORE, completed=0.999, started=0.99, wait_seconds=1),
    Objective(TaskCategory.PLUGIN, completed=0.99, started=0.99, wait_seconds=5),
    Objective(TaskCategory.UI, completed=0.999, started=0.99, wait_seconds=0.1),
    Objective(TaskCategory.IO, completed=0.99, started=0.99, wait_seconds=5),
    Objective(TaskCategory.BACKGROUND, completed=0.95, started=0.95, wait_seconds=300),
    Objective(TaskCategory.USER, completed=0.99, started=0.99, wait_seconds=1),
)


def bounds() -> Iterator[tuple[str, str]]:
    """Yield each bound of a wait as the label `le` has it, with a matcher of the categories that promise it."""
    for seconds in sorted({each.wait_seconds for each in OBJECTIVES}):
        categories = "|".join(each.category.value for each in OBJECTIVES if each.wait_seconds == seconds)
        # prometheus_client writes each bound as a float, and Prometheus 3 makes floats of what others write.
        yield str(float(seconds)), f"~{categories}"
