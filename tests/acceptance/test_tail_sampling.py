"""With a budget of one trace a second, every failure among 10,000 tasks reaches the collector."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from qorzen_obs.settings import Settings, TaskSettings, TelemetrySettings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.export import TracingMetrics
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.setup import set_up_tracing
from qorzen_obs.testing import open_test_manager
from tests.services.backends import collector
from tests.services.otlp_receiver import OtlpReceiver
from tests.support import metric

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TASKS = 10_000
FAILURES = TASKS // 20


async def work(number: int) -> None:
    """Fail one time in twenty."""
    await asyncio.sleep(0)
    if number % 20 == 0:
        raise ValueError(number)


def exemplar_traces(registry: Any) -> set[str]:
    return {
        sample.exemplar.labels["trace_id"]
        for family in registry.collect()
        for sample in family.samples
        if sample.exemplar is not None
    }


async def test_of_10_000_tasks_every_failed_one_s_trace_arrives_and_the_rest_obeys_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    telemetry = TelemetrySettings(traces_per_second=1)
    settings = Settings(tasks=TaskSettings(max_concurrent_tasks=200, max_pending=TASKS), telemetry=telemetry)
    with OtlpReceiver() as receiver, collector(receiver.endpoint) as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        tracing = set_up_tracing(telemetry, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, set_global=False)
        parts = TelemetryParts(settings=telemetry, status=tracing.status, exemplars=tracing.exemplars)
        begin = time.monotonic()
        async with open_test_manager(settings, tracer_provider=tracing.provider, telemetry=parts) as tasks:
            tasks.registry.register(TracingMetrics(tracing))
            ids = [await tasks.submit_task(work, number) for number in range(TASKS)]
            infos = [await tasks.wait_for_task(task_id) for task_id in ids]
            seconds = time.monotonic() - begin
            assert await asyncio.to_thread(tracing.shutdown, 10.0), "everything was sent"
            registry = tasks.registry
            exported = metric(registry, names.SPANS.name + "_total", outcome=names.SPAN_EXPORTED)
            sampled_out = metric(registry, names.SPANS.name + "_total", outcome=names.SPAN_SAMPLED_OUT)
            by_budget = metric(registry, names.TRACES.name + "_total", decision="kept", reason="budget")
            led_to = exemplar_traces(registry)
        spans = await asyncio.to_thread(receiver.wait_for_spans, int(exported), 30.0)

    assert exported + sampled_out == TASKS, "one span a task, and each has a fate"
    failed = {info.trace_id for info in infos if info.error_type == "ValueError"}
    arrived = {span.trace_id.hex() for span in spans}
    assert len(failed) == FAILURES
    assert failed <= arrived
    assert {span.trace_id.hex() for span in spans if span.status.code == Status.STATUS_CODE_ERROR} == failed
    others = len(arrived - failed)
    assert others == by_budget
    assert 1 <= others <= seconds + 1
    assert led_to
    assert led_to <= arrived, "exemplars lead to kept traces only"
