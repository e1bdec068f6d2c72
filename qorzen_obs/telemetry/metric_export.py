"""Sends the metrics to an OpenTelemetry collector if OTEL_METRICS_EXPORTER asks for it (docs/decisions/0070).

It reads the same collectors as /metrics, so a new family needs no second place. The thread of a bounded queue reads
and sends, so that a slow or hanging collector costs a task nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version as package_version
from typing import Final

import prometheus_client
from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from qorzen_obs.clock import Clock
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.export import BatchLimits, ExportQueue
from qorzen_obs.telemetry.metric_points import Converted, Instrument, Points

#: Returns the result of a function for each family.
Gather = Callable[[Callable[[prometheus_client.Metric], Converted]], Iterable[Converted]]

_DELTA: Final = AggregationTemporality.DELTA
#: The item in the queue: the metrics are read when they are sent.
_NOW: Final = object()


class MetricExport:
    """Sends the metrics of one service every interval, and once more at its end; all methods from any thread."""

    def __init__(
        self,
        name: str,
        exporter: MetricExporter,
        resource: Resource,
        *,
        interval_seconds: float,
        clock: Clock,
        on_ended: Callable[[], None],
    ) -> None:
        self.name = name
        self._exporter = exporter
        self._resource = resource
        self._own_scope = InstrumentationScope(names.SCOPE, package_version("qorzen-obs"), names.SCHEMA_URL)
        self._client_scope = InstrumentationScope("prometheus_client", package_version("prometheus_client"))
        preferred = exporter._preferred_temporality or {}  # the SDK's own readers use it too
        self._points = Points(
            frozenset(
                instrument
                for instrument, kind in (
                    (Instrument.COUNTER, Counter),
                    (Instrument.OBSERVED_COUNTER, ObservableCounter),
                    (Instrument.HISTOGRAM, Histogram),
                )
                if preferred.get(kind) is _DELTA
            ),
            clock.now(),
        )
        aggregation = (exporter._preferred_aggregation or {}).get(Histogram)
        self.exponential = isinstance(aggregation, ExponentialBucketHistogramAggregation)
        self._clock = clock
        self._on_ended = on_ended
        self._gather: Gather | None = None
        # One may wait while another is being sent: it covers what came in between.
        limits = BatchLimits(queue_size=2, batch_size=1, delay_seconds=interval_seconds)
        self.queue: ExportQueue[object] = ExportQueue(
            f"{name}-metrics", self._send, limits, clock=clock, close=exporter.shutdown, on_ended=on_ended
        )

    def start(self, gather: Gather) -> None:
        """Begin to send what `gather` reads, once."""
        self._gather = gather
        self.queue.start(on_tick=self._put)

    def _put(self) -> None:
        self.queue.put((_NOW,))

    @property
    def lost(self) -> int:
        """How many times the metrics were not accepted. Their counts are part of the next ones."""
        return self.queue.failed + self.queue.dropped_full + self.queue.dropped_shutdown

    def shutdown(self, deadline_seconds: float) -> bool:
        """Send the present metrics by the deadline; return whether they were accepted. Idempotent."""
        if self.queue.closing:
            return self.queue.shutdown(deadline_seconds)
        if self._gather is not None:
            self._put()
        else:  # the service did not start
            self._on_ended()
        return self.queue.shutdown(deadline_seconds)

    def _send(self, batch: object) -> int:
        assert self._gather is not None, "the thread starts with it"
        reading = self._points.reading(self._clock.now())
        families = list(self._gather(reading.read))
        if self._exporter.export(self._data(families)) is not MetricExportResult.SUCCESS:
            return 1
        self._points.commit(reading.now, families)
        return 0

    def _data(self, families: Iterable[Converted]) -> MetricsData:
        found = [metric for family in families for metric in family.metrics]
        own = [metric for metric in found if metric.name.startswith("qorzen_")]
        others = [metric for metric in found if not metric.name.startswith("qorzen_")]
        scopes = [
            sdk.ScopeMetrics(scope, metrics, scope.schema_url or "")
            for scope, metrics in ((self._own_scope, own), (self._client_scope, others))
            if metrics
        ]
        return MetricsData([sdk.ResourceMetrics(self._resource, scopes, self._resource.schema_url)])
