"""Task metrics by definition: how many tasks ended and how long they ran, under a bounded number of names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qorzen_obs.tasks import TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.cells import OTHER, HistogramCell
from qorzen_obs.telemetry.names import MetricName

MakeCell = Callable[[MetricName, tuple[str, ...]], HistogramCell]

FINAL: Final = tuple(status for status in TaskStatus if status.final)


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

    __slots__ = ("_cap", "_make_cell", "_run_duration", "cells", "folded")

    def __init__(self, cap: int, buckets: tuple[float, ...], make_cell: MakeCell = HistogramCell) -> None:
        self._cap = cap
        self._make_cell = make_cell
        self._run_duration = names.DEFINITION_RUN_DURATION.with_buckets(buckets)
        self.cells: dict[str, DefinitionCell] = {}  #: by name
        self.folded = 0  #: tasks that were not counted under their own name

    def _make(self, name: str) -> DefinitionCell:
        return DefinitionCell(name, self._make_cell(self._run_duration, (name,)))

    def know(self, name: str) -> None:
        """Start the series of a name at 0, if there is room for it."""
        if len(self.cells) < self._cap:
            self.cells.setdefault(name, self._make(name))

    def of(self, name: str) -> DefinitionCell:
        """Return the cells for one more task of this name."""
        cell = self.cells.get(name)
        if cell is None:
            if len(self.cells) >= self._cap:
                self.folded += 1
                name = OTHER
            cell = self.cells.setdefault(name, self._make(name))
        return cell
