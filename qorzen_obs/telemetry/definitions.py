"""Task metrics by definition: how many tasks ended and how long they ran, under a bounded number of names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from qorzen_obs.tasks import TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.cells import OTHER, HistogramCell
from qorzen_obs.telemetry.names import MetricName

MakeCell = Callable[[MetricName, tuple[str, ...]], HistogramCell]

FINAL: Final = tuple(status for status in TaskStatus if status.final)


class DefinitionReading(NamedTuple):
    """What was counted of the tasks of one name until now."""

    ended: Mapping[TaskStatus, int]
    bounds: tuple[float, ...]  #: upper ends of the buckets, seconds
    by_bucket: Sequence[int]  #: runs, the last bucket without a bound
    seconds: float  #: the sum of all runs

    @property
    def total(self) -> int:
        """How many tasks have ended."""
        return sum(self.ended.values())


class DefinitionCell:
    """The counts for the tasks of one name."""

    __slots__ = ("ended", "name", "run_duration")

    def __init__(self, name: str, run_duration: HistogramCell) -> None:
        self.name = name
        self.ended = dict.fromkeys(FINAL, 0)
        self.run_duration = run_duration


class DefinitionCells:
    """The cells of the first `cap` names, and one for all others. One thread writes; any thread reads.

    Args:
        make_cell: creates a histogram for a metric and its labels.
    """

    __slots__ = ("_make_cell", "_run_duration", "cap", "cells", "folded")

    def __init__(self, cap: int, buckets: tuple[float, ...], make_cell: MakeCell = HistogramCell) -> None:
        self.cap = cap  #: of names
        self._make_cell = make_cell
        self._run_duration = names.DEFINITION_RUN_DURATION.with_buckets(buckets)
        self.cells: dict[str, DefinitionCell] = {}  #: by name
        self.folded = 0  #: tasks that were not counted under their own name

    def _make(self, name: str) -> DefinitionCell:
        return DefinitionCell(name, self._make_cell(self._run_duration, (name,)))

    def know(self, name: str) -> None:
        """Start the series of a name at 0, if there is room for it."""
        if len(self.cells) < self.cap:
            self.cells.setdefault(name, self._make(name))

    def read(self) -> dict[str, DefinitionReading]:
        """Return what was counted until now, by name; from any thread."""
        return {
            cell.name: DefinitionReading(
                dict(cell.ended),
                cell.run_duration.bounds,
                cell.run_duration.by_bucket,
                cell.run_duration.sums[0],
            )
            for cell in list(self.cells.values())
        }

    def of(self, name: str) -> DefinitionCell:
        """Return the cells for one more task of this name."""
        cell = self.cells.get(name)
        if cell is None:
            if len(self.cells) >= self.cap:
                self.folded += 1
                name = OTHER
            cell = self.cells.setdefault(name, self._make(name))
        return cell
