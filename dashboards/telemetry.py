"""Telemetry health: what of the observation was lost, so that what is shown can be believed."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards import library
from dashboards.board import TELEMETRY, Row, board
from dashboards.panels import BAD, GOOD, NONE_IS_GOOD, WARN, Query, stat, timeseries
from dashboards.promql import counted, in_range, now, per_second, select, share
from qorzen_obs.telemetry import names

#: What became of spans that somebody wanted and nobody got.
_LOST = "~export_failed|dropped_.*"
_NO_TRACES = "No spans are counted"


def telemetry() -> Dashboard:
    """Return the dashboard."""
    return board(TELEMETRY, [_state(), _traces(), _export(), _logs(), _losses(), _history()], narrowed=False)


def _since_export(then: str = "") -> str:
    return f"clamp_min(time() - ({select(names.LAST_EXPORT)} > 0){then}, 0)"


def _state() -> Row:
    return Row(
        "Lost in the shown time",
        [
            stat(
                "Spans lost",
                "Spans that were to be exported and were not: the collector refused or did not answer, or the queue "
                "was full. What the sampler drops is not among them.",
                in_range(names.SPANS, outcome=_LOST),
                unit="none",
                decimals=0,
                steps=NONE_IS_GOOD,
                no_value=_NO_TRACES,
                history=False,
            ),
            stat(
                "Span queue used",
                "Spans that wait to be exported, of what may wait, of the fullest instance. At 100 % they are dropped.",
                f"max({share(select(names.SPAN_QUEUE_SIZE), select(names.SPAN_QUEUE_LIMIT))})",
                unit="percentunit",
                decimals=0,
                steps=((None, GOOD), (0.5, WARN), (0.9, BAD)),
                no_value="Nothing is exported",
            ),
            stat(
                "Last export, ago",
                "Time since the collector last took spans, of the worst instance. A quiet service exports nothing.",
                f"max({_since_export()})",
                unit="s",
                steps=((None, GOOD), (300, WARN)),
                no_value="Nothing was exported yet",
            ),
            stat(
                "Events not delivered",
                "Events for the bus, progress and late results that were dropped.",
                in_range(names.EVENTS_DROPPED),
                unit="none",
                decimals=0,
                steps=((None, GOOD), (1, WARN)),
                no_value="Nothing is scraped",
                history=False,
            ),
            stat(
                "Labels folded",
                "Times a label value became `_other`, because its metric has its 200 already. The names are in spans "
                "and logs still.",
                in_range(names.LABEL_OVERFLOW),
                unit="none",
                decimals=0,
                steps=((None, GOOD), (1, WARN)),
                no_value="Nothing is scraped",
                history=False,
            ),
            stat(
                "Observer failures",
                "Failures inside the observation itself. The work goes on; the log event `telemetry.observer_failed` "
                "says what broke.",
                in_range(names.TELEMETRY_ERRORS),
                unit="none",
                decimals=0,
                steps=NONE_IS_GOOD,
                no_value="None",
                history=False,
            ),
        ],
    )


def _traces() -> Row:
    return Row(
        "Traces",
        [
            timeseries(
                "Spans by fate",
                "Spans that ended a second, by what became of them. `export_failed` and all `dropped_*` are loss. "
                "`kept` is kept for the page alone, where no exporter is set; `sampled_out` is the sampler's choice.",
                Query(counted(names.SPANS, "outcome"), "{{outcome}}"),
                unit="ops",
                stacked=True,
                no_value=_NO_TRACES,
                calcs=("mean", "max"),
            ),
            timeseries(
                "Traces by decision",
                "Traces that the sampler decided a second, by decision and reason. Failed and slow ones are kept "
                "whatever the rate.",
                Query(counted(names.TRACES, "decision", "reason"), "{{decision}}: {{reason}}"),
                unit="ops",
                stacked=True,
                no_value="No trace was decided",
                calcs=("mean", "max"),
            ),
            timeseries(
                "Kept share of traces",
                "Of the traces that were decided. Exemplars point at these only.",
                Query(share(per_second(names.TRACES, decision="kept"), per_second(names.TRACES)), "kept"),
                unit="percentunit",
                maximum=1,
                no_value="No trace was decided",
            ),
        ],
    )


def _export() -> Row:
    return Row(
        "Export",
        [
            timeseries(
                "Spans that wait",
                "Spans in the queue of the exporter. A queue that does not empty is a collector that is slow or gone.",
                Query(now(names.SPAN_QUEUE_SIZE, "instance"), "{{instance}}"),
                unit="short",
                no_value="Nothing is exported",
            ),
            timeseries(
                "Since the last export by instance",
                "Time since the collector last took spans. A straight rise is a collector that is gone, or a quiet "
                "service.",
                Query(_since_export(), "{{instance}}"),
                unit="s",
                no_value="Nothing was exported yet",
            ),
            timeseries(
                "Export failures",
                "Spans a second that the collector did not take, and that were dropped for a full queue or at the "
                "stop.",
                Query(per_second(names.SPANS, "outcome", outcome=_LOST), "{{outcome}}"),
                unit="ops",
                no_value=_NO_TRACES,
            ),
        ],
    )


def _logs() -> Row:
    return Row(
        "Logs",
        [
            timeseries(
                "Log lines by level",
                "Lines a second. A loop that logs is seen here before the disk is full.",
                Query(per_second(names.LOG_MESSAGES, "level"), "{{level}}"),
                unit="ops",
                width=12,
                stacked=True,
                no_value="No lines are counted",
            ),
            timeseries(
                "Warnings and errors",
                "Lines a second of level warning and above.",
                Query(per_second(names.LOG_MESSAGES, "level", level="~warning|error|critical"), "{{level}}"),
                unit="ops",
                width=12,
                no_value="No lines are counted",
            ),
        ],
    )


def _losses() -> Row:
    return Row(
        "Losses and cost",
        [
            timeseries(
                "Events dropped by kind",
                "Events that the bus did not take in time, progress, and late results of abandoned tasks, a second.",
                Query(counted(names.EVENTS_DROPPED, "kind"), "{{kind}}"),
                unit="ops",
                width=6,
                no_value="Nothing was dropped",
            ),
            timeseries(
                "Labels folded by label",
                "Label values that became `_other`, a second.",
                Query(per_second(names.LABEL_OVERFLOW, "label"), "{{label}}"),
                unit="ops",
                width=6,
            ),
            timeseries(
                "Failures by component",
                "Failures inside the observation itself, a second.",
                Query(per_second(names.TELEMETRY_ERRORS, "component"), "{{component}}"),
                unit="ops",
                width=6,
                no_value="None",
            ),
            timeseries(
                "Samples by instance",
                "Samples in a scrape: what these metrics cost Prometheus.",
                Query(now(library.SCRAPE_SAMPLES, "instance", then="> 0"), "{{instance}}"),
                unit="short",
                width=6,
            ),
        ],
    )


def _history() -> Row:
    return Row(
        "Stored history",
        [
            timeseries(
                "Can be written, by instance",
                "1 while what happens to tasks can be stored, 0 while it cannot. A service whose history is in memory "
                "has no series.",
                Query(now(names.HISTORY_DURABLE, "instance"), "{{instance}}"),
                unit="short",
                width=8,
                no_value="Nothing is stored",
            ),
            timeseries(
                "Tasks that wait for the disk",
                "Tasks with changes that are not on disk yet. Above 10,000, new tasks wait or are refused.",
                Query(now(names.HISTORY_WAITING, "instance"), "{{instance}}"),
                unit="short",
                width=8,
                no_value="Nothing is stored",
            ),
            timeseries(
                "Lost tasks by instance",
                "Pending and running tasks of an earlier process that died, as found at the last start.",
                Query(now(names.TASKS_LOST, "instance", wide=True), "{{instance}}"),
                unit="short",
                width=8,
                no_value="Nothing is stored",
            ),
        ],
    )
