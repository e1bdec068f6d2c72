"""What all dashboards share: variables, links to each other, annotations, rows, and their JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus as prometheus_builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from dashboards.library import PROCESS_START, TARGET_INFO
from dashboards.panels import PROMETHEUS, Link, Panel, panel_id
from dashboards.promql import now, sample_names
from qorzen_obs.telemetry.names import TASKS

OVERVIEW: Final = "qorzen-overview"
QUEUES: Final = "qorzen-queues"
CATEGORY: Final = "qorzen-category"
RUNTIME: Final = "qorzen-runtime"
TELEMETRY: Final = "qorzen-telemetry"

#: In the order of the links: title, and the question that a person on call brings.
DASHBOARDS: Final = {
    OVERVIEW: ("Qorzen / Overview", "What is wrong, and since when?"),
    QUEUES: ("Qorzen / Queues and saturation", "Why do tasks wait?"),
    CATEGORY: ("Qorzen / Category", "Which tasks are slow or fail, and where does their time go?"),
    RUNTIME: ("Qorzen / Runtime", "Who holds the loop, and what does the process need?"),
    TELEMETRY: ("Qorzen / Telemetry health", "May I believe what I see here?"),
}

#: A variable offers what exists below those to its left.
_CHOSEN_BEFORE: Final = {
    "job": "",
    "instance": '{job=~"$job"}',
    "category": '{job=~"$job", instance=~"$instance"}',
    "priority": '{job=~"$job", instance=~"$instance"}',
}


@dataclass(frozen=True, slots=True)
class Row:
    """Panels below one heading; each line of them is 24 columns wide."""

    title: str
    panels: Sequence[Panel]


def board(
    uid: str,
    rows: Sequence[Row],
    *,
    narrowed: bool = True,
    variables: Sequence[Builder[dashboard.VariableModel]] = (),
) -> builders.Dashboard:
    """Return a dashboard. `narrowed` says whether category and priority select anything on it."""
    title, question = DASHBOARDS[uid]
    made = (
        builders.Dashboard(title)
        .uid(uid)
        .description(question)
        .tags(["qorzen"])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    )
    made.with_variable(data_source("datasource", "prometheus", "Data source"))
    for variable in variables:
        made.with_variable(variable)
    for label in ("job", "instance"):
        made.with_variable(_label(label, hidden=False))
    for label in ("category", "priority"):
        made.with_variable(_label(label, hidden=not narrowed))
    for other in DASHBOARDS:
        if other != uid:
            made.link(_link_to(other))
    for annotation in _annotations():
        made.annotation(annotation)
    for row in rows:
        made.with_row(builders.Row(row.title).id(panel_id(f"row {row.title}")))
        for panel in row.panels:
            made.with_panel(panel)
    return made


def to_json(made: builders.Dashboard) -> str:
    """Return the dashboard as Grafana reads it, the same text for the same dashboard."""
    tree = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    for placed in (*tree["links"], *tree["annotations"]["list"]):
        del placed["placement"]  # the builders know one place only, a menu that hides them
    for variable in tree["templating"]["list"]:
        for interval_only in ("auto", "auto_count", "auto_min"):
            del variable[interval_only]
    for panel in tree["panels"]:
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        if "links" in defaults:  # the builders make links of dashboards of them, which have more fields
            defaults["links"] = [{"title": link["title"], "url": link["url"]} for link in defaults["links"]]
    return json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def data_source(name: str, kind: str, label: str) -> builders.DatasourceVariable:
    """Return a variable that chooses a data source; a dashboard brings none along."""
    return builders.DatasourceVariable(name).label(label).type(kind)


def to_category(title: str = "Open this category") -> Link:
    """Return a link from a series with a category to the drill-down, which keeps time and variables."""
    kept = "&".join(f"${{{name}:queryparam}}" for name in ("datasource", "job", "instance", "priority"))
    url = f"/d/{CATEGORY}?${{__url_time_range}}&{kept}&var-category=${{__field.labels.category}}"
    return builders.DashboardLink(title).url(url)


def to_board(uid: str, title: str) -> Link:
    """Return a link from a value to another dashboard, which keeps time and variables."""
    return builders.DashboardLink(title).url(f"/d/{uid}?${{__url_time_range}}&${{__all_variables}}")


def _label(label: str, *, hidden: bool) -> builders.QueryVariable:
    (tasks,) = sample_names(TASKS)
    selector = tasks + _CHOSEN_BEFORE[label]
    query = f"label_values({selector}, {label})"
    variable = (
        builders.QueryVariable(label)
        .label(label.capitalize())
        .datasource(PROMETHEUS)
        .query({"query": query, "qryType": 1, "refId": f"variable-{label}"})
        .definition(query)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )
    if hidden:  # it selects nothing here, and is kept for the links
        variable.hide(dashboard.VariableHide.HIDE_VARIABLE)
    return variable


def _link_to(uid: str) -> builders.DashboardLink:
    title, question = DASHBOARDS[uid]
    return (
        builders.DashboardLink(title.removeprefix("Qorzen / "))
        .type(dashboard.DashboardLinkType.LINK)
        .icon("dashboard")
        .tooltip(question)
        .url(f"/d/{uid}")
        .include_vars(True)
        .keep_time(True)
    )


def _annotations() -> tuple[builders.AnnotationQuery, ...]:
    # A start is marked at its own time, whenever it was scraped.
    restarts = f"{now(PROCESS_START, 'job', 'instance', aggregate='max')} * 1000"
    # The version of the service itself. One that does not give its version has no deploys to mark.
    versions, before = (
        now(TARGET_INFO, "job", "service_version", aggregate="max", then=then, service_version="~.+")
        for then in ("", "offset 5m")
    )
    return (
        _annotation("Restarts", restarts, "blue", "{{instance}} started").use_value_for_time(True),
        _annotation("Deploys", f"{versions} unless {before}", "purple", "{{job}} runs {{service_version}}"),
    )


def _annotation(name: str, expr: str, colour: str, text: str) -> builders.AnnotationQuery:
    target = prometheus_builders.Dataquery().expr(expr).ref_id("annotation").range().interval("15s")
    return (
        builders.AnnotationQuery()
        .name(name)
        .datasource(PROMETHEUS)
        .enable(True)
        .icon_color(colour)
        .target(target)
        .expr(expr)
        .title_format(name.removesuffix("s"))
        .text_format(text)
    )
