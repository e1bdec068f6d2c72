"""The dashboards: what is committed is what is built, and a person can read it at 1280 pixels."""

from __future__ import annotations

import itertools
import re
from typing import Final

import click
import pytest

from dashboards.board import DASHBOARDS
from dashboards.catalogue import FOLDER, files
from dashboards.panels import BAD
from qorzen_obs.cli import cli
from tests.panels import Tree, load, panels, variables

COLUMNS: Final = 24
#: Of 1280, what the menu and the margins leave.
COLUMN_PIXELS: Final = (1280 - 64) / COLUMNS
#: What a character of a title takes, and what icons take beside it.
CHARACTER_PIXELS: Final = 8
ICON_PIXELS: Final = 40
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
