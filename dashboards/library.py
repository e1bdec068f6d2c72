"""Metrics that are not ours: of Prometheus itself, of OpenMetrics and of prometheus_client's collectors.

Everything else that a dashboard shows is declared in qorzen_obs.telemetry.names.
"""

from __future__ import annotations

from typing import Final

from qorzen_obs.telemetry.names import MetricName

# Made by Prometheus: https://prometheus.io/docs/concepts/jobs_instances/
UP: Final = MetricName("gauge", "up", "1 where the last scrape succeeded.")
SCRAPE_DURATION: Final = MetricName("gauge", "scrape_duration_seconds", "How long the last scrape took.")
SCRAPE_SAMPLES: Final = MetricName("gauge", "scrape_samples_scraped", "Samples in the last scrape.")
#: Its labels are those of the alert; the rules of this project name these.
ALERTS: Final = MetricName(
    "gauge",
    "ALERTS",
    "1 for each alert that is pending or firing.",
    ("alertname", "alertstate", "severity", "instance", "category"),
)

#: What a service says of itself. https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
TARGET_INFO: Final = MetricName(
    "info", "target", "Attributes of the service's resource.", ("service_name", "service_version")
)

# ProcessCollector and GCCollector of prometheus_client.
PROCESS_START: Final = MetricName("gauge", "process_start_time_seconds", "When it started, Unix time.")
PROCESS_CPU: Final = MetricName("counter", "process_cpu_seconds", "Processor time, user and system.")
PROCESS_MEMORY: Final = MetricName("gauge", "process_resident_memory_bytes", "Resident memory.")
PROCESS_FILES: Final = MetricName("gauge", "process_open_fds", "Open file descriptors.")
PROCESS_FILES_LIMIT: Final = MetricName("gauge", "process_max_fds", "File descriptors that may be open.")
GC_COLLECTIONS: Final = MetricName(
    "counter", "python_gc_collections", "Runs of the garbage collector.", ("generation",)
)
GC_COLLECTED: Final = MetricName(
    "counter", "python_gc_objects_collected", "Objects that it freed.", ("generation",)
)
GC_UNCOLLECTABLE: Final = MetricName(
    "counter", "python_gc_objects_uncollectable", "Objects that it could not free.", ("generation",)
)
