"""A real collector takes our metrics, over HTTP and gRPC, and hands on what /metrics shows."""

from __future__ import annotations

import asyncio
import io
from typing import Literal

import pytest

from qorzen_obs.settings import Settings, TelemetrySettings
from tests.services.backends import collector
from tests.services.otlp_receiver import OtlpReceiver
from tests.services.whole_service import whole_service

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
            export = service.parts.metrics
            assert export is not None
        taken = export.queue.exported
        arrived = await asyncio.to_thread(receiver.wait_for_metrics, taken)

    labels = {"category": "core", "priority": "normal", "status": "completed"}

    def is_it(point: object) -> bool:
        return labels.items() <= {pair.key: pair.value.string_value for pair in point.attributes}.items()  # type: ignore[attr-defined]

    (finished,) = filter(is_it, arrived["qorzen_tasks_finished"].sum.data_points)
    assert finished.as_int == 7
    assert finished.exemplars
    duration = arrived["qorzen_task_run_duration_seconds"]
    if aggregation.startswith("base2"):
        (run,) = filter(is_it, duration.exponential_histogram.data_points)
        assert sum(run.positive.bucket_counts) == 7
    else:
        (run,) = filter(is_it, duration.histogram.data_points)
        assert sum(run.bucket_counts) == 7
    assert run.count == 7
