"""Every panel shows something of a real service in trouble, asked of a real Prometheus."""

from __future__ import annotations

import functools
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Final

import pytest

from dashboards import rules
from qorzen_obs.monitoring import Site
from tests.drawing import draw
from tests.panels import Target, load, panels, parse, selectors, substitute, targets, variables
from tests.pictures import shown
from tests.services.backends import eventually
from tests.services.scraped_service import TROUBLED, VALUES, VERSION, Server, scraped
from tests.support import PATIENCE_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.slow]

#: Right to have no data: by dashboard and panel, with the reason.
EMPTY: Final = {
    ("qorzen-overview", "Firing alerts"): "the Prometheus of this test has no rules",
    (
        "qorzen-telemetry",
        "Observer failures",
    ): "no observer fails, and components are counted from the first on",
    ("qorzen-telemetry", "Failures by component"): "as above",
}
#: Right to show 0 all along: what the service does not do wrong.
ZERO: Final = {
    ("qorzen-overview", "Instances down"): "it answers all the time",
    ("qorzen-overview", "Not ready"): "it is ready all the time",
    ("qorzen-overview", "Failing checks"): "no block is as long as `health.loop_blocked_seconds`",
    ("qorzen-runtime", "Objects not collectable"): "Python 3.4 and later leave none",
    ("qorzen-runtime", "Event streams"): "nobody follows the events here",
    ("qorzen-telemetry", "Labels folded"): "it has few types of errors",
    ("qorzen-telemetry", "Labels folded by label"): "as above",
    ("qorzen-telemetry", "Spans lost"): "the receiver takes all",
    ("qorzen-telemetry", "Export failures"): "as above",
    ("qorzen-telemetry", "Spans that wait"): "the receiver is quick; most scrapes find none",
    ("qorzen-telemetry", "Span queue used"): "as above",
    ("qorzen-telemetry", "Tasks that wait for the disk"): "the disk is quick; most scrapes find none",
    ("qorzen-telemetry", "Lost tasks by instance"): "no process died before it",
}


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Server, float]]:
    """Run the service with a collector and a Prometheus; give its address, the server, and when it began."""
    with scraped(tmp_path_factory.mktemp("trouble"), *TROUBLED) as running:
        yield running


def _expected() -> list[Target]:
    return [
        target
        for dashboard in load()
        for target in targets(dashboard, "prometheus")
        if _place(target) not in EMPTY
    ]


def _place(target: Target) -> tuple[str, str]:
    return target.dashboard["uid"], target.panel["title"]


def test_every_panel_has_data_and_shows_the_trouble(trouble: tuple[str, Server, float]) -> None:
    url, server, begun = trouble
    missing = _expected()

    def look() -> bool:
        _ask_for_nothing(url)
        for target in list(missing):
            shown = server.values(target, begun)
            if any(shown) or (shown and _place(target) in ZERO):
                missing.remove(target)
        return not missing

    try:
        eventually(look)
    except AssertionError:
        pytest.fail(f"without data, or 0 all along: {[str(target) for target in missing]}")
    for dashboard in load():
        for target in targets(dashboard, "prometheus"):
            if _place(target) in EMPTY:
                assert server.values(target, begun) == [], f"{target} has data and needs no reason for none"


def test_whatever_the_rules_look_at_is_there(trouble: tuple[str, Server, float]) -> None:
    _, server, _ = trouble
    recorded = {rule["record"] for rule in rules.recording_rules()}
    looked_at = {
        str(selector)
        for group in rules.groups(Site(job="demo"))["groups"]
        for rule in group["rules"]
        for selector in selectors(parse(rule["expr"]))
        if selector.name not in recorded
    }  # a range's selector without its range
    assert len(looked_at) > 10
    for selector in sorted(looked_at):
        assert server.found(selector), selector


def test_exemplars_lead_from_the_panels_to_traces(trouble: tuple[str, Server, float]) -> None:
    _, server, begun = trouble
    for target in _expected():
        if not target.query.get("exemplar"):
            continue
        query = substitute(target.text, VALUES)
        series = server.eventually("query_exemplars", query=query, start=begun, end=begun + 3600)
        assert series[0]["exemplars"][0]["labels"]["trace_id"], str(target)


def test_every_variable_offers_something(trouble: tuple[str, Server, float]) -> None:
    _, server, _ = trouble
    for dashboard in load():
        for name, variable in variables(dashboard).items():
            if variable["type"] == "query":
                query = substitute(variable["query"]["query"], VALUES).removeprefix("label_values(")
                selector = query.rpartition(", ")[0]
                assert server.eventually(f"label/{name}/values", **{"match[]": selector}), name


def test_a_restart_and_a_deploy_of_the_services_version_are_found(
    trouble: tuple[str, Server, float],
) -> None:
    _, server, begun = trouble
    (overview,) = (dashboard for dashboard in load() if dashboard["uid"] == "qorzen-overview")
    found = {
        annotation["name"]: eventually(
            functools.partial(server.over_time, annotation["target"]["expr"], begun)
        )
        for annotation in overview["annotations"]["list"]
    }
    assert [series["metric"]["service_version"] for series in found["Deploys"]] == [VERSION]
    assert found["Restarts"]


def test_each_panel_can_be_drawn_from_what_prometheus_answers(trouble: tuple[str, Server, float]) -> None:
    _, server, begun = trouble
    for dashboard in load():
        picture = draw(dashboard, shown(server, dashboard, begun))
        texts = {element.text for element in ElementTree.fromstring(picture).iter()}
        assert {panel["title"] for panel in panels(dashboard)} <= texts


def _ask_for_nothing(url: str) -> None:
    """Make an error of HTTP, which a dashboard shows as well."""
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/api/tasks/none", timeout=PATIENCE_SECONDS)
