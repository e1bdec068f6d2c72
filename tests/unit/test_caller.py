"""Whose trace and baggage a request brings, and that nothing which is malformed gets into the log."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator, default_getter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from qorzen_obs.server.caller import caller_of
from tests.services.program import ROOT, environment
from tests.support import PATIENCE_SECONDS

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


def test_the_headers_of_the_w3c_become_its_context() -> None:
    context = caller_of(
        {
            "traceparent": TRACEPARENT,
            "tracestate": "rojo=00f067aa0ba902b7, t61rcwkgmze@vendor=a:b/c",
            "baggage": "customer=42,region = eu%20west , empty=",
        }
    )
    span = trace.get_current_span(context).get_span_context()
    assert (f"{span.trace_id:032x}", f"{span.span_id:016x}") == (TRACE_ID, SPAN_ID)
    assert span.is_remote
    assert dict(span.trace_state) == {"rojo": "00f067aa0ba902b7", "t61rcwkgmze@vendor": "a:b/c"}
    assert baggage.get_all(context) == {"customer": "42", "region": "eu west", "empty": ""}


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "x",
        TRACEPARENT.upper(),
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"{TRACEPARENT}\n",
        f"{TRACEPARENT}-more",
        "a" * 10_000,
    ],
)
def test_a_malformed_parent_is_none(traceparent: str, caplog: pytest.LogCaptureFixture) -> None:
    context = caller_of({"traceparent": traceparent, "tracestate": "a=b"})
    assert not trace.get_current_span(context).get_span_context().is_valid
    assert not caplog.records


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "=b",
        "a=b,",
        "a=b,a=c",
        "a=b,,c=d",
        "a=\x00",
        "a=é",
        "ä=b",
        "a=b\nc=d",
        f"a={'b' * 3000}",
        "a=b," * 40,
    ],
)
def test_a_malformed_list_is_left_out_whole(text: str, caplog: pytest.LogCaptureFixture) -> None:
    context = caller_of({"traceparent": TRACEPARENT, "tracestate": text, "baggage": text})
    span = trace.get_current_span(context).get_span_context()
    assert span.is_valid
    assert not dict(span.trace_state)
    assert not baggage.get_all(context)
    assert not caplog.records


# The records are looked at, not counted.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    traceparent=st.text(max_size=80) | st.just(TRACEPARENT),
    tracestate=st.text("ab=,;\t @/<\x00é", max_size=30),
    baggage=st.text('ab=,;\t %2"\\<\x00é', max_size=30),
)
def test_t10_whatever_comes_nothing_is_logged(
    caplog: pytest.LogCaptureFixture, traceparent: str, tracestate: str, baggage: str
) -> None:
    caplog.set_level(logging.DEBUG)
    caller_of({"traceparent": traceparent, "tracestate": tracestate, "baggage": baggage})
    assert not caplog.records


class B3(TextMapPropagator):
    """The single header of Zipkin, as its package reads it: https://github.com/openzipkin/b3-propagation."""

    fields = {"b3"}  # noqa: RUF012 - as its base has it

    def extract(
        self, carrier: Any, context: Context | None = None, getter: Getter[Any] = default_getter
    ) -> Context:
        (header,) = getter.get(carrier, "b3") or [""]
        trace_id, span_id, sampled = header.split("-")
        span = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(sampled)))
        return trace.set_span_in_context(NonRecordingSpan(span), context)

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = None) -> None: ...


@pytest.fixture
def b3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", B3())


@pytest.mark.usefixtures("b3")
def test_the_propagators_of_the_process_say_who_the_caller_is() -> None:
    context = caller_of({"b3": f"{TRACE_ID}-{SPAN_ID}-1", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
    span = trace.get_current_span(context).get_span_context()
    assert (f"{span.trace_id:032x}", f"{span.span_id:016x}") == (TRACE_ID, SPAN_ID)


@pytest.mark.usefixtures("b3")
@pytest.mark.parametrize("header", ["", "no id", "x" * 5_000, "caf\u00e9-1-1", "1-1-1\n"])
def test_a_propagator_that_fails_finds_no_caller(header: str, caplog: pytest.LogCaptureFixture) -> None:
    context = caller_of({"b3": header})
    assert not trace.get_current_span(context).get_span_context().is_valid
    assert caplog.text.count("a propagator failed") == 1


def test_a_propagator_is_found_by_the_name_that_the_environment_gives(tmp_path: Path) -> None:
    metadata = tmp_path / "b3-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: b3\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[opentelemetry_propagator]\nb3 = b3_of_a_package:B3\n")
    (tmp_path / "b3_of_a_package.py").write_text(
        "from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator\n"
        "class B3(TraceContextTextMapPropagator):\n"
        "    fields = {'b3'}\n"
        "    def extract(self, carrier, context=None, getter=None):\n"
        "        print(carrier)\n"
        "        return context\n"
    )
    script = "from qorzen_obs.server.caller import caller_of; caller_of({'b3': '1-2-1', 'traceparent': '?'})"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment({"OTEL_PROPAGATORS": "b3", "PYTHONPATH": f"{ROOT}:{tmp_path}"}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("{'b3': '1-2-1'}\n", "")
