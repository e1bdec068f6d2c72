"""Queues and saturation: why tasks wait, and what would let them start."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.board import QUEUES, Row, board, to_category
from dashboards.overview import queue_used, slots_used
from dashboards.panels import BAD, GOOD, NONE_IS_GOOD, WARN, Query, stat, timeseries
from dashboards.promql import in_range, now, per_second, quantile, share
from qorzen_obs.telemetry import names

_NOT_SCRAPED = "Nothing is scraped"


def queues() -> Dashboard:
    """Return the dashboard."""
    return board(QUEUES, [_state(), _depth(), _slots(), _refusals(), _fairness(), _cancelling()])


def _state() -> Row:
    return Row(
        "Now",
        [
            stat(
                "Pending",
                "Accepted tasks that have not started. Those that wait for a delay or a retry are among them.",
                now(names.TASKS, status="pending"),
                unit="short",
                no_value=_NOT_SCRAPED,
            ),
            stat(
                "Running",
                "Tasks that an engine has started.",
                now(names.TASKS, status="running"),
                unit="short",
                no_value=_NOT_SCRAPED,
            ),
            stat(
                "Oldest pending",
                "How long the oldest task has waited for a slot. `/api/tasks/{id}/why` says what it waits for.",
                now(names.OLDEST_PENDING, aggregate="max"),
                unit="s",
                steps=((None, GOOD), (60, WARN), (300, BAD)),
                no_value=_NOT_SCRAPED,
            ),
            stat(
                "Queue used",
                "Pending tasks of what an instance allows, of the fullest. At 100 % submissions are refused, or wait.",
                queue_used(),
                unit="percentunit",
                decimals=0,
                steps=((None, GOOD), (0.5, WARN), (0.9, BAD)),
                no_value=_NOT_SCRAPED,
            ),
            stat(
                "Refused",
                "Submissions that were refused in the shown time.",
                in_range(names.TASKS_REJECTED),
                unit="none",
                decimals=0,
                steps=NONE_IS_GOOD,
                no_value=_NOT_SCRAPED,
                history=False,
            ),
            stat(
                "Abandoned",
                "Ended tasks whose code would not stop and still runs. Each holds a thread; past "
                "`tasks.max_abandoned` it also holds a slot.",
                now(names.TASKS_ABANDONED),
                unit="none",
                steps=((None, GOOD), (1, WARN), (8, BAD)),
                no_value=_NOT_SCRAPED,
            ),
        ],
    )


def _depth() -> Row:
    return Row(
        "Depth by state",
        [
            timeseries(
                "Pending by category",
                "Accepted tasks that have not started. A series opens its category.",
                Query(now(names.TASKS, "category", status="pending"), "{{category}}"),
                unit="short",
                stacked=True,
                link=to_category(),
            ),
            timeseries(
                "Pending by priority",
                "Accepted tasks that have not started.",
                Query(now(names.TASKS, "priority", status="pending"), "{{priority}}"),
                unit="short",
                stacked=True,
            ),
            timeseries(
                "Running by category",
                "Tasks that an engine has started. A category at its limit of `tasks.category_limits` is flat here "
                "and grows among the pending.",
                Query(now(names.TASKS, "category", status="running"), "{{category}}"),
                unit="short",
                stacked=True,
                link=to_category(),
            ),
        ],
    )


def _slots() -> Row:
    used = share(
        now(names.TASKS, "instance", wide=True, status="pending"), now(names.QUEUE_LIMIT, "instance")
    )
    return Row(
        "Slots and bounds",
        [
            timeseries(
                "Slots in use by engine",
                "Of each engine's slots, on the busiest instance. An engine at 100 % while tasks wait is the bound: "
                "give it slots, or its tasks less to do.",
                Query(slots_used("engine"), "{{engine}}"),
                unit="percentunit",
                maximum=1,
                limits=((None, "transparent"), (0.9, WARN)),
            ),
            timeseries(
                "Busy slots by engine",
                "Slots in use, over all instances.",
                Query(now(names.ENGINE_SLOTS_BUSY, "engine"), "{{engine}}"),
                unit="short",
                stacked=True,
            ),
            timeseries(
                "Queue used by instance",
                "Pending tasks of `tasks.max_pending`. Instances that differ have uneven work, or one is stuck.",
                Query(used, "{{instance}}"),
                unit="percentunit",
                maximum=1,
                limits=((None, "transparent"), (0.9, BAD)),
            ),
        ],
    )


def _refusals() -> Row:
    return Row(
        "Refused and paused",
        [
            timeseries(
                "Refused by reason",
                "Submissions refused a second: `queue_full` is back-pressure, `closed` a service that drains.",
                Query(per_second(names.TASKS_REJECTED, "reason"), "{{reason}}"),
                unit="ops",
            ),
            timeseries(
                "Refused by category",
                "Submissions refused a second. A series opens its category.",
                Query(per_second(names.TASKS_REJECTED, "category"), "{{category}}"),
                unit="ops",
                link=to_category(),
            ),
            timeseries(
                "Paused categories",
                "On how many instances a category is paused. Its tasks wait until somebody resumes it, on the page or "
                "with POST `/api/categories/{category}/resume`.",
                Query(f"{now(names.CATEGORY_PAUSED, 'category')} > 0", "{{category}}"),
                unit="none",
                stacked=True,
                no_value="No category is paused",
            ),
        ],
    )


def _fairness() -> Row:
    waits = [
        Query(quantile(0.95, names.QUEUE_WAIT, wide=True, priority=label), label)
        for label in ("low", "critical")
    ]
    return Row(
        "Starvation",
        [
            timeseries(
                "Wait of low and critical p95",
                "95 % of tasks waited no longer. Low above critical is what priorities are for; low that keeps rising "
                "is starved: see `tasks.ageing_seconds`. Critical above low means that its own engine or category is "
                "full. Shows all categories.",
                *waits,
                unit="s",
                no_value="No task started",
            ),
            timeseries(
                "Oldest pending by priority",
                "How long the oldest task of each priority has waited for a slot.",
                Query(now(names.OLDEST_PENDING, "priority", aggregate="max"), "{{priority}}"),
                unit="s",
            ),
            timeseries(
                "Longest running by category",
                "How long the longest attempt has run. One that outlives all others holds a slot: "
                "`/api/tasks?status=running&order=oldest` names it, `/api/tasks/{id}/stack` shows where it is.",
                Query(now(names.OLDEST_RUNNING, "category", aggregate="max"), "{{category}}"),
                unit="s",
                link=to_category(),
            ),
            timeseries(
                "Never started by category",
                "Tasks a second that passed their deadline before their first attempt. They count as late in the start "
                "budget. A series opens its category.",
                Query(per_second(names.NEVER_STARTED, "category", status="failed"), "{{category}}"),
                unit="ops",
                link=to_category(),
            ),
            timeseries(
                "Longest wait of a minute by priority",
                "The longest that an attempt had waited which started in the minute before. No quantile of waits is "
                "above it.",
                Query(now(names.QUEUE_WAIT_MAX, "priority", aggregate="max"), "{{priority}}"),
                unit="s",
            ),
            timeseries(
                "Longest run of a minute by category",
                "The longest last attempt of the tasks that ended in the minute before. A series opens its category.",
                Query(now(names.RUN_MAX, "category", aggregate="max"), "{{category}}"),
                unit="s",
                link=to_category(),
            ),
        ],
    )


def _cancelling() -> Row:
    return Row(
        "Cancelling",
        [
            timeseries(
                "Cancel latency p95 by engine",
                "From the request to stop a running task to its end. Coroutines stop at their next await, threads "
                "when they look at their token, processes are killed.",
                Query(quantile(0.95, names.CANCEL_LATENCY, "engine"), "{{engine}}"),
                unit="s",
                no_value="No running task was cancelled",
            ),
            timeseries(
                "Abandoned by category",
                "Ended tasks whose code would not stop and still runs.",
                Query(now(names.TASKS_ABANDONED, "category"), "{{category}}"),
                unit="none",
                stacked=True,
                link=to_category(),
            ),
            timeseries(
                "Cancelled and late results",
                "Tasks that were cancelled, and results of abandoned tasks that came after all and were dropped, a "
                "second.",
                Query(per_second(names.TASKS_FINISHED, status="cancelled"), "cancelled"),
                Query(per_second(names.EVENTS_DROPPED, kind="late_result"), "late results"),
                unit="ops",
            ),
        ],
    )
