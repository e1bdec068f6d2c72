"""What the measurements have to show: figures with the value to reach and the one aimed at, and who judges them.

Pure: takes what was measured, returns rows.
"""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.script import Measured

#: What was measured, by name, in the order of the rounds.
Rounds = Mapping[str, Sequence[Measured]]


_value = operator.attrgetter("value")
_processor = operator.attrgetter("cpu")


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure made from one or two measurements of the same round. Which way is better, reach and aim say."""

    figure: str
    reach: float
    aim: float
    of: str
    to: str | None = None  #: what `of` is compared with
    by: Callable[[float, float], float] = operator.truediv
    unit: str = "x"
    middle: Callable[[Sequence[float]], float] = statistics.median  #: what of the rounds is judged

    def values(self, rounds: Rounds, what: Callable[[Measured], float | None] = _value) -> list[float]:
        """Return the figure of each round in which all of it was measured, by wall time or what is asked for."""
        ours = [what(one) for one in rounds.get(self.of, ())]
        if self.to is None:
            return [one for one in ours if one is not None]
        pairs = zip(ours, (what(one) for one in rounds.get(self.to, ())), strict=False)
        return [self.by(one, other) for one, other in pairs if one is not None and other is not None]

    def judge(self, value: float) -> str:
        """Return `aim`, `reach` or `missed`.

        >>> Goal("cost", 6, 4, "ours", "bare").judge(5.0), Goal("gain", 4, 6, "peer", "ours").judge(3.9)
        ('reach', 'missed')
        """
        at_least = self.aim > self.reach
        for word, bound in (("aim", self.aim), ("reach", self.reach)):
            if value >= bound if at_least else value <= bound:
                return word
        return "missed"

    def row(self, rounds: Rounds) -> tuple[str, ...]:
        """Return the cells of its row; a dash where nothing was measured."""
        head = (self.figure, f"{self.reach:g}{self.unit}", f"{self.aim:g}{self.unit}")
        if not (values := self.values(rounds)):
            return (*head, "-", "-", "-", "-")
        middle = self.middle(values)
        spread = f"{_shown(min(values))} to {_shown(max(values))}"
        processor = self.values(rounds, _processor)
        by_processor = f"{_shown(self.middle(processor))}{self.unit}" if processor else "-"
        return (*head, f"{_shown(middle)}{self.unit}", spread, by_processor, self.judge(middle))


GOALS: Final = (
    Goal("full observation / bare create_task", 6, 4, "full", "bare"),
    Goal("the straightforward implementation / full observation", 4, 6, "straightforward", "full"),
    Goal("taskiq + OpenTelemetry / full observation", 6, 10, "taskiq_opentelemetry", "full"),
    Goal("taskiq + Prometheus / full observation", 2, 3.5, "taskiq_prometheus", "full"),
    Goal("metrics only / bare create_task", 2, 1.5, "metrics", "bare"),
    Goal("sync no-op on a worker thread, full / run_in_executor bare", 1, 0.7, "threads", "executor"),
    Goal("drain of 1 million pending / of 10 thousand, per task", 1.4, 1.2, "drain_million", "drain"),
    Goal("scrape of 120 label sets with 3 histograms / plain client", 0.2, 0.05, "scrape", "scrape_client"),
    Goal("spans lost uncounted", 0, 0, "spans_lost", unit="", middle=max),
    Goal("loop lag p99 added at full load", 10, 2, "lag_watched", "lag_alone", operator.sub, " ms"),
)
GOAL_HEAD: Final = ("figure", "reach", "aim", "measured", "spread", "by processor time", "verdict")

COST_HEAD: Final = ("measurement", "median", "spread", "processor", "to bare", "what shows that it was done")


def cost_row(
    title: str, unit: str, measured: Sequence[Measured], bare: Sequence[Measured]
) -> tuple[str, ...]:
    """Return the cells of one measurement: its median, spread and processor time, and its ratio to bare asyncio."""
    values = [one.value for one in measured]
    processor = [one.cpu for one in measured if one.cpu is not None]
    ratios = [one.value / other.value for one, other in zip(measured, bare, strict=False)]
    facts = sorted({name for one in measured for name in one.facts})
    return (
        title,
        f"{_shown(statistics.median(values))} {unit}",
        f"{_shown(min(values))} to {_shown(max(values))}",
        f"{_shown(statistics.median(processor))} {unit}" if processor else "-",
        f"{_shown(statistics.median(ratios))}x" if ratios and unit == "µs" else "-",
        ", ".join(
            f"{name} {_shown(statistics.median([one.facts.get(name, 0.0) for one in measured]))}"
            for name in facts
        ),
    )


def in_markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that reads as well on a terminal.

    >>> print(in_markdown(("figure", "x"), [("cost", "5.2")]))
    | figure | x   |
    |--------|-----|
    | cost   | 5.2 |
    """
    table = [head, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


def _shown(value: float) -> str:
    if value == round(value) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
