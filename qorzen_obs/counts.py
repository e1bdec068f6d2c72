"""The exact task counters: the one set of cells that `status()` and the metrics both read.

Only the work loop writes; any thread reads. It counts transitions, each by one number, so at no moment has a task
left one state without being in another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeVar

from qorzen_obs.tasks import LEGAL_TRANSITIONS, TaskCategory, TaskPriority, TaskStatus

K = TypeVar("K")

CATEGORIES: Final = tuple(TaskCategory)
PRIORITIES: Final = tuple(TaskPriority)
STATUSES: Final = tuple(TaskStatus)

#: What a cell counts: its position in CELLS is the index that a task keeps for its counters.
CELLS: Final = tuple((category, priority) for category in CATEGORIES for priority in PRIORITIES)
CELL_LABELS: Final = tuple((category.value, priority.label) for category, priority in CELLS)
CELL_OF: Final = {cell: index for index, cell in enumerate(CELLS)}
#: None, the first one, is the state before acceptance.
_MOVES: Final[tuple[tuple[TaskStatus | None, TaskStatus], ...]] = (
    (None, TaskStatus.PENDING),
    *((before, after) for before, all_after in LEGAL_TRANSITIONS.items() for after in sorted(all_after)),
)
_OFFSET: Final = {move: index * len(CELLS) for index, move in enumerate(_MOVES)}
#: The same, looked up by the state before and then the state after, which needs no tuple.
_OFFSET_AFTER: Final = {
    before: {after: offset for (its, after), offset in _OFFSET.items() if its is before}
    for before, _ in _MOVES
}


class CountsView(NamedTuple):
    """All counters at one moment."""

    by_cell: dict[tuple[TaskCategory, TaskPriority, TaskStatus], int]
    version: int = 0  #: number of transitions counted until then

    @property
    def total(self) -> int:
        """Tasks accepted since the start: the sum of all statuses."""
        return sum(self.by_cell.values())

    def by_status(self) -> dict[TaskStatus, int]:
        """Return the sums by status, every status named."""
        return _sums(STATUSES, ((status, n) for (_, _, status), n in self.by_cell.items()))

    def by_category(self, only: TaskStatus | None = None) -> dict[TaskCategory, int]:
        """Return the sums by category, every category named; of the tasks of one status where it is given."""
        cells = self.by_cell.items()
        return _sums(
            CATEGORIES, ((category, n) for (category, _, status), n in cells if only in (None, status))
        )

    def by_priority(self, only: TaskStatus | None = None) -> dict[TaskPriority, int]:
        """Return the sums by priority, every priority named; of the tasks of one status where it is given."""
        cells = self.by_cell.items()
        return _sums(
            PRIORITIES, ((priority, n) for (_, priority, status), n in cells if only in (None, status))
        )


class TaskCounts:
    """How many tasks are in each state: pending and running ones now, ended ones since the start."""

    __slots__ = ("_moves",)

    def __init__(self) -> None:
        self._moves = [0] * (len(CELLS) * len(_MOVES))

    @property
    def version(self) -> int:
        """Number of transitions counted so far, also part of each view of the counters; for the work loop."""
        return sum(self._moves)

    def accept(self, cell: int) -> None:
        """Count one more pending task."""
        self._moves[cell] += 1

    def move(self, cell: int, before: TaskStatus, after: TaskStatus) -> None:
        """Count one transition."""
        self._moves[_OFFSET_AFTER[before][after] + cell] += 1

    def live(self, status: TaskStatus) -> list[int]:
        """Return how many tasks of each cell are pending or running now; for no other status."""
        sums = [0] * len(CELLS)
        for (before, after), offset in _OFFSET.items():
            sign = (after is status) - (before is status)
            if sign:
                for cell in range(len(CELLS)):
                    sums[cell] += sign * self._moves[offset + cell]
        return sums

    def correct(self, cell: int, status: TaskStatus, by: int) -> None:
        """Correct a wrong count: add this number, which may be negative, to the accepted and now pending or running."""
        self._moves[cell] += by
        if status is not TaskStatus.PENDING:
            self._moves[_OFFSET[TaskStatus.PENDING, status] + cell] += by

    def get(self, status: TaskStatus) -> int:
        """Return how many tasks have this status; from any thread."""
        return self.read().by_status()[status]

    def read(self) -> CountsView:
        """Return all counters as they were at one moment; from any thread."""
        moves = list(self._moves)  # one step of the interpreter
        cells = {(category, priority, status): 0 for status in STATUSES for category, priority in CELLS}
        for (before, after), offset in _OFFSET.items():
            for (category, priority), n in zip(CELLS, moves[offset : offset + len(CELLS)], strict=True):
                if n:
                    cells[category, priority, after] += n
                    if before is not None:
                        cells[category, priority, before] -= n
        return CountsView(cells, sum(moves))


def _sums(keys: tuple[K, ...], pairs: Iterable[tuple[K, int]]) -> dict[K, int]:
    sums = dict.fromkeys(keys, 0)
    for key, n in pairs:
        sums[key] += n
    return sums
