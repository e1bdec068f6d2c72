"""Every name that leaves the process: metrics, span attributes, log events. Nothing else spells one out.

Dashboards, alerts, documents and tests import from here, so that a rename breaks a test and not a graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from qorzen_obs.settings import RUN_BUCKETS, WAIT_BUCKETS

SCOPE: Final = "qorzen_obs"
#: The semantic conventions that spans, log records and metrics follow.
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"

MetricType: TypeAlias = Literal["counter", "gauge", "histogram", "info", "stateset"]


@dataclass(frozen=True, slots=True)
class MetricName:
    """A metric as `/metrics` shows it; a counter's samples end in `_total`. Labels come from closed or capped sets."""

    type: MetricType
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  #: upper bounds in seconds, of histograms; settings may replace them
    exemplars: bool = False  #: leads to kept traces

    def with_buckets(self, bounds: Iterable[float]) -> MetricName:
        """Return the histogram with other bounds."""
        return replace(self, buckets=tuple(map(float, bounds)))


TASKS: Final = MetricName(
    "gauge",
    "qorzen_tasks",
    "Tasks by state: pending and running now, completed, failed and cancelled since the start.",
    ("category", "priority", "status"),
)
TASKS_SUBMITTED: Final = MetricName(
    "counter", "qorzen_tasks_submitted", "Tasks accepted.", ("category", "priority")
)
TASKS_REJECTED: Final = MetricName(
    "counter", "qorzen_tasks_rejected", "Submissions refused.", ("category", "priority", "reason")
)
TASKS_FINISHED: Final = MetricName(
    "counter", "qorzen_tasks_finished", "Tasks ended.", ("category", "priority", "status"), exemplars=True
)
NEVER_STARTED: Final = MetricName(
    "counter",
    "qorzen_tasks_never_started",
    "Tasks that ended before their first attempt: failed are those that passed their deadline in the queue.",
    ("category", "priority", "status"),
)
RUN_DURATION: Final = MetricName(
    "histogram",
    "qorzen_task_run_duration_seconds",
    "Duration of the last attempt of each task that ran, observed when the task ends.",
    ("category", "priority", "status"),
    RUN_BUCKETS,
    exemplars=True,
)
RUN_MAX: Final = MetricName(
    "gauge",
    "qorzen_task_run_max_seconds",
    "Longest duration that qorzen_task_run_duration_seconds observed in the last minute; 0 where it observed none.",
    ("category", "priority"),
)
ATTEMPT_DURATION: Final = MetricName(
    "histogram",
    "qorzen_task_attempt_duration_seconds",
    "Duration of each attempt, observed when it ends; retrying is one that failed and is followed by another.",
    ("category", "outcome"),
    RUN_BUCKETS,
)
QUEUE_WAIT: Final = MetricName(
    "histogram",
    "qorzen_task_queue_wait_seconds",
    "Time from eligible to started of each attempt, observed when the attempt starts.",
    ("category", "priority"),
    WAIT_BUCKETS,
    exemplars=True,
)
QUEUE_WAIT_MAX: Final = MetricName(
    "gauge",
    "qorzen_task_queue_wait_max_seconds",
    "Longest wait of the attempts that started in the last minute; 0 where none started.",
    ("category", "priority"),
)
CANCELLED_WAIT: Final = MetricName(
    "histogram",
    "qorzen_task_cancelled_queue_wait_seconds",
    "Queue waits of the attempts that were cancelled later, which the objective of starts leaves out.",
    ("category", "priority"),
    WAIT_BUCKETS,
)
DEFINITION_TASKS: Final = MetricName(
    "counter",
    "qorzen_definition_tasks",
    "Tasks ended, by the name of their definition or function.",
    ("definition", "status"),
)
DEFINITION_RUN_DURATION: Final = MetricName(
    "histogram",
    "qorzen_definition_run_duration_seconds",
    "Duration of the last attempt of each task that ran, by the name of its definition or function.",
    ("definition",),
    RUN_BUCKETS,
)
PHASE_SECONDS: Final = MetricName(
    "counter",
    "qorzen_task_phase_seconds",
    "Where the time of tasks went, see docs/traces.md.",
    ("category", "priority", "phase"),
)
TASK_RETRIES: Final = MetricName(
    "counter", "qorzen_task_retries", "Attempts that were followed by another.", ("category", "priority")
)
TASK_ERRORS: Final = MetricName(
    "counter",
    "qorzen_task_errors",
    "Attempts that failed, and tasks that failed without one, by error type.",
    ("category", "error_type"),
)
OLDEST_PENDING: Final = MetricName(
    "gauge",
    "qorzen_task_oldest_pending_age_seconds",
    "Age of the oldest pending task.",
    ("category", "priority"),
)
OLDEST_RUNNING: Final = MetricName(
    "gauge",
    "qorzen_task_oldest_running_age_seconds",
    "Age of the longest running attempt.",
    ("category", "priority"),
)
TASKS_ABANDONED: Final = MetricName(
    "gauge", "qorzen_tasks_abandoned", "Ended tasks whose code would not stop and still runs.", ("category",)
)
CANCEL_LATENCY: Final = MetricName(
    "histogram",
    "qorzen_task_cancel_latency_seconds",
    "From the request to stop a running task to its end.",
    ("engine",),
    (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LAST_SUCCESS: Final = MetricName(
    "gauge",
    "qorzen_task_last_success_timestamp_seconds",
    "When a task last completed, Unix time.",
    ("category",),
)
ENGINE_SLOTS: Final = MetricName("gauge", "qorzen_engine_slots", "Slots of an engine.", ("engine",))
ENGINE_SLOTS_BUSY: Final = MetricName("gauge", "qorzen_engine_slots_busy", "Slots in use.", ("engine",))
QUEUE_LIMIT: Final = MetricName("gauge", "qorzen_queue_limit", "Pending tasks allowed.")
CATEGORY_PAUSED: Final = MetricName(
    "gauge",
    "qorzen_category_paused",
    "1 where the category is paused: its pending tasks wait until it is resumed.",
    ("category",),
)
LOOP_LAG: Final = MetricName(
    "histogram",
    "qorzen_event_loop_lag_seconds",
    "How late the work loop ran a timer.",
    (),
    (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
LOOP_BLOCKED: Final = MetricName(
    "counter",
    "qorzen_event_loop_blocked_seconds",
    "How long the work loop did not turn, by the category of the task that held it; `foreign` is other code, `gc` "
    "garbage collection, `gil_held` code that let no Python run, `not_running` a process that was stopped or had no "
    "processor.",
    ("category",),
)
#: Values of its label besides the categories: the other causes of a block.
FOREIGN: Final = "foreign"
LOOP_BLOCKED_BY: Final = (
    "core",
    "plugin",
    "ui",
    "io",
    "background",
    "user",
    FOREIGN,
    "gc",
    "gil_held",
    "not_running",
)
SPANS: Final = MetricName(
    "counter",
    "qorzen_telemetry_spans",
    "Spans that ended, by what became of them; once for each exporter. `kept` is what nobody exports.",
    ("outcome",),
)
TRACES: Final = MetricName(
    "counter",
    "qorzen_telemetry_traces",
    "Traces that the tail sampler has decided, by the reason.",
    ("decision", "reason"),
)
SPAN_QUEUE_SIZE: Final = MetricName(
    "gauge", "qorzen_telemetry_span_queue_size", "Spans that wait to be exported."
)
SPAN_QUEUE_LIMIT: Final = MetricName(
    "gauge", "qorzen_telemetry_span_queue_limit", "Spans that may wait; what is over is dropped and counted."
)
LAST_EXPORT: Final = MetricName(
    "gauge",
    "qorzen_telemetry_last_export_timestamp_seconds",
    "When spans were last taken by the collector, Unix time; 0 before.",
)
LOG_MESSAGES: Final = MetricName(
    "counter", "qorzen_log_messages", "Log lines, by level, those that were lost included.", ("level",)
)
HEALTH_CHECK: Final = MetricName(
    "gauge", "qorzen_health_check_passing", "1 where a check of a probe passes.", ("probe", "check")
)
EVENTS_DROPPED: Final = MetricName(
    "counter", "qorzen_events_dropped", "Events and late results that were not delivered.", ("kind",)
)
TELEMETRY_ERRORS: Final = MetricName(
    "counter", "qorzen_telemetry_errors", "Failures inside the observation itself.", ("component",)
)
LABEL_OVERFLOW: Final = MetricName(
    "counter", "qorzen_metrics_label_overflow", "Label values folded into _other.", ("label",)
)
HTTP_DURATION: Final = MetricName(
    "histogram",
    "qorzen_http_request_duration_seconds",
    "Time to answer a request of the ops plane.",
    ("method", "route", "code"),
    (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
HTTP_STREAMS: Final = MetricName("gauge", "qorzen_http_streams", "Event streams that are open.")
HTTP_STREAMS_EVICTED: Final = MetricName(
    "counter",
    "qorzen_http_streams_evicted",
    "Event streams that were cut off because their client did not read.",
)
TASKS_LOST: Final = MetricName(
    "counter",
    "qorzen_tasks_lost",
    "Tasks that this start found unfinished by a process that had died; no other metric counts them.",
    ("category",),
)
HISTORY_DURABLE: Final = MetricName(
    "gauge",
    "qorzen_history_durable",
    "1 while tasks are written to the durable history, 0 while they cannot be.",
)
HISTORY_WAITING: Final = MetricName(
    "gauge", "qorzen_history_waiting", "Tasks with changes that wait to be written to the durable history."
)
SERVICE_STATE: Final = MetricName(
    "stateset", "qorzen_service_state", "State of the task manager.", ("state",)
)
BUILD_INFO: Final = MetricName("info", "qorzen_build", "Versions in use.", ("version", "python"))

#: The outcomes of ATTEMPT_DURATION.
ATTEMPT_OUTCOMES: Final[Mapping[str, str]] = {
    "completed": "its task completed",
    "failed": "its task failed",
    "cancelled": "its task was cancelled",
    "retrying": "it failed, and another attempt follows",
}

#: The outcomes of SPANS. While its trace is undecided or it waits to be sent, a span has none yet.
SPAN_EXPORTED: Final = "exported"
SPAN_EXPORT_FAILED: Final = "export_failed"
SPAN_DROPPED_QUEUE_FULL: Final = "dropped_queue_full"
SPAN_DROPPED_SHUTDOWN: Final = "dropped_shutdown"
SPAN_SAMPLED_OUT: Final = "sampled_out"
SPAN_KEPT: Final = "kept"
SPAN_OUTCOMES: Final[Mapping[str, str]] = {
    SPAN_EXPORTED: "the exporter says that the collector took it",
    SPAN_EXPORT_FAILED: "the exporter gave it up, after its own retries",
    SPAN_DROPPED_QUEUE_FULL: "too many waited to be exported",
    SPAN_DROPPED_SHUTDOWN: "the service ended before the collector had taken it",
    SPAN_SAMPLED_OUT: "its trace was not kept; it was never serialised",
    SPAN_KEPT: "its trace was kept, for the page alone: no exporter is set up",
}

#: The decisions of TRACES. A partial trace was counted as dropped before.
TRACE_DECISIONS: Final[Mapping[str, str]] = {
    "kept": "all spans that had ended, and those to come",
    "dropped": "all spans that had ended, and those to come unless one of them must be kept",
    "partial": "kept from a span on that had to be, after earlier ones had been dropped",
}

#: The reasons of TRACES. The last three ask the budget, `telemetry.traces_per_second`.
BY_ERROR: Final = "error"
BY_SLOW: Final = "slow"
BY_MARK: Final = "marked"
BY_UPSTREAM: Final = "upstream"
BY_BUDGET: Final = "budget"
BY_WINDOW: Final = "window"
BY_OVERFLOW: Final = "overflow"
TRACE_REASONS: Final[Mapping[str, str]] = {
    BY_ERROR: "a span has status ERROR, as those of failed, timed-out and lost tasks have",
    BY_SLOW: "a task ran for `telemetry.slow_task_seconds`",
    BY_MARK: "a span is marked with qorzen.trace.keep, by `@task(keep_trace=True)` or `current_task().keep_trace()`",
    BY_UPSTREAM: "the caller in another service has sampled it",
    BY_BUDGET: "its last open span has ended",
    BY_WINDOW: "it had 2,000 spans, was 60 s old, or the service ended",
    BY_OVERFLOW: "it was the oldest of too many undecided ones",
}

#: The existing pairs of the two.
TRACE_SERIES: Final = (
    *(("kept", reason) for reason in TRACE_REASONS),
    *(("dropped", reason) for reason in (BY_BUDGET, BY_WINDOW, BY_OVERFLOW)),
    *(("partial", reason) for reason in (BY_ERROR, BY_SLOW, BY_MARK, BY_UPSTREAM)),
)

# Span attributes. OpenTelemetry semantic conventions: code.*, error.type, messaging.*.
TASK_ID: Final = "qorzen.task.id"
TASK_NAME: Final = "qorzen.task.name"
TASK_CATEGORY: Final = "qorzen.task.category"
TASK_PRIORITY: Final = "qorzen.task.priority"
TASK_ATTEMPT: Final = "qorzen.task.attempt"
TASK_ENGINE: Final = "qorzen.task.engine"
TASK_PLUGIN_ID: Final = "qorzen.task.plugin_id"
TASK_ATTR: Final = "qorzen.task.attr."
TASK_STATUS: Final = "qorzen.task.status"
TASK_QUEUE_WAIT: Final = "qorzen.task.queue_wait"
TASK_PHASE: Final = "qorzen.task.phase."
TASK_CANCEL_REASON: Final = "qorzen.task.cancel_reason"
TASK_WILL_RETRY: Final = "qorzen.task.will_retry"
TASK_ABANDONED: Final = "qorzen.task.abandoned"
TASK_RERUN_OF: Final = "qorzen.task.rerun_of"
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_ID: Final = "messaging.message.id"
FUNCTION_NAME: Final = "code.function.name"
CODE_FILE: Final = "code.file.path"
CODE_LINE: Final = "code.line.number"
ERROR_TYPE: Final = "error.type"
TRACE_KEEP: Final = "qorzen.trace.keep"
TRACE_PARTIAL: Final = "qorzen.trace.partial"

#: The meaning of each, for docs/traces.md. A name that ends in a dot is a prefix.
SPAN_ATTRIBUTES: Final[Mapping[str, str]] = {
    TASK_ID: "the task's id",
    TASK_NAME: "its name",
    TASK_CATEGORY: "core, plugin, ui, io, background or user",
    TASK_PRIORITY: "low, normal, high or critical",
    TASK_ATTEMPT: "the attempt, from 1",
    TASK_ENGINE: "loop, io, thread, process, main or external",
    TASK_PLUGIN_ID: "the plugin that the task belongs to, where there is one",
    TASK_RERUN_OF: "the id of the ended task that it runs again, where it does",
    TASK_ATTR: "an entry of the metadata that the task was submitted with: numbers, booleans and texts, capped",
    MESSAGING_SYSTEM: "`qorzen_obs`; these five as the kinds PRODUCER and CONSUMER promise",
    MESSAGING_OPERATION: "`submit` or `run`",
    MESSAGING_OPERATION_TYPE: "`send` of a submission, `process` of an attempt",
    MESSAGING_DESTINATION: "the definition's or function's name",
    MESSAGING_ID: "the task's id",
    FUNCTION_NAME: "the callable, with its module",
    CODE_FILE: "the file of its source, where it is written in Python",
    CODE_LINE: "the line where it begins there",
    TASK_STATUS: "at the end: completed, failed or cancelled",
    TASK_QUEUE_WAIT: "at the end: seconds from eligible to started",
    TASK_PHASE: "at the end: seconds of the attempt by phase of the time ledger",
    TASK_WILL_RETRY: "at the end: true where another attempt follows",
    TASK_CANCEL_REASON: "at the end of a cancelled attempt: why",
    TASK_ABANDONED: "at the end: true where the code would not stop and still runs",
    ERROR_TYPE: "at the end of a failed attempt: the exception's qualified name, `timeout` or `lost`",
    TRACE_KEEP: "true where the trace was marked to be kept whatever the rate",
    TRACE_PARTIAL: "true on spans that were kept after earlier ones of their trace had been dropped, and on those "
    "made of the record of their task",
}

# Span events.
LOOP_BLOCKED_EVENT: Final = "qorzen.loop.blocked"
BLOCKED_SECONDS: Final = "qorzen.loop.blocked.seconds"
BLOCKED_CAUSE: Final = "qorzen.loop.blocked.cause"
STACKTRACE: Final = "code.stacktrace"

#: The event of a failed attempt, by OpenTelemetry's semantic conventions for exceptions.
EXCEPTION_EVENT: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

#: The meaning of each, for docs/traces.md.
LOOP_BLOCKED_ATTRIBUTES: Final[Mapping[str, str]] = {
    BLOCKED_SECONDS: "for how long the attempt held the loop, from the event's own time on",
    BLOCKED_CAUSE: "code, gc (garbage collection) or gil_held (C code that let no Python run); never not_running",
    STACKTRACE: "where it was seen, the innermost line last; without values, capped at its inner end",
}

# The time ledger: seconds of a task's life, each moment in one phase.
PHASES: Final[Mapping[str, str]] = {
    "scheduled": "accepted, and its delay or run_at has not passed",
    "queued": "eligible, and waits for a slot",
    "retry_wait": "between two attempts",
    "loop": "its own code runs on the event loop",
    "await": "its coroutine waits, for whatever it awaits or for its turn on the loop",
    "thread_cpu": "its code uses a processor in a thread",
    "thread_wait": "its call in a thread waits: for I/O, a lock, the interpreter, a processor",
    "process_cpu": "its code uses a processor in a worker process",
    "process_wait": "its call in a worker process waits",
    "transfer": "its call and its result travel to and from the worker process",
}

# Log events.
LOG_FINISHED: Final = "task.finished"
LOG_RETRYING: Final = "task.retrying"
LOG_RESTARTING: Final = "task.restarting"
LOG_BACKOFF_FAILED: Final = "task.backoff_failed"
LOG_OUTPUT: Final = "task.output"
LOG_LINES_LOST: Final = "log.lines_lost"
LOG_OTEL_VARIABLE: Final = "telemetry.variable"
LOG_OBSERVER_FAILED: Final = "telemetry.observer_failed"
LOG_LISTENER_FAILED: Final = "event_bus.publish_failed"
LOG_SUBSCRIBER_FAILED: Final = "event_bus.subscriber_failed"
LOG_MANAGER_STATE: Final = "manager.state"
LOG_INCONSISTENT: Final = "manager.inconsistent"
LOG_PAUSED: Final = "category.paused"
LOG_RESUMED: Final = "category.resumed"
LOG_LOOP_BLOCKED: Final = "loop.blocked"
LOG_HEALTH_CHECK: Final = "health.check"
LOG_HISTORY_IN_MEMORY: Final = "history.in_memory"
LOG_HISTORY_NOTICE: Final = "history.notice"
LOG_HISTORY_RECOVERED: Final = "history.recovered"
LOG_HISTORY_UNWRITTEN: Final = "history.unwritten"
