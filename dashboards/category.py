"""Category: which tasks are slow or fail, where their time goes, and the traces and log lines that say why."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import CustomVariable, Dashboard
from grafana_foundation_sdk.models.dashboard import VariableOption

from dashboards.board import CATEGORY, Row, board, data_source
from dashboards.overview import completion_budget, start_budget
from dashboards.panels import BAD, GOOD, WARN, Panel, Query, heat, logs, stat, timeseries, traces
from dashboards.promql import now, per_second, quantile
from qorzen_obs.telemetry import names

#: How long a task's span must last to be listed; Tempo has no "slowest first".
_SLOWER_THAN: Final = ("1s", "0ms", "100ms", "10s", "1m")


def category() -> Dashboard:
    """Return the dashboard."""
    variables = [
        data_source("tempo_datasource", "tempo", "Tempo data source"),
        data_source("loki_datasource", "loki", "Loki data source"),
        CustomVariable("slower_than")
        .label("Slower than")
        .description("What the table of traces leaves out")
        .values(",".join(_SLOWER_THAN))
        .current(VariableOption(selected=True, text=_SLOWER_THAN[0], value=_SLOWER_THAN[0])),
    ]
    return board(CATEGORY, [_state(), _time(), _outcomes(), _details()], variables=variables)


def _state() -> Row:
    return Row(
        "Chosen categories and priorities",
        [
            stat(
                "Ended a second",
                "Tasks that ended, whatever the outcome.",
                per_second(names.TASKS_FINISHED),
                unit="ops",
            ),
            completion_budget(),
            start_budget(),
            stat(
                "Duration p95",
                "95 % of last attempts took no longer.",
                quantile(0.95, names.RUN_DURATION),
                unit="s",
                no_value="No task ended",
            ),
            stat(
                "Pending",
                "Accepted tasks that have not started.",
                now(names.TASKS, status="pending"),
                unit="short",
            ),
            stat(
                "Oldest pending",
                "How long the oldest of them has waited for a slot.",
                now(names.OLDEST_PENDING, aggregate="max"),
                unit="s",
                steps=((None, GOOD), (60, WARN), (300, BAD)),
            ),
        ],
    )


def _time() -> Row:
    # An average over ended tasks; both sides have no label left but the phase.
    per_task = (
        f"{per_second(names.PHASE_SECONDS, 'phase')} / on () group_left () "
        f"({per_second(names.TASKS_FINISHED)} > 0)"
    )
    dot = "A dot is a task whose trace is kept: click it to open the trace."
    return Row(
        "Where the time goes",
        [
            heat(
                "Duration",
                f"How many tasks a second took how long. Two bands are two kinds of work, or a cache. {dot}",
                _buckets(names.RUN_DURATION),
                no_value="No task ended",
            ),
            heat(
                "Queue wait",
                f"How many attempts a second waited how long for a slot, counted when they start. {dot}",
                _buckets(names.QUEUE_WAIT),
                no_value="No task started",
            ),
            _phases(
                "Time of a task by phase",
                "Seconds of an average task in each phase of its time ledger. `queued` is too few slots, `await` "
                "something slow that it calls, `loop` or `thread_cpu` its own code, `thread_wait` a lock or the "
                "interpreter.",
                per_task,
                unit="s",
            ),
            _phases(
                "Tasks in each phase",
                "Seconds a second spent in each phase: how many tasks are in it on average. What is measured of a "
                "long task arrives when it ends.",
                per_second(names.PHASE_SECONDS, "phase"),
                unit="short",
            ),
        ],
    )


def _phases(title: str, description: str, expr: str, *, unit: str) -> Panel:
    return timeseries(
        title,
        description,
        Query(expr, "{{phase}}"),
        unit=unit,
        width=12,
        stacked=True,
        no_value="No task ended, or the time ledger is off",
    )


def _buckets(metric: names.MetricName) -> Query:
    return Query(per_second(metric, "le", part="bucket"), "{{le}}", exemplars=True)


def _outcomes() -> Row:
    return Row(
        "Outcomes",
        [
            timeseries(
                "Ended by status",
                "Tasks that ended a second. A dot is a task whose trace is kept.",
                Query(per_second(names.TASKS_FINISHED, "status"), "{{status}}", exemplars=True),
                unit="ops",
                stacked=True,
            ),
            timeseries(
                "Errors by type",
                "Failed attempts a second, of all priorities. The ten most frequent.",
                Query(f"topk(10, {per_second(names.TASK_ERRORS, 'error_type')} > 0)", "{{error_type}}"),
                unit="ops",
                stacked=True,
                no_value="No task failed",
            ),
            timeseries(
                "Attempts by outcome",
                "Attempts that ended a second, of all priorities. `retrying` are those that failed and are followed by "
                "another.",
                Query(per_second(names.ATTEMPT_DURATION, "outcome", part="count"), "{{outcome}}"),
                unit="ops",
                stacked=True,
                no_value="No attempt ended",
            ),
        ],
    )


def _details() -> Row:
    chosen = " && ".join(
        f'span.{attribute} =~ "${{{variable}:pipe}}"'
        for attribute, variable in ((names.TASK_CATEGORY, "category"), (names.TASK_PRIORITY, "priority"))
    )
    shown = ", ".join(
        f"span.{attribute}"
        for attribute in (
            names.TASK_NAME,
            names.TASK_STATUS,
            names.TASK_ENGINE,
            names.TASK_ATTEMPT,
            names.TASK_QUEUE_WAIT,
            names.ERROR_TYPE,
        )
    )
    return Row(
        "Traces and log lines",
        [
            traces(
                "Slowest traces",
                "Attempts that took longer than the variable says, longest first. Tempo gives the newest 100 that "
                "match: raise it until fewer are shown. A span opens its trace.",
                f"{{ {chosen} && duration > $slower_than }} | select({shown})",
                sort_by="Duration",
                no_value="No kept trace is slower, or there is no Tempo data source",
            ),
            logs(
                "Log lines",
                "Lines of tasks of these categories and priorities; open one for its task_id and trace_id.",
                '{service_name=~".+"} | json | drop __error__, __error_details__'
                ' | category=~"${category:pipe}" | priority=~"${priority:pipe}"',
                no_value="No line, or there is no Loki data source",
            ),
        ],
    )
