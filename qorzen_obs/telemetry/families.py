"""Metric families made at scrape from declared names, so that no collector spells a name, a label or a bucket."""

from __future__ import annotations

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from qorzen_obs.telemetry.cells import HistogramCell
from qorzen_obs.telemetry.names import MetricName


def gauge(metric: MetricName) -> GaugeMetricFamily:
    """Return an empty gauge family."""
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)


def counter(metric: MetricName) -> CounterMetricFamily:
    """Return an empty counter family."""
    return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)


def histogram(metric: MetricName) -> HistogramMetricFamily:
    """Return an empty histogram family."""
    return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)


def add_histogram(family: HistogramMetricFamily, labels: tuple[str, ...], cell: HistogramCell) -> None:
    """Add what a cell has counted."""
    buckets, total = cell.read()
    family.add_metric(labels, buckets=buckets, sum_value=total)
