"""Log lines at a collector: where OTEL_LOGS_EXPORTER asks for it, redacted, in their trace, and never at any cost."""

from __future__ import annotations

import io
import threading
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from qorzen_obs.app import Service
from qorzen_obs.options import with_options
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.logs import LogStream
from qorzen_obs.telemetry.setup import set_up_log_export
from tests.services.otlp_receiver import OtlpReceiver
from tests.services.whole_service import whole_service
from tests.support import Gate, metric


def attribute(record: LogRecord, key: str) -> str:
    return next((a.value.string_value for a in record.attributes if a.key == key), "")


def exporting(lines: io.StringIO | None = None) -> AbstractAsyncContextManager[Service]:
    """Start a service that sends its lines to a collector, and writes them here too."""
    return whole_service(
        http=False, environment={"OTEL_LOGS_EXPORTER": "otlp"}, log_stream=lines or io.StringIO()
    )


async def speak(logger: Any) -> None:
    logger.warning("the gate is open", password="not for the collector", answer=42, big=2**70)


async def test_lines_of_a_task_reach_the_collector_redacted_and_in_their_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        async with exporting() as service:
            info = await service.tasks.wait_for_task(
                await service.tasks.submit_task(speak, service.parts.loggers.get_logger("task_manager"))
            )
        said = {record.body.string_value: record for record in receiver.log_records}
        lost = metric(service.parts.registry, f"{names.EVENTS_DROPPED.name}_total", kind="log_record")
    line, finished = said["the gate is open"], said[names.LOG_FINISHED]
    assert line.severity_number == SeverityNumber.SEVERITY_NUMBER_WARN
    assert finished.severity_number == SeverityNumber.SEVERITY_NUMBER_INFO
    for record in (line, finished):
        assert (record.trace_id.hex(), record.span_id.hex()) == (info.trace_id, info.span_id)
        assert attribute(record, "task_id") == info.task_id
    assert attribute(line, "password") == "[redacted]"
    assert attribute(line, "big") == str(2**70)
    assert any(a.key == "answer" and a.value.int_value == 42 for a in line.attributes)
    assert lost == 0


def called_by(sampled: bool) -> Context:
    """The context of a request whose caller, in another service, has sampled its trace or not."""
    caller = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(int(sampled)))
    return trace.set_span_in_context(NonRecordingSpan(caller), Context())


@pytest.mark.parametrize("sampled", [True, False])
async def test_the_lines_of_a_task_have_the_flag_of_their_trace(
    sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "otlp"}
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        async with whole_service(http=False, environment=both, log_stream=io.StringIO()) as service:
            logger, gate = service.parts.loggers.get_logger("task_manager"), Gate()
            token = attach(called_by(sampled))
            ids = [
                await service.tasks.submit_task(speak, logger),
                await service.tasks.submit_task(gives_up),
                await service.tasks.submit_task(with_options(gate, delay=3600)),
            ]
            detach(token)
            await service.tasks.cancel_task(ids[-1])
            for task_id in ids:
                await service.tasks.wait_for_task(task_id)
    named = [record for record in receiver.log_records if attribute(record, "task_id") in ids]
    assert len(named) == 4
    assert {(record.trace_id.hex(), record.flags & 1) for record in named} == {
        (f"{0xABC:032x}", int(sampled))
    }
    arrived = {
        next(a.value.string_value for a in span.attributes if a.key == "qorzen.task.id")
        for span in receiver.spans
    }
    assert arrived == (set(ids) if sampled else {ids[1]}), "of an unsampled trace only what must be kept"


async def gives_up() -> None:
    raise ValueError("password=hunter2secret is wrong")


async def test_a_failure_is_explained_at_the_collector_by_its_span_and_its_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        both = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "otlp"}
        async with whole_service(http=False, environment=both, log_stream=io.StringIO()) as service:
            info = await service.tasks.wait_for_task(await service.tasks.submit_task(gives_up))
        (span,) = receiver.spans
        (line,) = [one for one in receiver.log_records if attribute(one, "status") == "failed"]
    (event,) = span.events
    said = {a.key: a.value.string_value for a in event.attributes}
    assert info.traceback is not None
    assert "in gives_up" in info.traceback
    assert event.name == "exception"
    assert said == {
        "exception.type": "ValueError",
        "exception.message": "password=[redacted] is wrong",
        "exception.stacktrace": info.traceback,
    }
    assert attribute(line, "exception") == info.traceback
    assert "hunter2" not in f"{receiver.requests}{receiver.log_requests}"


async def test_lines_that_the_collector_does_not_take_are_counted_and_hold_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with OtlpReceiver(status=400) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        lines = io.StringIO()
        async with exporting(lines) as service:
            await service.tasks.run(speak, service.parts.loggers.get_logger("task_manager"))
    assert "the gate is open" in lines.getvalue()
    assert metric(service.parts.registry, f"{names.EVENTS_DROPPED.name}_total", kind="log_record") >= 3


async def test_a_log_stream_that_a_service_is_given_brings_its_own_export(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        export = set_up_log_export({"OTEL_LOGS_EXPORTER": "otlp"})
        stream = LogStream(io.StringIO(), export=export)
        stream.logger("program").info("before the start")
        async with whole_service(http=False, log_stream=stream) as service:
            await service.tasks.run(speak, service.parts.loggers.get_logger("task_manager"))
        said = [record.body.string_value for record in receiver.log_records]
    assert "before the start" in said
    assert said.count("the gate is open") == 1


async def test_nothing_is_exported_where_nobody_asked() -> None:
    async with whole_service(http=False, log_stream=io.StringIO()) as service:
        assert service.parts.loggers.stream.export is None


async def test_an_exporter_that_nobody_knows_is_named_and_stops_nothing() -> None:
    lines = io.StringIO()
    environment = {"OTEL_LOGS_EXPORTER": "carrier_pigeon"}
    async with whole_service(http=False, environment=environment, log_stream=lines) as service:
        assert service.parts.loggers.stream.export is None
    assert "OTEL_LOGS_EXPORTER" in lines.getvalue()
    assert "carrier_pigeon" in lines.getvalue()


async def test_lines_with_what_otlp_cannot_hold_arrive_beside_the_good_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = [("f" * 40, "1"), ("-1", "1"), ("0", "0"), ("1", "f" * 17)]
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        async with exporting() as service:
            logger = service.parts.loggers.get_logger("task_manager")
            logger.warning("good")
            logger.warning("caf\udce9", detail="\ud800")
            for number, (trace_id, span_id) in enumerate(ids):
                logger.warning("odd", number=number, trace_id=trace_id, span_id=span_id)
        said = {record.body.string_value: record for record in receiver.log_records}
        odd = [record for record in receiver.log_records if record.body.string_value == "odd"]
    assert {"good", "caf\\udce9"} <= said.keys()
    assert attribute(said["caf\\udce9"], "detail") == "\\ud800"
    assert [record.trace_id for record in odd] == [b""] * len(ids)
    assert service.parts.loggers.stream.lost()["log_record"] == 0


async def test_what_is_said_about_sending_a_line_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        lines = io.StringIO()
        async with exporting(lines) as service:
            logger = service.parts.loggers.get_logger("task_manager")
            for name in ("qorzen-export-otlp", "another"):
                thread = threading.Thread(target=logger.warning, args=(f"said by {name}",), name=name)
                thread.start()
                thread.join()
        said = {record.body.string_value for record in receiver.log_records}
    assert "said by another" in said
    assert "said by qorzen-export-otlp" not in said
    assert "said by qorzen-export-otlp" in lines.getvalue()
