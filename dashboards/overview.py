"""Overview: what is wrong, and since when. The first dashboard of whoever is called at night."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards import budgets
from dashboards.board import CATEGORY, OVERVIEW, QUEUES, RUNTIME, Row, board, to_board, to_category
from dashboards.library import ALERTS, PROCESS_START, TARGET_INFO, UP
from dashboards.objectives import FASTEST_BURN, PERIOD_DAYS
from dashboards.panels import (
    BAD,
    GOOD,
    NEUTRAL,
    NONE_IS_GOOD,
    WARN,
    Link,
    Panel,
    Query,
    Steps,
    stat,
    table,
    timeseries,
)
from dashboards.promql import in_range, now, per_second, quantile, select, share
from qorzen_obs.telemetry import names

_NOT_SCRAPED = "Nothing is scraped"
#: What tells the alerts of one name apart, besides the severity.
_OF_AN_ALERT: Final = ("alertname", "instance", "category")
_BURN_LIMITS: Final[Steps] = ((None, "transparent"), (1, WARN), (FASTEST_BURN, BAD))
#: What is left of an error budget.
BUDGET_STEPS: Final[Steps] = ((None, BAD), (0, WARN), (0.5, GOOD))


def overview() -> Dashboard:
    """Return the dashboard."""
    rows = [_state(), _details(), _rates(), _durations(), _definitions(), _waits(), _instances()]
    return board(OVERVIEW, rows)


def completion_budget(*, link: Link | None = None) -> Panel:
    """Return the panel of the first objective."""
    return stat(
        "Completion budget",
        "What is left of the failures that an objective allows in the shown time, of the worst category. Objectives "
        f"are of {PERIOD_DAYS} days: below 0, failures are too many for that pace, and over {PERIOD_DAYS} days the "
        "objective is missed. Next: Objectives by category, Errors by type.",
        f"min({budgets.left(budgets.completion_burn(in_range))})",
        unit="percentunit",
        decimals=0,
        steps=BUDGET_STEPS,
        no_value="No task ended",
        history=False,
        link=link,
    )


def start_budget(*, link: Link | None = None) -> Panel:
    """Return the panel of the second objective."""
    return stat(
        "Start budget",
        "What is left of the late starts that an objective allows in the shown time, of the worst category. A task "
        "that passes its deadline before it starts counts as late; a cancelled one does not count, and one that still "
        "waits counts once it starts: Oldest pending shows it. "
        f"Objectives are of {PERIOD_DAYS} days: below 0, late starts are too many for that pace, and over "
        f"{PERIOD_DAYS} days the objective is missed. Next: Queues and saturation.",
        f"min({budgets.left(budgets.start_burn(in_range))})",
        unit="percentunit",
        decimals=0,
        steps=BUDGET_STEPS,
        no_value="No task started",
        history=False,
        link=link,
    )


def queue_used() -> str:
    """Return how full the fullest queue is."""
    pending = now(names.TASKS, "job", "instance", wide=True, status="pending")
    return f"max({share(pending, now(names.QUEUE_LIMIT, 'job', 'instance'))})"


def slots_used(*by: str) -> str:
    """Return how busy the busiest engine is."""
    busy = now(names.ENGINE_SLOTS_BUSY, "job", "instance", "engine")
    used = share(busy, now(names.ENGINE_SLOTS, "job", "instance", "engine"))
    return f"max by ({', '.join(by)}) ({used})" if by else f"max({used})"


def loop_blocked() -> str:
    """Return the share of time in which the loop of the worst instance did not turn."""
    # Scrapes are not answered at the same moment of their interval, so a rate may be a little too high.
    return f"clamp_max(max({per_second(names.LOOP_BLOCKED, 'job', 'instance')}), 1)"


def _state() -> Row:
    return Row(
        "Objectives and state",
        [
            completion_budget(link=to_board(CATEGORY, "Which tasks fail")),
            start_budget(link=to_board(QUEUES, "Why tasks wait")),
            stat(
                "Failed",
                "Tasks that failed in the shown time. Whether that is many, the budget says. Next: Errors by type.",
                in_range(names.TASKS_FINISHED, status="failed"),
                unit="none",
                decimals=0,
                no_value=_NOT_SCRAPED,
                history=False,
                link=to_board(CATEGORY, "Which tasks fail"),
            ),
            stat(
                "Instances down",
                "Instances whose last scrape failed. The process is gone, or its ops plane does not answer, which no "
                "blocked work loop causes. Next: Instances.",
                f"sum({select(UP)} == bool 0)",
                unit="none",
                steps=NONE_IS_GOOD,
                no_value=_NOT_SCRAPED,
            ),
            stat(
                "Not ready",
                "Instances that are up and take no work: they start, drain or have stopped. Next: Instances.",
                f"sum({select(names.SERVICE_STATE, state='ready')} == bool 0)",
                unit="none",
                steps=((None, GOOD), (1, WARN)),
                no_value=_NOT_SCRAPED,
            ),
            stat(
                "Failing checks",
                "Checks of the probes that fail now. `qorzen-obs health` and `/livez?verbose` of the instance say "
                "which, and who holds a blocked loop.",
                f"sum({select(names.HEALTH_CHECK, probe='~livez|readyz|startupz')} == bool 0)",
                unit="none",
                steps=NONE_IS_GOOD,
                no_value=_NOT_SCRAPED,
                link=to_board(RUNTIME, "Who blocks the loop"),
            ),
            stat(
                "Oldest pending",
                "How long the oldest task has waited for a slot. It grows while nothing starts, however few wait.",
                now(names.OLDEST_PENDING, aggregate="max"),
                unit="s",
                steps=((None, GOOD), (60, WARN), (300, BAD)),
                no_value=_NOT_SCRAPED,
                link=to_board(QUEUES, "Why tasks wait"),
            ),
            stat(
                "Queue used",
                "Pending tasks of what an instance allows, of the fullest. At 100 % submissions are refused, or wait.",
                queue_used(),
                unit="percentunit",
                decimals=0,
                steps=((None, GOOD), (0.5, WARN), (0.9, BAD)),
                no_value=_NOT_SCRAPED,
                link=to_board(QUEUES, "Why tasks wait"),
            ),
            stat(
                "Busiest engine",
                "Slots in use of an engine, of the busiest. At 100 % the next task of that engine waits.",
                slots_used(),
                unit="percentunit",
                decimals=0,
                steps=((None, GOOD), (0.9, WARN)),
                no_value=_NOT_SCRAPED,
                link=to_board(QUEUES, "Slots by engine"),
            ),
            stat(
                "Loop blocked",
                "Share of time in which a work loop did not turn, of the worst instance. Nothing async moves "
                "meanwhile. Next: Runtime says who held it.",
                loop_blocked(),
                unit="percentunit",
                decimals=1,
                steps=((None, GOOD), (0.01, WARN), (0.1, BAD)),
                no_value="No loop is watched",
                link=to_board(RUNTIME, "Who blocks the loop"),
            ),
            stat(
                "Abandoned",
                "Tasks that ended for the manager and whose code still runs: threads that do not heed their token.",
                now(names.TASKS_ABANDONED),
                unit="none",
                steps=((None, GOOD), (1, WARN), (8, BAD)),
                no_value=_NOT_SCRAPED,
                link=to_board(QUEUES, "Which category"),
            ),
            stat(
                "Refused",
                "Submissions that were refused in the shown time: the queue was full, or the service closed.",
                in_range(names.TASKS_REJECTED),
                unit="none",
                decimals=0,
                steps=NONE_IS_GOOD,
                no_value=_NOT_SCRAPED,
                history=False,
                link=to_board(QUEUES, "Why they were refused"),
            ),
        ],
    )


def _details() -> Row:
    critical, warning = (
        now(
            ALERTS,
            *_OF_AN_ALERT,
            "severity",
            wide=True,
            alertname="~Qorzen.+",
            alertstate="firing",
            severity=severity,
        )
        for severity in ("critical", "warning")
    )
    # As in Alertmanager, a critical alert hides its warning.
    firing = f"{critical} or ({warning} unless on ({', '.join(_OF_AN_ALERT)}) {critical})"
    return Row(
        "Objectives and alerts",
        [
            table(
                "Objectives by category",
                "Which share completed and started in time, and what that leaves of what both objectives allow, all of "
                f"the shown time alone; objectives are of {PERIOD_DAYS} days. A category without ended tasks is not "
                "listed.",
                Query(budgets.completed()),
                Query(budgets.left(budgets.completion_burn(in_range))),
                Query(budgets.started()),
                Query(budgets.left(budgets.start_burn(in_range))),
                unit="percentunit",
                columns={
                    "category": "Category",
                    "Value #A": "Completed",
                    "Value #B": "Completion budget",
                    "Value #C": "In time",
                    "Value #D": "Start budget",
                },
                colours={"Completion budget": BUDGET_STEPS, "Start budget": BUDGET_STEPS},
                no_value="No task ended",
            ),
            table(
                "Firing alerts",
                "Alerts of this project that fire now, whatever the variables say, the critical one of two severities. "
                "An alert without instance is of all. Each has a section in docs/runbooks.md. Alertmanager holds back "
                "those that another one explains.",
                Query(firing),
                unit="none",
                columns={
                    "alertname": "Alert",
                    "severity": "Severity",
                    "instance": "Instance",
                    "category": "Category",
                },
                widths={"Alert": 230, "Severity": 80, "Category": 100},
                no_value="No alert fires",
            ),
            timeseries(
                "Completion burn by category",
                f"How fast failures use up what may fail. At 1 the budget lasts its {PERIOD_DAYS} days; at "
                f"{FASTEST_BURN:g} an hour takes 2 % of it, and the first alert fires. A series opens its category.",
                Query(budgets.completion_burn(per_second), "{{category}}"),
                unit="none",
                width=12,
                limits=_BURN_LIMITS,
                no_value="No task ended",
                link=to_category(),
            ),
            timeseries(
                "Start burn by category",
                "How fast late starts, and deadlines that pass before a start, use up what may start late. A series "
                "opens its category.",
                Query(budgets.start_burn(per_second), "{{category}}"),
                unit="none",
                width=12,
                limits=_BURN_LIMITS,
                no_value="No task started",
                link=to_category(),
            ),
        ],
    )


def _instances() -> Row:
    state = names.SERVICE_STATE.name
    uptime = (
        f"(time() - {select(PROCESS_START)})"
        f" * on (job, instance) group_left (version, python) {select(names.BUILD_INFO)}"
        f" * on (job, instance) group_left ({state}) ({select(names.SERVICE_STATE)} == 1)"
    )
    # A manager with a registry of the user's has no target_info.
    named = f"{uptime} * on (job, instance) group_left (service_version) {select(TARGET_INFO)}"
    return Row(
        "Instances",
        [
            table(
                "Instances",
                "What runs where, in which state and for how long. The version is `service.version` of "
                "OTEL_RESOURCE_ATTRIBUTES.",
                Query(f"{named} or on (job, instance) {uptime}"),
                unit="dtdurations",
                columns={
                    "job": "Job",
                    "instance": "Instance",
                    state: "State",
                    "service_version": "Version",
                    "version": "qorzen_obs",
                    "python": "Python",
                    "Value": "Up for",
                },
                no_value=_NOT_SCRAPED,
                width=24,
            ),
        ],
    )


def _rates() -> Row:
    return Row(
        "Rate and errors",
        [
            timeseries(
                "Ended by status",
                "Tasks that ended a second. A dot is a task whose trace is kept: click it to open the trace.",
                Query(per_second(names.TASKS_FINISHED, "status"), "{{status}}", exemplars=True),
                unit="ops",
                stacked=True,
            ),
            timeseries(
                "Ended by category",
                "Tasks that ended a second. A series opens its category.",
                Query(per_second(names.TASKS_FINISHED, "category"), "{{category}}"),
                unit="ops",
                link=to_category(),
            ),
            timeseries(
                "Ended by priority",
                "Tasks that ended a second.",
                Query(per_second(names.TASKS_FINISHED, "priority"), "{{priority}}"),
                unit="ops",
            ),
            timeseries(
                "Failed share by category",
                "Failed tasks, of those that completed or failed. A series opens its category.",
                Query(budgets.failed(per_second), "{{category}}"),
                unit="percentunit",
                no_value="No task ended",
                link=to_category(),
            ),
            timeseries(
                "Errors by type",
                "Failed attempts a second, those that are retried among them: the exception's name, `timeout`, or "
                "`lost` where a process died. The ten most frequent.",
                Query(f"topk(10, {per_second(names.TASK_ERRORS, 'error_type')} > 0)", "{{error_type}}"),
                unit="ops",
                stacked=True,
                no_value="No task failed",
            ),
            timeseries(
                "Retries by category",
                "Attempts a second that failed and were followed by another. They hide errors and add load.",
                Query(per_second(names.TASK_RETRIES, "category"), "{{category}}"),
                unit="ops",
                link=to_category(),
            ),
        ],
    )


def _durations() -> Row:
    note = "95 % of last attempts took no longer. A dot is a task whose trace is kept: click it to open the trace."
    panels = [
        timeseries(
            f"Duration p95 by {label}",
            note,
            Query(quantile(0.95, names.RUN_DURATION, label), f"{{{{{label}}}}}", exemplars=True),
            unit="s",
            no_value="No task ended",
            link=to_category() if label == "category" else None,
        )
        for label in ("category", "priority", "status")
    ]
    return Row("Duration", panels)


def _definitions() -> Row:
    note = "By the name of the definition or function, of all categories and priorities."
    ended = per_second(names.DEFINITION_TASKS, "definition")
    failed = per_second(names.DEFINITION_TASKS, "definition", status="failed")
    slowest = quantile(0.95, names.DEFINITION_RUN_DURATION, "definition")
    return Row(
        "Definitions",
        [
            timeseries(
                "Ended by definition",
                f"Tasks that ended a second. The ten most frequent. {note}",
                Query(f"topk(10, {ended} > 0)", "{{definition}}"),
                unit="ops",
                no_value="No task ended, or telemetry.metrics_by_definition is 0",
            ),
            timeseries(
                "Failed by definition",
                f"Tasks that failed a second. The ten most frequent. {note}",
                Query(f"topk(10, {failed} > 0)", "{{definition}}"),
                unit="ops",
                no_value="No task failed, or telemetry.metrics_by_definition is 0",
            ),
            timeseries(
                "Duration p95 by definition",
                f"95 % of last attempts took no longer. The ten slowest. {note}",
                Query(f"topk(10, {slowest})", "{{definition}}"),
                unit="s",
                no_value="No task ended, or telemetry.metrics_by_definition is 0",
            ),
        ],
    )


def _waits() -> Row:
    panels = [
        timeseries(
            f"Queue wait p{q * 100:g} by priority",
            f"{q:.0%} of attempts waited no longer for a slot, counted when they start. A dot is a task whose trace is "
            "kept.",
            Query(quantile(q, names.QUEUE_WAIT, "priority"), "{{priority}}", exemplars=True),
            unit="s",
            no_value="No task started",
        )
        for q in (0.5, 0.95, 0.99)
    ]
    panels += [
        timeseries(
            "Oldest pending by priority",
            "How long the oldest task of each priority has waited for a slot.",
            Query(now(names.OLDEST_PENDING, "priority", aggregate="max"), "{{priority}}"),
            unit="s",
        ),
        timeseries(
            "Accepted and ended",
            "Tasks a second. While more are accepted than end, the queue grows.",
            Query(per_second(names.TASKS_SUBMITTED), "accepted"),
            Query(per_second(names.TASKS_FINISHED), "ended"),
            unit="ops",
            colours={"accepted": NEUTRAL, "ended": GOOD},
        ),
        timeseries(
            "Since the last success",
            "Time since a task of each category last completed. A category that has stopped to complete anything "
            "rises as a straight line.",
            Query(
                f"clamp_min(time() - {now(names.LAST_SUCCESS, 'category', aggregate='max')}, 0)",
                "{{category}}",
            ),
            unit="s",
            no_value="No task has completed yet",
            link=to_category(),
        ),
    ]
    return Row("Waiting", panels)
