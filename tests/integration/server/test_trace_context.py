"""The cases of the W3C's validation suite for trace context, each by what a task sends on in a span of its own.

https://github.com/w3c/trace-context/tree/main/test at STRICT_LEVEL=2 and SPEC_LEVEL=2.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import pytest
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from qorzen_obs import task
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.settings import ServerSettings, TelemetrySettings
from qorzen_obs.telemetry.setup import set_up_tracing
from qorzen_obs.testing import open_test_manager
from tests.services.ops_plane import exchange, serving

TRACE_ID, SPAN_ID = "12345678901234567890123456789012", "1234567890123456"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
FUTURE = "what-the-future-will-be-like"


class Outgoing(NamedTuple):
    """The headers of a request that a task makes."""

    trace_id: str
    span_id: str
    flags: int
    state: str | None


Pass = Callable[..., Awaitable[list[Outgoing]]]


@pytest.fixture
async def passed_on() -> AsyncIterator[Pass]:
    """Submit a task with these header lines; return what it sends on, as often as it should."""
    tracing = set_up_tracing(TelemetrySettings(), {}, set_global=False)
    tracer = tracing.provider.get_tracer("user")

    @task(name="call out")
    async def call_out(times: int) -> list[dict[str, str]]:
        carriers: list[dict[str, str]] = [{} for _ in range(times)]
        for carrier in carriers:
            with tracer.start_as_current_span("call"):
                TraceContextTextMapPropagator().inject(carrier)
        return carriers

    known = TaskRegistry()
    known.add(call_out)
    allowed = ServerSettings(port=0, allow_submit=True)
    async with (
        open_test_manager(tracer_provider=tracing.provider) as manager,
        serving(manager, tasks=known, settings=allowed) as plane,
    ):

        async def pass_on(*lines: str, times: int = 1) -> list[Outgoing]:
            body = json.dumps({"task": "call out", "args": [times]}).encode()
            head = [
                "POST /api/tasks HTTP/1.1",
                "Host: localhost",
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
                *lines,
            ]
            status, _, answer = await exchange(plane, "\r\n".join([*head, "", ""]).encode() + body)
            assert status == 202
            info = await manager.wait_for_task(json.loads(answer)["task_id"])
            return [outgoing(carrier) for carrier in info.result]

        yield pass_on
    tracing.shutdown()


def outgoing(carrier: dict[str, str]) -> Outgoing:
    version, trace_id, span_id, flags = carrier["traceparent"].split("-")
    assert version == "00"
    assert int(trace_id, 16)
    assert int(span_id, 16)
    return Outgoing(trace_id, span_id, int(flags, 16), carrier.get("tracestate"))


@pytest.mark.parametrize(
    "line",
    [
        f"traceparent: {PARENT}",
        f"TraceParent: {PARENT}",
        f"TrAcEpArEnT: {PARENT}",
        f"TRACEPARENT: {PARENT}",
        f"traceparent: cc{PARENT[2:]}",
        f"traceparent: cc{PARENT[2:]}-{FUTURE}",
        f"traceparent:  {PARENT}",
        f"traceparent: \t{PARENT}",
        f"traceparent: {PARENT} ",
        f"traceparent: {PARENT}\t",
        f"traceparent: \t {PARENT} \t",
    ],
)
async def test_a_well_formed_parent_goes_on_in_its_trace(passed_on: Pass, line: str) -> None:
    (sent,) = await passed_on(line)
    assert (sent.trace_id, sent.flags, sent.state) == (TRACE_ID, 1, None)
    assert sent.span_id != SPAN_ID


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["traceparent: 00-12345678901234567890123456789011-1234567890123456-01", f"traceparent: {PARENT}"],
        [f"traceparent: {PARENT}", f"traceparent: {PARENT}"],
        [f"trace-parent: {PARENT}"],
        [f"trace.parent: {PARENT}"],
        [f"traceparent: {PARENT}."],
        [f"traceparent: {PARENT}-{FUTURE}"],
        [f"traceparent: cc{PARENT[2:]}.{FUTURE}"],
        [f"traceparent: ff{PARENT[2:]}"],
        [f"traceparent: .0{PARENT[2:]}"],
        [f"traceparent: 0.{PARENT[2:]}"],
        [f"traceparent: 0{PARENT}"],
        [f"traceparent: 00{PARENT}"],
        [f"traceparent: {PARENT[1:]}"],
        [f"traceparent: 00-{'0' * 32}-{SPAN_ID}-01"],
        [f"traceparent: 00-.{TRACE_ID[1:]}-{SPAN_ID}-01"],
        [f"traceparent: 00-{TRACE_ID[:-1]}.-{SPAN_ID}-01"],
        [f"traceparent: 00-{TRACE_ID}3-{SPAN_ID}-01"],
        [f"traceparent: 00-{TRACE_ID[:-1]}-{SPAN_ID}-01"],
        [f"traceparent: 00-{TRACE_ID}-{'0' * 16}-01"],
        [f"traceparent: 00-{TRACE_ID}-.{SPAN_ID[1:]}-01"],
        [f"traceparent: 00-{TRACE_ID}-{SPAN_ID[:-1]}.-01"],
        [f"traceparent: 00-{TRACE_ID}-{SPAN_ID}7-01"],
        [f"traceparent: 00-{TRACE_ID}-{SPAN_ID[:-1]}-01"],
        [f"traceparent: 00-{TRACE_ID}-{SPAN_ID}-.0"],
        [f"traceparent: 00-{TRACE_ID}-{SPAN_ID}-0."],
        [f"traceparent: 00-{TRACE_ID}-{SPAN_ID}-001"],
        [f"traceparent: 00-{TRACE_ID}-{SPAN_ID}-1"],
    ],
)
async def test_no_parent_or_a_malformed_one_starts_a_trace_without_state(
    passed_on: Pass, lines: list[str]
) -> None:
    (sent,) = await passed_on(*lines, "tracestate: foo=1")
    assert sent.trace_id not in (TRACE_ID, "12345678901234567890123456789011", TRACE_ID[1:] + "3")
    assert sent.state is None


@pytest.mark.parametrize(
    ("lines", "times"),
    [([f"traceparent: {PARENT}"], 3), ([], 3), ([f"traceparent: 00-{'0' * 32}-{SPAN_ID}-01"], 3)],
)
async def test_each_of_several_calls_has_a_span_of_its_own(
    passed_on: Pass, lines: list[str], times: int
) -> None:
    sent = await passed_on(*lines, times=times)
    assert len({each.span_id for each in sent}) == times
    (trace_id,) = {each.trace_id for each in sent}
    assert (trace_id == TRACE_ID) == (lines == [f"traceparent: {PARENT}"])


@pytest.mark.parametrize(
    ("given", "flags"), [("00", 0), ("01", 1), ("02", 2), ("03", 3), ("fe", 2), ("ff", 3)]
)
async def test_the_known_flags_go_on_and_no_other(passed_on: Pass, given: str, flags: int) -> None:
    (sent,) = await passed_on(f"traceparent: 00-{TRACE_ID}-{SPAN_ID}-{given}")
    assert (sent.trace_id, sent.flags) == (TRACE_ID, flags)


def members(first: int, last: int) -> str:
    return ",".join(f"bar{number:02}={number:02}" for number in range(first, last + 1))


KEY = "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
VALUE = "".join(map(chr, (*range(0x20, 0x2C), *range(0x2D, 0x3D), *range(0x3E, 0x7F))))
SHORT, LONG, VENDOR, LONG_TENANT, LONG_SYSTEM = (
    "z" * 256,
    "z" * 257,
    "t" * 241 + "@" + "v" * 14,
    "t" * 242 + "@v",
    "t@" + "v" * 15,
)


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        (["tracestate: foo=1,bar=2"], "foo=1,bar=2"),
        (["trace-state: foo=1"], None),
        (["trace.state: foo=1"], None),
        (["TraceState: foo=1"], "foo=1"),
        (["TrAcEsTaTe: foo=1"], "foo=1"),
        (["TRACESTATE: foo=1"], "foo=1"),
        (["tracestate: "], None),
        (["tracestate: foo=1", "tracestate: "], "foo=1"),
        (["tracestate: ", "tracestate: foo=1"], "foo=1"),
        (["tracestate: foo=1,,bar=2,"], "foo=1,bar=2"),
        (
            ["tracestate: foo=1,bar=2", "tracestate: rojo=1,congo=2", "tracestate: baz=3"],
            "foo=1,bar=2,rojo=1,congo=2,baz=3",
        ),
        (["tracestate: foo=1,foo=1"], "foo=1"),
        (["tracestate: foo=1,bar=3,foo=2"], "foo=1,bar=3"),
        (["tracestate: foo=1", "tracestate: foo=1"], "foo=1"),
        (["tracestate: foo=1", "tracestate: foo=2"], "foo=1"),
        ([f"tracestate: {KEY}={VALUE}"], f"{KEY}={VALUE}"),
        ([f"tracestate: {KEY}@a-z0-9_-*/={VALUE}"], f"{KEY}@a-z0-9_-*/={VALUE}"),
        (["tracestate: foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
        (["tracestate: foo=1\t \t,\t \tbar=2,\t \tbaz=3"], "foo=1,bar=2,baz=3"),
        (["tracestate:  foo=1"], "foo=1"),
        (["tracestate: \tfoo=1"], "foo=1"),
        (["tracestate: foo=1 "], "foo=1"),
        (["tracestate: foo=1\t"], "foo=1"),
        (["tracestate: \t foo=1 \t"], "foo=1"),
        (["tracestate: foo =1"], None),
        (["tracestate: FOO=1"], None),
        (["tracestate: foo.bar=1"], None),
        (["tracestate: foo@=1,bar=2"], "foo@=1,bar=2"),
        (["tracestate: @foo=1,bar=2"], None),
        (["tracestate: foo@@bar=1,bar=2"], "foo@@bar=1,bar=2"),
        (["tracestate: foo@bar@baz=1,bar=2"], "foo@bar@baz=1,bar=2"),
        (
            [
                f"tracestate: {members(1, 10)}",
                f"tracestate: {members(11, 30)}",
                "tracestate: bar31=31,bar32=32",
            ],
            members(1, 32),
        ),
        ([f"tracestate: {members(1, 10)}", f"tracestate: {members(11, 33)}"], None),
        ([f"tracestate: foo=1,{SHORT}=1"], f"foo=1,{SHORT}=1"),
        (["tracestate: foo=1", f"tracestate: {SHORT}=1"], f"foo=1,{SHORT}=1"),
        (["tracestate: foo=1", f"tracestate: {LONG}=1"], None),
        (["tracestate: foo=1", f"tracestate: {VENDOR}=1"], f"foo=1,{VENDOR}=1"),
        (["tracestate: foo=1", f"tracestate: {LONG_TENANT}=1"], f"foo=1,{LONG_TENANT}=1"),
        (["tracestate: foo=1", f"tracestate: {LONG_SYSTEM}=1"], f"foo=1,{LONG_SYSTEM}=1"),
        (["tracestate: foo=bar=baz"], None),
        (["tracestate: foo=,bar=3"], None),
    ],
)
async def test_a_state_goes_on_whole_or_not_at_all(
    passed_on: Pass, lines: list[str], state: str | None
) -> None:
    (sent,) = await passed_on(f"traceparent: 00-{TRACE_ID}-{SPAN_ID}-00", *lines)
    assert (sent.trace_id, sent.state) == (TRACE_ID, state)


async def test_a_baggage_that_is_too_long_does_not_turn_a_request_away(passed_on: Pass) -> None:
    (sent,) = await passed_on(f"traceparent: {PARENT}", f"baggage: {'a' * 8_000}=b,{'c' * 8_000}=d")
    assert sent.trace_id == TRACE_ID
