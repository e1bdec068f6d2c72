"""Draws every dashboard of a quiet and of a troubled service: `python -m tests.pictures FOLDER [SECONDS]`.

For people who change the dashboards: look at all of them. dashboards/README.md shows the two of README, which are kept
in dashboards/pictures.
"""

from __future__ import annotations

import sys
import tempfile
import time
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from dashboards import rules
from qorzen_obs.monitoring import Site
from tests.drawing import Series, Shown, draw
from tests.panels import Tree, load, targets
from tests.services.scraped_service import SETTINGS, TROUBLED, VALUES, Server, scraped

#: How each service is run.
SERVICES: Final = {"quiet": ("serve", "tests.services.quiet_service"), "trouble": TROUBLED}
SECONDS: Final = 180.0
#: The pictures that the README has, of the troubled service: dashboard, and how many of its rows.
README: Final = {"overview.svg": ("qorzen-overview", 3), "category.svg": ("qorzen-category", 2)}
POINTS: Final = 32
#: A scrape may take as long as this, so a busy machine leaves no holes. Grafana's rates are over four of them.
EVERY: Final = "5s"
RATE_INTERVAL: Final = "20s"


def shown(server: Server, dashboard: Tree, since: float, *, points: int = POINTS) -> Shown:
    """Ask for all that a dashboard shows since then; what it asks of Tempo and Loki has no data."""
    until = time.time()
    step = max((until - since) / points, 1.0)
    answers = {
        (target.panel["id"], target.query["refId"]): [
            Series(one["metric"], _points(one), dots.get(frozenset(one["metric"].items()), []))
            for one in (
                server.over_time(target.text, since, until, step=step)
                if target.query.get("range")
                else server.now(target.text)
            )
        ]
        for target in targets(dashboard, "prometheus")
        for dots in [_dots(server, target.query, since, until, step)]
    }
    marks = {
        annotation["iconColor"]: [
            _points(one)[0][1] / 1000 if annotation.get("useValueForTime") else _points(one)[0][0]
            for one in server.over_time(annotation["target"]["expr"], since, until, step=step)
        ]
        for annotation in dashboard["annotations"]["list"]
    }
    return Shown(since, until, answers, marks)


def _points(series: Any) -> list[tuple[float, float]]:
    values = series.get("values") or [series["value"]]
    return [(float(at), float(value)) for at, value in values if value != "NaN"]


def _dots(
    server: Server, query: Tree, since: float, until: float, step: float
) -> dict[frozenset[tuple[str, str]], Any]:
    """Return the highest exemplar of each step, by the labels that the legend of a query names."""
    if not query.get("exemplar"):
        return {}
    (label,) = query["legendFormat"].strip("{}").split()
    found: dict[frozenset[tuple[str, str]], dict[int, tuple[float, float]]] = {}
    for series in server.exemplars(query["expr"], since, until):
        highest = found.setdefault(frozenset({(label, series["seriesLabels"].get(label, ""))}), {})
        for one in series["exemplars"]:
            dot = (one["timestamp"], float(one["value"]))
            at = int((dot[0] - since) / step)
            highest[at] = max(highest.get(at, dot), dot, key=itemgetter(1))
    return {labels: sorted(highest.values()) for labels, highest in found.items()}


def hurried_rules() -> Any:
    """Return the rules with alerts that fire at once: nobody waits for a quarter of an hour here."""
    made = rules.groups(Site(job="demo"))
    for group in made["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            if "alert" in rule:
                rule["for"] = "0s"
    return made


def main(folder: Path, seconds: float = SECONDS) -> None:
    """Write a picture of each dashboard and service."""
    for name, command in SERVICES.items():
        with tempfile.TemporaryDirectory() as place:
            variables = {**VALUES, "__rate_interval": RATE_INTERVAL, "__range": f"{seconds:.0f}s"}
            settings = (
                SETTINGS if command == TROUBLED else {"OTEL_RESOURCE_ATTRIBUTES": "service.version=4.1.0"}
            )
            with scraped(
                Path(place),
                *command,
                settings=settings,
                variables=variables,
                rules=hurried_rules(),
                every=EVERY,
            ) as (_, server, begun):
                time.sleep(seconds)
                for dashboard in load():
                    data = shown(server, dashboard, begun)
                    wanted: dict[str, int | None] = {f"{name}-{dashboard['uid']}.svg": None}
                    if name == "trouble":
                        wanted |= {
                            file: rows for file, (uid, rows) in README.items() if uid == dashboard["uid"]
                        }
                    for file, rows in wanted.items():
                        (folder / file).write_text(draw(dashboard, data, rows=rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(float, sys.argv[2:3]))
