"""Metrics at a collector: those of /metrics, with their exemplars, over HTTP and gRPC, and never at any cost."""

from __future__ import annotations

import asyncio
import io
import logging
import math
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from importlib.metadata import version
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric, NumberDataPoint
from prometheus_client import Counter, Gauge, Histogram, Info, Summary
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric as ClientMetric
from prometheus_client.parser import text_string_to_metric_families

from qorzen_obs.app import Service
from qorzen_obs.errors import ManagerInitializationError
from qorzen_obs.settings import ServerSettings, Settings, TelemetrySettings
from qorzen_obs.telemetry import names
from tests.integration.telemetry.test_export_faults import MODES
from tests.services.backends import eventually
from tests.services.otlp_receiver import OtlpGrpcReceiver, OtlpReceiver
from tests.services.program import ROOT, environment
from tests.services.whole_service import url_of, whole_service
from tests.support import PATIENCE_SECONDS, metric, until

SETTINGS = Settings(server=ServerSettings(port=0), telemetry=TelemetrySettings(log_level="off"))
FOR_EVER = "86400000"
CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractAsyncContextManager[Service]]:
    """Start a service that sends its metrics to an endpoint, by default only at its end."""

    def exporting(
        endpoint: str, *, http: bool = False, settings: Settings = SETTINGS, **variables: str
    ) -> AbstractAsyncContextManager[Service]:
        environment = {
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_METRIC_EXPORT_INTERVAL": FOR_EVER,
            "OTEL_TRACES_EXPORTER": "none",
            **variables,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return whole_service(settings, http=http, environment=environment, log_stream=io.StringIO())

    return exporting


Exporting = Callable[..., AbstractAsyncContextManager[Service]]


def labels_of(point: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in point.attributes}


def value_of(point: NumberDataPoint) -> float:
    return point.as_double if point.HasField("as_double") else float(point.as_int)


def data_of(found: Metric) -> Any:
    """Its sum, gauge or histogram."""
    kind = found.WhichOneof("data")
    assert kind is not None
    return getattr(found, kind)


def one(found: Metric, **labels: str) -> Any:
    """The only point with these labels."""
    points = data_of(found).data_points
    (point,) = (point for point in points if labels.items() <= labels_of(point).items())
    return point


@pytest.mark.parametrize("receiver", [OtlpReceiver, OtlpGrpcReceiver], ids=["http", "grpc"])
async def test_the_collector_gets_what_metrics_shows(
    exporting: Exporting, receiver: type[OtlpReceiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = "grpc" if receiver is OtlpGrpcReceiver else "http/protobuf"
    with receiver() as collector:
        async with exporting(
            collector.endpoint, http=True, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, OTEL_SERVICE_NAME="shop"
        ) as service:
            tasks = service.tasks
            before = time.time()
            await asyncio.gather(*(tasks.run(asyncio.sleep, 0) for _ in range(5)))
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{url_of(service)}/metrics") as answer,
            ):
                shown = list(text_string_to_metric_families(await answer.text()))
            resource = service.parts.tracing.resource.attributes
        arrived = collector.metrics
        (group,) = collector.metric_requests[-1].resource_metrics

    expected = {found.name for found in shown if found.samples and not found.name.endswith("_created")}
    assert expected - {"target_info"} <= arrived.keys()

    finished = arrived["qorzen_tasks_finished"]
    assert (finished.sum.is_monotonic, finished.sum.aggregation_temporality) == (True, CUMULATIVE)
    point = one(finished, category="core", priority="normal", status="completed")
    assert point.as_int == 5
    assert point.start_time_unix_nano <= before * 1e9 <= point.time_unix_nano
    run = one(
        arrived["qorzen_task_run_duration_seconds"], category="core", priority="normal", status="completed"
    )
    assert run.count == 5
    assert sum(run.bucket_counts) == 5
    assert tuple(run.explicit_bounds) == names.RUN_DURATION.buckets
    assert not run.HasField("min")
    assert arrived["qorzen_task_run_duration_seconds"].unit == "s"
    assert one(arrived["qorzen_queue_limit"]).as_double == SETTINGS.tasks.max_pending
    assert one(arrived["qorzen_service_state"], qorzen_service_state="stopped").as_double == 1
    assert one(arrived["qorzen_build_info"], version=version("qorzen-obs")).as_double == 1

    sent = {pair.key: pair.value.string_value for pair in group.resource.attributes}
    assert sent == {key: str(value) for key, value in resource.items()}
    assert sent["service.instance.id"]
    (target,) = next(found for found in shown if found.name.startswith("target")).samples
    assert {key.replace(".", "_"): value for key, value in sent.items()} == target.labels
    ours = next(scope for scope in collector.scopes_of_metrics if scope.scope.name == "qorzen_obs")
    assert (ours.scope.version, ours.schema_url) == (version("qorzen-obs"), names.SCHEMA_URL)
    assert all(found.name.startswith("qorzen_") for found in ours.metrics)


async def test_an_exemplar_leads_to_a_kept_trace(exporting: Exporting) -> None:
    with OtlpReceiver() as collector:
        async with exporting(collector.endpoint) as service:
            info = await service.tasks.wait_for_task(await service.tasks.submit_task(asyncio.sleep, 0))
        arrived = collector.metrics
    assert info.trace_id is not None
    labels = {"category": "core", "priority": "normal", "status": "completed"}
    for name in ("qorzen_tasks_finished", "qorzen_task_run_duration_seconds"):
        (exemplar,) = one(arrived[name], **labels).exemplars
        assert (exemplar.trace_id.hex(), exemplar.span_id.hex()) == (info.trace_id, info.span_id)


async def test_metrics_come_every_interval_and_once_more_at_the_end(exporting: Exporting) -> None:
    with OtlpReceiver() as collector:
        async with exporting(collector.endpoint, OTEL_METRIC_EXPORT_INTERVAL="10") as service:
            await asyncio.to_thread(collector.wait_for_metrics, 3)
            await service.tasks.run(asyncio.sleep, 0)
        arrived = collector.metrics
        assert service.parts.metrics is not None
        assert service.parts.metrics.queue.exported == len(collector.metric_requests)
    assert (
        one(arrived["qorzen_tasks_finished"], category="core", priority="normal", status="completed").as_int
        == 1
    )
    state = one(arrived["qorzen_service_state"], qorzen_service_state="stopped")
    assert state.as_double == 1


#: By preference: of our counters, of counters that are only read, of histograms.
TEMPORALITIES = {
    "cumulative": (CUMULATIVE, CUMULATIVE, CUMULATIVE),
    "Delta": (DELTA, DELTA, DELTA),
    "lowmemory": (DELTA, CUMULATIVE, DELTA),
}


@pytest.mark.parametrize("aggregation", ["explicit_bucket_histogram", "base2_exponential_bucket_histogram"])
@pytest.mark.parametrize("preference", TEMPORALITIES)
async def test_values_are_since_the_start_or_since_the_last_export_that_was_taken(
    exporting: Exporting, preference: str, aggregation: str
) -> None:
    ours, observed, histograms = TEMPORALITIES[preference]
    with OtlpReceiver() as collector:
        async with exporting(
            collector.endpoint,
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=preference,
            OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION=aggregation,
        ) as service:
            export, tasks = service.parts.metrics, service.tasks
            assert export is not None
            visitors = Counter("visitors", "Foreign.", registry=tasks.registry)
            sizes = Histogram("sizes", "Foreign.", registry=tasks.registry, buckets=(1, 2))

            async def work(number: int) -> None:
                for _ in range(number):
                    await tasks.run(asyncio.sleep, 0)
                    visitors.inc()
                    sizes.observe(1.5)

            await work(2)
            send(export)
            first = collector.wait_for_metrics(1)
            collector.status = 400
            await work(3)
            send(export)  # nobody takes these
            await asyncio.to_thread(export.queue.flush, PATIENCE_SECONDS)
            collector.status = 200
            await work(4)
        last = collector.metrics

    labels = {"category": "core", "priority": "normal", "status": "completed"}
    checks: tuple[tuple[str, int, Callable[[Metric], float]], ...] = (
        ("qorzen_tasks_finished", ours, lambda arrived: one(arrived, **labels).as_int),
        ("visitors", observed, lambda arrived: one(arrived).as_double),
        ("qorzen_task_run_duration_seconds", histograms, lambda arrived: one(arrived, **labels).count),
        ("sizes", histograms, lambda arrived: one(arrived).count),
    )
    for name, temporality, found in checks:
        assert data_of(last[name]).aggregation_temporality == temporality, name
        assert (found(first[name]), found(last[name])) == (2, 7 if temporality == DELTA else 9), name
    duration = last["qorzen_task_run_duration_seconds"]
    before, after = (one(arrived["qorzen_task_run_duration_seconds"], **labels) for arrived in (first, last))
    if histograms == DELTA:
        assert after.start_time_unix_nano == before.time_unix_nano
        assert after.sum > 0
    else:
        assert after.start_time_unix_nano == before.start_time_unix_nano
        assert before.sum < after.sum
    if aggregation.startswith("base2"):
        assert duration.WhichOneof("data") == "exponential_histogram"
        assert sum(after.positive.bucket_counts) + after.zero_count == after.count
        assert len(after.positive.bucket_counts) <= 160
    else:
        assert sum(after.bucket_counts) == after.count


def send(export: Any) -> None:
    """Have the metrics sent now and not only at the interval."""
    export.queue.put((object(),))


async def test_buckets_of_the_settings_are_those_that_arrive(exporting: Exporting) -> None:
    telemetry = TelemetrySettings(log_level="off", run_buckets=(1.0, 2.0), wait_buckets=(3.0,))
    with OtlpReceiver() as collector:
        async with exporting(collector.endpoint, settings=Settings(telemetry=telemetry)) as service:
            await service.tasks.run(asyncio.sleep, 0)
        arrived = collector.metrics
    for name, bounds in (
        ("qorzen_task_run_duration_seconds", [1.0, 2.0]),
        ("qorzen_task_attempt_duration_seconds", [1.0, 2.0]),
        ("qorzen_definition_run_duration_seconds", [1.0, 2.0]),
        ("qorzen_task_queue_wait_seconds", [3.0]),
    ):
        for point in arrived[name].histogram.data_points:
            assert list(point.explicit_bounds) == bounds, name
            assert len(point.bucket_counts) == len(bounds) + 1, name


async def test_every_histogram_of_ours_is_exponential_where_that_is_asked_for(exporting: Exporting) -> None:
    with OtlpReceiver() as collector:
        async with exporting(
            collector.endpoint,
            http=True,
            OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION="base2_exponential_bucket_histogram",
        ) as service:
            async with aiohttp.ClientSession() as session, session.get(f"{url_of(service)}/status"):
                pass
            await service.tasks.run(asyncio.sleep, 0.02)
        arrived = collector.metrics
    kinds = {found.WhichOneof("data") for found in arrived.values() if found.name.startswith("qorzen_")}
    assert kinds == {"gauge", "sum", "exponential_histogram"}
    labels = {"category": "core", "priority": "normal", "status": "completed"}
    point = one(arrived["qorzen_task_run_duration_seconds"], **labels)
    factor = 2.0**2.0**-point.scale
    (index,) = (n for n, count in enumerate(point.positive.bucket_counts) if count)
    low, high = (factor ** (point.positive.offset + index + n) for n in (0, 1))
    assert math.nextafter(low, 0) <= point.sum <= math.nextafter(high, math.inf) * (1 + 1e-9)


class Broken:
    """A collector with a good family, one with text that utf-8 cannot hold, and one without sense."""

    def collect(self) -> Iterator[ClientMetric]:
        odd = GaugeMetricFamily("odd", "caf\udce9", labels=("name",))
        odd.add_metric(("\ud800",), 1)
        yield odd
        wrong = GaugeMetricFamily("wrong", "Its value is no number.")
        wrong.add_sample("wrong", {}, "a lot")  # type: ignore[arg-type]
        yield wrong
        raise SystemExit(3)


async def test_metrics_of_the_program_arrive_and_a_broken_one_costs_only_itself(exporting: Exporting) -> None:
    with OtlpReceiver() as collector:
        async with exporting(collector.endpoint) as service:
            registry = service.tasks.registry
            registry.register(Broken())
            Gauge("temperature", "Degrees.", ["room"], registry=registry).labels("hall").set(20.5)
            Counter("orders", "Taken.", registry=registry).inc(2, exemplar={"order": "7"})
            Summary("waits_seconds", "Waits.", registry=registry).observe(3)
            Info("about", "Facts.", registry=registry).info({"colour": "red"})
            Histogram("sizes", "Sizes.", registry=registry, buckets=(1, 5)).observe(3)
        arrived = collector.metrics
    assert one(arrived["temperature"], room="hall").as_double == 20.5
    assert value_of(one(arrived["orders"])) == 2
    assert list(one(arrived["orders"]).exemplars) == []
    assert one(arrived["orders"]).start_time_unix_nano > 0
    assert (one(arrived["waits_seconds_count"]).as_double, one(arrived["waits_seconds_sum"]).as_double) == (
        1,
        3,
    )
    assert one(arrived["about_info"], colour="red").as_double == 1
    assert list(one(arrived["sizes"]).bucket_counts) == [0, 1, 0]
    assert labels_of(one(arrived["odd"])) == {"name": "\\ud800"}
    assert "wrong" not in arrived
    assert "qorzen_tasks" in arrived


@pytest.mark.parametrize("mode", MODES)
async def test_f12_f13_a_bad_collector_costs_the_tasks_nothing(exporting: Exporting, mode: str) -> None:
    bad: AbstractContextManager[str] = MODES[mode]()
    with bad as endpoint:
        async with exporting(endpoint, OTEL_METRIC_EXPORT_INTERVAL="10") as service:
            results = await asyncio.gather(*(service.tasks.run(asyncio.sleep, 0, n) for n in range(200)))
            assert results == list(range(200))
        export, registry = service.parts.metrics, service.parts.registry
    assert export is not None
    assert export.queue.exported == 0
    assert metric(registry, f"{names.EVENTS_DROPPED.name}_total", kind="metric_export") == export.lost >= 1


async def test_health_says_that_the_collector_takes_no_metrics(exporting: Exporting) -> None:
    with OtlpReceiver(status=400) as collector:
        async with exporting(collector.endpoint) as service:
            export = service.parts.metrics
            assert export is not None
            send(export)
            await until(lambda: export.queue.failed == 1)
            (trouble,) = service.tasks.status()["telemetry"]["trouble"]
            assert trouble.startswith("export otlp_proto_http-metrics: ")


@pytest.mark.parametrize(
    "variables", [{}, {"OTEL_METRICS_EXPORTER": "none"}, {"OTEL_METRICS_EXPORTER": "nonsense"}]
)
async def test_nothing_is_sent_where_nobody_asked(variables: dict[str, str]) -> None:
    async with whole_service(SETTINGS, http=False, environment=variables) as service:
        assert service.parts.metrics is None


def run_example(**variables: str) -> str:
    """Run a program that embeds a task manager with these variables; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / "embedded.py"],
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_console_shows_them_too() -> None:
    # A busy machine may not write them in the second that the end of the program has for it.
    eventually(lambda: '"name": "qorzen_tasks"' in run_example(OTEL_METRICS_EXPORTER="console"))


@pytest.mark.parametrize("receiver", [OtlpReceiver, OtlpGrpcReceiver], ids=["http", "grpc"])
def test_each_signal_names_the_same_program_and_the_same_version_of_ours(
    receiver: type[OtlpReceiver],
) -> None:
    """In a process of its own, since the provider of spans is global."""
    with receiver() as collector:
        run_example(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc" if receiver is OtlpGrpcReceiver else "http/protobuf",
            OTEL_LOGS_EXPORTER="otlp",
            OTEL_METRICS_EXPORTER="otlp",
        )
    spans = [group for request in collector.requests for group in request.resource_spans]
    logs = [group for request in collector.log_requests for group in request.resource_logs]
    metrics = [group for request in collector.metric_requests for group in request.resource_metrics]
    assert spans
    assert logs
    assert metrics
    resources = {group.resource.SerializeToString(deterministic=True) for group in (*spans, *logs, *metrics)}
    assert len(resources) == 1
    scopes = [scope for group in spans for scope in group.scope_spans]
    scopes += [scope for group in logs for scope in group.scope_logs]
    scopes += [scope for group in metrics for scope in group.scope_metrics]
    ours = [scope for scope in scopes if scope.scope.name != "prometheus_client"]
    assert len(ours) >= 3
    assert {(scope.scope.version, scope.schema_url) for scope in ours} == {
        (version("qorzen-obs"), names.SCHEMA_URL)
    }


async def test_a_service_that_does_not_start_leaves_no_export_behind(exporting: Exporting) -> None:
    with OtlpReceiver() as collector, socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(server=ServerSettings(port=taken.getsockname()[1]))
        logger = logging.getLogger("opentelemetry.exporter.otlp.proto.http.metric_exporter")
        filters = list(logger.filters)
        with pytest.raises(ManagerInitializationError):
            async with exporting(collector.endpoint, http=True, settings=settings):
                pass
        assert logger.filters == filters
        assert collector.metric_requests == []
