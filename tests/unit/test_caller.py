"""Whose trace and baggage a request brings, and that nothing which is malformed gets into the log."""

import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, trace

from qorzen_obs.server.caller import caller_of

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
