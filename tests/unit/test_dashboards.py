"""The dashboards: what is committed is what is built, and a person can read it at 1280 pixels."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Final

import click
import pytest

from dashboards.board import DASHBOARDS
from dashboards.catalogue import FOLDER, files
from dashboards.panels import BAD, COLOURS, CULPRITS
from dashboards.rules import alerts
from qorzen_obs.cli import cli
from qorzen_obs.engines.traits import ENGINES
from qorzen_obs.monitoring import Site
from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus
from qorzen_obs.telemetry import names
from tests.panels import Tree, load, panels, variables

COLUMNS: Final = 24
#: Of 1280, what the menu and the margins leave.
COLUMN_PIXELS: Final = (1280 - 64) / COLUMNS
#: What a character of a title takes, and what icons take beside it.
CHARACTER_PIXELS: Final = 8
ICON_PIXELS: Final = 40
#: What a character in a table takes.
TABLE_CHARACTER_PIXELS: Final = 6.5
NARROWEST: Final = {"stat": 4, "timeseries": 6, "table": 12, "heatmap": 12, "logs": 12}

every_dashboard = pytest.mark.parametrize("dashboard", load(), ids=lambda dashboard: dashboard["uid"])


def test_the_committed_files_are_what_the_builders_make() -> None:
    committed = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.json")}
    assert committed == files(), "write them anew: make dashboards"


def test_each_dashboard_has_its_stable_uid() -> None:
    assert {dashboard["uid"] for dashboard in load()} == set(DASHBOARDS)
    assert set(DASHBOARDS) == {
        "qorzen-overview",
        "qorzen-queues",
        "qorzen-category",
        "qorzen-runtime",
        "qorzen-telemetry",
    }


@every_dashboard
def test_it_is_of_the_classic_schema_and_can_be_provisioned(dashboard: Tree) -> None:
    assert dashboard["schemaVersion"] == 42
    assert "__inputs" not in dashboard
    assert "id" not in dashboard


@every_dashboard
def test_panels_have_ids_of_their_own(dashboard: Tree) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(0 < number < 2**31 for number in ids)


@every_dashboard
def test_panels_fill_the_grid_and_do_not_overlap(dashboard: Tree) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= COLUMNS, panel["title"]
        cells = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
            )
        )
        assert not taken & cells, f"{panel['title']} lies on another panel"
        taken |= cells
    height = max(y for _, y in taken) + 1
    assert len(taken) == COLUMNS * height, "there is a hole between the panels"


@every_dashboard
def test_titles_fit_and_plots_are_wide_enough_at_1280_pixels(dashboard: Tree) -> None:
    for panel in panels(dashboard):
        width = panel["gridPos"]["w"]
        assert width >= NARROWEST[panel["type"]], panel["title"]
        room = width * COLUMN_PIXELS - ICON_PIXELS
        assert len(panel["title"]) * CHARACTER_PIXELS <= room, f"{panel['title']!r} is cut off"


@every_dashboard
def test_each_panel_says_why_it_may_be_empty(dashboard: Tree) -> None:
    for panel in panels(dashboard):
        assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]


@every_dashboard
def test_it_links_to_all_others_and_keeps_time_and_variables(dashboard: Tree) -> None:
    links = dashboard["links"]
    assert {link["url"].removeprefix("/d/") for link in links} == set(DASHBOARDS) - {dashboard["uid"]}
    assert all(link["keepTime"] and link["includeVars"] for link in links)
    assert not any("placement" in link for link in links), "a link is hidden in a menu"


@every_dashboard
def test_links_of_values_lead_to_a_dashboard_and_keep_the_time(dashboard: Tree) -> None:
    for panel in panels(dashboard):
        for link in panel["fieldConfig"]["defaults"].get("links", []):
            path, _, query = link["url"].partition("?")
            assert path.removeprefix("/d/") in DASHBOARDS, panel["title"]
            assert "${__url_time_range}" in query


@every_dashboard
def test_the_same_variables_stand_on_every_dashboard(dashboard: Tree) -> None:
    assert list(variables(dashboard)).count("datasource") == 1
    assert {"datasource", "job", "instance", "category", "priority"} <= set(variables(dashboard))


@every_dashboard
def test_restarts_and_deploys_are_marked(dashboard: Tree) -> None:
    assert {annotation["name"] for annotation in dashboard["annotations"]["list"]} == {"Restarts", "Deploys"}


def test_histograms_of_tasks_lead_to_their_traces() -> None:
    (overview,) = (dashboard for dashboard in load() if dashboard["uid"] == "qorzen-overview")
    with_exemplars = {
        panel["title"]
        for panel in panels(overview)
        if any(query.get("exemplar") for query in panel["targets"])
    }
    assert {"Ended by status", "Duration p95 by category", "Queue wait p99 by priority"} <= with_exemplars


def test_each_command_that_a_text_names_exists() -> None:
    docs = FOLDER.parent / "docs"
    texts = [FOLDER.parent / "README.md", *sorted(docs.glob("*.md")), *sorted(docs.glob("guide/*.md"))]
    texts += [FOLDER / "README.md", FOLDER / "rules" / "qorzen.yml", *sorted(FOLDER.glob("*.json"))]
    named = {
        (path.name, command)
        for path in texts
        for command in re.findall(
            r"(?:`|bin/|^ {4,}(?:\$ )?)qorzen-obs\s+([a-z][\w-]*)", path.read_text("utf-8"), re.MULTILINE
        )
    }
    assert {command for _, command in named} >= {"cancel", "health"}, "they are found"
    known = cli.list_commands(click.Context(cli))
    assert [(name, command) for name, command in sorted(named) if command not in known] == []


def _panel(uid: str, title: str) -> Tree:
    return next(panel for d in load() if d["uid"] == uid for panel in panels(d) if panel["title"] == title)


def test_how_busy_the_loop_is_comes_late_and_is_no_reason_for_red() -> None:
    now, by_category = (_panel("qorzen-runtime", f"Loop busy{by}") for by in ("", " by category"))
    for panel in (now, by_category):
        assert "arrives when" in panel["description"]
    steps = now["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert BAD not in {step["color"] for step in steps}
    assert now["targets"][0]["expr"].startswith("clamp_max(")


def test_each_red_number_of_the_overview_leads_on() -> None:
    (overview,) = (dashboard for dashboard in load() if dashboard["uid"] == "qorzen-overview")
    titles = {panel["title"] for panel in panels(overview)}
    for panel in panels(overview):
        if panel["type"] == "stat":
            following = re.findall(r"Next: (\w+)", panel["description"])
            assert panel["fieldConfig"]["defaults"].get("links") or set(following) & titles, panel["title"]


def test_a_firing_alert_names_its_instance_and_is_shown_if_it_has_none() -> None:
    panel = _panel("qorzen-overview", "Firing alerts")
    assert "instance" in panel["transformations"][-1]["options"]["includeByName"]
    (query,) = panel["targets"]
    assert "instance" in query["expr"].partition("by (")[2].partition(")")[0]
    assert "$instance" not in query["expr"], "a budget's alerts have no instance"


def test_spans_that_the_sampler_or_the_page_has_are_not_called_lost() -> None:
    description = _panel("qorzen-telemetry", "Spans by fate")["description"]
    lost, _, others = description.partition("are loss")
    assert set(re.findall(r"`(\w+)`", lost)) >= {"export_failed"}
    assert set(re.findall(r"`(\w+)`", others)) == {"kept", "sampled_out"}


@pytest.mark.parametrize(
    ("label", "values"),
    [
        ("status", [status.value for status in TaskStatus]),
        ("priority", [priority.label for priority in TaskPriority]),
        ("category", [category.value for category in TaskCategory]),
        ("engine", ENGINES),
        ("phase", names.PHASES),
    ],
)
def test_each_value_has_a_colour_of_its_own(label: str, values: Iterable[str]) -> None:
    assert set(COLOURS[label]) == set(values)
    assert len(set(COLOURS[label].values())) == len(COLOURS[label])


def test_what_holds_the_loop_and_how_attempts_and_spans_end_has_a_colour() -> None:
    assert {*COLOURS["category"], *CULPRITS} == set(names.LOOP_BLOCKED_BY)
    assert set(COLOURS["outcome"]) == {*names.ATTEMPT_OUTCOMES, *names.SPAN_OUTCOMES}


def _fixed_colours(panel: Tree) -> dict[str, str]:
    return {
        override["matcher"]["options"]: one["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
        for one in override["properties"]
        if one["id"] == "color"
    }


def test_a_name_has_the_colour_of_what_it_means() -> None:
    assert _fixed_colours(_panel("qorzen-queues", "Wait of low and critical p95")) == {
        "low": COLOURS["priority"]["low"],
        "critical": COLOURS["priority"]["critical"],
    }
    assert _fixed_colours(_panel("qorzen-runtime", "Loop lag")) == COLOURS["quantile"]


@every_dashboard
def test_a_count_of_the_shown_time_is_shown_whole(dashboard: Tree) -> None:
    for panel in panels(dashboard):
        defaults = panel["fieldConfig"]["defaults"]
        if panel["type"] == "stat" and panel["targets"][0]["expr"].startswith("sum(increase("):
            assert (defaults["unit"], defaults["decimals"]) == ("none", 0), (
                f"{panel['title']}: 4792 is not 5 K"
            )


@every_dashboard
def test_the_columns_of_a_table_fit_at_1280_pixels(dashboard: Tree) -> None:
    for panel in panels(dashboard):
        if panel["type"] != "table" or panel["datasource"]["type"] != "prometheus":
            continue
        columns = panel["transformations"][-1]["options"]["renameByName"].values()
        fixed = {
            override["matcher"]["options"]: one["value"]
            for override in panel["fieldConfig"].get("overrides", ())
            for one in override["properties"]
            if one["id"] == "custom.width"
        }
        assert set(fixed) <= set(columns)
        least = panel["fieldConfig"]["defaults"]["custom"]["minWidth"]
        rest = panel["gridPos"]["w"] * COLUMN_PIXELS - 2 * CHARACTER_PIXELS - sum(fixed.values())
        wide = rest / (len(columns) - len(fixed))
        assert wide >= least, "it has to be moved sideways"
        for column in columns:
            assert len(column) * TABLE_CHARACTER_PIXELS <= fixed.get(column, wide), f"{column!r} is cut off"


def test_the_name_of_each_alert_fits_into_its_column() -> None:
    (width,) = (
        one["value"]
        for override in _panel("qorzen-overview", "Firing alerts")["fieldConfig"]["overrides"]
        for one in override["properties"]
        if (override["matcher"]["options"], one["id"]) == ("Alert", "custom.width")
    )
    longest = max(len(alert.name) for alert in alerts(Site()))
    assert longest * CHARACTER_PIXELS <= width
