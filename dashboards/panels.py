"""The panels in the form of this project: one factory for each kind, with what all of a kind have in common.

A panel states what it shows, what it means and where to look next; without data it says why there may be none.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self, TypeAlias

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_foundation_sdk.builders import heatmap as heatmap_builders
from grafana_foundation_sdk.builders import logs as logs_builders
from grafana_foundation_sdk.builders import loki as loki_builders
from grafana_foundation_sdk.builders import prometheus as prometheus_builders
from grafana_foundation_sdk.builders import stat as stat_builders
from grafana_foundation_sdk.builders import table as table_builders
from grafana_foundation_sdk.builders import tempo as tempo_builders
from grafana_foundation_sdk.builders import timeseries as timeseries_builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard, heatmap, prometheus, tempo
from grafana_foundation_sdk.models.common import DataSourceRef

from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus
from qorzen_obs.telemetry.names import (
    SPAN_DROPPED_QUEUE_FULL,
    SPAN_DROPPED_SHUTDOWN,
    SPAN_EXPORT_FAILED,
    SPAN_EXPORTED,
    SPAN_KEPT,
    SPAN_SAMPLED_OUT,
)

Panel: TypeAlias = Builder[dashboard.Panel]
Link: TypeAlias = Builder[dashboard.DashboardLink]

PROMETHEUS: Final = DataSourceRef("prometheus", "${datasource}")
TEMPO: Final = DataSourceRef("tempo", "${tempo_datasource}")
LOKI: Final = DataSourceRef("loki", "${loki_datasource}")

GOOD, WARN, BAD, NEUTRAL = "green", "orange", "red", "blue"

#: One colour for one meaning, on every dashboard, by label and value.
COLOURS: Final = {
    "status": {
        TaskStatus.PENDING.value: "yellow",
        TaskStatus.RUNNING.value: NEUTRAL,
        TaskStatus.COMPLETED.value: GOOD,
        TaskStatus.FAILED.value: BAD,
        TaskStatus.CANCELLED.value: "#8e8e8e",
    },
    "priority": {
        TaskPriority.LOW.label: "light-blue",
        TaskPriority.NORMAL.label: "green",
        TaskPriority.HIGH.label: "orange",
        TaskPriority.CRITICAL.label: "red",
    },
    "category": {
        TaskCategory.CORE.value: "#5794f2",
        TaskCategory.PLUGIN.value: "#b877d9",
        TaskCategory.UI.value: "#37c8d8",
        TaskCategory.IO.value: "#e0a63c",
        TaskCategory.BACKGROUND.value: "#8792a8",
        TaskCategory.USER.value: "#e36bae",
    },
    "engine": {
        "loop": "#4a86ec",
        "io": "#27a88b",
        "thread": "#e0a63c",
        "process": "#c161c1",
        "main": "#8792a8",
        "external": "#ccccdc",
    },
    # Related phases have related colours; those of the live page.
    "phase": {
        "scheduled": "#b9a4e8",
        "queued": "#e0a63c",
        "retry_wait": "#d67f5c",
        "loop": "#3b78e0",
        "await": "#a9c6f5",
        "thread_cpu": "#1d9a7f",
        "thread_wait": "#9edbcd",
        "process_cpu": "#b04ab0",
        "process_wait": "#e3b3e3",
        "transfer": "#8792a8",
    },
    # Of attempts, and of spans.
    "outcome": {
        "completed": GOOD,
        "failed": BAD,
        "cancelled": "#8e8e8e",
        "retrying": "yellow",
        SPAN_EXPORTED: GOOD,
        SPAN_KEPT: NEUTRAL,
        SPAN_SAMPLED_OUT: "#8e8e8e",
        SPAN_EXPORT_FAILED: BAD,
        SPAN_DROPPED_QUEUE_FULL: "orange",
        SPAN_DROPPED_SHUTDOWN: "purple",
    },
    "level": {"debug": "#8e8e8e", "info": NEUTRAL, "warning": WARN, "error": BAD, "critical": "purple"},
    "quantile": {"p50": GOOD, "p95": WARN, "p99": BAD},
}
#: Besides the categories: what else holds the loop.
CULPRITS: Final = {"foreign": "#ccccdc", "gc": "#d67f5c", "gil_held": "#f2495c", "not_running": "#6e6ed8"}

Steps: TypeAlias = Sequence[tuple[float | None, str]]
#: Anything but 0 is wrong.
NONE_IS_GOOD: Final[Steps] = ((None, GOOD), (1, BAD))
PLAIN: Final[Steps] = ((None, NEUTRAL),)


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and the name of its series."""

    expr: str
    legend: str = ""
    exemplars: bool = False


class _Common(Protocol):
    """What every kind of panel can do: the builders have no base class that says so."""

    def id(self, id_val: int) -> Self: ...
    def title(self, title: str) -> Self: ...
    def description(self, description: str) -> Self: ...
    def datasource(self, datasource: DataSourceRef) -> Self: ...
    def span(self, w: int) -> Self: ...
    def height(self, h: int) -> Self: ...
    def no_value(self, no_value: str) -> Self: ...
    def build(self) -> dashboard.Panel: ...


def panel_id(title: str) -> int:
    """Return a panel's id. It is made of its title, so that a link to a panel outlives changes around it."""
    return zlib.crc32(title.encode()) & 0x7FFF_FFFF


def stat(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str,
    steps: Steps = PLAIN,
    no_value: str = "No data",
    decimals: int | None = None,
    history: bool = True,
    link: Link | None = None,
) -> Panel:
    """One number, in the colour of its threshold; `history` draws its course below."""
    panel = stat_builders.Panel().unit(unit).thresholds(_thresholds(steps)).color_scheme(_by_threshold())
    _describe(panel, title, description, no_value, 4, 4)
    _query(panel, Query(expr), history=history)
    panel.color_mode(
        common.BigValueColorMode.BACKGROUND if steps is not PLAIN else common.BigValueColorMode.VALUE
    )
    panel.graph_mode(common.BigValueGraphMode.AREA if history else common.BigValueGraphMode.NONE)
    panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    if decimals is not None:
        panel.decimals(decimals)
    if link is not None:
        panel.data_links([link])
    return panel


def timeseries(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    no_value: str = "No data in this time range",
    width: int = 8,
    stacked: bool = False,
    maximum: float | None = None,
    limits: Steps = (),
    calcs: Sequence[str] = (),
    colours: Mapping[str, str] | None = None,
    link: Link | None = None,
) -> Panel:
    """Lines over time, with exemplars as dots where a query asks for them; `limits` are drawn as dashed lines.

    `colours` are of series by name, besides those that COLOURS has.
    """
    panel = timeseries_builders.Panel().unit(unit).line_width(1).fill_opacity(60 if stacked else 8)
    _describe(panel, title, description, no_value, width, 8)
    for number, query in enumerate(queries):
        _query(panel, query, ref_id=chr(ord("A") + number))
    panel.show_points(common.VisibilityMode.NEVER).span_nulls(False)
    panel.color_scheme(_by_name()).tooltip(
        common_builders.VizTooltipOptions()
        .mode(common.TooltipDisplayMode.MULTI)
        .sort(common.SortOrder.DESCENDING)
    )
    legend = common_builders.VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM)
    mode = common.LegendDisplayMode.TABLE if calcs else common.LegendDisplayMode.LIST
    panel.legend(legend.display_mode(mode).calcs(list(calcs)))
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    panel.min(0)
    if maximum is not None:
        panel.max(maximum)
    if limits:
        style = common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel.thresholds(_thresholds(limits)).thresholds_style(style)
    if link is not None:
        panel.data_links([link])
    for name, colour in {**_colours(queries), **(colours or {})}.items():
        panel.override_by_name(name, [_property("color", {"mode": "fixed", "fixedColor": colour})])
    return panel


def heat(title: str, description: str, query: Query, *, no_value: str, width: int = 12) -> Panel:
    """The buckets of a histogram over time, with exemplars as dots."""
    panel = heatmap_builders.Panel().calculate(False)
    _describe(panel, title, description, no_value, width, 9)
    _query(panel, query, as_heatmap=True)
    panel.y_axis(heatmap_builders.YAxisConfig().unit("s").axis_placement(common.AxisPlacement.LEFT))
    panel.cell_values(heatmap_builders.CellValues().unit("ops"))
    panel.unit("s")
    panel.color(
        heatmap_builders.HeatmapColorOptions()
        .mode(heatmap.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .scale(heatmap.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
    )
    panel.tooltip(
        heatmap_builders.HeatmapTooltip()
        .mode(common.TooltipDisplayMode.SINGLE)
        .y_histogram(True)
        .show_color_scale(True)
    )
    return panel


def table(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    columns: Mapping[str, str],
    no_value: str,
    colours: Mapping[str, Steps] | None = None,
    widths: Mapping[str, int] | None = None,
    width: int = 12,
) -> Panel:
    """The present series, a row for each set of labels.

    `columns` are the labels and values that are shown, in order, with their titles: the value is `Value`, and
    `Value #A`, `Value #B` of several queries. `colours` are thresholds, by a column's title, and `widths` pixels.
    """
    panel = table_builders.Panel().unit(unit).thresholds(_thresholds(PLAIN)).show_header(True)
    panel.min_width(60)  # of a column: with Grafana's 150 px, five of them are wider than half of 1280
    _describe(panel, title, description, no_value, width, 7)
    for number, query in enumerate(queries):
        _query(panel, query, ref_id=chr(ord("A") + number), as_table=True)
    if len(queries) > 1:
        panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    options = {
        "includeByName": dict.fromkeys(columns, True),
        "indexByName": {column: number for number, column in enumerate(columns)},
        "renameByName": dict(columns),
    }
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="organize", options=options))
    for column, steps in (colours or {}).items():
        thresholds = _thresholds(steps).build()
        coloured = {"type": "color-text"}
        panel.override_by_name(
            column, [_property("thresholds", thresholds), _property("custom.cellOptions", coloured)]
        )
    for column, pixels in (widths or {}).items():
        panel.override_by_name(column, [_property("custom.width", pixels)])
    return panel.cell_height(common.TableCellHeight.SM)


def traces(
    title: str, description: str, traceql: str, *, sort_by: str, no_value: str, width: int = 24
) -> Panel:
    """The spans that a TraceQL query finds, a row each, which open their trace."""
    panel = table_builders.Panel().show_header(True).unit("none").cell_height(common.TableCellHeight.SM)
    _describe(panel, title, description, no_value, 24, 9, source=TEMPO)
    panel.with_target(
        tempo_builders.Dataquery()
        .ref_id("A")
        .datasource(TEMPO)
        .query_type(tempo.TempoQueryType.TRACEQL)
        .query(traceql)
        .limit(100)
        .spss(3)
        .table_type(tempo.SearchTableType.SPANS)
    )
    return panel.sort_by([common_builders.TableSortByFieldState().display_name(sort_by).desc(True)])


def logs(title: str, description: str, logql: str, *, no_value: str) -> Panel:
    """The log lines that a LogQL query finds, newest first."""
    panel = logs_builders.Panel().show_time(True).wrap_log_message(True).enable_log_details(True)
    _describe(panel, title, description, no_value, 24, 10, source=LOKI)
    panel.with_target(
        loki_builders.Dataquery().ref_id("A").datasource(LOKI).expr(logql).query_type("range").max_lines(500)
    )
    return panel.sort_order(common.LogsSortOrder.DESCENDING)


def _describe(
    panel: _Common,
    title: str,
    description: str,
    no_value: str,
    width: int,
    height: int,
    source: DataSourceRef = PROMETHEUS,
) -> None:
    panel.id(panel_id(title)).title(title).description(description).datasource(source)
    panel.no_value(no_value).span(width).height(height)


def _query(
    panel: (stat_builders.Panel | timeseries_builders.Panel | heatmap_builders.Panel | table_builders.Panel),
    query: Query,
    *,
    ref_id: str = "A",
    history: bool = True,
    as_table: bool = False,
    as_heatmap: bool = False,
) -> None:
    target = prometheus_builders.Dataquery().ref_id(ref_id).datasource(PROMETHEUS).expr(query.expr)
    target.editor_mode(prometheus.QueryEditorMode.CODE)
    if query.legend:
        target.legend_format(query.legend)
    if query.exemplars:
        target.exemplar(True)
    if as_table:
        target.format(prometheus.PromQueryFormat.TABLE)
    elif as_heatmap:
        target.format(prometheus.PromQueryFormat.HEATMAP)
    panel.with_target(target.range() if history and not as_table else target.instant())


def _thresholds(steps: Steps) -> dashboard_builders.ThresholdsConfig:
    made = [dashboard.Threshold(value=value, color=colour) for value, colour in steps]
    return dashboard_builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)


def _by_threshold() -> dashboard_builders.FieldColor:
    return dashboard_builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS)


def _by_name() -> dashboard_builders.FieldColor:
    """A series keeps its colour when another comes or goes."""
    return dashboard_builders.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME)


def _colours(queries: Sequence[Query]) -> dict[str, str]:
    """Return the colours of series whose name has a meaning of its own."""
    colours: dict[str, str] = {}
    for query in queries:
        for label, by_value in COLOURS.items():
            if query.legend == f"{{{{{label}}}}}":
                colours |= by_value
            elif query.legend in by_value:
                # `critical` is a priority first, and a level of log lines after that.
                colours.setdefault(query.legend, by_value[query.legend])
    return colours


def _property(name: str, value: object) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue(id_val=name, value=value)
