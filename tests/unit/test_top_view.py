"""What each key of `top` changes, and what is listed in which order. No terminal, no service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qorzen_obs.cli.top.terminal import decode
from qorzen_obs.cli.top.view import (
    COLUMNS,
    Column,
    Command,
    CommandKind,
    Listing,
    Row,
    Shown,
    Tab,
    View,
    rows_of,
)
from qorzen_obs.client import Progress, Task

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def a_task(name: str, *, seconds: float = 1.0, **fields: Any) -> Task:
    since = NOW - timedelta(seconds=seconds)
    given = {"status": "running", "category": "io", "priority": "normal", "started_at": since, **fields}
    return Task(task_id=f"id-{name}", name=name, created_at=since, eligible_at=since, **given)


def listed(view: View, *tasks: Task, **answers: Any) -> list[Row]:
    return rows_of(view, tasks, NOW, **{"busy": {}, "places": {}, "names": {}, **answers})


def names_of(rows: list[Row]) -> list[str]:
    return [row.task.name for row in rows]


def press(view: View, keys: str, *tasks: Task, height: int = 10) -> Command | None:
    """Press keys one after the other, each on what is listed by then; return what the last asks for."""
    command = None
    for key in keys.split():
        rows = listed(view, *tasks)
        view.keep_selection(rows, height)
        opened = next((task for task in tasks if task.task_id == view.opened), None)
        command = view.press(key, Shown(rows, height, opened))
        view.keep_selection(listed(view, *tasks), height)
    return command


def chosen(view: View) -> tuple[str | None, int]:
    return view.selected, view.index


def asked_about(view: View) -> Task | None:
    return view.to_cancel


A, B, C = a_task("a", seconds=3), a_task("b", seconds=2), a_task("c", seconds=1)


def test_the_longest_running_are_first_and_s_goes_through_the_columns() -> None:
    view = View()
    assert names_of(listed(view, C, A, B)) == ["a", "b", "c"]
    press(view, "S", A)
    assert names_of(listed(view, C, A, B)) == ["c", "b", "a"]
    for column in COLUMNS[Listing.RUNNING]:
        press(view, "s", A)
        assert view.sort == column
    assert view.descending


@pytest.mark.parametrize(
    ("column", "order"),
    [
        (Column.NAME, ["z", "y", "x"]),
        (Column.PRIORITY, ["z", "x", "y"]),
        (Column.CATEGORY, ["x", "z", "y"]),
        (Column.PROGRESS, ["y", "z", "x"]),
        (Column.BUSY, ["x", "y", "z"]),
    ],
)
def test_each_column_sorts(column: Column, order: list[str]) -> None:
    tasks = [
        a_task("x", category="user", priority="high", progress=Progress(1.0)),
        a_task("y", category="core", priority="low", progress=Progress(50.0)),
        a_task("z", category="io", priority="critical", progress=Progress(9.0)),
    ]
    rows = listed(View(sort=column), *tasks, busy={"id-x": 0.9, "id-y": 0.1})
    assert names_of(rows) == order


def test_a_selection_stays_with_its_task_and_goes_to_its_place_when_that_has_gone() -> None:
    view = View()
    press(view, "down", A, B, C)
    assert view.selected == "id-b"
    older = a_task("older", seconds=9)
    view.keep_selection(listed(view, older, A, B, C), 10)
    assert chosen(view) == ("id-b", 2)
    view.keep_selection(listed(view, older, A, C), 10)
    assert chosen(view) == ("id-c", 2)
    view.keep_selection([], 10)
    assert chosen(view) == (None, 0)
    assert press(view, "enter c r") is None, "there is nothing to open, to cancel or to run again"


def test_the_selected_task_is_always_among_those_shown() -> None:
    view = View()
    tasks = [a_task(f"{number:02}", seconds=100 - number) for number in range(30)]
    press(view, "G", *tasks, height=5)
    assert (view.index, view.offset) == (29, 25)
    press(view, "k k k k k k", *tasks, height=5)
    assert (view.index, view.offset) == (23, 23)
    press(view, "pageup", *tasks, height=5)
    assert view.index == 18
    press(view, "g", *tasks, height=5)
    assert (view.index, view.offset) == (0, 0)


def test_a_filter_is_typed_and_kept_or_let_go() -> None:
    view = View()
    press(view, "/ F a x backspace")
    assert (view.typing, view.filter) == (True, "Fa")
    press(view, "q")
    assert view.filter == "Faq", "while it is typed a letter is a letter"
    press(view, "backspace enter")
    failing = a_task("z", error_type="E", error="it has fallen", status="failed")
    assert names_of(listed(view, A, failing)) == ["z"]
    press(view, "escape")
    assert len(listed(view, A, failing)) == 2
    press(view, "/ x escape")
    assert (view.typing, view.filter) == (False, "")


def test_a_filter_does_not_grow_without_bound() -> None:
    view = View(typing=True)
    press(view, " ".join("x" * 500))
    assert len(view.filter) == 100


def test_cancelling_asks_first() -> None:
    view = View()
    assert press(view, "j c", A, B) is None
    assert asked_about(view) == B
    assert press(view, "n", A, B) is None
    assert asked_about(view) is None
    assert press(view, "c y", A, B) == Command(CommandKind.CANCEL, "id-b")
    assert press(view, "q", A) == Command(CommandKind.QUIT)


@pytest.mark.parametrize(
    ("task", "notice"),
    [
        (a_task("x", cancellable=False), "it was submitted with cancellable=False"),
        (a_task("x", status="completed"), "it has ended"),
    ],
)
def test_what_cannot_be_cancelled_is_not_asked_about(task: Task, notice: str) -> None:
    view = View()
    press(view, "c", task)
    assert (view.to_cancel, view.notice) == (None, notice)
    press(view, "j", task)
    assert view.notice == ""


def test_a_task_is_opened_and_looked_at_from_all_sides() -> None:
    view = View()
    press(view, "enter", A, B)
    assert (view.opened, view.tab) == ("id-a", Tab.TASK)
    press(view, "tab tab", A, B)
    assert view.tab.name == "LOG"
    press(view, "left", A, B)
    assert view.tab.name == "STACK"
    press(view, "4", A, B)
    assert view.tab.name == "TRACE"
    press(view, "c", A, B)
    assert view.to_cancel == A
    assert press(view, "y", A, B) == Command(CommandKind.CANCEL, "id-a")
    assert press(view, "r", A, B) == Command(CommandKind.RERUN, "id-a")
    press(view, "q", A, B)
    assert view.opened is None, "q goes back before it quits"


def test_the_lists_take_turns_each_with_its_own_order() -> None:
    view = View(selected="id-a", index=3)
    press(view, "tab")
    assert (view.listing, view.sort, view.index, view.selected) == (Listing.PENDING, Column.ELAPSED, 0, None)
    press(view, "tab")
    assert (view.listing, view.sort) == (Listing.FAILED, Column.ENDED)
    first = a_task("first", status="failed", completed_at=NOW - timedelta(hours=1))
    last = a_task("last", status="failed", completed_at=NOW)
    assert names_of(listed(view, first, last)) == ["last", "first"]
    press(view, "tab tab")
    assert view.listing.name == "RUNNING"
    press(view, "backtab")
    assert view.listing.name == "ENDED"


def test_pausing_and_help() -> None:
    view = View()
    press(view, "p")
    assert view.paused
    press(view, "p ?")
    assert (view.paused, view.help) == (False, True)
    assert press(view, "q", A) is None, "any key leaves the help"
    assert not view.help


def test_a_row_says_what_its_task_waits_for() -> None:
    waits = a_task("waits", waiting_for="id-b")
    waits_for_unknown = a_task("unknown", waiting_for="0123456789ab")
    pending = a_task("not listed", waiting_for="id-z")
    rows = listed(
        View(sort=Column.NAME),
        A,
        B,
        waits,
        waits_for_unknown,
        pending,
        places={"id-a": "a place"},
        names={"id-z": "z"},
    )
    assert {row.task.name: row.says for row in rows} == {
        "a": "a place",
        "b": "",
        "waits": "task b",
        "unknown": "task 01234567",
        "not listed": "task z",
    }


def test_times_are_by_the_services_clock_and_never_negative() -> None:
    pending = a_task("pending", status="pending", started_at=None, seconds=-5)
    ended = a_task("ended", status="failed", duration_seconds=0.25, seconds=60)
    rows = listed(View(sort=Column.NAME), A, pending, ended)
    assert {row.task.name: row.elapsed for row in rows} == {"a": 3.0, "pending": 0.0, "ended": 0.25}


@pytest.mark.parametrize(
    ("sent", "keys", "rest"),
    [
        ("\x1b[A\x1bOB\x1b[5~", ["up", "down", "pageup"], ""),
        ("\r\t\x7f", ["enter", "tab", "backspace"], ""),
        ("\x1b", [], "\x1b"),
        ("\x1b[1;5", [], "\x1b[1;5"),
        ("\x1b[1;5D", [], ""),
        ("\x1bq", ["escape", "q"], ""),
        ("\x1b\x1b[A", ["escape", "up"], ""),
        ("\x1b[200~é\x00\x1a", ["é"], ""),
    ],
)
def test_what_a_terminal_sends_is_told_as_keys(sent: str, keys: list[str], rest: str) -> None:
    assert decode(sent) == (keys, rest)
