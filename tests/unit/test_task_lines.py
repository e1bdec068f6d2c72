"""The kept lines of tasks: bounded in each way, oldest out first, counted."""

import logging
from contextvars import copy_context
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.current import CURRENT
from qorzen_obs.telemetry.log_records import TaskLogHandler
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.secret_forms import HIDDEN
from qorzen_obs.telemetry.task_lines import TaskLines, keep_task_line, kept_already
from tests.support import Owner, attempt, record


def events(lines: TaskLines, task_id: str) -> list[str]:
    return [item["event"] for item in items(lines, task_id)]


def items(lines: TaskLines, task_id: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(item) for item in lines.of(task_id).items]


def test_a_line_has_its_time_level_event_and_fields_and_repeats_nothing_of_the_task() -> None:
    lines = TaskLines()
    lines.add(
        "a", "warning", "e", {"event": "e", "task_id": "a", "category": "io", "n": 1}, "2026-01-01T00:00:00Z"
    )
    assert items(lines, "a") == [{"at": "2026-01-01T00:00:00Z", "level": "warning", "event": "e", "n": 1}]
    lines.add("a", "info", "e", {})
    assert items(lines, "a")[1]["at"].endswith("Z")


def test_of_one_task_the_oldest_go_first_and_are_counted() -> None:
    lines = TaskLines(per_task=3)
    for number in range(5):
        lines.add("a", "info", str(number), {})
    assert events(lines, "a") == ["2", "3", "4"]
    assert lines.of("a").dropped == lines.dropped == 2
    assert len(lines) == 3


def test_in_all_the_oldest_go_first_whoever_wrote_them() -> None:
    lines = TaskLines(per_task=10, total=4)
    for number in range(3):
        lines.add("a", "info", str(number), {})
        lines.add("b", "info", str(number), {})
    assert (events(lines, "a"), events(lines, "b")) == (["1", "2"], ["1", "2"])
    assert (lines.of("a").dropped, lines.of("b").dropped) == (1, 1)


def test_in_all_lines_take_no_more_room_than_they_may() -> None:
    lines = TaskLines(total_bytes=50_000)
    for number in range(40):
        lines.add(str(number), "info", "e", {"text": "x" * 1_900})
    assert 0 < lines.bytes <= 50_000
    kept = [number for number in range(40) if events(lines, str(number))]
    assert 15 < len(kept) < 26
    assert kept == list(range(40 - len(kept), 40)), "the oldest go first"
    for number in range(40):
        lines.forget(str(number))
    assert lines.bytes == 0, "and what is forgotten takes none"


def test_the_lines_of_a_forgotten_task_go_and_make_room() -> None:
    lines = TaskLines(total=2)
    lines.add("a", "info", "1", {})
    lines.add("b", "info", "1", {})
    lines.forget("a")
    lines.forget("unknown")
    lines.add("b", "info", "2", {})
    assert (events(lines, "a"), events(lines, "b"), lines.dropped) == ([], ["1", "2"], 0)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "add", "add", "forget"])), max_size=200
    )
)
def test_the_bounds_hold_whatever_happens(steps: list[tuple[str, str]]) -> None:
    lines = TaskLines(per_task=5, total=8)
    for task_id, step in steps:
        if step == "add":
            lines.add(task_id, "info", "e", {})
        else:
            lines.forget(task_id)
        kept = [len(lines.of(one).items) for one in "abc"]
        assert sum(kept) == len(lines) <= 8
        assert max(kept) <= 5
    for task_id in "abc":
        lines.forget(task_id)
    assert (len(lines), lines.bytes) == (0, 0)


def test_a_giant_line_is_kept_short() -> None:
    lines = TaskLines()
    lines.add("a", "info", "e" * 10_000, {str(number): "x" * 10_000 for number in range(10)})
    lines.add("a", "info", "e", {"text": "x" * 10_000})
    giant, long = items(lines, "a")
    assert giant["shortened"] is True
    assert len(long["text"]) == 2_000


class OwnerWithLines(Owner):
    def __init__(self) -> None:
        self.task_lines = TaskLines()
        self.redactor = Redactor(["iban"])


def inside_a_task(call: Any) -> TaskLines:
    running = attempt(record(task_id="a"))
    running.owner = owner = OwnerWithLines()

    def enter() -> None:
        CURRENT.set(running)
        call()

    copy_context().run(enter)
    return owner.task_lines


def test_the_processor_keeps_a_tasks_line_redacted_and_leaves_the_line_alone() -> None:
    event = {"event": "paid", "iban": "DE00", "n": 1}
    lines = inside_a_task(lambda: keep_task_line(None, "info", event))
    assert event == {"event": "paid", "iban": "DE00", "n": 1}
    assert [(item["event"], item["iban"], item["n"]) for item in items(lines, "a")] == [("paid", HIDDEN, 1)]
    assert keep_task_line(None, "info", event) is event, "outside a task nothing is kept"


def test_a_line_that_its_writer_keeps_is_not_kept_twice() -> None:
    def write() -> None:
        with kept_already():
            keep_task_line(None, "info", {"event": "e"})

    assert len(inside_a_task(write)) == 0


def fail(message: str) -> None:
    raise ValueError(message)


def test_the_handler_keeps_a_tasks_records_with_fields_and_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("shop")
    handler = TaskLogHandler()
    logger.addHandler(handler)
    caplog.set_level(logging.INFO, "shop")

    def write() -> None:
        logger.info("paid %s", "token=abc", extra={"iban": "DE00", "event": "mine"})
        try:
            fail("password=abc")
        except ValueError:
            logger.critical("failed", exc_info=True, stack_info=True)

    paid, failed = items(inside_a_task(write), "a")
    assert (paid["event"], paid["iban"], paid["event_"]) == (f"paid token={HIDDEN}", HIDDEN, "mine")
    assert (paid["level"], paid["logger_name"], failed["level"]) == ("info", "shop", "critical")
    assert f"ValueError: password={HIDDEN}" in failed["exception"]
    assert "abc" not in repr((paid, failed))
    logger.info("outside a task nothing is kept, and nothing fails")
    logger.removeHandler(handler)


@pytest.mark.parametrize("text", ["\udcff", "\u202e", "\x00"], ids=ascii)
def test_any_text_is_kept(text: str) -> None:
    lines = TaskLines()
    lines.add("a", "info", text, {"text": text})
    assert len(items(lines, "a")) == 1
