"""What `top` shows of a snapshot at any size, and that nothing a service says gets through to the terminal."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from qorzen_obs.cli.top.drawing import draw, list_height
from qorzen_obs.cli.top.figures import Gauges
from qorzen_obs.cli.top.poll import Opened, Snapshot, Trouble
from qorzen_obs.cli.top.scene import Scene, Size
from qorzen_obs.cli.top.view import Column, Listing, Tab, View, rows_of
from qorzen_obs.cli.waterfall import Span
from qorzen_obs.client import (
    Block,
    Culprit,
    Frame,
    Health,
    LogLines,
    Progress,
    Stack,
    Status,
    Task,
    TaskPage,
    Why,
    WorkLoop,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
USUAL = Size(120, 24)
EVIL = "evil \x1b[2J\x1b]0;owned\x07 [red]x[/red] \u202egnp.exe"
STATUS = {
    "state": "ready",
    "tasks": {"total": 1234, "by_status": {"pending": 2, "running": 3, "completed": 1200, "failed": 9}},
    "queue": {"depth": 2, "limit": 10000, "scheduled": 1, "paused": ["io"]},
    "slots": {
        "loop": {"limit": 100, "busy": 1, "lent": 4},
        "process": {"limit": 2, "busy": 2, "abandoned": 1},
    },
}


def a_task(name: str = "survey", **fields: Any) -> Task:
    since = NOW - timedelta(seconds=90)
    given = {
        "status": "running",
        "category": "background",
        "priority": "critical",
        "engine": "process",
        "started_at": since,
        **fields,
    }
    return Task(task_id=f"id-{name}", name=name, created_at=since, eligible_at=since, **given)


def a_snapshot(*tasks: Task, **fields: Any) -> Snapshot:
    given: dict[str, Any] = {
        "status": msgspec.convert(STATUS, Status),
        "health": Health("pass"),
        "listing": Listing.RUNNING,
        "page": TaskPage(list(tasks), NOW),
        "rates": {"completed": 206.0},
        "gauges": Gauges(0.0, {"high": 2}, {"high": 4.5}),
        "lag": 0.0123,
        "blocked": {"io": 0.25},
        "busy": {"id-survey": 0.42},
        "places": {"id-survey": "asyncio.sleep"},
    }
    return Snapshot(**{**given, **fields})


def screen(snapshot: Snapshot | None, view: View | None = None, *, size: Size = USUAL, **fields: Any) -> str:
    """What stands on the terminal, line by line."""
    view = view or View()
    page = snapshot.page if snapshot is not None else TaskPage([], NOW)
    rows = rows_of(
        view,
        page.items,
        NOW,
        busy=snapshot.busy if snapshot else {},
        places=snapshot.places if snapshot else {},
        names={},
    )
    scene = Scene("http://127.0.0.1:8080", view, size, NOW, 100.0, rows, snapshot, **fields)
    view.keep_selection(rows, list_height(scene))
    file = StringIO()
    console = Console(
        file=file, width=size.width, height=size.height, markup=False, emoji=False, highlight=False
    )
    console.print(draw(scene), end="")
    return file.getvalue()


def test_the_head_tells_of_the_service_and_the_table_of_its_tasks() -> None:
    text = screen(a_snapshot(a_task(progress=Progress(50.0, "half", NOW))))

    for words in (
        "ready  health pass",
        "running 3",
        "completed 1,200 +206/s",
        "lag p99 12.3 ms  blocked io 25%",
        "queue  3 of 10,000, 1 for later",
        "high 2 oldest 4.50 s",
        "paused: io",
        "process 2/2 1 abandoned",
        "loop 1/100 4 lent",
    ):
        assert words in text, words
    (line,) = (line for line in text.splitlines() if line.startswith("survey"))
    assert line.split() == [
        "survey",
        "background",
        "critical",
        "process",
        "██████░░░░░░",
        "50%",
        "90.0",
        "s",
        "42%",
        "asyncio.sleep",
    ]


CHECKS = {
    "work-loop:blocked": [{"status": "warn", "output": "blocked for 2.1 s by task evil (id)"}],
    "queue:saturation": [{"status": "warn", "output": "95 of 100 places are taken"}],
}
WARNS = msgspec.convert({"status": "warn", "checks": CHECKS}, Health)
#: The task's own code, and what that has called.
CULPRIT = Culprit(
    "render invoice of a customer",
    [Frame("/srv/shop/invoices.py", 131, "render"), Frame("/usr/lib/json/encoder.py", 202, "encode")],
)
BLOCKED = WorkLoop("blocked", 9.0, NOW, "code", CULPRIT, 2.1)


def words(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def test_who_blocks_the_loop_has_a_line_of_its_own_and_is_named_by_its_own_code() -> None:
    lines = screen(a_snapshot(health=WARNS, loop=BLOCKED)).splitlines()
    assert lines[1].rstrip() == "render invoice of a customer (invoices.py:131) blocks the loop for 2.10 s"
    assert not [line for line in lines if "blocked for 2.1 s" in line], "it is said once"
    assert "warn  queue:saturation: 95 of 100 places are taken" in [line.rstrip() for line in lines]
    # A service that is older than this command says it by its health alone.
    assert "blocked for 2.1 s by task evil (id)" in screen(a_snapshot(health=WARNS))


def test_who_blocked_the_loop_is_named_for_a_minute_unless_it_was_short_or_nobody_s_fault() -> None:
    def said(seconds_ago: float, seconds: float = 2.0, cause: str = "code") -> str:
        block = Block(NOW - timedelta(seconds=seconds_ago + seconds), seconds, cause, CULPRIT)
        return screen(a_snapshot(loop=WorkLoop("running", 0.0, NOW, recent=[block]))).splitlines()[1].rstrip()

    who = "render invoice of a customer (invoices.py:131)"
    assert said(12.0) == f"{who} blocked the loop for 2.00 s, 12 s ago"
    for line in (said(61.0), said(12.0, seconds=0.05), said(12.0, cause="not_running")):
        assert line.startswith("tasks ")


@pytest.mark.parametrize("width", [60, 70, 100])
def test_nothing_of_the_head_is_cut_off_where_there_are_lines_enough(width: int) -> None:
    snapshot = a_snapshot(
        health=WARNS, loop=BLOCKED, gauges=Gauges(0.0, {"high": 2}, {"high": 4.5}, memory=81.6e6)
    )
    lines = screen(snapshot, size=Size(width, 24)).splitlines()
    head = words(lines[: next(number for number, line in enumerate(lines) if line.startswith("NAME"))])
    for part in (
        "http://127.0.0.1:8080 ready health warn",
        "render invoice of a customer (invoices.py:131) blocks the loop for 2.10 s",
        "completed 1,200 +206/s",
        "memory 81.6 MB",
        "high 2 oldest 4.50 s",
        "process 2/2 1 abandoned",
        "95 of 100 places are taken",
    ):
        assert part in head, part
    assert "…" not in head


def test_a_narrow_list_leaves_columns_out_and_not_the_one_that_it_is_sorted_by() -> None:
    task = a_task("survey of the whole library", progress=Progress(50.0, "", NOW))
    snapshot = a_snapshot(task, places={task.task_id: "asyncio.sleep"})

    def row(view: View) -> tuple[str, str]:
        lines = screen(snapshot, view, size=Size(60, 24)).splitlines()
        (at,) = (number for number, line in enumerate(lines) if line.startswith("NAME"))
        return words([lines[at]]), words([lines[at + 1]])

    assert row(View()) == (
        "NAME PRG ELAPSED▼ BUSY AWAITS",
        "survey of the whole li… 50% 90.0 s - asyncio.sleep",
    )
    head, line = row(View(sort=Column.ENGINE, descending=False))
    assert head == "NAME ENGINE▲ PRG ELAPSED BUSY AWAITS"
    assert "process" in line


def test_the_keys_at_the_foot_are_whole() -> None:
    foot = screen(a_snapshot(), size=Size(60, 24)).splitlines()[-1].rstrip()
    assert foot == "running 0  q quit  ? help  / filter  s sort  tab list"


@pytest.mark.parametrize("size", [Size(80, 24), Size(200, 50), Size(40, 10), Size(10, 3)], ids=str)
@pytest.mark.parametrize("opened", [False, True])
def test_it_fits_every_size(size: Size, opened: bool) -> None:
    tasks = [a_task(f"task {number} " + "語" * 50) for number in range(100)]
    view = View(index=70, opened="id" if opened else None)
    detail = Opened(replace_id(a_task(traceback="line\n" * 100), "id"))
    text = screen(a_snapshot(*tasks, opened_id="id", opened=detail), view, size=size)
    lines = text.splitlines()
    assert len(lines) == size.height
    assert max(map(cell_len, lines)) <= size.width


def replace_id(task: Task, task_id: str) -> Task:
    return msgspec.structs.replace(task, task_id=task_id)


def test_at_80_columns_the_task_can_still_be_told() -> None:
    text = screen(a_snapshot(a_task(progress=Progress(50.0, "", NOW))), size=Size(80, 24))
    (line,) = (line for line in text.splitlines() if line.startswith("survey"))
    assert line.split() == [
        "survey",
        "background",
        "crit",
        "process",
        "50%",
        "90.0",
        "s",
        "42%",
        "asyncio.sleep",
    ]


def test_the_selected_task_is_on_the_screen() -> None:
    tasks = [a_task(f"task-{number:03}", started_at=NOW - timedelta(seconds=number)) for number in range(100)]
    view = View(selected="id-task-010")
    assert "task-010" in screen(a_snapshot(*tasks), view, size=Size(80, 24))
    assert 0 < view.offset <= view.index


def test_no_answer_is_a_banner_above_what_was_known() -> None:
    trouble = Trouble("http://127.0.0.1:8080 does not answer", since=97.0, answered=False)
    text = screen(a_snapshot(a_task()), trouble=trouble)
    assert "no answer for 3.00 s, retrying ... http://127.0.0.1:8080 does not answer" in text.splitlines()[1]
    assert "survey" in text
    refused = replace(trouble, answered=True)
    assert "refused for 3.00 s" in screen(a_snapshot(), trouble=refused)
    assert "asking ..." in screen(None)


EVIL_TASK = a_task(
    EVIL,
    category=EVIL,
    priority=EVIL,
    engine=EVIL,
    plugin_id=EVIL,
    status="failed",
    progress=Progress(10.0, EVIL, NOW),
    error=f"{EVIL}\nmore {EVIL}",
    error_type=EVIL,
    traceback=f"one {EVIL}\ntwo {EVIL}",
    cancel_reason=EVIL,
    waiting_for=EVIL,
    trace_id=EVIL,
    cancel_guarantee=EVIL,
    phases={"loop": 1.0, EVIL: 2.0},
)
EVIL_OPENED = Opened(
    EVIL_TASK,
    why=Why(pending=True, held_by=EVIL, ahead=3),
    stack=Stack(EVIL, [Frame(EVIL, 1, EVIL, EVIL)], EVIL),
    logs=LogLines([{"at": EVIL, "level": EVIL, "event": EVIL, EVIL: EVIL}], 2),
    spans=[Span(EVIL, "a", "", EVIL, 0.0, 1.0, failed=True, error=EVIL)],
    missing=EVIL,
)


@pytest.mark.parametrize("listing", list(Listing))
@pytest.mark.parametrize("tab", [None, *Tab])
def test_t6_and_t10_whatever_a_service_says_is_text(listing: Listing, tab: Tab | None) -> None:
    checks = {EVIL: [{"status": "fail", "output": EVIL}]}
    said = msgspec.json.decode(msgspec.json.encode(STATUS))
    said["state"] = EVIL
    said["slots"] = {EVIL: {"limit": 1, "busy": 1}}
    said["tasks"]["by_status"] = {EVIL: 1}
    said["queue"]["paused"] = [EVIL]
    evil = Culprit(EVIL, [Frame(EVIL, 1, EVIL, EVIL)])
    snapshot = a_snapshot(
        EVIL_TASK,
        status=msgspec.convert(said, Status),
        health=msgspec.convert({"status": "fail", "checks": checks}, Health),
        listing=listing,
        opened_id=EVIL_TASK.task_id,
        opened=EVIL_OPENED,
        blocked={EVIL: 1.0},
        loop=WorkLoop(EVIL, 1.0, NOW, EVIL, evil, recent=[Block(NOW, 1.0, EVIL, evil)]),
        places={EVIL_TASK.task_id: EVIL},
    )
    view = View(
        listing=listing,
        notice=EVIL,
        filter="",
        opened=None if tab is None else EVIL_TASK.task_id,
        tab=tab or Tab.TASK,
        to_cancel=EVIL_TASK if listing is Listing.RUNNING else None,
    )
    text = screen(snapshot, view, size=Size(300, 60), trouble=Trouble(EVIL, 0.0, answered=False))

    assert [character for character in text if not (character.isprintable() or character == "\n")] == []
    assert "[red]x[/red]" in text


def test_an_opened_task_is_told_from_all_sides() -> None:
    task = replace_id(a_task(phases={"queued": 1.0, "loop": 1.0, "await": 2.0}), "id")
    opened = Opened(
        task,
        stack=Stack("waiting", [Frame("a.py", 7, "work", "await sleep()")], "asyncio.sleep"),
        logs=LogLines([{"at": "2026-01-01T12:00:00.000000Z", "level": "info", "event": "hello", "n": 1}], 5),
        spans=[Span("trace", "a", "", "run survey", 0.0, 1.0, attempt=1, task_id="id")],
    )
    snapshot = a_snapshot(opened_id="id", opened=opened)
    seen = {tab: screen(snapshot, View(opened="id", tab=tab)) for tab in Tab}

    assert "░░░░░░░░░░██████████▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒ 4.00 s" in seen[Tab.TASK]
    assert "Stack: waiting, awaits asyncio.sleep\n  work  a.py:7\n    await sleep()" in "\n".join(
        line.rstrip() for line in seen[Tab.STACK].splitlines()
    )
    assert "Log, after 5 earlier lines" in seen[Tab.LOG]
    assert "12:00:00.000 info    hello  n=1" in seen[Tab.LOG]
    assert ">run survey" in seen[Tab.TRACE]
    assert "still runs" in seen[Tab.TRACE]


def test_an_opened_task_that_is_not_there_yet_or_any_more_is_told() -> None:
    assert "asking ..." in screen(a_snapshot(), View(opened="id"))
    gone = "the service does not know this task any more"
    assert gone in screen(a_snapshot(opened_id="id", opened=None), View(opened="id"))


def test_scrolling_ends_at_the_last_line() -> None:
    opened = Opened(replace_id(a_task(traceback="\n".join(f"line {n}" for n in range(200))), "id"))
    view = View(opened="id", scroll=1_000_000)
    text = screen(a_snapshot(opened_id="id", opened=opened), view)
    assert "line 199" in text
    assert "line 0 " not in text
    assert view.first_line < 250


def test_a_question_a_filter_and_the_help_take_the_place_of_the_keys() -> None:
    assert "Cancel survey?  y: yes" in screen(a_snapshot(), View(to_cancel=a_task())).splitlines()[-1]
    assert "/abc_" in screen(a_snapshot(), View(typing=True, filter="abc")).splitlines()[-1]
    assert "no such task is running" in screen(a_snapshot(), View(filter="abc"))
    assert "asking ..." in screen(a_snapshot(), View(listing=Listing.PENDING)), (
        "of this list it does not know"
    )
    assert "run a failed or cancelled task again" in screen(a_snapshot(a_task()), View(help=True))
    assert "paused" in screen(a_snapshot(), View(paused=True)).splitlines()[0]
