"""Every name that leaves the process: metrics, span attributes, log events. Nothing else spells one out.

Dashboards, alerts, documents and tests import from here, so that a rename breaks a test and not a graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SCOPE: Final = "qorzen_obs"


@dataclass(frozen=True, slots=True)
class MetricName:
    """A metric as `/metrics` shows it. Labels come from closed or capped sets."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  #: upper bounds in seconds, of histograms


TASKS: Final = MetricName(
    "qorzen_tasks",
    "Tasks by state: pending and running now, completed, failed and cancelled since the start.",
    ("category", "priority", "status"),
)
TASKS_SUBMITTED: Final = MetricName("qorzen_tasks_submitted", "Tasks accepted.", ("category", "priority"))
TASKS_REJECTED: Final = MetricName(
    "qorzen_tasks_rejected", "Submissions refused.", ("category", "priority", "reason")
)
TASKS_FINISHED: Final = MetricName(
    "qorzen_tasks_finished", "Tasks ended.", ("category", "priority", "status")
)
RUN_DURATION: Final = MetricName(
    "qorzen_task_run_duration_seconds",
    "Duration of the last attempt of each task that ran.",
    ("category", "priority", "status"),
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
QUEUE_WAIT: Final = MetricName(
    "qorzen_task_queue_wait_seconds",
    "Time from eligible to started, of the last attempt.",
    ("category", "priority"),
    (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
TASK_ERRORS: Final = MetricName(
    "qorzen_task_errors", "Failed tasks by error type.", ("category", "error_type")
)
OLDEST_PENDING: Final = MetricName(
    "qorzen_task_oldest_pending_age_seconds", "Age of the oldest pending task.", ("category", "priority")
)
OLDEST_RUNNING: Final = MetricName(
    "qorzen_task_oldest_running_age_seconds", "Age of the longest running attempt.", ("category", "priority")
)
TASKS_ABANDONED: Final = MetricName(
    "qorzen_tasks_abandoned", "Ended tasks whose code would not stop and still runs.", ("category",)
)
CANCEL_LATENCY: Final = MetricName(
    "qorzen_task_cancel_latency_seconds",
    "From the request to stop a running task to its end.",
    ("engine",),
    (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LAST_SUCCESS: Final = MetricName(
    "qorzen_task_last_success_timestamp_seconds", "When a task last completed, Unix time.", ("category",)
)
ENGINE_SLOTS: Final = MetricName("qorzen_engine_slots", "Slots of an engine.", ("engine",))
ENGINE_SLOTS_BUSY: Final = MetricName("qorzen_engine_slots_busy", "Slots in use.", ("engine",))
QUEUE_LIMIT: Final = MetricName("qorzen_queue_limit", "Pending tasks allowed.")
LOOP_LAG: Final = MetricName(
    "qorzen_event_loop_lag_seconds",
    "How late the work loop ran a timer.",
    (),
    (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
EVENTS_DROPPED: Final = MetricName(
    "qorzen_events_dropped", "Events and late results that were not delivered.", ("kind",)
)
TELEMETRY_ERRORS: Final = MetricName(
    "qorzen_telemetry_errors", "Failures inside the observation itself.", ("component",)
)
LABEL_OVERFLOW: Final = MetricName(
    "qorzen_metrics_label_overflow", "Label values folded into _other.", ("label",)
)
HTTP_DURATION: Final = MetricName(
    "qorzen_http_request_duration_seconds",
    "Time to answer a request of the ops plane.",
    ("method", "route", "code"),
    (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
SERVICE_STATE: Final = MetricName("qorzen_service_state", "State of the task manager.", ("state",))
BUILD_INFO: Final = MetricName("qorzen_build", "Versions in use.", ("version", "python"))

# Span attributes. OpenTelemetry semantic conventions: code.function.name, error.type.
TASK_ID: Final = "qorzen.task.id"
TASK_NAME: Final = "qorzen.task.name"
TASK_CATEGORY: Final = "qorzen.task.category"
TASK_PRIORITY: Final = "qorzen.task.priority"
TASK_ATTEMPT: Final = "qorzen.task.attempt"
TASK_ENGINE: Final = "qorzen.task.engine"
TASK_PLUGIN_ID: Final = "qorzen.task.plugin_id"
TASK_STATUS: Final = "qorzen.task.status"
TASK_QUEUE_WAIT: Final = "qorzen.task.queue_wait"
TASK_CANCEL_REASON: Final = "qorzen.task.cancel_reason"
TASK_ABANDONED: Final = "qorzen.task.abandoned"
FUNCTION_NAME: Final = "code.function.name"
ERROR_TYPE: Final = "error.type"

# Log events.
LOG_FINISHED: Final = "task.finished"
LOG_OUTPUT: Final = "task.output"
LOG_OBSERVER_FAILED: Final = "telemetry.observer_failed"
LOG_LISTENER_FAILED: Final = "event_bus.publish_failed"
LOG_MANAGER_STATE: Final = "manager.state"
