"""The drawings of dashboards follow what the panels say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dashboards.catalogue import FOLDER
from tests.drawing import Series, Shown, draw, written
from tests.panels import Tree, load
from tests.pictures import README

TIMES = (0.0, 10.0, 20.0)


def panel(kind: str, *queries: dict[str, Any], **changes: Any) -> Tree:
    defaults = {
        "unit": "s",
        "noValue": "Nothing here",
        "custom": {"fillOpacity": 8},
        "thresholds": {"steps": [{"value": None, "color": "green"}, {"value": 5, "color": "red"}]},
        **changes.pop("defaults", {}),
    }
    options = {
        "colorMode": "background",
        "graphMode": "none",
        "legend": {"calcs": [], "displayMode": "list"},
        **changes.pop("options", {}),
    }
    return {
        "id": 1,
        "type": kind,
        "title": "A title",
        "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8},
        "targets": [
            {"refId": "A", **query} for query in queries or [{"legendFormat": "{{name}}", "expr": "x"}]
        ],
        "fieldConfig": {"defaults": defaults, "overrides": changes.pop("overrides", [])},
        "options": options,
        **changes,
    }


def series(name: str, *values: float) -> Series:
    return Series({"name": name}, list(zip(TIMES, map(float, values), strict=False)))


def picture(drawn: Tree, *found: Series, marks: dict[str, list[float]] | None = None) -> str:
    shown = Shown(TIMES[0], TIMES[-1], {(1, "A"): found}, marks or {})
    return draw({"title": "All", "panels": [drawn]}, shown)


def heights(drawn: str, colour: str) -> list[float]:
    """Return the y of the points of a line."""
    (path,) = re.findall(rf'<path d="([^"]*)" fill="none" stroke="{colour}"/>', drawn)
    return [float(point.split()[1]) for point in re.split("[ML]", path)[1:]]


def fixed(name: str, colour: str) -> dict[str, Any]:
    value = {"mode": "fixed", "fixedColor": colour}
    return {"matcher": {"options": name}, "properties": [{"id": "color", "value": value}]}


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (0.0, "s", None, "0 s"),
        (0.00042, "s", None, "420 µs"),
        (0.0123, "s", None, "12.3 ms"),
        (60, "s", None, "1 min"),
        (5400, "s", None, "1.5 hours"),
        (-19.21, "percentunit", 0, "-1921%"),
        (0.005, "percentunit", 0, "0%"),
        (1500, "short", None, "1.5 K"),
        (4792.3, "none", 0, "4792"),
        (3 * 2**20, "bytes", None, "3 MiB"),
        (66.34, "ops", None, "66.3 ops/s"),
    ],
)
def test_a_number_is_written_with_its_unit(value: float, unit: str, decimals: int | None, text: str) -> None:
    assert written(value, unit, decimals) == text


def test_a_panel_without_data_says_so() -> None:
    assert "Nothing here" in picture(panel("timeseries"))
    assert "Nothing here" not in picture(panel("timeseries"), series("a", 1, 2, 3))


def test_a_stat_has_the_colour_of_the_threshold_that_it_has_reached() -> None:
    assert "#73bf69" in picture(panel("stat"), series("a", 4.9))
    reached = picture(panel("stat"), series("a", 5))
    assert "#f2495c" in reached
    assert ">5 s<" in reached


def test_stacked_series_lie_on_each_other() -> None:
    colours = [fixed("a", "#aa0000"), fixed("b", "#00bb00")]
    stacking = {"custom": {"fillOpacity": 60, "stacking": {"mode": "normal"}}, "max": 4}
    found = (series("a", 1, 1, 1), series("b", 1, 2, 1))
    stacked = picture(panel("timeseries", overrides=colours, defaults=stacking), *found)
    free = picture(panel("timeseries", overrides=colours, defaults={"max": 4}), *found)
    assert heights(stacked, "#aa0000") == heights(free, "#aa0000")
    bottom, top = heights(stacked, "#aa0000"), heights(stacked, "#00bb00")
    assert top[1] < top[0] == top[2] < bottom[0]
    assert heights(free, "#00bb00")[0] == bottom[0]


def test_nothing_is_drawn_where_there_is_nothing() -> None:
    hole = Series({"name": "a"}, [(0, 1), (1, 1), (5, 1), (6, 1)])
    drawn = picture(panel("timeseries", overrides=[fixed("a", "#aa0000")]), hole)
    (path,) = re.findall('<path d="([^"]*)" fill="none" stroke="#aa0000"/>', drawn)
    assert path.count("M") == 2


def test_limits_and_marks_are_dashed_lines() -> None:
    dashed = {"custom": {"fillOpacity": 8, "thresholdsStyle": {"mode": "dashed"}}}
    drawn = picture(panel("timeseries", defaults=dashed), series("a", 1, 9), marks={"purple": [10.0]})
    assert re.findall('stroke="(#[0-9a-f]+)" stroke-dasharray', drawn) == ["#f2495c", "#b877d9"]
    plain = picture(panel("timeseries"), series("a", 1, 9))
    assert "stroke-dasharray" not in plain


def test_a_legend_names_the_series_and_what_is_calculated_of_them() -> None:
    legend = {"legend": {"calcs": ["mean", "max"], "displayMode": "table"}}
    drawn = picture(panel("timeseries", options=legend), series("slow", 1, 2, 6))
    assert re.search(r">slow +mean 3 s +max 6 s<", drawn)


def test_a_long_legend_leaves_the_plot_most_of_the_panel() -> None:
    legend = {"legend": {"calcs": ["max"], "displayMode": "table"}}
    drawn = picture(
        panel("timeseries", options=legend), *(series(f"s{number}", 1, 9) for number in range(20))
    )
    named = re.findall(r'y="([0-9.]+)"[^>]*>(s\d+) ', drawn)
    assert [name for _, name in named] == [f"s{number}" for number in range(6)]
    lowest = max(height for path in re.findall(r'<path d="M64 ([0-9.]+)h', drawn) for height in [float(path)])
    assert lowest < float(named[0][0])


def test_a_heatmap_shows_what_each_bucket_has_alone() -> None:
    buckets = [
        Series({"le": bound}, [(0, value), (10, value)])
        for bound, value in (("0.1", 1), ("1", 5), ("+Inf", 5))
    ]
    drawn = picture(panel("heatmap", options={"yAxis": {"unit": "s"}}), *buckets)
    assert re.findall('fill="#fd8d3c" opacity="([0-9.]+)"', drawn) == ["0.57", "0.57", "1.00", "1.00"]


def test_a_table_has_the_columns_in_order_and_cuts_what_does_not_fit() -> None:
    organize = {
        "options": {"indexByName": {"Value": 1, "name": 0}, "renameByName": {"name": "Who", "Value": "Much"}}
    }
    narrow = {"matcher": {"options": "Who"}, "properties": [{"id": "custom.width", "value": 60}]}
    drawn = picture(
        panel("table", transformations=[organize], overrides=[narrow]), series("a-very-long-name", 2)
    )
    texts = re.findall(r">([^<>\n]+)</text>", drawn)
    assert texts[1:5] == ["Who", "a-very-l…", "Much", "2 s"]


def test_the_first_rows_of_a_dashboard_can_be_drawn_alone() -> None:
    place = {"x": 0, "w": 24, "h": 1}
    panels = [
        {**panel("row"), "title": title, "gridPos": {**place, "y": y}}
        for y, title in enumerate(["one", "two", "three"])
    ]
    shown = Shown(0, 1, {})
    drawn = [draw({"title": "All", "panels": panels}, shown, rows=rows) for rows in (1, 2, None)]
    assert [re.findall(">(one|two|three)<", text) for text in drawn] == [
        ["one"],
        ["one", "two"],
        ["one", "two", "three"],
    ]


@pytest.mark.parametrize("name", README)
def test_the_readme_has_its_pictures_and_says_how_they_were_made(name: str) -> None:
    text = (FOLDER / "README.md").read_text("utf-8")
    assert f"](pictures/{name})" in text
    assert "python -m tests.pictures" in text
    picture = (FOLDER / "pictures" / name).read_bytes()
    assert len(picture) < 150_000
    uid, _ = README[name]
    (dashboard,) = (dashboard for dashboard in load() if dashboard["uid"] == uid)
    assert dashboard["title"].encode() in picture
