"""Each OTEL_* variable is followed or named in a warning, and none of them ends an import or a start."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import opentelemetry.environment_variables as of_the_api
import opentelemetry.sdk.environment_variables as of_the_sdk
import pytest
from opentelemetry.sdk.trace import SpanLimits

from qorzen_obs.otel_variables import OtelEnvironment, only_usable, read_otel_environment
from tests.process_tasks import make_spans
from tests.services.program import environment
from tests.services.whole_service import whole_service
from tests.support import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]

#: Every variable that OpenTelemetry for Python knows.
KNOWN = sorted(
    {
        value
        for module in (of_the_api, of_the_sdk)
        for name, value in vars(module).items()
        if name.startswith("OTEL_")
    }
)
#: A good value of each that is followed, and for most a bad one.
FOLLOWED: dict[str, tuple[str, str | None]] = {
    "OTEL_SDK_DISABLED": ("true", "maybe"),
    "OTEL_SERVICE_NAME": ("shop", None),
    "OTEL_RESOURCE_ATTRIBUTES": ("a=b, c=", "junk"),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": ("process", "crystal_ball"),
    "OTEL_PROPAGATORS": ("tracecontext,baggage", "carrier_pigeon"),
    "OTEL_TRACES_SAMPLER": ("parentbased_traceidratio", "coin"),
    "OTEL_TRACES_SAMPLER_ARG": ("0.5", "2"),
    "OTEL_TRACES_EXPORTER": ("otlp,console", "carrier_pigeon"),
    "OTEL_LOGS_EXPORTER": ("otlp", "carrier_pigeon"),
    "OTEL_METRICS_EXPORTER": ("otlp", "nonsense"),
    "OTEL_METRIC_EXPORT_INTERVAL": ("1000", "often"),
    "OTEL_METRICS_EXEMPLAR_FILTER": ("trace_based", "always_on"),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": ("LowMemory", "eternal"),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": (
        "base2_exponential_bucket_histogram",
        "linear",
    ),
    "OTEL_EXPORTER_ZIPKIN_ENDPOINT": ("http://zipkin:9411", None),
    "OTEL_EXPORTER_ZIPKIN_TIMEOUT": ("10", None),
    "OTEL_PYTHON_CONTEXT": ("contextvars_context", "nowhere"),
    "OTEL_PYTHON_TRACER_PROVIDER": ("sdk_tracer_provider", "nobody"),
    "OTEL_PYTHON_METER_PROVIDER": ("sdk_meter_provider", "nobody"),
    "OTEL_PYTHON_ID_GENERATOR": ("random", "counting"),
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": ("false", "maybe"),
    **{
        f"OTEL_{prefix}_{name}": ("10", value)
        for prefix in ("BSP", "BLRP")
        for name, value in (
            ("SCHEDULE_DELAY", "0"),
            ("MAX_QUEUE_SIZE", "five"),
            ("MAX_EXPORT_BATCH_SIZE", "-1"),
        )
    },
    **{name: ("unset", "abc") for name in KNOWN if name.endswith("_LIMIT") and "LOGRECORD" not in name},
    **{
        f"OTEL_EXPORTER_OTLP_{signal}{name}": values
        for signal in ("", "TRACES_", "METRICS_", "LOGS_")
        for name, values in {
            "ENDPOINT": ("http://collector:4318", "ftp://collector"),
            "PROTOCOL": ("grpc", "http/json"),
            "HEADERS": ("key=secret", "junk"),
            "TIMEOUT": ("2.5", "long"),
            "COMPRESSION": ("gzip", "zip"),
            "INSECURE": ("TRUE", "perhaps"),
            "CERTIFICATE": (__file__, "/nowhere.pem"),
            "CLIENT_CERTIFICATE": (__file__, "/nowhere.pem"),
            "CLIENT_KEY": (__file__, "/nowhere.pem"),
        }.items()
    },
}
NOT_FOLLOWED = sorted({*KNOWN, "OTEL_EXPORTER_OTLP_ENDPONT", "OTEL_JAVAAGENT_ENABLED"} - FOLLOWED.keys())


def warned(found: OtelEnvironment) -> list[str]:
    return [warning.variable for warning in found.warnings]


def test_every_variable_that_opentelemetry_knows_has_its_place_here() -> None:
    assert len(KNOWN) > 70
    assert FOLLOWED.keys() <= set(KNOWN)


@pytest.mark.parametrize("variable", FOLLOWED)
def test_a_variable_that_is_followed_is_named_where_its_value_cannot_be_used(variable: str) -> None:
    good, bad = FOLLOWED[variable]
    beside = {"OTEL_TRACES_SAMPLER": "traceidratio"} if variable == "OTEL_TRACES_SAMPLER_ARG" else {}
    usable = {**beside, variable: good}
    assert read_otel_environment(usable) == OtelEnvironment(usable, ())
    assert read_otel_environment({**beside, variable: " "}) == OtelEnvironment(beside, ())
    if bad is not None:
        found = read_otel_environment({**beside, variable: bad})
        assert (found.usable, warned(found)) == (beside, [variable])
        assert all(found.warnings[0])


@pytest.mark.parametrize("variable", NOT_FOLLOWED)
def test_a_variable_that_is_not_followed_is_named(variable: str) -> None:
    found = read_otel_environment({variable: "1", "PATH": "/bin"})
    assert (found.usable, warned(found)) == ({"PATH": "/bin"}, [variable])
    assert all(found.warnings[0])


def test_variables_of_other_packages_are_left_to_them() -> None:
    theirs = {"OTEL_PYTHON_AIOHTTP_CLIENT_EXCLUDED_URLS": "x", "OTEL_SEMCONV_STABILITY_OPT_IN": "http"}
    assert read_otel_environment(theirs) == OtelEnvironment(theirs, ())


@pytest.mark.parametrize(
    ("variable", "value", "rest"),
    [
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,junk,=c,d=e", "a=b,d=e"),
        ("OTEL_PROPAGATORS", "b3,tracecontext", "tracecontext"),
        ("OTEL_TRACES_EXPORTER", "carrier_pigeon, otlp", "otlp"),
        ("OTEL_METRICS_EXPORTER", "otlp,console", "otlp"),
    ],
)
def test_of_a_list_what_can_be_used_is(variable: str, value: str, rest: str) -> None:
    found = read_otel_environment({variable: value})
    assert (found.usable, warned(found)) == ({variable: rest}, [variable])


def test_prometheus_gets_the_metrics_anyway() -> None:
    (warning,) = read_otel_environment({"OTEL_METRICS_EXPORTER": "prometheus"}).warnings
    assert "/metrics" in warning.instead


def test_no_warning_shows_what_may_be_a_secret() -> None:
    secret = "canary-3f9a"
    may_hold_one = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_UNHEARD_OF")
    found = read_otel_environment(dict.fromkeys(may_hold_one, f"ftp://user:{secret}@collector"))
    assert warned(found) == list(may_hold_one)
    assert secret not in str(found.warnings)


def test_an_endpoint_without_a_scheme_is_one_of_grpc() -> None:
    general, endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT", {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}
    by_grpc = {**endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert read_otel_environment(by_grpc) == OtelEnvironment(by_grpc, ())
    assert warned(read_otel_environment(endpoint)) == [general]
    of_metrics = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "collector:4317",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",
    }
    assert read_otel_environment(of_metrics) == OtelEnvironment(of_metrics, ())


def test_what_is_not_utf_8_counts_as_unset() -> None:
    found = read_otel_environment({"OTEL_SERVICE_NAME": "caf\udce9"})
    assert (found.usable, warned(found)) == ({}, ["OTEL_SERVICE_NAME"])


def test_a_batch_is_not_larger_than_its_queue() -> None:
    found = read_otel_environment({"OTEL_BSP_MAX_QUEUE_SIZE": "5", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "6"})
    assert (found.usable, warned(found)) == (
        {"OTEL_BSP_MAX_QUEUE_SIZE": "5"},
        ["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"],
    )


def test_the_sdk_sees_what_can_be_used_and_the_environment_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "OTEL_SPAN_EVENT_COUNT_LIMIT": "abc",
        "OTEL_SPAN_LINK_COUNT_LIMIT": "",
        "OTEL_ATTRIBUTE_COUNT_LIMIT": "7",
    }.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with only_usable():
        limits = SpanLimits()
    assert (limits.max_events, limits.max_links, limits.max_attributes) == (128, 128, 7)
    assert dict(os.environ) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {name: bad for name, (_, bad) in FOLLOWED.items() if bad is not None and "SAMPLER_ARG" not in name},
        {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "abc"},
        {"OTEL_PYTHON_CONTEXT": "nowhere"},
        {"OTEL_PROPAGATORS": "b3"},
        {"OTEL_RESOURCE_ATTRIBUTES": "junk"},
        {"OTEL_METRICS_EXPORTER": "nonsense", "OTEL_CONFIG_FILE": "otel.yaml"},
    ],
    ids=["all", "limit", "context", "propagator", "resource", "exporter-and-file"],
)
def test_a_program_starts_and_says_once_what_it_does_not_follow(variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / "embedded.py"],
        env={**environment({}), **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]  # no traceback stands between them
    said = [line for line in lines if line["event"] == "telemetry.variable"]
    assert sorted(line["variable"] for line in said) == sorted(variables)
    assert {line["level"] for line in said} == {"warning"}
    assert all(line["problem"] and line["instead"] for line in said)


@pytest.mark.slow
async def test_spans_are_made_in_worker_processes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER"):
        monkeypatch.setenv(name, "nothing")  # which the worker inherits
    async with whole_service(http=False, log_stream=io.StringIO()) as service:
        await service.tasks.run(make_spans)


@pytest.mark.slow
def test_an_odd_resource_is_a_label_like_any_other() -> None:
    attributes = "1st.key=a,__private=b,caf\u00e9=c,quoted=%22%0A"
    script = (
        "import asyncio\n"
        "from prometheus_client.parser import text_string_to_metric_families as parse\n"
        "from examples.own_metrics import fetch\n"
        "from qorzen_obs import open_task_manager\n"
        "async def main():\n"
        "    async with open_task_manager(http=True) as tasks:\n"
        "        text = await tasks.run(fetch, f'{tasks.ops_url}/metrics', category='io')\n"
        "    print(next(f.samples[0].labels for f in parse(text) if f.name.startswith('target')))\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment({"OTEL_RESOURCE_ATTRIBUTES": attributes, "PYTHONPATH": str(ROOT)}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    labels = ast.literal_eval(done.stdout)
    given = {"key_1st_key": "a", "key___private": "b", "caf_": "c", "quoted": '"\n'}
    assert given.items() <= labels.items()
    assert {"service_name", "service_instance_id"} <= labels.keys()
