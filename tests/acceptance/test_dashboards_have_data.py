"""Every panel shows something of a real service in trouble, asked of a real Prometheus."""

from __future__ import annotations

import functools
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from dashboards import rules
from qorzen_obs.monitoring import Site
from tests.panels import Target, load, parse, selectors, substitute, targets, variables
from tests.services.backends import eventually, get_json, prometheus
from tests.services.otlp_receiver import OtlpReceiver
from tests.services.program import ROOT, Running
from tests.support import PATIENCE_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SERVICE: Final = "tests.services.troubled_service"
VERSION: Final = "4.2.0"
SETTINGS: Final = {
    "QORZEN_TASKS__MAX_PENDING": "100",
    "QORZEN_TASKS__MAX_CONCURRENT_TASKS": "12",
    "QORZEN_TASKS__CANCEL_GRACE_SECONDS": "0.2",
    "QORZEN_ENGINES__PROCESSES": "1",
    "OTEL_BSP_SCHEDULE_DELAY": "500",
    "OTEL_RESOURCE_ATTRIBUTES": f"service.version={VERSION}",
}
#: Grafana's own for the scrape interval here would be 1 s; a busy machine may scrape later than that.
VALUES: Final = {"__rate_interval": "10s", "__range": "60s", "job": ".+", "instance": ".+"} | {
    "category": ".+",
    "priority": ".+",
}

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
}


@dataclass(frozen=True, slots=True)
class Server:
    """The query API of a Prometheus."""

    url: str

    def values(self, target: Target, since: float) -> list[float]:
        """Return every number that a panel shows of a query, NaN left out."""
        if target.query.get("range"):
            series = self.over_time(target.text, since)
            shown = [float(value) for one in series for _, value in one["values"]]
        else:
            series = self.get("query", query=substitute(target.text, VALUES))["result"]
            shown = [float(one["value"][1]) for one in series]
        return [value for value in shown if not math.isnan(value)]

    def over_time(self, expression: str, since: float) -> list[Any]:
        """Return the series of an expression up to now."""
        span = {"start": since, "end": time.time(), "step": 1}
        series: list[Any] = self.get("query_range", query=substitute(expression, VALUES), **span)["result"]
        return series

    def eventually(self, route: str, **parameters: object) -> Any:
        """GET until there is something."""
        return eventually(lambda: self.get(route, **parameters))

    def get(self, route: str, **parameters: object) -> Any:
        """GET a route of the API and return its data."""
        return get_json(f"{self.url}/api/v1/{route}?{urllib.parse.urlencode(parameters)}")["data"]


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Server, float]]:
    """Run the service with a collector and a Prometheus; give its address, the server, and when it began."""
    folder = tmp_path_factory.mktemp("trouble")
    begun = time.time()
    with OtlpReceiver() as receiver:
        environment = {**SETTINGS, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "PYTHONPATH": str(ROOT)}
        with Running("serve", SERVICE, cwd=folder, variables=environment) as service:
            url = service.line("serves").rpartition(" ")[2].rstrip("/")
            service.line("in trouble")
            with prometheus(url.removeprefix("http://"), folder) as server:
                yield url, Server(server), begun


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
        assert server.eventually("query", query=selector)["result"], selector


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


def _ask_for_nothing(url: str) -> None:
    """Make an error of HTTP, which a dashboard shows as well."""
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/api/tasks/none", timeout=PATIENCE_SECONDS)
