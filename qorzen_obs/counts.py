"""The exact task counters: the one set of cells that `status()` and the metrics both read.

Only the work loop writes; any thread reads. A write marks itself by an odd version, so that a reader that met one
half done reads again: what it returns was true at one moment.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeVar

from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus

K = TypeVar("K")

CATEGORIES: Final = tuple(TaskCategory)
PRIORITIES: Final = tuple(TaskPriority)
STATUSES: Final = tuple(TaskStatus)

#: What a cell is for: the position in CELLS is the index that a task keeps for its counters.
CELLS: Final = tuple((category, priority) for category in CATEGORIES for priority in PRIORITIES)
CELL_OF: Final = {cell: index for index, cell in enumerate(CELLS)}
_STATUS_OFFSET: Final = {status: index * len(CELLS) for index, status in enumerate(STATUSES)}
_PENDING: Final = _STATUS_OFFSET[TaskStatus.PENDING]


class CountsView(NamedTuple):
    """All counters at one moment."""

    by_cell: dict[tuple[TaskCategory, TaskPriority, TaskStatus], int]
    version: int = 0  #: differs from one change to the next

    @property
    def total(self) -> int:
        """Tasks accepted since the start: the sum over all statuses."""
        return sum(self.by_cell.values())

    def by_status(self) -> dict[TaskStatus, int]:
        """Return the sums by status, every status named."""
        return _sums(STATUSES, ((status, n) for (_, _, status), n in self.by_cell.items()))

    def by_category(self) -> dict[TaskCategory, int]:
        """Return the sums by category, every category named."""
        return _sums(CATEGORIES, ((category, n) for (category, _, _), n in self.by_cell.items()))

    def by_priority(self) -> dict[TaskPriority, int]:
        """Return the sums by priority, every priority named."""
        return _sums(PRIORITIES, ((priority, n) for (_, priority, _), n in self.by_cell.items()))


class TaskCounts:
    """How many tasks are in each state: pending and running are now, the final ones since the start."""

    __slots__ = ("_cells", "version")

    def __init__(self) -> None:
        self._cells = [0] * (len(CELLS) * len(STATUSES))
        self.version = 0  #: rises by two with each count; odd while one is made

    def accept(self, cell: int) -> None:
        """Count one more pending task."""
        self.version += 1
        self._cells[_PENDING + cell] += 1
        self.version += 1

    def move(self, cell: int, before: TaskStatus, after: TaskStatus) -> None:
        """Count one transition."""
        cells = self._cells
        self.version += 1
        cells[_STATUS_OFFSET[before] + cell] -= 1
        cells[_STATUS_OFFSET[after] + cell] += 1
        self.version += 1

    def get(self, status: TaskStatus) -> int:
        """Return how many tasks have this status; for the work loop."""
        start = _STATUS_OFFSET[status]
        return sum(self._cells[start : start + len(CELLS)])

    def read(self) -> CountsView:
        """Return all counters as they were at one moment; from any thread."""
        while True:
            version = self.version
            cells = list(self._cells)
            if version == self.version and not version & 1:
                break
            time.sleep(0)  # the writer was interrupted within two assignments: let it go on
        values = iter(cells)
        return CountsView(
            {(category, priority, s): next(values) for s in STATUSES for category, priority in CELLS}, version
        )


def _sums(keys: tuple[K, ...], pairs: Iterable[tuple[K, int]]) -> dict[K, int]:
    sums = dict.fromkeys(keys, 0)
    for key, n in pairs:
        sums[key] += n
    return sums
