"""Log lines: JSON that can always be written, levels, stdlib loggers, and whose task a line is from."""

import io
import json
import logging
import re
import sys
from contextvars import copy_context
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from qorzen_obs.core.logger_manager import LoggerManager
from qorzen_obs.current import CURRENT
from qorzen_obs.record import End, TaskState
from qorzen_obs.tasks import ENDED, TaskCategory, TaskPriority, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.log_records import RecordsAsLines
from qorzen_obs.telemetry.logs import LogStream, accept_logger, add_task_context, make_logger
from qorzen_obs.telemetry.task_log import TaskLog
from qorzen_obs.testing import CapturedLogs
from tests.support import Spans, attempt, metric, record


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_on_a_pipe_each_line_is_json_with_level_and_time() -> None:
    stream = io.StringIO()
    make_logger("name", "info", stream).warning("something.happened", number=1, text="größe")
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "something.happened",
        "level": "warning",
        "logger_name": "name",
        "number": 1,
        "text": "größe",
    }


def test_on_a_terminal_a_line_is_for_people() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    make_logger("name", "info", stream).info("something.happened", number=1)
    assert "something.happened" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["d", "i", "w", "e"]),
        ("info", ["i", "w", "e"]),
        ("warning", ["w", "e"]),
        ("error", ["e"]),
        ("off", []),
    ],
)
def test_only_lines_of_the_level_and_above_are_written(level: str, written: list[str]) -> None:
    stream = io.StringIO()
    logger = make_logger("name", level, stream)
    for method in ("debug", "info", "warning", "error"):
        getattr(logger, method)(method[0])
    assert [line["event"] for line in lines(stream)] == written


@pytest.mark.parametrize(
    "value",
    ["line\nbreak", "\x1b[31mred", "\udcff", object(), {1: {2, 3}}, float("nan"), b"\xff", ValueError("x")],
    ids=["a line break", "a colour", "half a character", "object", "dict", "nan", "bytes", "error"],
)
def test_any_value_becomes_one_line_of_json(value: object) -> None:
    stream = io.StringIO()
    make_logger("name", "info", stream).info("event", value=value)
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()
    assert lines(stream)[0]["event"] == "event"


def test_a_traceback_is_data_without_the_values_of_local_variables() -> None:
    stream = io.StringIO()
    logger = make_logger("name", "info", stream)

    def fail() -> None:
        secret = "canary"
        raise ValueError(len(secret))

    try:
        fail()
    except ValueError:
        logger.exception("it.failed")
    assert "canary" not in stream.getvalue()
    (line,) = lines(stream)
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert all(not frame.get("locals") for frame in line["exception"][0]["frames"])


def test_the_logger_manager_takes_the_programs_own_structlog_where_there_is_one() -> None:
    captured = structlog.testing.LogCapture()
    structlog.configure(processors=[captured])
    try:
        LoggerManager().get_logger("name").info("theirs")
        assert [entry["event"] for entry in captured.entries] == ["theirs"]
        stream = io.StringIO()
        LoggerManager("info", stream).get_logger("name").info("ours")
        assert lines(stream)[0]["event"] == "ours"
    finally:
        structlog.reset_defaults()


def test_making_loggers_configures_nothing_global() -> None:
    handlers = list(logging.getLogger().handlers)
    LoggerManager("debug", io.StringIO()).get_logger("name").info("hello")
    assert not structlog.is_configured()
    assert logging.getLogger().handlers == handlers


@pytest.mark.parametrize("adapted", [False, True], ids=["logger", "adapter"])
def test_a_standard_library_logger_takes_an_event_and_fields(
    caplog: pytest.LogCaptureFixture, adapted: bool
) -> None:
    plain = logging.getLogger("test.plain")
    logger = accept_logger(logging.LoggerAdapter(plain, {}) if adapted else plain)
    with caplog.at_level(logging.INFO, logger="test.plain"):
        logger.debug("not.written")
        logger.info("task.finished", status="completed", percent="100%")
        logger.error("broken", error="x")
    assert [(line.levelname, line.getMessage()) for line in caplog.records] == [
        ("INFO", "task.finished status='completed' percent='100%'"),
        ("ERROR", "broken error='x'"),
    ]


def test_any_other_logger_is_taken_as_it_is() -> None:
    logger = object()
    assert accept_logger(logger) is logger


def test_outside_a_task_and_a_span_nothing_is_added() -> None:
    assert add_task_context(None, "info", {"event": "e"}) == {"event": "e"}


def test_inside_a_task_and_a_span_both_are_added_and_what_is_said_stays() -> None:
    spans = Spans()
    running = attempt(record(task_id="ab", name="job", category=TaskCategory.IO, priority=TaskPriority.HIGH))

    def inside() -> Any:
        CURRENT.set(running)
        with spans.tracer.start_as_current_span("run job"):
            return add_task_context(None, "info", {"event": "e", "category": "mine"})

    line = copy_context().run(inside)
    span = spans.one("run job").context
    assert line == {
        "event": "e",
        "category": "mine",
        "task_id": "ab",
        "task_name": "job",
        "priority": "high",
        "attempt": 1,
        "trace_id": f"{span.trace_id:032x}",
        "span_id": f"{span.span_id:016x}",
    }


def finished(**state: Any) -> dict[str, Any]:
    logs, one = CapturedLogs(), record(task_id="ab", name="job", plugin_id="reports")
    one.state = TaskState(**state)
    log = TaskLog(logs.get_logger("log"))
    log.on_ends([End(ENDED[one.state.status], 1.0, one, one.state, None, one.context)])
    (line,) = logs.of(names.LOG_FINISHED)
    return line


def test_a_failed_task_is_a_warning_with_type_and_a_message_that_is_cut() -> None:
    line = finished(
        status=TaskStatus.FAILED,
        attempt=1,
        duration_seconds=0.12345678,
        queue_wait_seconds=0.0,
        error="x" * 1000,
        error_type="ValueError",
    )
    assert (line["level"], line["error_type"], line["error"]) == ("warning", "ValueError", "x" * 300)
    assert (line["duration_seconds"], line["queue_wait_seconds"]) == (0.123457, 0.0)
    assert line["plugin_id"] == "reports"


def test_an_abandoned_task_says_so() -> None:
    line = finished(status=TaskStatus.CANCELLED, abandoned=True, cancel_reason="shutdown")
    assert (line["abandoned"], line["cancel_reason"], line["level"]) == (True, "shutdown", "info")
    assert "abandoned" not in finished(status=TaskStatus.COMPLETED)


def test_a_line_is_written_in_the_submitters_context() -> None:
    logs = CapturedLogs()

    def submit() -> End:
        structlog.contextvars.bind_contextvars(request_id="r1")
        one = record(context=copy_context())
        one.state = TaskState(TaskStatus.COMPLETED)
        return End(ENDED[TaskStatus.COMPLETED], 1.0, one, one.state, None, one.context)

    TaskLog(logs.get_logger("log")).on_ends([copy_context().run(submit)])
    assert logs.lines[0]["request_id"] == "r1"


_FORGERIES = [
    "done\n2026-01-01 [error] forged",
    "done\r\x1b[2K[error] forged",
    "\x1b]0;title\x07",
    "\x9b31mred",
    "user\u202etxt.exe",
    "\u2066hidden\u2069",
    "one\u2028two\u2029three",
    "back\x08\x08space\x00\x7f",
    "\ufeffmark\u200f",
]
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("text", _FORGERIES, ids=ascii)
def test_t10_no_text_passes_for_another_line_or_turns_the_writing_around(text: str) -> None:
    stream, terminal = io.StringIO(), Terminal()
    for one in (stream, terminal):
        make_logger("name", "info", one).info(text, value=text, nested={"list": [text], text: 1})
    (line,) = lines(stream)
    assert line["event"] == line["value"] == line["nested"]["list"][0] == text, "a reader of JSON gets it all"
    for shown in (stream.getvalue(), terminal.getvalue()):
        assert shown.count("\n") == 1
        assert not _CONTROL.search(re.sub("\x1b\\[[0-9;]*m", "", shown))
    plain = re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue())
    assert "\x1b" not in plain


def raise_forgery() -> None:
    raise ValueError("x\n2026-01-01 [error] forged \x1b[2K\u202e")


def test_t10_lines_of_an_exception_on_a_terminal_stand_further_in() -> None:
    terminal = Terminal()
    try:
        raise_forgery()
    except ValueError:
        make_logger("name", "info", terminal).exception("failed")
    first, *rest = re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert "failed" in first
    assert all(line.startswith("  ") for line in rest if line)
    assert not _CONTROL.search("".join(rest))


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_t7_no_line_shows_a_secret_in_event_fields_or_exception(terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    logger = make_logger("name", "info", stream)
    logger.info(
        "GET https://me:canary@host/", headers={"Cookie": "canary"}, nested=[{"api_key": "canary"}], n=1
    )
    logger.info("plain", password="canary", error=ValueError("token=canary"))
    try:
        raise_secret()
    except ValueError:
        logger.exception("failed")
    assert "canary" not in stream.getvalue()
    assert stream.getvalue().count("[redacted]") >= 6


def raise_secret() -> None:
    error = ValueError("password=canary")
    error.add_note("token: canary")
    raise error from KeyError("secret='canary'")


def test_lines_are_counted_by_level() -> None:
    logs = LogStream(io.StringIO())
    registry = CollectorRegistry()
    registry.register(logs)
    logger = logs.logger("name", "info")
    logger.debug("not written")
    logger.info("one")
    logger.info("two")
    logger.critical("three")
    assert [
        metric(registry, "qorzen_log_messages_total", level=level) for level in ("debug", "info", "critical")
    ] == [
        0,
        2,
        1,
    ]


def test_records_of_the_standard_library_become_lines_with_their_fields() -> None:
    stream = io.StringIO()
    handler = RecordsAsLines(make_logger("logging", "debug", stream))
    record = logging.LogRecord("shop", 25, "f.py", 1, "paid %d", (3,), None)
    record.user, record.password, record.event = "me", "canary", "mine"
    handler.handle(record)
    try:
        raise_secret()
    except ValueError:
        handler.handle(
            logging.LogRecord("shop", logging.CRITICAL, "f.py", 1, "failed", (), sys.exc_info(), sinfo="S")
        )
    paid, failed = lines(stream)
    assert (paid["event"], paid["level"], paid["logger_name"], paid["user"]) == (
        "paid 3",
        "info",
        "shop",
        "me",
    )
    assert "logger" not in paid
    assert (paid["password"], paid["event_"]) == ("[redacted]", "mine")
    assert (failed["level"], failed["stack"]) == ("critical", "S")
    assert failed["exception"][0]["exc_type"] == "ValueError"
    assert "canary" not in stream.getvalue()
