"""A trace as a waterfall in text: a line for each span, indented below its parent, with its bar on a common time axis.

Pure: from OTLP/JSON to spans, from spans to lines of a width. A thin line is waiting in the queue, a thick one running;
a bar's ends fall on half characters.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from qorzen_obs.cli.texts import printable, seconds, short_id
from qorzen_obs.engines.traits import runs_in_process
from qorzen_obs.telemetry import names

MIN_WIDTH: Final = 40
MARK: Final = ">"
_DURATION_WIDTH: Final = 9
_MAX_NAMES_SHARE: Final = 0.45
_TICKS_APART: Final = 14

# Halves of a character: nothing, in the queue, running.
_NONE, _QUEUED, _RUNNING = 0, 1, 2
_GLYPHS: Final = {
    (_NONE, _NONE): " ",
    (_QUEUED, _NONE): "╴",
    (_NONE, _QUEUED): "╶",
    (_QUEUED, _QUEUED): "─",
    (_QUEUED, _RUNNING): "╼",
    (_RUNNING, _QUEUED): "╾",
    (_RUNNING, _NONE): "╸",
    (_NONE, _RUNNING): "╺",
    (_RUNNING, _RUNNING): "━",
}
_OK_STYLE, _FAILED_STYLE, _USER_STYLE, _WORKER_STYLE = "cyan", "bold red", "green", "magenta"


class _Attribute(msgspec.Struct, frozen=True):
    key: str
    value: dict[str, Any] = {}


class _OtlpStatus(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""


class _OtlpSpan(msgspec.Struct, frozen=True, rename="camel"):
    trace_id: str
    span_id: str
    name: str = ""
    parent_span_id: str = ""
    start_time_unix_nano: str = "0"
    end_time_unix_nano: str = "0"
    attributes: list[_Attribute] = []
    status: _OtlpStatus = _OtlpStatus()


class _Scope(msgspec.Struct, frozen=True):
    name: str = ""


class _ScopeSpans(msgspec.Struct, frozen=True):
    scope: _Scope = _Scope()
    spans: list[_OtlpSpan] = []


class _ResourceSpans(msgspec.Struct, frozen=True, rename="camel"):
    scope_spans: list[_ScopeSpans] = []


class TraceDocument(msgspec.Struct, frozen=True, rename="camel"):
    """A trace as the service gives it: OTLP/JSON, as far as it is drawn."""

    resource_spans: list[_ResourceSpans]


@dataclass(frozen=True, slots=True)
class Span:
    """One span, as it is drawn. Times are Unix seconds."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start: float
    end: float
    queued: float = 0.0  #: seconds that its task waited before it
    failed: bool = False
    error: str = ""  #: type and description
    task_id: str = ""  #: the task whose attempt this is
    attempt: int = 0  #: 0 where the span is not an attempt of a task
    will_retry: bool = False
    engine: str = ""
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a waterfall."""

    span: Span
    depth: int
    in_worker: bool  #: made by code in a worker process
    orphan: bool  #: its parent is not kept, or belongs to another service


def read_spans(document: TraceDocument) -> list[Span]:
    """Return the spans of a trace, in any order. A time that is not a number counts as 0."""
    return [
        _span(span, ours=scope.scope.name == names.SCOPE)
        for resource in document.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _span(span: _OtlpSpan, *, ours: bool) -> Span:
    attributes = {attribute.key: _plain(attribute.value) for attribute in span.attributes}
    kind, message = str(attributes.get(names.ERROR_TYPE, "")), span.status.message
    error = message if message.startswith(kind) else f"{kind}: {message}" if message else kind
    start = _unix(span.start_time_unix_nano)
    is_run = ours and names.TASK_ATTEMPT in attributes
    task_name = attributes.get(names.TASK_NAME) if is_run else None
    return Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=span.parent_span_id,
        name=span.name if task_name is None else f"run {task_name}",
        start=start,
        end=max(start, _unix(span.end_time_unix_nano)),
        queued=_positive(attributes.get(names.TASK_QUEUE_WAIT)) if ours else 0.0,
        failed=span.status.code == 2,  # STATUS_CODE_ERROR
        error=error,
        task_id=str(attributes.get(names.TASK_ID, "")) if is_run else "",
        attempt=int(_positive(attributes.get(names.TASK_ATTEMPT))) if ours else 0,
        will_retry=attributes.get(names.TASK_WILL_RETRY) is True,
        engine=str(attributes.get(names.TASK_ENGINE, "")) if ours else "",
        partial=attributes.get(names.TRACE_PARTIAL) is True,
    )


def _plain(value: Mapping[str, Any]) -> Any:
    if "intValue" in value:
        try:
            return int(value["intValue"])
        except (TypeError, ValueError):
            return None
    return next(iter(value.values()), None)


def _positive(value: Any) -> float:
    number = float(value) if isinstance(value, int | float) else 0.0
    return number if 0 < number < math.inf else 0.0


def _unix(nanoseconds: str) -> float:
    readable = nanoseconds.isascii() and nanoseconds.isdigit() and len(nanoseconds) <= 20  # 64 bits
    return int(nanoseconds) / 1e9 if readable else 0.0


def arrange(spans: Sequence[Span]) -> list[Row]:
    """Return the spans in the order of a waterfall: each before what lies below it, siblings by their begin."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        children[span.parent_id if span.parent_id in known else ""].append(span)
    for siblings in children.values():
        siblings.sort(key=lambda span: (_begin(span), span.start, span.span_id), reverse=True)
    # A stack and no recursion: a trace may be as deep as it likes. A circle of parents is never reached.
    rows: list[Row] = []
    waiting = [(span, 0, False) for span in children[""]]
    while waiting:
        span, depth, below_process = waiting.pop()
        is_attempt = bool(span.engine)
        in_worker = below_process and not is_attempt
        orphan = depth == 0 and span.parent_id != ""
        rows.append(Row(span, depth, in_worker, orphan))
        below = runs_in_process(span.engine) if is_attempt else in_worker
        waiting.extend((child, depth + 1, below) for child in children.get(span.span_id, ()))
    return rows


def _begin(span: Span) -> float:
    return span.start - span.queued


def waterfall(spans: Sequence[Span], width: int, task_id: str | None = None) -> Iterator[Text]:
    """Yield the lines of a waterfall for a width, which is at least MIN_WIDTH; those of a task begin with MARK."""
    rows = arrange(spans)
    if not rows:
        return
    width = max(width, MIN_WIDTH)
    zero = min(_begin(row.span) for row in rows)
    total = max(row.span.end for row in rows) - zero
    yield _headline(rows, total)
    names_width = _names_width(rows, width)
    bars = width - names_width - _DURATION_WIDTH - 2 - len(MARK)
    yield Text(" " * (len(MARK) + names_width + 1)).append_text(_axis(total, bars))
    for row in rows:
        mark = (MARK, "bold yellow") if task_id and row.span.task_id == task_id else " " * len(MARK)
        yield Text.assemble(mark, _line(row, zero, total, names_width, bars))
        if row.span.failed and row.span.error:
            indent = " " * len(MARK) + _indent(row, names_width)
            reason = set_fitting(printable(f"└ {row.span.error}"), width - len(indent) - 2)
            yield Text(f"{indent}  {reason}", "red")
    yield _legend(rows)


def _headline(rows: list[Row], total: float) -> Text:
    failed = sum(row.span.failed for row in rows)
    text = Text.assemble(
        ("trace ", "dim"),
        (printable(rows[0].span.trace_id), "bold"),
        f"  {seconds(total)}  {len(rows)} span{'' if len(rows) == 1 else 's'}",
    )
    if failed:
        text.append(f"  {failed} failed", _FAILED_STYLE)
    if any(row.span.partial for row in rows):
        text.append("  partial: some spans were not kept", "yellow")
    return text


def _legend(rows: list[Row]) -> Text:
    text = Text.assemble(("─", _OK_STYLE), " queued  ", ("━", _OK_STYLE), " running", style="dim")
    if any(not row.span.attempt and not row.in_worker for row in rows):
        text.append("  ").append("━", _USER_STYLE).append(" span of your code or a submission")
    if any(row.in_worker for row in rows):
        text.append("  ").append("━", _WORKER_STYLE).append(" in a worker process")
    if any(row.span.failed for row in rows):
        text.append("  ").append("━", _FAILED_STYLE).append(" failed")
    if any(row.orphan for row in rows):
        text.append("  ^ its parent is not shown here")
    return text


def _names_width(rows: list[Row], width: int) -> int:
    widest = max(cell_len(_name(row)) + 2 * row.depth for row in rows)
    return min(widest, int(width * _MAX_NAMES_SHARE))


def _indent(row: Row, names_width: int) -> str:
    return " " * min(2 * row.depth, names_width // 2)


def _name(row: Row) -> str:
    """Return a span's name with what must be known of it, whatever the colours."""
    span = row.span
    marks = "^" if row.orphan else ""
    if span.failed:
        marks += "✗ "
    name = printable(span.name)
    if span.attempt > 1 or span.will_retry:
        name += f" #{span.attempt}"
    if span.will_retry:
        name += " ↻"
    if row.in_worker or runs_in_process(span.engine):
        name += " [process]"
    return marks + name


def _line(row: Row, zero: float, total: float, names_width: int, bars: int) -> Text:
    span = row.span
    indent = _indent(row, names_width)
    name = set_fitting(_name(row), names_width - len(indent))
    style = _style(row)
    padding = " " * (names_width - len(indent) - cell_len(name))
    text = Text.assemble(indent, (name, style if span.failed else ""), padding, " ")
    text.append(_bar(span, zero, total, bars), style)
    return text.append(f" {seconds(span.end - span.start):>{_DURATION_WIDTH}}")


def _style(row: Row) -> str:
    if row.span.failed:
        return _FAILED_STYLE
    if row.in_worker:
        return _WORKER_STYLE
    return _OK_STYLE if row.span.attempt else _USER_STYLE


def _bar(span: Span, zero: float, total: float, width: int) -> str:
    """Return a bar of `width` characters; what is shorter than half of one is shown as half of one."""
    halves = [_NONE] * (2 * width)

    def at(moment: float) -> int:
        return round((moment - zero) / total * 2 * width) if total > 0 else 0

    for begin, end, kind in ((_begin(span), span.start, _QUEUED), (span.start, span.end, _RUNNING)):
        if end > begin or kind == _RUNNING:
            first = min(at(begin), 2 * width - 1)
            last = max(at(end) - 1, first)
            halves[first : last + 1] = [kind] * (last + 1 - first)
    return "".join(_GLYPHS[halves[place], halves[place + 1]] for place in range(0, 2 * width, 2))


def _axis(total: float, width: int) -> Text:
    """Return the ticks of the time axis, each label beginning at its moment; the last ends at the end."""
    parts = max(1, width // _TICKS_APART)
    line = ""
    for part in range(parts):
        label = f"|{seconds(total * part / parts) if part else '0'}"
        place = round(width * part / parts)
        line = f"{line[:place]:<{place}}{label}"
    end = f"{seconds(total)}|"
    return Text(f"{line[: width - len(end)]:<{width - len(end)}}{end}", "dim")


def set_fitting(text: str, width: int) -> str:
    """Return `text`, cut with an ellipsis where it is wider than `width` cells."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)).rstrip() + "…"


def running_note(name: str, task_id: str) -> Text:
    """Return what to say below the trace of a task that still runs."""
    return Text(
        f"{printable(name)} ({short_id(task_id)}) still runs: a span is shown once it has ended.", "yellow"
    )
