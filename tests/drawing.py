"""Draws a dashboard as SVG from what Prometheus answers, where no Grafana can be run.

It follows what the committed JSON says of each panel: place, unit, decimals, legend, thresholds, stacking, colours,
columns and the word for no data. It is no Grafana: fonts, ticks and the palette are near it at best.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Any, Final

from tests.panels import Tree

Points = list[tuple[float, float]]  # time, value

COLUMN, ROW, GAP = 53.0, 38.0, 8.0
LEGEND: Final = 0.35  #: the largest share of a panel's height that its legend takes
BACK, PANEL, LINE, TEXT, FAINT = "#111217", "#181b1f", "#2c2f35", "#d5d6dd", "#8e929b"
COLOURS: Final = {
    "green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2", "yellow": "#fade2a",
    "light-blue": "#8ab8ff", "purple": "#b877d9", "transparent": "none",
}  # fmt: skip
PALETTE: Final = (
    "#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0",
    "#508642", "#cca300", "#447ebc", "#c15c17", "#b7dbab", "#f4d598", "#70dbed", "#f9ba8f",
    "#f29191", "#82b5d8", "#e5a8e2", "#aea2e0", "#629e51", "#e5ac0e", "#64b0c8", "#e0752d",
)  # fmt: skip
#: From which size on what stands behind a number, smallest first: the last that is not larger is taken.
UNITS: Final = {
    "s": ((1e-6, "µs"), (1e-3, "ms"), (1, "s"), (60, "mins"), (3600, "hours"), (86400, "days")),
    "bytes": ((1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB")),
    "short": ((1, ""), (1e3, "K"), (1e6, "Mil")),
    "ops": ((1, "ops/s"), (1e3, "K ops/s")),
    "reqps": ((1, "req/s"), (1e3, "K req/s")),
    "none": ((1, ""),),
}


@dataclass(frozen=True, slots=True)
class Series:
    """What Prometheus has of one set of labels; a present value is one point."""

    labels: Mapping[str, str]
    points: Points
    dots: Points = field(default_factory=list)  #: exemplars


@dataclass(frozen=True, slots=True)
class Shown:
    """The data of a dashboard in a span of time, in Unix seconds: the answers by panel id and query."""

    since: float
    until: float
    answers: Mapping[tuple[int, str], Sequence[Series]]
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)  #: of annotations, by colour


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """Return a number as Grafana writes it with a unit.

    >>> [written(0.0123, "s"), written(95, "s"), written(0.5, "percentunit"), written(1500, "short")]
    ['12.3 ms', '1.58 mins', '50%', '1.5 K']
    """
    if unit == "percentunit":
        return f"{_rounded(value * 100, decimals)}%"
    if unit == "dtdurations":
        return written(value, "s", 0 if value < 60 else 1)
    steps = UNITS[unit]
    size, name = next((step for step in reversed(steps) if abs(value or 1) >= step[0]), steps[0])
    text = f"{_rounded(value / size, decimals)} {name}".rstrip()
    return text.removesuffix("s") if text in ("1 mins", "1 hours", "1 days") else text


def _rounded(value: float, decimals: int | None) -> str:
    if decimals is None:
        decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if 0 < abs(value) < 1000 else 0
    text = f"{value:.{min(decimals, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def draw(dashboard: Tree, shown: Shown, *, rows: int | None = None) -> str:
    """Return the picture of a dashboard, or of its first `rows`."""
    headings = [number for number, panel in enumerate(dashboard["panels"]) if panel["type"] == "row"]
    end = None if rows is None else dict(enumerate(headings)).get(rows)
    panels = dashboard["panels"][:end]
    height = max(_box(panel)[1] + _box(panel)[3] for panel in panels) + GAP
    title = f'<text x="12" y="26" font-size="18" fill="{TEXT}">{escape(dashboard["title"])}</text>'
    parts = [_panel(panel, shown) for panel in panels]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{24 * COLUMN + GAP:g}" height="{height:.0f}" '
        f'font-family="Inter, Helvetica, Arial, sans-serif" font-size="11">\n'
        f'<rect width="100%" height="100%" fill="{BACK}"/>\n{title}\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _box(panel: Tree) -> tuple[float, float, float, float]:
    place = panel["gridPos"]
    return (
        place["x"] * COLUMN + GAP,
        place["y"] * ROW + 40,
        place["w"] * COLUMN - GAP,
        place["h"] * ROW - GAP,
    )


def _panel(panel: Tree, shown: Shown) -> str:
    x, y, width, height = _box(panel)
    at = f'<g transform="translate({x:g} {y:g})">'
    if panel["type"] == "row":
        return f"{at}{_text(0, 20, panel['title'], size=15)}</g>"
    answers = [(query, shown.answers.get((panel["id"], query["refId"]), ())) for query in panel["targets"]]
    frame = f'<rect width="{width:g}" height="{height:g}" rx="2" fill="{PANEL}" stroke="{LINE}"/>'
    title = _text(8, 18, panel["title"], size=12, weight=600)
    if not any(series.points for _, found in answers for series in found):
        said = _text(
            width / 2, height / 2 + 8, panel["fieldConfig"]["defaults"]["noValue"], FAINT, "middle", 13
        )
        return f"{at}{frame}{title}{said}</g>"
    inside = _KINDS[panel["type"]](panel, answers, shown, width, height)
    return f"{at}{frame}{inside}{title}</g>"


Answers = Sequence[tuple[Tree, Sequence[Series]]]


def _stat(panel: Tree, answers: Answers, shown: Shown, width: float, height: float) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    points = answers[0][1][0].points
    value = points[-1][1]
    colour = _threshold(defaults["thresholds"], value)
    filled = panel["options"]["colorMode"] == "background"
    parts = (
        [f'<rect width="{width:g}" height="{height:g}" rx="2" fill="{colour}" opacity="0.75"/>']
        if filled
        else []
    )
    if panel["options"]["graphMode"] == "area":
        low, high = min(0.0, *(v for _, v in points)), max(v for _, v in points) or 1.0
        plot = _Plot(shown, low, high * 1.6, (0, height * 0.45, width, height * 0.55))
        parts.append(plot.area(points, "#ffffff" if filled else colour, 0.25))
    text = written(value, defaults["unit"], defaults.get("decimals"))
    ink = "#ffffff" if filled else colour
    parts.append(_text(8, 18, panel["title"], TEXT, size=12, weight=600))
    parts.append(
        _text(width / 2, height / 2 + 16, text, ink, "middle", min(34, 1.4 * width / len(text)), 600)
    )
    return "".join(parts)


def _timeseries(panel: Tree, answers: Answers, shown: Shown, width: float, height: float) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    named = [(_legend(query, series.labels), series) for query, found in answers for series in found]
    legend, room = _legend_lines(panel, named, width, height)
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    drawn = _stack(named) if stacked else [(name, series, series.points, []) for name, series in named]
    values = [value for _, _, points, _ in drawn for _, value in points]
    values += [value for _, series, _, _ in drawn for _, value in series.dots]
    top = defaults.get("max") or _nice(max(values, default=1.0) * 1.05 or 1.0, defaults["unit"])
    plot = _Plot(shown, 0.0, top, (64, 30, width - 76, height - 54 - room))
    parts = [plot.axes(defaults["unit"])]
    for step in defaults.get("thresholds", {}).get("steps", ()):
        if "thresholdsStyle" in custom and step.get("value") and step["value"] <= top:
            parts.append(plot.level(step["value"], COLOURS[step["color"]]))  # noqa: PERF401 - shorter so
    for colour, times in shown.marks.items():
        parts += [plot.mark(time, COLOURS[colour]) for time in times]
    for name, series, points, below in reversed(drawn):
        colour = _colour(panel, name)
        parts.append(plot.area(points, colour, custom["fillOpacity"] / 100, below))
        parts.append(plot.line(points, colour))
        parts.append(plot.dots(series.dots, colour))
    return "".join(parts) + legend


def _stack(named: Sequence[tuple[str, Series]]) -> list[tuple[str, Series, Points, Points]]:
    """Return the series with the points of their upper and lower edges."""
    edge: dict[float, float] = {}
    drawn = []
    for name, series in named:
        below = [(time, edge.get(time, 0.0)) for time, _ in series.points]
        upper = [
            (time, under + value) for (time, value), (_, under) in zip(series.points, below, strict=True)
        ]
        edge.update(upper)
        drawn.append((name, series, upper, below))
    return drawn


def _heatmap(panel: Tree, answers: Answers, shown: Shown, width: float, height: float) -> str:
    by_bound = sorted((float(series.labels["le"]), series.points) for series in answers[0][1])
    plot = _Plot(shown, 0.0, float(len(by_bound)), (64, 30, width - 76, height - 54))
    cells = []
    before: dict[float, float] = {}
    for number, (_, points) in enumerate(by_bound):
        cells += [(time, number, value - before.get(time, 0.0)) for time, value in points]
        before = dict(points)
    most = max((count for _, _, count in cells), default=0.0) or 1.0
    steps = sorted({time for time, _, _ in cells})
    wide = min((b - a for a, b in pairwise(steps)), default=15.0)
    unit = panel["options"]["yAxis"]["unit"]
    ticks = [
        (n, written(bound, unit) if bound < math.inf else "+Inf") for n, (bound, _) in enumerate(by_bound, 1)
    ]
    parts = [plot.axes(unit, ticks[:: max(1, len(ticks) // 8)])]
    parts += [plot.cell(t, n, wide, (count / most) ** 0.5) for t, n, count in cells if count > most / 1e4]
    return "".join(parts)


def _table(panel: Tree, answers: Answers, shown: Shown, width: float, height: float) -> str:
    options = panel["transformations"][-1]["options"]
    order = sorted(options["indexByName"], key=options["indexByName"].get)
    rows: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for query, found in answers:
        value = "Value" if len(answers) == 1 else f"Value #{query['refId']}"
        for series in found:
            row = rows.setdefault(tuple(sorted(series.labels.items())), dict(series.labels))
            row[value] = series.points[-1][1]
    defaults = panel["fieldConfig"]["defaults"]
    steps, widths = _overrides(panel, "thresholds"), _overrides(panel, "custom.width")
    rest = (width - 16 - sum(widths.values())) / max(1, len(order) - len(widths))
    parts, left = [], 8.0
    for column in order:
        title = options["renameByName"][column]
        wide = widths.get(title, rest)
        parts.append(_text(left, 42, _cut(title, wide), COLOURS["blue"]))
        for line, row in enumerate(list(rows.values())[: int((height - 60) / 22)]):
            value, colour = row.get(column, ""), TEXT
            if isinstance(value, float):
                colour = _threshold(steps[title], value) if title in steps else TEXT
                value = written(value, defaults["unit"])
            parts.append(_text(left, 64 + line * 22, _cut(value, wide), colour))
        left += wide
    return "".join(parts)


def _overrides(panel: Tree, name: str) -> dict[str, Any]:
    """Return the values of a property that is overridden, by the name of the column or series."""
    return {
        override["matcher"]["options"]: one["value"]
        for override in panel["fieldConfig"].get("overrides", ())
        for one in override["properties"]
        if one["id"] == name
    }


def _cut(text: str, wide: float) -> str:
    return text if len(text) * 6.6 <= wide else text[: int(wide / 6.6) - 1] + "…"


_KINDS: Final = {"stat": _stat, "timeseries": _timeseries, "heatmap": _heatmap, "table": _table}


@dataclass(frozen=True, slots=True)
class _Plot:
    """Where a time and a value are in a box of x, y, width and height."""

    shown: Shown
    low: float
    high: float
    box: tuple[float, float, float, float]

    def x(self, time: float) -> float:
        share = (time - self.shown.since) / (self.shown.until - self.shown.since)
        return round(self.box[0] + share * self.box[2])

    def y(self, value: float) -> float:
        share = (min(value, self.high) - self.low) / (self.high - self.low)
        return round(self.box[1] + (1 - share) * self.box[3], 1)

    def line(self, points: Points, colour: str) -> str:
        parts = "".join(f"M{_joined(run, self)}" for run in self.runs(points))
        return f'<path d="{parts}" fill="none" stroke="{colour}"/>'

    def area(self, points: Points, colour: str, opacity: float, below: Points | None = None) -> str:
        under = dict(below or ())
        parts = []
        for run in self.runs(points):
            edge = [(time, under.get(time, self.low)) for time, _ in reversed(run)]
            parts.append(f"M{_joined([*run, *edge], self)}Z")
        return f'<path d="{"".join(parts)}" fill="{colour}" opacity="{opacity:g}"/>'

    def runs(self, points: Points) -> list[Points]:
        """Return the points between the holes: nothing is drawn where there is nothing."""
        step = min((b[0] - a[0] for a, b in pairwise(points)), default=0.0)
        runs: list[Points] = []
        for point in points:
            if runs and point[0] - runs[-1][-1][0] <= step * 1.5:
                runs[-1].append(point)
            else:
                runs.append([point])
        return runs

    def axes(self, unit: str, ticks: Iterable[tuple[float, str]] | None = None) -> str:
        if ticks is None:
            ticks = [(self.high * n / 4, written(self.high * n / 4, unit)) for n in range(5)]
        x, y, width, height = self.box
        parts = [
            f'<path d="M{x} {self.y(value)}h{width:g}" stroke="{LINE}"/>'
            + _text(x - 6, self.y(value) + 4, text, FAINT, "end", 10)
            for value, text in ticks
        ]
        for share in (0.0, 0.5, 1.0):
            seconds = round((1 - share) * (self.shown.until - self.shown.since))
            text = f"-{seconds // 60}:{seconds % 60:02}" if seconds else "now"
            anchor = {0.0: "start", 1.0: "end"}.get(share, "middle")
            parts.append(_text(x + share * width, y + height + 14, text, FAINT, anchor, 10))
        return "".join(parts)

    def level(self, value: float, colour: str) -> str:
        path = f"M{self.box[0]} {self.y(value)}h{self.box[2]:g}"
        return f'<path d="{path}" stroke="{colour}" stroke-dasharray="6 4"/>'

    def mark(self, time: float, colour: str) -> str:
        path = f"M{self.x(time)} {self.box[1]}v{self.box[3]:g}"
        return f'<path d="{path}" stroke="{colour}" stroke-dasharray="2 2"/>'

    def dots(self, points: Points, colour: str) -> str:
        path = "".join(f"M{self.x(time) - 2:g} {self.y(value):g}h4" for time, value in points)
        return f'<path d="{path}" stroke="{colour}" stroke-width="4"/>' if path else ""

    def cell(self, time: float, number: int, wide: float, share: float) -> str:
        left, top = self.x(time - wide), self.y(number + 1)
        size = f'width="{self.x(time) - left:.1f}" height="{self.y(number) - top:.1f}"'
        return f'<rect x="{left}" y="{top}" {size} fill="#fd8d3c" opacity="{0.15 + 0.85 * share:.2f}"/>'


def _joined(points: Points, plot: _Plot) -> str:
    return "L".join(f"{plot.x(time):g} {plot.y(value):g}" for time, value in points)


def _legend(query: Tree, labels: Mapping[str, str]) -> str:
    text = query.get("legendFormat") or ", ".join(labels.values()) or query["expr"]
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), text)


def _legend_lines(
    panel: Tree, named: Sequence[tuple[str, Series]], width: float, height: float
) -> tuple[str, float]:
    """Return the legend below a plot, and the room that it takes; a table has a line for each series.

    It takes no more than Grafana gives it, which scrolls the rest.
    """
    options, unit = panel["options"]["legend"], panel["fieldConfig"]["defaults"]["unit"]
    x, lines, parts = 10.0, 1, []
    for name, series in named:
        values = [value for _, value in series.points]
        calculated = {"mean": sum(values) / len(values), "max": max(values)}
        text = name + "".join(f"   {calc} {written(calculated[calc], unit)}" for calc in options["calcs"])
        wide = 24 + 6.4 * len(text)
        if x > 10 and (x + wide > width or options["displayMode"] == "table"):
            x, lines = 10.0, lines + 1
        parts.append((x, lines, text, _colour(panel, name)))
        x += wide
    lines = min(lines, int(height * LEGEND / 16))
    base = height - 8 - lines * 16
    drawn = [
        f'<rect x="{x:g}" y="{base + line * 16 - 5:g}" width="10" height="3" fill="{colour}"/>'
        + _text(x + 14, base + line * 16, text)
        for x, line, text, colour in parts
        if line <= lines
    ]
    return "".join(drawn), lines * 16.0


def _colour(panel: Tree, name: str) -> str:
    if (fixed := _overrides(panel, "color").get(name)) is not None:
        colour: str = fixed["fixedColor"]
        return COLOURS.get(colour, colour)
    return PALETTE[zlib.crc32(name.encode()) % len(PALETTE)]


def _threshold(thresholds: Tree, value: float) -> str:
    steps = thresholds["steps"]
    reached = [step for step in steps if step.get("value") is None or value >= step["value"]]
    return COLOURS[reached[-1]["color"]]


def _nice(value: float, unit: str) -> float:
    """Return a round number that is not below it."""
    size: float = 10 ** math.floor(math.log10(value))
    if unit == "bytes":
        size = 2 ** (math.floor(math.log2(value) / 10) * 10)
        size *= 10 ** math.floor(math.log10(value / size))
    return next(
        size * step for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if size * step >= value * 0.999
    )


def _text(
    x: float,
    y: float,
    text: object,
    colour: str = TEXT,
    anchor: str = "start",
    size: float = 11,
    weight: int = 400,
) -> str:
    style = f'font-size="{size:.3g}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" {style}>{escape(str(text))}</text>'
