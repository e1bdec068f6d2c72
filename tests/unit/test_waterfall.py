"""A trace drawn in text: order, bars on a common axis, marks, and nothing that fools a terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len

from qorzen_obs.cli.waterfall import Span, TraceDocument, arrange, read_spans, waterfall

TRACE = "0af7651916cd43dd8448eb211c80319c"


def a_span(span_id: str, parent_id: str = "", start: float = 0.0, end: float = 1.0, **fields: Any) -> Span:
    return Span(TRACE, span_id, parent_id, **{"name": span_id, "start": start, "end": end, **fields})


def drawn(*spans: Span, width: int = 80, task_id: str | None = None) -> list[str]:
    return [line.plain for line in waterfall(spans, width, task_id)]


def line_of(name: str, lines: list[str]) -> str:
    (line,) = (line for line in lines if f" {name} " in line)
    return line


def bar_of(name: str, lines: list[str]) -> str:
    return "".join(character if character in "─╴╶╼╾━╸╺" else " " for character in line_of(name, lines))


def test_spans_stand_below_their_parents_in_the_order_of_their_begin() -> None:
    spans = [
        a_span("late", "root", 0.5),
        a_span("leaf", "early", 0.3),
        a_span("root"),
        a_span("early", "root", 0.6, queued=0.4),
    ]
    assert [(row.span.name, row.depth) for row in arrange(spans)] == [
        ("root", 0),
        ("early", 1),
        ("leaf", 2),
        ("late", 1),
    ]


def test_bars_lie_on_one_axis_with_the_queue_before_the_run() -> None:
    lines = drawn(a_span("root", end=4.0), a_span("child", "root", 2.0, 4.0, queued=1.0), width=100)
    root, child = bar_of("root", lines), bar_of("child", lines)

    assert set(root.strip()) == {"━"}
    assert len(root.rstrip()) == len(child.rstrip())
    assert child.strip("━ ").strip("╾╼") == "─" * child.count("─")
    assert child.count("━") == pytest.approx(len(root.strip()) / 2, abs=1)
    assert child.count("─") == pytest.approx(len(root.strip()) / 4, abs=1)
    assert line_of("child", lines).endswith("2.00 s")
    assert "|0 " in lines[1]
    assert "4.00 s|" in lines[1]


def test_however_short_a_span_is_it_can_be_seen() -> None:
    lines = drawn(a_span("root", end=1000.0), a_span("blink", "root", 1000.0, 1000.0))
    assert bar_of("blink", lines).strip() == "╺"


@pytest.mark.parametrize("width", [1, 40, 80, 200])
def test_every_line_fits_the_width(width: int) -> None:
    deep = [a_span(f"span {depth}", f"span {depth - 1}" if depth else "") for depth in range(60)]
    odd = a_span("語" * 60, failed=True, error="an error\nof two lines " + "語" * 100)
    lines = drawn(*deep, odd, width=width)
    assert max(cell_len(line) for line in lines[1:-1]) <= max(width, 40)
    assert len(lines) == len(deep) + 5


def test_retries_failures_and_worker_processes_are_marked_without_colours() -> None:
    first = a_span(
        "pay", attempt=1, will_retry=True, failed=True, error="ConnectionError: closed", engine="loop"
    )
    second = a_span("pay again", attempt=2, engine="loop", start=1.0, end=2.0)
    resize = a_span("resize", attempt=1, engine="process")
    inside = a_span("decode", "resize")
    lines = drawn(first, second, resize, inside, a_span("child of loop", "pay again"), width=120)

    assert "✗ pay #1 ↻" in lines[2]
    assert lines[3].strip() == "└ ConnectionError: closed"
    assert "resize [process]" in line_of("resize", lines)
    assert "decode [process]" in line_of("decode", lines)
    assert "pay again #2" in line_of("pay", lines[4:])
    assert "[process]" not in line_of("child of loop", lines)
    assert "1 failed" in lines[0]


def test_the_asked_task_is_marked() -> None:
    lines = drawn(a_span("root"), a_span("asked", "root", task_id="t1"), task_id="t1")
    assert [line for line in lines if line.startswith(">")] == [line_of("asked", lines)]


def test_what_is_missing_is_said() -> None:
    lines = drawn(a_span("alone", "elsewhere", partial=True), width=120)
    assert "^alone" in lines[2]
    assert "its parent is not shown here" in lines[-1]
    assert "partial" in lines[0]
    assert drawn() == []


def test_no_depth_and_no_circle_of_parents_is_too_much() -> None:
    chain = [a_span(str(depth), str(depth - 1) if depth else "") for depth in range(5000)]
    assert arrange(chain)[-1].depth == 4999
    assert arrange([a_span("a", "b"), a_span("b", "a")]) == []


def test_t6_a_spans_name_and_error_reach_the_terminal_as_text() -> None:
    evil = "\x1b[2J[red]x[/red]\u202e"
    for line in drawn(a_span(evil, failed=True, error=evil, partial=True), width=120):
        assert "\x1b" not in line
        assert "\u202e" not in line
    assert "\\u001b[2J[red]x[/red]" in "".join(drawn(a_span(evil), width=120))


def test_otlp_is_read_as_it_is_and_what_is_odd_counts_as_nothing() -> None:
    def attribute(key: str, **value: Any) -> dict[str, Any]:
        return {"key": f"qorzen.task.{key}", "value": value}

    span = {
        "traceId": TRACE,
        "spanId": "a",
        "parentSpanId": "b",
        "name": "run x",
        "startTimeUnixNano": "2000000000",
        "endTimeUnixNano": "3500000000",
        "status": {"code": 2, "message": "ValueError: no"},
        "attributes": [
            attribute("id", stringValue="t1"),
            attribute("attempt", intValue="2"),
            attribute("queue_wait", doubleValue=0.5),
            attribute("engine", stringValue="process"),
            attribute("will_retry", boolValue=True),
            {"key": "error.type", "value": {"stringValue": "ValueError"}},
        ],
    }
    odd = {
        "traceId": TRACE,
        "spanId": "c",
        "startTimeUnixNano": "9" * 5000,
        "endTimeUnixNano": "-1",
        "attributes": [
            attribute("attempt", intValue="x"),
            attribute("queue_wait", doubleValue="NaN"),
            {"key": "k"},
        ],
    }
    scopes = [{"scope": {"name": "qorzen_obs"}, "spans": [span, odd]}]
    document = msgspec.convert({"resourceSpans": [{"scopeSpans": scopes}]}, TraceDocument)
    first, second = read_spans(document)

    assert first == Span(
        TRACE,
        "a",
        "b",
        "run x",
        2.0,
        3.5,
        queued=0.5,
        failed=True,
        error="ValueError: no",
        task_id="t1",
        attempt=2,
        will_retry=True,
        engine="process",
    )
    assert (second.start, second.end, second.queued, second.attempt) == (0.0, 0.0, 0.0, 0)
    foreign = msgspec.convert({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}, TraceDocument)
    (seen,) = read_spans(foreign)
    assert seen == replace(first, queued=0.0, attempt=0, engine="", task_id=""), (
        "attributes of ours in a foreign span"
    )


def test_the_headline_counts_the_spans() -> None:
    assert drawn(a_span("a"))[0].endswith("  1 span")
    assert drawn(a_span("a"), a_span("b", "a"))[0].endswith("  2 spans")
