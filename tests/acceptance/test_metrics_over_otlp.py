"""A real collector takes our metrics, over HTTP and gRPC, and hands on what /metrics shows."""

from __future__ import annotations

import asyncio
import io
from typing import Any, Literal

import pytest

from qorzen_obs.settings import Settings, TelemetrySettings
from tests.services.backends import collector
from tests.services.otlp_receiver import OtlpReceiver
from tests.services.whole_service import whole_service
from tests.support import until

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("aggregation", ["explicit_bucket_histogram", "base2_exponential_bucket_histogram"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_a_real_collector_gets_the_metrics(
    protocol: Literal["http", "grpc"], aggregation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OtlpReceiver() as receiver, collector(receiver.endpoint, protocol=protocol) as endpoint:
        environment = {
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": {"http": "http/protobuf", "grpc": "grpc"}[protocol],
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": aggregation,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        settings = Settings(telemetry=TelemetrySettings(log_level="off"))
        async with whole_service(
            settings, http=False, environment=environment, log_stream=io.StringIO()
        ) as service:
            for _ in range(7):
                await service.tasks.run(asyncio.sleep, 0)
            # The collector may put several exports into one request. A busy machine may not send the last one, at the
            # end of the service, in the second that it has for that.
            await until(lambda: getattr(newest(receiver, "qorzen_tasks_finished"), "as_int", 0) == 7)
        finished = newest(receiver, "qorzen_tasks_finished")
        run = newest(receiver, "qorzen_task_run_duration_seconds")
    assert finished.exemplars
    if aggregation.startswith("base2"):
        assert sum(run.positive.bucket_counts) == 7
    else:
        assert sum(run.bucket_counts) == 7
    assert run.count == 7


def newest(receiver: OtlpReceiver, name: str) -> Any:
    """Return the newest point of the completed tasks of this metric that has arrived; None where none has."""
    labels = {"category": "core", "priority": "normal", "status": "completed"}
    points = [
        point
        for request in list(receiver.metric_requests)
        for group in request.resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in getattr(metric, metric.WhichOneof("data")).data_points
        if labels.items() <= {pair.key: pair.value.string_value for pair in point.attributes}.items()
    ]
    return max(points, key=lambda point: point.time_unix_nano, default=None)
