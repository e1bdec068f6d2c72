"""The generated dashboards as data, for the tests that judge them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import promql_parser as promql

from dashboards.catalogue import FOLDER

Tree = dict[str, Any]

#: What Grafana puts in. Odd values, so that a test can tell them from a range that somebody wrote.
GRAFANA: Final = {"__rate_interval": timedelta(seconds=307), "__range": timedelta(seconds=3607)}


@dataclass(frozen=True, slots=True)
class Target:
    """One query of one panel."""

    dashboard: Tree
    panel: Tree
    query: Tree

    @property
    def kind(self) -> str:
        """The type of its data source."""
        kind: str = self.query["datasource"]["type"]
        return kind

    @property
    def text(self) -> str:
        """The expression."""
        text: str = self.query["query"] if self.kind == "tempo" else self.query["expr"]
        return text

    def __str__(self) -> str:
        return f"{self.dashboard['uid']} / {self.panel['title']} / {self.query['refId']}"


def load() -> list[Tree]:
    """Return every committed dashboard."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))]


def panels(dashboard: Tree) -> list[Tree]:
    """Return its panels without the headings of rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets(dashboard: Tree, kind: str | None = None) -> Iterator[Target]:
    """Yield the queries of its panels, of one type of data source."""
    for panel in panels(dashboard):
        for query in panel.get("targets", []):
            target = Target(dashboard, panel, query)
            if kind in (None, target.kind):
                yield target


def variables(dashboard: Tree) -> dict[str, Tree]:
    """Return its variables by name."""
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Put in the variables that have a value here; the others stay."""
    return re.sub(
        r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))", lambda found: values.get(found[1] or found[2], found[0]), text
    )


def parse(text: str) -> promql.Expr:
    """Parse PromQL as Grafana sends it.

    Raises:
        ValueError: it is none.
    """
    spans = {name: promql.display_duration(span) for name, span in GRAFANA.items()}
    parsed: promql.Expr = promql.parse(substitute(text, spans))
    return parsed


def nodes(expression: promql.Expr) -> list[promql.Expr]:
    """Return the expression and all below it, parents first."""
    found: list[promql.Expr] = []
    promql.walk(expression, pre_visit=found.append)
    return found


def selectors(expression: promql.Expr) -> list[promql.VectorSelector]:
    """Return every selector of the expression; those of ranges too."""
    return [node for node in nodes(expression) if isinstance(node, promql.VectorSelector)]
