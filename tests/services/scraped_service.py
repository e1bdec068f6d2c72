"""A service and a Prometheus that scrapes it, and what a dashboard would ask of that."""

from __future__ import annotations

import math
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from tests.panels import Target, substitute
from tests.services.backends import eventually, get_json, prometheus
from tests.services.otlp_receiver import OtlpReceiver
from tests.services.program import ROOT, Running

TROUBLED: Final = ("serve", "tests.services.troubled_service")
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


@dataclass(frozen=True, slots=True)
class Server:
    """The query API of a Prometheus."""

    url: str
    variables: Mapping[str, str]

    def values(self, target: Target, since: float) -> list[float]:
        """Return every number that a panel shows of a query, NaN left out."""
        if target.query.get("range"):
            series = self.over_time(target.text, since)
            shown = [float(value) for one in series for _, value in one["values"]]
        else:
            shown = [float(one["value"][1]) for one in self.now(target.text)]
        return [value for value in shown if not math.isnan(value)]

    def now(self, expression: str) -> list[Any]:
        """Return the present series of an expression."""
        series: list[Any] = self.get("query", query=substitute(expression, self.variables))["result"]
        return series

    def over_time(
        self, expression: str, since: float, until: float | None = None, *, step: float = 1
    ) -> list[Any]:
        """Return the series of an expression, by default up to now, a point every `step` seconds."""
        span = {"start": since, "end": time.time() if until is None else until, "step": step}
        query = substitute(expression, self.variables)
        series: list[Any] = self.get("query_range", query=query, **span)["result"]
        return series

    def exemplars(self, expression: str, since: float, until: float) -> list[Any]:
        """Return the exemplars of an expression."""
        query = substitute(expression, self.variables)
        series: list[Any] = self.get("query_exemplars", query=query, start=since, end=until)
        return series

    def eventually(self, route: str, **parameters: object) -> Any:
        """GET until there is something."""
        return eventually(lambda: self.get(route, **parameters))

    def found(self, query: str) -> list[Any]:
        """Return the series of a query, once there are any."""
        return eventually(lambda: cast(list[Any], self.get("query", query=query)["result"]))

    def get(self, route: str, **parameters: object) -> Any:
        """GET a route of the API and return its data."""
        return get_json(f"{self.url}/api/v1/{route}?{urllib.parse.urlencode(parameters)}")["data"]


@contextmanager
def scraped(
    folder: Path,
    *command: str,
    settings: Mapping[str, str] = SETTINGS,
    variables: Mapping[str, str] = VALUES,
    rules: Mapping[str, Any] | None = None,
    every: str = "200ms",
) -> Iterator[tuple[str, Server, float]]:
    """Run a service with a collector and a Prometheus; give its address, the server, and when it began."""
    begun = time.time()
    with OtlpReceiver() as receiver:
        environment = {
            **settings,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "PYTHONPATH": str(ROOT),
            "QORZEN_HISTORY__URL": f"sqlite:{folder / 'history.sqlite'}",
        }
        with Running(*command, cwd=folder, variables=environment) as service:
            url = "http://" + service.line("http://").rpartition("http://")[2].split()[0].rstrip("/.,")
            if command == TROUBLED:
                service.line("in trouble")
            with prometheus(url.removeprefix("http://"), folder, rules, every=every) as server:
                yield url, Server(server, variables), begun
