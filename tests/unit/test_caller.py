"""Whose trace and baggage a request brings, and that nothing which is malformed gets into the log."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator, default_getter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from qorzen_obs.server.caller import caller_of
from qorzen_obs.telemetry.trace_context import CallerState
from tests.services.program import ROOT, environment
from tests.support import PATIENCE_SECONDS

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


def called(*lines: tuple[str, str], **headers: str) -> Context:
    """What a request with these headers goes on from; a header may have several lines."""
    return caller_of(CIMultiDict([*headers.items(), *lines]))


def carried(*lines: str) -> dict[str, object]:
    """The baggage of a request with these lines of it."""
    return dict(baggage.get_all(called(*(("baggage", line) for line in lines))))


def test_the_headers_of_the_w3c_become_its_context() -> None:
    context = called(
        traceparent=TRACEPARENT,
        tracestate="rojo=00f067aa0ba902b7, t61rcwkgmze@vendor=a:b/c",
        baggage="customer=42,region = eu%20west , empty=",
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
    context = called(traceparent=traceparent, tracestate="a=b")
    assert not trace.get_current_span(context).get_span_context().is_valid
    assert not caplog.records


@pytest.mark.parametrize("text", ["a", "=b", "a=b,c", "a=\x00", "a=é", "ä=b", "a=b\nc=d", f"a={'b' * 257}"])
def test_a_malformed_state_is_left_out_whole(text: str, caplog: pytest.LogCaptureFixture) -> None:
    span = trace.get_current_span(called(traceparent=TRACEPARENT, tracestate=f"first=1,{text}"))
    assert span.get_span_context().is_valid
    assert not dict(span.get_span_context().trace_state)
    assert not caplog.records


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "a",
        "=b",
        "a b=c",
        "a=\x00",
        "a=é",
        "ä=b",
        'a="b"',
        "a=b\nc=d",
        "a=b;",
        "a=b;=c",
        "a=b; ;c",
        "a=b;c=é",
    ],
)
def test_a_malformed_member_of_the_baggage_takes_no_other_along(
    malformed: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert carried(f"first=1,{malformed},last=2") == {"first": "1", "last": "2"}
    assert not caplog.records


@pytest.mark.parametrize(
    "properties", [";ttl", ";ttl=30", " ; ttl = 30 ;other\t; last=", ";a=b=c", ";%20=%20", ";same;same"]
)
def test_the_properties_of_baggage_are_allowed_and_no_part_of_its_value(properties: str) -> None:
    assert carried(f"customer=42{properties},last=2") == {"customer": "42", "last": "2"}


def test_baggage_may_come_in_several_lines_and_the_last_of_a_key_holds() -> None:
    assert carried("a=1,b=2", "", "c=3,a=4") == {"a": "4", "b": "2", "c": "3"}


def test_of_more_than_64_members_the_first_64_are_carried() -> None:
    assert carried(",".join(f"k{number}=v" for number in range(70))) == {f"k{n}": "v" for n in range(64)}


def test_a_member_without_room_in_8192_bytes_is_left_out_and_a_later_one_may_fit() -> None:
    first, too_long, last = f"a={'1' * 4_094}", f"b={'2' * 4_094}", f"c={'3' * 4_093}"
    assert set(carried(f"{first},{too_long},{last},d=")) == {"a", "c"}
    assert set(carried(f"{'x' * 8_190}=1,y=2")) == {"x" * 8_190}
    assert set(carried(f"{'x' * 8_191}=1,y=2")) == {"y"}


def test_a_state_by_the_newer_grammar_can_be_changed() -> None:
    """OpenTelemetry's own would lose the members that its older grammar does not have."""
    state = CallerState({"foo@": "1", "bar": "2"})
    assert state.add("new", "3").to_header() == "new=3,foo@=1,bar=2"
    assert state.update("bar", "3").to_header() == "bar=3,foo@=1"
    assert state.delete("bar").to_header() == "foo@=1"
    for refused in (state.add("bar", "3"), state.add("BAD", "3"), state.update("foo@", "a=b")):
        assert refused.to_header() == "foo@=1,bar=2"
    full = CallerState({f"k{number}": "v" for number in range(32)})
    assert full.add("new", "3").to_header() == full.to_header()
    assert full.update("k31", "w").to_header().startswith("k31=w,k0=v,")


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
    called(traceparent=traceparent, tracestate=tracestate, baggage=baggage)
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
    context = called(b3=f"{TRACE_ID}-{SPAN_ID}-1", traceparent=f"00-{'1' * 32}-{'2' * 16}-01")
    span = trace.get_current_span(context).get_span_context()
    assert (f"{span.trace_id:032x}", f"{span.span_id:016x}") == (TRACE_ID, SPAN_ID)


@pytest.mark.usefixtures("b3")
@pytest.mark.parametrize(
    ("header", "asked"), [("no id", 1), ("", 0), ("x" * 5_000, 0), ("caf\u00e9-1-1", 0), ("1-1-1\n", 0)]
)
def test_a_propagator_that_fails_or_is_given_nothing_finds_no_caller(
    header: str, asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    context = called(b3=header)
    assert not trace.get_current_span(context).get_span_context().is_valid
    assert caplog.text.count("a propagator failed") == asked


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
    script = (
        "from multidict import CIMultiDict; from qorzen_obs.server.caller import caller_of; "
        "caller_of(CIMultiDict({'b3': '1-2-1', 'traceparent': '?'}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment({"OTEL_PROPAGATORS": "b3", "PYTHONPATH": f"{ROOT}:{tmp_path}"}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("{'b3': '1-2-1'}\n", "")
