"""The canonical line by the short way: the same as structlog's, field for field and in the same order."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from contextvars import Context, copy_context
from typing import Any

import pytest
import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from qorzen_obs.record import End, Rerun, TaskRecord, TaskState
from qorzen_obs.tasks import ENDED, EventKind, TaskStatus
from qorzen_obs.telemetry.log_export import LogExport
from qorzen_obs.telemetry.logs import LogStream
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.task_log import StreamTaskLog, TaskLog
from tests.support import record

SPAN = SpanContext(0xABC, 0xDEF, is_remote=False)


def in_context(**variables: Any) -> Any:
    """A submitter's context, with variables of structlog and a span."""
    spanned = variables.pop("spanned", False)

    def fill() -> Any:
        structlog.contextvars.bind_contextvars(**variables)
        if spanned:
            otel_context.attach(
                trace.set_span_in_context(NonRecordingSpan(SpanContext(7, 8, is_remote=False)))
            )
        return copy_context()

    return copy_context().run(fill)


def ended(**state: Any) -> TaskState:
    given = {
        "status": TaskStatus.COMPLETED,
        "attempt": 1,
        "duration_seconds": 0.25,
        "queue_wait_seconds": 1e-7,
    }
    return TaskState(**{**given, **state})


FAILED = {
    "status": TaskStatus.FAILED,
    "error_type": "ValueError",
    "error": "no, with password=hunter2 " + "x" * 400,
    "traceback": "Traceback\n" + "x" * 9_000 + "\nValueError: no, with password=hunter2\n",
}
CASES: dict[str, tuple[TaskRecord, TaskState]] = {
    "plain": (record(), ended(span=SPAN)),
    "without a span": (record(context=in_context(spanned=True)), ended()),
    "with variables": (
        record(context=in_context(request_id="r1", token="secret-value-1234")),
        ended(span=SPAN),
    ),
    "with variables alone, and another context for the attempt": (
        record(context=Context().run(in_context, request_id="r1", user="u1")),
        ended(span=SPAN),
    ),
    "a variable named as a field": (
        record(context=in_context(status="mine", level="mine")),
        ended(span=SPAN),
    ),
    "failed": (record(plugin_id="reports"), ended(**FAILED, span=SPAN)),
    "cancelled while pending": (
        record(),
        TaskState(TaskStatus.CANCELLED, cancel_reason="because of api_key=abcdef0123456789", abandoned=True),
    ),
    "retrying": (
        record(eligible_wall=1_700_000_010.5),
        ended(**{**FAILED, "status": TaskStatus.PENDING}, span=SPAN),
    ),
    "run again": (record(rerun=Rerun("ab" * 16, None)), ended(span=SPAN)),
    "a name with a secret": (record(name="fetch https://me:hunter2@host/"), ended(span=SPAN)),
    "a name that misleads": (record(name="job\x1b[2K\u202egnp.exe \udce9"), ended(span=SPAN)),
}


class Exported(LogExport):
    """What the collector would get."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def put(self, level: str, fields: Mapping[str, Any], flags: TraceFlags | None = None) -> None:
        self.events.append(fields["event"])

    @property
    def lost(self) -> int:
        return 0


def line_of(short: bool, one: TaskRecord, state: TaskState, redactor: Redactor | None = None) -> list[str]:
    out = io.StringIO()
    stream = LogStream(out, redactor)
    log = TaskLog(stream.logger("tasks"), None, StreamTaskLog(stream, "tasks", "info") if short else None)
    one.state = state
    kind = ENDED.get(state.status, EventKind.RETRYING)
    log.on_ends([End(kind, 1_700_000_000.0, one, state, None, one.context)])
    stream.close()
    return out.getvalue().splitlines()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("redactor", [None, Redactor(keys=["task_name"])], ids=["usual", "hides the name"])
def test_the_short_way_writes_what_structlog_writes(case: str, redactor: Redactor | None) -> None:
    (short,), (long,) = (line_of(way, *CASES[case], redactor) for way in (True, False))
    stamps = [json.loads(line)["timestamp"] for line in (short, long)]
    # A number may be written in two ways, 0.25 and 0.250000; all else is the same to the letter.
    parsed = [
        json.loads(line.replace(stamp, "now"), object_pairs_hook=list)
        for line, stamp in zip((short, long), stamps, strict=True)
    ]
    assert parsed[0] == parsed[1]
    assert short.isascii()
    assert "hunter2" not in short
    assert stamps[0] == "2023-11-14T22:13:20.000000Z", "the moment of the event, not that of the writing"


def test_a_level_lets_through_what_it_lets_through_by_structlog() -> None:
    for level, expected in (("info", 2), ("warning", 1), ("error", 0), ("off", 0)):
        out = io.StringIO()
        stream = LogStream(out)
        log = TaskLog(stream.logger("tasks", level), None, StreamTaskLog(stream, "tasks", level))
        for state in (ended(), ended(**FAILED)):
            one = record()
            one.state = state
            log.on_ends([End(ENDED[state.status], 1.0, one, state, None, one.context)])
        assert len(out.getvalue().splitlines()) == expected


def test_a_line_is_counted_when_it_is_handed_over() -> None:
    stream = LogStream(io.StringIO())
    line = StreamTaskLog(stream, "tasks", "info")
    one = record()
    line.write([End(EventKind.COMPLETED, 1.0, one, ended(), None, one.context)])
    (family,) = stream.collect()
    assert {sample.labels["level"]: sample.value for sample in family.samples}["info"] == 1


def test_a_stream_that_nobody_reads_keeps_no_line_from_the_export() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        stream = LogStream(gone)
        exported = stream.export = Exported()
        logger = stream.logger("theirs")
        while not stream.lost()["log_line"]:
            logger.info("by the user")
        one = record()
        StreamTaskLog(stream, "tasks", "info").write(
            [End(EventKind.COMPLETED, 1.0, one, ended(), None, one.context)]
        )
        assert exported.events[-1] == "task.finished"
        stream.close()
