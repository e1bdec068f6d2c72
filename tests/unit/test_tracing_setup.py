"""Who makes the spans, who keeps and who exports them, and that no collector can hold up an exit.

A process can set its global provider only once, so what is global runs in a process of its own, by `alone`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Protocol

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import StatusCode

from qorzen_obs import open_task_manager
from qorzen_obs.errors import SettingsError
from qorzen_obs.settings import EngineSettings, Settings, TelemetrySettings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.secret_forms import HIDDEN
from qorzen_obs.telemetry.setup import Tracing, set_up_tracing
from tests.process_tasks import make_spans
from tests.services.otlp_receiver import OtlpReceiver
from tests.support import PATIENCE_SECONDS

pytestmark = pytest.mark.slow  # a program of its own for each test

ROOT = Path(__file__).parents[2]
SETTINGS = TelemetrySettings()
NO_SPANS = dict.fromkeys(names.SPAN_OUTCOMES, 0)

FOR_EVER = str(10 * int(PATIENCE_SECONDS))  #: seconds; what waits for them hangs


class SetUp(Protocol):
    def __call__(self, **environment: str) -> Tracing: ...


class Offer(Protocol):
    def __call__(self, name: str, factory: Callable[..., object], group: str = ...) -> None: ...


@pytest.fixture(autouse=True)
def _no_otel_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[SetUp]:
    """Set up tracing with a private provider and these variables; all are shut down after the test."""
    made: list[Tracing] = []

    def set_up(**environment: str) -> Tracing:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        made.append(set_up_tracing(SETTINGS, os.environ, set_global=False))
        return made[-1]

    yield set_up
    for tracing in made:
        tracing.shutdown()


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Offer:
    """Install exporters by name, each as a distribution with an entry point, as their packages do."""
    module = ModuleType("offered_exporters")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(tmp_path)

    def offer(name: str, factory: Callable[..., object], group: str = "traces_exporter") -> None:
        setattr(module, name, factory)
        metadata = tmp_path / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        entry_points = f"[opentelemetry_{group}]\n{name} = offered_exporters:{name}\n"
        (metadata / "entry_points.txt").write_text(entry_points)

    return offer


class StuckExporter(SpanExporter):
    """Sends nothing until it is told to, or is shut down where it heeds that."""

    def __init__(self, *, heeds_shutdown: bool = True) -> None:
        self.heeds_shutdown = heeds_shutdown
        self.release = threading.Event()
        self.shutdowns = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.release.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.shutdowns += 1
        if self.heeds_shutdown:
            self.release.set()


class RaisingExporter(SpanExporter):
    def __init__(self, *, on_export: bool) -> None:
        self.on_export = on_export

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.on_export:
            raise RuntimeError("cannot export")
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        raise RuntimeError("cannot close")


def end_span(tracing: Tracing, name: str = "work") -> None:
    tracing.provider.get_tracer("test").start_span(name).end()


def kept(tracing: Tracing) -> list[str]:
    """The names of the traces in the store, oldest first."""
    return [summary.root_name for summary in reversed(tracing.traces.summaries())]


# What is made


def test_by_default_traces_are_kept_and_nothing_is_exported(set_up: SetUp) -> None:
    threads = set(threading.enumerate())
    tracing = set_up()
    end_span(tracing)
    assert kept(tracing) == ["work"]
    assert tracing.status() == {
        "service": {"name": "qorzen-obs", "version": None},
        "tracing": "sdk",
        "sampling": "tail",
        "exporters": [],
        "traces_kept": 1,
        "spans_dropped": 0,
        "spans": {**NO_SPANS, "kept": 1},
        "traces": {"kept": 1, "dropped": 0, "partial": 0},
        "undecided_traces": 0,
        "span_queue": {"size": 0, "limit": 0},
        "last_export_at": None,
        "trouble": [],
    }
    assert set(threading.enumerate()) == threads
    assert tracing.shutdown() is True


def test_the_settings_bound_the_store() -> None:
    settings = TelemetrySettings(keep_traces=1, keep_spans_per_trace=1)
    tracing = set_up_tracing(settings, {}, set_global=False)
    tracer = tracing.provider.get_tracer("test")
    with tracer.start_as_current_span("root"):
        tracer.start_span("child").end()
    end_span(tracing, "last")
    assert kept(tracing) == ["last"]
    assert (tracing.status()["traces_kept"], tracing.status()["spans_dropped"]) == (1, 1)


def test_when_the_sdk_is_disabled_there_are_no_spans_and_no_harm(set_up: SetUp) -> None:
    tracing = set_up(OTEL_SDK_DISABLED=" True ", OTEL_TRACES_EXPORTER="unknown")
    end_span(tracing)
    assert not tracing.provider.get_tracer("test").start_span("x").is_recording()
    status = tracing.status()
    assert (status["tracing"], status["sampling"], status["exporters"]) == ("disabled", "none", [])
    assert (status["traces_kept"], status["spans"]) == (0, NO_SPANS)
    assert tracing.shutdown() is True


def resource_of(tracing: Tracing) -> Mapping[str, object]:
    assert isinstance(tracing.provider, TracerProvider)
    return tracing.provider.resource.attributes or {}


@pytest.mark.parametrize(
    ("environment", "service_name"),
    [
        ({}, "qorzen-obs"),
        ({"OTEL_SERVICE_NAME": "shop"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,deployment.environment.name=test"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}, "qorzen-obs"),
    ],
)
def test_the_service_is_named_by_the_environment_first(
    set_up: SetUp, environment: dict[str, str], service_name: str
) -> None:
    resource = resource_of(set_up(**environment))
    assert resource["service.name"] == service_name
    assert resource["telemetry.sdk.name"] == "opentelemetry"
    assert ("deployment.environment.name" in resource) == ("OTEL_RESOURCE_ATTRIBUTES" in environment)


@pytest.mark.parametrize(
    ("environment", "in_span", "in_event"),
    [
        ({}, 1_024, 8_192),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "50"}, 50, 50),
        ({"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "50"}, 50, 8_192),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "0"}, 0, 0),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "long"}, 1_024, 8_192),
    ],
)
def test_the_length_of_attributes_is_bounded(
    set_up: SetUp, environment: dict[str, str], in_span: int, in_event: int
) -> None:
    tracing = set_up(**environment)
    span = tracing.provider.get_tracer("test").start_span("long")
    span.set_attribute("text", "x" * 100_000)
    span.add_event("event", {"text": "x" * 100_000})
    span.end()
    (stored,) = tracing.traces.trace(f"{span.get_span_context().trace_id:032x}")
    assert stored.attributes == {"text": "x" * in_span}
    assert stored.events[0].attributes == {"text": "x" * in_event}


def test_long_texts_on_spans_are_cut_quietly_and_counted(
    set_up: SetUp, caplog: pytest.LogCaptureFixture
) -> None:
    tracing = set_up()
    before = tracing.lost()["span_text"]
    for _ in range(200):
        with tracing.provider.get_tracer("test").start_as_current_span("long") as span:
            span.set_attribute("text", "x" * 2_000)
    assert tracing.lost()["span_text"] - before == 200
    assert caplog.records == []


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.0"},
        {"OTEL_TRACES_SAMPLER": "Always_Off"},
        {"OTEL_TRACES_SAMPLER": "parentbased_always_off"},
    ],
    ids=lambda environment: environment["OTEL_TRACES_SAMPLER"],
)
def test_the_sampler_of_the_environment_is_the_ratio_of_what_nothing_speaks_for(
    set_up: SetUp, environment: dict[str, str]
) -> None:
    tracing = set_up(**environment)
    end_span(tracing)
    with tracing.provider.get_tracer("test").start_as_current_span("failed") as span:
        span.set_status(StatusCode.ERROR)
    assert kept(tracing) == ["failed"]
    assert tracing.status()["spans"] == {**NO_SPANS, "kept": 1, "sampled_out": 1}
    assert tracing.status()["sampling"] == "tail"


def test_a_sampler_of_another_package_decides_at_the_head(set_up: SetUp, offer: Offer) -> None:
    offer("of_another_package", lambda argument: ParentBased(ALWAYS_ON), "traces_sampler")
    tracing = set_up(OTEL_TRACES_SAMPLER="of_another_package")
    assert tracing.status()["sampling"].startswith("ParentBased")
    end_span(tracing)
    assert kept(tracing) == ["work"]


# What is exported


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "{}"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "{}", "OTEL_TRACES_EXPORTER": "otlp, none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "{}", "OTEL_TRACES_EXPORTER": "otlp,otlp_proto_http"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "{}", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "{}", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{}/v1/traces", "OTEL_TRACES_EXPORTER": ""},
    ],
    ids=["endpoint", "none-beside", "named-twice", "protocol", "gzip", "traces-endpoint"],
)
def test_spans_arrive_over_http(set_up: SetUp, environment: dict[str, str]) -> None:
    with OtlpReceiver() as collector:
        tracing = set_up(**{name: value.format(collector.endpoint) for name, value in environment.items()})
        tracer = tracing.provider.get_tracer("test")
        with tracer.start_as_current_span("parent"):
            tracer.start_span("child").end()
        assert tracing.exporters == ("otlp_proto_http",)
        assert tracing.shutdown(10.0) is True
        child, parent = collector.spans
    assert (child.name, parent.name) == ("child", "parent")
    assert child.parent_span_id == parent.span_id
    (resource,) = collector.resources
    assert {pair.key: pair.value.string_value for pair in resource.attributes}["service.name"] == "qorzen-obs"


def test_spans_with_text_that_utf8_cannot_hold_arrive_beside_the_good_ones(set_up: SetUp) -> None:
    with OtlpReceiver() as collector:
        tracing = set_up(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        end_span(tracing, "good")
        with tracing.provider.get_tracer("scope \ud800").start_as_current_span("caf\udce9") as odd:
            odd.add_event("\ud800")
            odd.set_status(StatusCode.ERROR, "\udfff")
        assert tracing.shutdown(10.0) is True
        spans = {span.name: span for span in collector.spans}
    assert spans.keys() == {"good", "caf\\udce9"}
    assert spans["caf\\udce9"].events[0].name == "\\ud800"
    assert spans["caf\\udce9"].status.message == "\\udfff"


def test_a_span_on_which_an_exporter_raises_fails_alone(
    set_up: SetUp, offer: Offer, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[str] = []

    class Picky(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            if any(span.name == "poison" for span in spans):
                raise ValueError("cannot encode")
            taken.extend(span.name for span in spans)
            return SpanExportResult.SUCCESS

    offer("picky", Picky)
    tracing = set_up(OTEL_TRACES_EXPORTER="picky")
    for number in range(21):
        end_span(tracing, "poison" if number == 13 else f"good {number}")
    assert tracing.shutdown(10.0) is False
    assert taken == [f"good {number}" for number in range(21) if number != 13]
    outcomes = tracing.span_outcomes()
    assert (outcomes[names.SPAN_EXPORTED], outcomes[names.SPAN_EXPORT_FAILED]) == (20, 1)
    assert caplog.text.count("cannot encode") <= 3, "one line, with its traceback, a minute"


def test_spans_arrive_while_the_manager_runs(set_up: SetUp) -> None:
    with OtlpReceiver() as collector:
        tracing = set_up(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_BSP_SCHEDULE_DELAY="10")
        end_span(tracing)
        assert [span.name for span in collector.wait_for_spans(1)] == ["work"]
        tracing.shutdown()


def test_none_exports_nothing_even_to_a_known_endpoint(set_up: SetUp) -> None:
    with OtlpReceiver() as collector:
        tracing = set_up(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_TRACES_EXPORTER="None")
        end_span(tracing)
        assert tracing.exporters == ()
        assert tracing.shutdown() is True
        assert collector.requests == []


def test_an_exporter_of_another_package_is_found_by_its_name(set_up: SetUp, offer: Offer) -> None:
    exporter = InMemorySpanExporter()
    offer("elsewhere", lambda: exporter)
    tracing = set_up(OTEL_TRACES_EXPORTER="elsewhere")
    end_span(tracing)
    assert tracing.status()["exporters"] == ["elsewhere"]
    assert tracing.shutdown() is True
    assert [span.name for span in exporter.get_finished_spans()] == ["work"]


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "unheard-of"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "five", "OTEL_BSP_SCHEDULE_DELAY": "0"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "5", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "6"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"},
        {"OTEL_TRACES_SAMPLER": "coin"},
    ],
    ids=["exporter", "queue-value", "batch-value", "ratio", "sampler"],
)
def test_what_cannot_be_used_counts_as_unset(set_up: SetUp, environment: dict[str, str]) -> None:
    tracing = set_up(**environment)
    end_span(tracing)
    assert kept(tracing) == ["work"]
    assert (tracing.sampling, tracing.exporters) == ("tail", ())
    assert {name: os.environ[name] for name in environment} == environment


def test_a_protocol_that_cannot_be_used_is_http(set_up: SetUp) -> None:
    with OtlpReceiver() as collector:
        tracing = set_up(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="http/json"
        )
        end_span(tracing)
        assert tracing.shutdown(10.0) is True
        assert [span.name for span in collector.spans] == ["work"]


def test_an_exporter_that_cannot_be_made_is_refused_with_its_reason(set_up: SetUp, offer: Offer) -> None:
    def make() -> SpanExporter:
        raise ValueError("no certificate")

    offer("broken", make)
    threads = set(threading.enumerate())
    with pytest.raises(SettingsError, match=r"OTEL_TRACES_EXPORTER.*'broken' cannot be made: no certificate"):
        set_up(OTEL_TRACES_EXPORTER="otlp,broken")
    assert set(threading.enumerate()) == threads


@pytest.mark.parametrize(
    ("environment", "key", "remedy"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "OTEL_TRACES_EXPORTER", "pip install 'qorzen-obs[otlp]'"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "pip install 'qorzen-obs[otlp]'",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
            "OTEL_TRACES_EXPORTER",
            "pip install 'qorzen-obs[otlp-grpc]'",
        ),
    ],
    ids=["named", "by-endpoint", "grpc"],
)
def test_a_missing_otlp_exporter_names_the_extra_that_brings_it(
    set_up: SetUp, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], key: str, remedy: str
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT)])  # no distribution is installed there
    with pytest.raises(SettingsError) as refused:
        set_up(**environment)
    assert refused.value.key == key
    assert remedy in str(refused.value)


# How it ends


def test_after_shutdown_spans_are_dropped_and_the_store_stays_readable(set_up: SetUp) -> None:
    with OtlpReceiver() as collector:
        tracing = set_up(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        open_span = tracing.provider.get_tracer("test").start_span("open")
        end_span(tracing, "before")
        assert tracing.shutdown(10.0) is True
        open_span.end()
        end_span(tracing, "after")
        assert tracing.shutdown() is True
        assert [span.name for span in collector.spans] == ["before"]
    assert kept(tracing) == ["before"]
    assert tracing.span_outcomes() == {**NO_SPANS, names.SPAN_EXPORTED: 1, names.SPAN_DROPPED_SHUTDOWN: 2}


def test_f13_shutdown_returns_at_its_deadline_and_ends_the_retries(set_up: SetUp) -> None:
    with OtlpReceiver(status=503) as collector:
        tracing = set_up(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_EXPORTER_OTLP_TIMEOUT=FOR_EVER)
        end_span(tracing)
        assert tracing.shutdown(0.2) is False
        assert tracing.shutdown() is False
    # That no thread outlives the test says that the retries have ended.


def test_shutdown_says_when_the_collector_refused(set_up: SetUp) -> None:
    with OtlpReceiver(status=400) as collector:
        tracing = set_up(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        end_span(tracing)
        assert tracing.shutdown(10.0) is False


def test_what_failed_before_does_not_make_a_good_shutdown_a_bad_one(set_up: SetUp) -> None:
    with OtlpReceiver(status=400) as collector:
        tracing = set_up(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        end_span(tracing, "lost")
        assert isinstance(tracing.provider, TracerProvider)
        tracing.provider.force_flush()
        collector.status = 200
        end_span(tracing, "sent")
        assert tracing.shutdown(10.0) is True
        assert [span.name for span in collector.spans] == ["sent"]


def test_f13_a_stuck_exporter_is_given_up_and_does_not_hold_up_another(set_up: SetUp, offer: Offer) -> None:
    stuck = StuckExporter()
    offer("stuck", lambda: stuck)
    with OtlpReceiver() as collector:
        tracing = set_up(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_TRACES_EXPORTER="stuck,otlp")
        end_span(tracing)
        assert tracing.shutdown(2.0) is False
        assert [span.name for span in collector.spans] == ["work"]
    assert stuck.release.wait(PATIENCE_SECONDS)
    assert stuck.shutdowns == 1


def test_f13_an_exporter_deaf_to_shutdown_is_left_behind(set_up: SetUp, offer: Offer) -> None:
    stuck = StuckExporter(heeds_shutdown=False)
    offer("stuck", lambda: stuck)
    tracing = set_up(OTEL_TRACES_EXPORTER="stuck")
    end_span(tracing)
    assert tracing.shutdown(0.05) is False
    stuck.release.set()


def test_an_exporter_that_raises_is_reported_and_survived(
    set_up: SetUp, offer: Offer, caplog: pytest.LogCaptureFixture
) -> None:
    offer("raises_always", lambda: RaisingExporter(on_export=True))
    offer("raises_at_the_end", lambda: RaisingExporter(on_export=False))
    always, at_the_end = (
        set_up(OTEL_TRACES_EXPORTER=name) for name in ("raises_always", "raises_at_the_end")
    )
    end_span(always)
    end_span(at_the_end)
    assert always.shutdown(10.0) is False
    assert at_the_end.shutdown(10.0) is True
    assert caplog.text.count("did not close in order") == 2
    assert "cannot export" in caplog.text


def test_shutdown_from_several_threads_happens_once(set_up: SetUp, offer: Offer) -> None:
    stuck = StuckExporter()
    offer("stuck", lambda: stuck)
    tracing = set_up(OTEL_TRACES_EXPORTER="stuck")
    end_span(tracing)
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(tracing.shutdown(0.1))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [False] * 3
    assert stuck.release.wait(PATIENCE_SECONDS)
    assert stuck.shutdowns == 1


# What is global


def alone(scenario: Callable[[], None], **environment: str) -> str:
    """Run a function of this module in a process of its own, warnings as errors; return what it printed."""
    command = f"from tests.unit import test_tracing_setup as module; module.{scenario.__name__}()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def set_up_globally() -> Tracing:
    return set_up_tracing(SETTINGS, os.environ, set_global=True)


def end_global_span(name: str) -> None:
    trace.get_tracer("user").start_span(name).end()


def opens_twice() -> None:
    early = trace.get_tracer("user")  # a proxy, until there is a provider
    first = set_up_globally()
    assert (first.mode, first.sampling) == ("sdk", "tail")
    assert trace.get_tracer_provider() is first.provider
    early.start_span("one").end()
    end_global_span("two")
    assert first.shutdown(10.0)
    end_global_span("between")

    second = set_up_globally()
    assert (second.mode, second.provider) == ("sdk", first.provider)
    early.start_span("three").end()
    assert first.shutdown()  # again, and of no effect on the second
    end_global_span("four")
    assert (kept(first), kept(second)) == (["one", "two"], ["three", "four"])
    assert second.shutdown(10.0)


def test_after_a_shutdown_our_provider_is_used_again() -> None:
    with OtlpReceiver() as collector:
        alone(opens_twice, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        assert [span.name for span in collector.spans] == ["one", "two", "three", "four"]


def opens_a_second_while_the_first_is_open() -> None:
    first = set_up_globally()
    second = set_up_globally()
    assert (second.mode, second.sampling, second.exporters) == ("sdk", "tail", ("otlp_proto_http",))
    end_global_span("both")
    assert second.shutdown(10.0)
    end_global_span("first only")
    assert (kept(first), kept(second)) == (["both", "first only"], ["both"])
    assert first.shutdown(10.0)
    assert set_up_globally().mode == "sdk"


def opens_a_second_and_ends_the_first() -> None:
    first, second = set_up_globally(), set_up_globally()
    end_global_span("both")
    assert first.shutdown(10.0), "what was there has been sent"
    end_global_span("second only")
    third = set_up_globally()
    end_global_span("second and third")
    assert first.shutdown(), "again, and of no effect on the others"
    assert second.shutdown(10.0)
    end_global_span("third only")
    assert third.shutdown(10.0)
    end_global_span("after the last")
    assert kept(first) == ["both"]
    assert kept(second) == ["both", "second only", "second and third"]
    assert kept(third) == ["second and third", "third only"]
    assert third.span_outcomes() == {**NO_SPANS, names.SPAN_EXPORTED: 4, names.SPAN_DROPPED_SHUTDOWN: 1}
    assert second.status()["trouble"] == []


@pytest.mark.parametrize(
    ("scenario", "arrive"),
    [
        (opens_a_second_while_the_first_is_open, ["both", "first only"]),
        (opens_a_second_and_ends_the_first, ["both", "second only", "second and third", "third only"]),
    ],
)
def test_several_at_a_time_share_the_exporter_until_the_last_has_ended(
    scenario: Callable[[], None], arrive: list[str]
) -> None:
    with OtlpReceiver() as collector:
        alone(scenario, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        assert [span.name for span in collector.spans] == arrive


def opens_one_that_hides_more_and_exports_more() -> None:
    first = set_up_globally()
    os.environ["OTEL_TRACES_EXPORTER"] = "otlp,console"
    second = set_up_tracing(SETTINGS, os.environ, set_global=True, redactor=Redactor(["iban"]))
    assert first.exporters == second.exporters == ("otlp_proto_http", "console")
    trace.get_tracer("user").start_span("of either", attributes={"iban": "DE-hidden", "password": "p"}).end()
    assert second.shutdown(10.0)
    assert first.shutdown(10.0)


def test_what_is_shared_hides_and_exports_what_each_of_them_asks_for() -> None:
    with OtlpReceiver() as collector:
        printed = alone(
            opens_one_that_hides_more_and_exports_more, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint
        )
        (span,) = collector.spans
    assert {a.key: a.value.string_value for a in span.attributes} == {"iban": HIDDEN, "password": HIDDEN}
    assert '"name": "of either"' in printed
    assert "DE-hidden" not in printed


def shuts_down_the_provider_beside_a_second() -> None:
    first, second = set_up_globally(), set_up_globally()
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.shutdown()
    third = set_up_globally()
    end_global_span("third only")
    for tracing in (second, third, first):
        assert tracing.shutdown(10.0)
    assert (kept(first), kept(second), kept(third)) == ([], [], ["third only"])


def test_one_that_comes_after_a_shutdown_by_the_user_shares_nothing_with_those_before() -> None:
    with OtlpReceiver() as collector:
        alone(shuts_down_the_provider_beside_a_second, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        assert [span.name for span in collector.spans] == ["third only"]


def joins_a_foreign_sdk() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    tracing = set_up_globally()
    assert tracing.provider is provider
    assert tracing.status()["tracing"] == tracing.status()["sampling"] == "foreign"
    assert tracing.exporters == ()
    end_global_span("both")
    assert tracing.shutdown()
    end_global_span("theirs")
    assert kept(tracing) == ["both"]
    assert [span.name for span in exporter.get_finished_spans()] == ["both", "theirs"]


def test_a_foreign_sdk_is_watched_and_outlives_us() -> None:
    alone(joins_a_foreign_sdk, OTEL_TRACES_EXPORTER="unheard-of")


class CountedProvider(TracerProvider):
    """A provider of the user's that knows how many processors it was given."""

    processors = 0

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        self.processors += 1
        super().add_span_processor(span_processor)


def opens_managers_on_a_foreign_sdk() -> None:
    exporter, provider = InMemorySpanExporter(), CountedProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    async def open_and_close(number: int) -> None:
        settings = Settings(telemetry=TelemetrySettings(log_level="off"))
        async with open_task_manager(settings) as tasks:
            await tasks.run(asyncio.sleep, 0)
            assert tasks.looks.traces is not None
            (summary,) = tasks.looks.traces.summaries()
            assert summary.spans == 1, "of its own task alone"
            assert tasks.status()["telemetry"]["tracing"] == "foreign"
        assert len(exporter.get_finished_spans()) == number + 1

    async def open_one_after_another() -> None:
        for number in range(251):
            await open_and_close(number)

    asyncio.run(open_one_after_another())
    assert provider.processors == 2


def test_managers_that_come_and_go_leave_one_processor_on_a_foreign_provider() -> None:
    alone(opens_managers_on_a_foreign_sdk)


def has_spans_from_a_worker() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    async def run() -> None:
        settings = Settings(telemetry=TelemetrySettings(log_level="off"), engines=EngineSettings(processes=1))
        async with open_task_manager(settings) as tasks:
            info = await tasks.wait_for_task(await tasks.submit_task(make_spans))
            assert tasks.looks.traces is not None
            kept = tasks.looks.traces.trace(str(info.trace_id))
            assert tasks.status()["telemetry"]["trouble"] == []
        exported = exporter.get_finished_spans()
        for spans in (kept, exported):
            inner, outer, run = spans
            assert (inner.name, outer.name, run.name) == ("inner", "outer", "run make_spans")
            assert outer.parent is not None
            assert outer.parent.span_id == run.context.span_id
            assert inner.resource is provider.resource

    asyncio.run(run())


def test_spans_from_worker_processes_go_to_the_users_own_processors_once() -> None:
    alone(has_spans_from_a_worker)


def joins_something_else() -> None:
    foreign = trace.NoOpTracerProvider()
    trace.set_tracer_provider(foreign)
    tracing = set_up_globally()
    assert (tracing.mode, tracing.provider) == ("foreign", foreign)
    end_global_span("unseen")
    assert kept(tracing) == []
    assert tracing.shutdown()


def test_a_foreign_provider_that_is_no_sdk_is_used_as_it_is() -> None:
    alone(joins_something_else)


@contextmanager
def nothing_installed() -> Iterator[None]:
    """Let no distribution be found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT)])
        yield


def leaves_the_global_provider_alone() -> None:
    assert set_up_tracing(SETTINGS, {}, set_global=False).mode == "sdk"
    assert set_up_tracing(SETTINGS, {"OTEL_SDK_DISABLED": "true"}, set_global=True).mode == "disabled"
    with pytest.raises(SettingsError), nothing_installed():
        set_up_tracing(SETTINGS, {"OTEL_TRACES_EXPORTER": "otlp"}, set_global=True)
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

    set_up_globally().shutdown()
    with pytest.raises(SettingsError), nothing_installed():
        set_up_tracing(SETTINGS, {"OTEL_TRACES_EXPORTER": "otlp"}, set_global=True)
    assert set_up_globally().mode == "sdk"


def test_private_disabled_and_refused_set_ups_change_nothing_global() -> None:
    alone(leaves_the_global_provider_alone)


def survives_a_shutdown_by_the_user() -> None:
    first = set_up_globally()
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    end_global_span("one")
    provider.shutdown()
    end_global_span("two")
    assert kept(first) == ["one"]
    assert first.shutdown(10.0)
    second = set_up_globally()
    end_global_span("three")
    assert kept(second) == ["three"]
    assert second.shutdown(10.0)


def test_a_provider_that_the_user_shut_down_is_used_again() -> None:
    with OtlpReceiver() as collector:
        alone(survives_a_shutdown_by_the_user, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        assert [span.name for span in collector.spans] == ["one", "three"]


def cuts_texts_of_another_provider() -> None:
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[assignment,method-assign]  # it keeps them
    logging.getLogger().addHandler(handler)
    first, second = set_up_globally(), set_up_globally()
    theirs = TracerProvider(span_limits=SpanLimits(max_attribute_length=1), shutdown_on_exit=False)
    for tracing in (first, second):
        theirs.get_tracer("theirs").start_span("long").set_attribute("text", "xx")
        assert said == []
        tracing.shutdown()
    theirs.get_tracer("theirs").start_span("long").set_attribute("text", "xx")
    assert [record.name for record in said] == ["opentelemetry.attributes"]


def test_after_the_last_has_ended_the_sdk_warns_again() -> None:
    alone(cuts_texts_of_another_provider)


def prints_spans() -> None:
    tracing = set_up_globally()
    end_global_span("shown")
    assert tracing.shutdown(10.0)


def test_the_console_exporter_prints_spans() -> None:
    assert '"name": "shown"' in alone(prints_spans, OTEL_TRACES_EXPORTER="console")


def ends_in_order() -> None:
    tracing = set_up_globally()
    for _ in range(1_000):
        end_global_span("stuck")
    assert not tracing.shutdown()


def ends_without_a_shutdown() -> None:
    set_up_globally()
    for _ in range(1_000):
        end_global_span("stuck")


@pytest.mark.parametrize("scenario", [ends_in_order, ends_without_a_shutdown])
def test_f13_a_collector_that_never_answers_does_not_hold_up_the_exit(scenario: Callable[[], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        alone(scenario, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_TIMEOUT=FOR_EVER)
