"""What every durable history does (history/base.py and history/storage.py): Recorder, StoredTasks and their storage."""

import asyncio
import dataclasses
import json
import sqlite3
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qorzen_obs.engines.traits import THREAD
from qorzen_obs.errors import HistoryError, HistoryInUseError, HistoryUnavailableError
from qorzen_obs.history.base import StoredTasks, TaskOrder, TaskQuery, sort_value
from qorzen_obs.history.held import HeldChanges
from qorzen_obs.history.recorder import DurableHistory
from qorzen_obs.history.sqlite import SqliteStorage, check, export
from qorzen_obs.history.storage import Batch, CorruptedError, ReplacedError, StorageError
from qorzen_obs.ledger import Ledger
from qorzen_obs.record import Rerun
from qorzen_obs.tasks import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PENDING,
    RUNNING,
    EventKind,
    TaskCategory,
    TaskInfo,
    TaskPriority,
    TaskProgress,
    TaskStatus,
)
from tests.histories import (
    SPAN,
    Notices,
    accepted,
    crash,
    end,
    event,
    full_disk,
    progress,
    recording,
    rows,
    run,
    storage,
    the_end,
    wait_until,
)
from tests.support import PATIENCE_SECONDS, until

Make = Callable[..., SqliteStorage]

#: Each storage by its name, made from a path below which it may write, and an instance.
STORAGES: dict[str, Make] = {"sqlite": SqliteStorage}


@pytest.fixture(params=list(STORAGES.values()), ids=list(STORAGES))
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.param
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history"


# ---------------------------------------------------------------------- what is stored


async def test_everything_in_a_task_info_but_the_result_survives_the_process(make: Make, path: Path) -> None:
    one = accepted(
        plugin_id="reports",
        category=TaskCategory.IO,
        priority=TaskPriority.HIGH,
        metadata={"nested": {"list": [1, "ü"]}},
        timeout=3.0,
        cancellable=False,
        eligible_wall=11.0,
        rerun=Rerun("before", None),
        parent_id="parent",
        definition_name="weekly_report",
        engine=THREAD,
    )
    one.progress = TaskProgress(50.0, "half", 12.0)
    end(
        one,
        FAILED,
        result="private",
        error="it broke",
        error_type="ValueError",
        traceback="Traceback …",
        cancel_reason="reason",
        abandoned=True,
        code_ended_at=13.0,
        queue_wait_seconds=1.0,
        duration_seconds=1.5,
        span=SPAN,
        ledger=Ledger(0.0, {"queued": 1.0}),
    )
    with recording(path, store=make(path, instance="one")) as history:
        history.on_ends([the_end(one)])
    stored = make(path, instance="two").stored.find("id")
    assert stored == one.info().replace(result=None)
    defaults = TaskInfo(
        **{field.name: getattr(stored, field.name) for field in dataclasses.fields(TaskInfo)[:7]},
        created_at=0.0,
    )
    same = {
        f.name
        for f in dataclasses.fields(TaskInfo)[7:]
        if getattr(stored, f.name) == getattr(defaults, f.name)
    }
    assert same <= {"result", "waiting_for", "result_released", "evicted", "instance"}, (
        "give each field a value"
    )


async def test_a_file_that_nobody_has_written_has_no_tasks_and_no_losses(make: Make, path: Path) -> None:
    stored = make(path, instance="one").stored
    assert stored.find("id") is None
    assert stored.select(TaskQuery(), limit=10) == []
    assert (list(stored.logs("id")), stored.losses()) == ([], [])


async def test_a_short_task_is_written_once_and_a_late_earlier_state_changes_nothing(path: Path) -> None:
    store = storage(path)
    with recording(path, store=store) as history:
        one = accepted()
        submitted, started = event(one), event(run(one))
        history.on_event(submitted)
        history.on_event(started)
        history.on_ends([the_end(end(one))])
        wait_until(lambda: history.status()["records_written"] == 1)
        assert store.batches == [1]
        history.on_event(started)
        history.on_event(submitted)
        wait_until(lambda: history.status()["commits"] > 1 and history.status()["waiting"] == 0)
        found = history.stored.find("id")
        assert found is not None
        assert found.status is COMPLETED
    assert rows(path, "SELECT count(*) FROM tasks") == [(1,)]


async def test_each_change_is_on_disk_soon_although_nobody_waits(make: Make, path: Path) -> None:
    with recording(path, store=make(path, instance="one")) as history:
        one = accepted()
        history.on_event(event(one))
        assert await found(history, "id", PENDING)
        history.on_event(event(run(one)))
        assert await found(history, "id", RUNNING)
        history.on_event(progress(one, 40.0, "counting"))
        await until(lambda: at(history, "id").progress.message == "counting")
        one.state = one.state.but(status=PENDING)
        history.on_event(event(one, EventKind.RETRYING))
        assert await found(history, "id", PENDING)
        history.on_event(event(run(one, attempt=2)))
        assert await found(history, "id", RUNNING)
        history.on_ends([the_end(end(one, CANCELLED))])
        assert await found(history, "id", CANCELLED)
        assert at(history, "id").attempt == 2


def at(history: DurableHistory, task_id: str) -> TaskInfo:
    info = history.stored.find(task_id)
    assert info is not None
    return info


async def found(history: DurableHistory, task_id: str, status: TaskStatus) -> bool:
    await until(lambda: (info := history.stored.find(task_id)) and info.status is status)
    return True


async def test_metadata_is_stored_without_secrets(path: Path) -> None:
    with recording(path, redact=lambda metadata: dict.fromkeys(metadata, "***")) as history:
        history.on_event(event(accepted(metadata={"token": "canary"})))
    assert b"canary" not in b"".join(one.read_bytes() for one in path.parent.iterdir())
    stored = storage(path).stored.find("id")
    assert stored is not None
    assert stored.metadata == {"token": "***"}


async def test_a_text_that_is_no_unicode_and_a_hostile_record_are_stored_as_far_as_they_can(
    path: Path,
) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError

    with recording(path, redact=refuse) as history:
        history.on_event(event(accepted("hostile", metadata={"a": 1})))
        history.on_ends([the_end(end(accepted("text"), FAILED, error="\ud800", traceback="\udfff!"))])
    stored = storage(path).stored
    hostile, text = stored.find("hostile"), stored.find("text")
    assert hostile is not None
    assert text is not None
    assert hostile.metadata == {}
    assert (text.error, text.traceback) == ("?", "?!")


async def test_log_lines_and_spans_of_ended_tasks_survive_within_their_bound(make: Make, path: Path) -> None:
    lines: dict[str, list[dict[str, Any]]] = {
        "ended": [{"event": "first"}, {"event": "last", "n": 2}],
        "long": [{"n": n, "x": "y" * 9_000} for n in range(20)],
    }

    def lines_of(task_id: str) -> list[dict[str, Any]]:
        if task_id == "hostile":
            raise RuntimeError
        return lines.get(task_id, [])

    history = DurableHistory(
        make(path, instance="one"),
        lines_of=lines_of,
        spans_of=lambda trace_id: [{"traceId": trace_id, "name": "run job"}],
    )
    history.start()
    history.on_event(event(accepted("live")))
    ends = [the_end(end(accepted(task_id), span=SPAN)) for task_id in ("ended", "long", "hostile", "silent")]
    history.on_ends(ends)
    assert history.stop()
    stored = make(path, instance="two").stored
    assert list(stored.logs("ended")) == lines["ended"]
    assert [line["n"] for line in stored.logs("long")] == list(range(13, 20))
    assert [list(stored.logs(one)) for one in ("live", "hostile", "silent")] == [[], [], []]
    assert list(stored.spans(f"{0xA:032x}")) == [{"traceId": f"{0xA:032x}", "name": "run job"}]
    assert list(stored.spans("0")) == []


# ---------------------------------------------------------------------- offers


async def test_d16_an_offer_is_done_once_the_record_is_on_disk_and_many_share_a_commit(path: Path) -> None:
    store = storage(path)
    with recording(path, store=store, commits_first=True) as history:
        first = accepted("first")
        await history.offer(first)
        assert rows(path, "SELECT task_id FROM tasks") == [("first",)]
        await asyncio.gather(*(history.offer(accepted(f"id {number}")) for number in range(100)))
        assert rows(path, "SELECT count(*) FROM tasks") == [(101,)]
        assert len(store.batches) < 20


async def test_a_withdrawn_record_is_gone_and_one_that_has_started_stays(make: Make, path: Path) -> None:
    with recording(path, store=make(path, instance="one")) as history:
        stored, unstored, started = accepted("stored"), accepted("unstored"), accepted("started")
        await history.offer(stored)
        await history.offer(started)
        history.withdraw(stored)
        waits = history.offer(unstored)
        history.withdraw(unstored)
        history.on_event(event(run(started)))
        await found(history, "started", RUNNING)
        history.withdraw(started)
        history.on_event(event(accepted("last")))
        await found(history, "last", PENDING)
        assert [history.stored.find(one) for one in ("stored", "unstored")] == [None, None]
        assert history.stored.find("started") is not None
        waits.cancel()


async def test_an_offer_before_the_start_or_after_the_end_is_refused(make: Make, path: Path) -> None:
    history = DurableHistory(make(path, instance="one"))
    for _ in range(2):
        assert history.refusal() == "the history is not open"
        with pytest.raises(HistoryUnavailableError, match="not open"):
            await history.offer(accepted())
        history.on_event(event(accepted()))
        history.on_ends([the_end(end(accepted()))])
        history.withdraw(accepted())
        assert history.status()["waiting"] == 0
        if history.status()["state"] == "new":
            history.start()
            assert history.refusal() is None
            assert history.stop()
    with pytest.raises(HistoryError, match="started before"):
        history.start()
    assert history.stop()


async def test_a_caller_who_gives_up_or_whose_loop_has_closed_stops_nobody(path: Path) -> None:
    store = storage(path)
    with recording(path, store=store) as history:
        blocked = asyncio.Event()
        loop = asyncio.get_running_loop()

        def fail() -> None:
            loop.call_soon_threadsafe(blocked.set)
            full_disk()

        store.fault = fail

        left: list[asyncio.Future[None]] = []

        def offer_and_leave() -> None:
            async def offer() -> None:
                left.append(history.offer(accepted("left")))

            asyncio.run(offer())

        gone = history.offer(accepted("gone"))
        gone.cancel()
        await loop.run_in_executor(None, offer_and_leave)
        await blocked.wait()
        await until(lambda: history.status()["state"] == "broken")
        store.fault = None
        await until(lambda: history.status()["state"] == "writing")
        await history.offer(accepted("next"))


# ---------------------------------------------------------------------- faults


async def test_while_the_disk_is_broken_new_work_is_refused_with_the_reason_and_then_it_heals_by_itself(
    path: Path,
) -> None:
    store, notices = storage(path), Notices()
    with recording(path, store=store, on_notice=notices) as history:
        running = accepted("running")
        await history.offer(running)
        store.fault = full_disk
        with pytest.raises(HistoryUnavailableError, match="the disk is full; free some space"):
            await history.offer(accepted("refused"))
        assert history.refusal() == "the disk is full; free some space"
        await asyncio.wait_for(history.wait_for_room(), PATIENCE_SECONDS)
        assert (history.status()["durable"], history.status()["state"]) == (False, "broken")
        history.on_event(event(run(running)))
        history.on_ends([the_end(end(running))])
        store.fault = None
        await until(lambda: history.refusal() is None)
        assert await found(history, "running", COMPLETED)
        assert history.status()["durable"]
        assert history.stored.find("refused") is None
        assert notices.kinds() == ["broken", "healed"]


async def test_f19_a_commit_that_fails_after_it_has_reached_the_disk_leaves_no_refused_task(
    path: Path,
) -> None:
    store = storage(path)
    with recording(path, store=store) as history:
        store.after = full_disk
        with pytest.raises(HistoryUnavailableError):
            await history.offer(accepted("refused"))
        assert rows(path, "SELECT task_id FROM tasks") == [("refused",)]
        store.after = None
        await until(lambda: history.refusal() is None)
        assert rows(path, "SELECT task_id FROM tasks") == []


async def test_an_undurable_history_accepts_work_and_stores_its_newest_state_once_it_has_healed(
    path: Path,
) -> None:
    store = storage(path)
    with recording(path, store=store, when_broken="undurable") as history:
        store.fault = full_disk
        one = accepted("one", metadata={"kept": True})
        await history.offer(one)
        history.on_event(event(one))
        await until(lambda: history.status()["state"] == "broken")
        assert history.refusal() is None
        await history.offer(accepted("two"))
        result = Result()
        alive = weakref.ref(result)
        history.on_ends([the_end(end(one, result=result))])
        end(one)
        del result
        await until(lambda: alive() is None)
        assert not history.status()["durable"]
        store.fault = None
        assert await found(history, "one", COMPLETED)
        assert await found(history, "two", PENDING)
        assert at(history, "one").metadata == {"kept": True}
        assert history.status()["durable"]


class Result:
    """What a task has returned."""


def test_what_is_held_while_undurable_is_bounded_and_what_is_dropped_is_counted() -> None:
    held = HeldChanges()
    for number in range(5):
        held.take(event(accepted(f"id {number}")))
    assert held.shrink(3) == 2
    assert [one.record.task_id for one in held] == ["id 2", "id 3", "id 4"]
    assert held.shrink(3) == 0


async def test_changes_beyond_the_limit_are_refused_or_wait_and_progress_is_dropped_and_counted(
    path: Path,
) -> None:
    store = storage(path)
    with recording(path, store=store, limit=4) as history:
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait() -> None:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()

        store.fault = wait
        running = run(accepted("running"))
        history.on_event(event(running))
        await until(lambda: history.status()["waiting"] == 1 and not history._intake.queue)
        for number in range(3):
            history.on_event(event(accepted(f"id {number}")))
        refusal = history.refusal()
        assert refusal is not None
        assert "the changes of 4 tasks wait for the disk" in refusal
        history.on_event(progress(running, 50.0))
        assert history.status()["progress_dropped"] == 1
        history.on_ends([the_end(end(running))])
        assert history.status()["waiting"] == 5, "an end is never dropped"
        waits = asyncio.create_task(history.wait_for_room())
        await asyncio.sleep(0)
        assert not waits.done()
        store.fault = None
        gate.set()
        await asyncio.wait_for(waits, PATIENCE_SECONDS)
        assert history.refusal() is None
        assert await found(history, "running", COMPLETED)


async def test_a_moment_of_a_lock_is_no_trouble_and_a_longer_one_is(path: Path) -> None:
    store = storage(path)

    def lock() -> None:
        tries.append(1)
        raise StorageError("another program locks the database; end it", is_busy=True)

    tries: list[int] = []
    with recording(path, store=store) as history:
        store.fault = lock
        offered = history.offer(accepted())
        await until(lambda: tries)
        assert history.refusal() is None
        with pytest.raises(HistoryUnavailableError, match="another program locks"):
            await offered
        assert len(tries) > 2
        store.fault = None
        await until(lambda: history.refusal() is None)


async def test_a_stop_with_a_broken_disk_ends_and_says_that_not_everything_is_stored(path: Path) -> None:
    store = storage(path)
    history = DurableHistory(store)
    history.start()
    store.fault = full_disk
    history.on_ends([the_end(end(accepted()))])
    await until(lambda: history.status()["state"] == "broken")
    assert not history.stop(0.2)
    assert history.refusal() == "the disk is full; free some space"


async def test_a_fault_of_the_writer_itself_is_said_and_leaves_nobody_waiting(path: Path) -> None:
    store, notices = storage(path), Notices()

    def fail() -> None:
        raise ZeroDivisionError

    with recording(path, store=store, on_notice=notices) as history:
        store.fault = fail
        with pytest.raises(HistoryUnavailableError, match="writer has failed: ZeroDivisionError"):
            await history.offer(accepted())
        await until(lambda: not history._is_open())
        assert history.refusal() == "the history's writer has failed: ZeroDivisionError"
        with pytest.raises(HistoryUnavailableError, match="ZeroDivisionError"):
            await history.offer(accepted())
    assert notices.kinds() == ["broken"]


async def test_a_new_file_that_replaces_a_corrupted_one_has_all_live_tasks(path: Path) -> None:
    store, notices = storage(path), Notices()
    live = [accepted("pending"), run(accepted("running"))]
    with recording(path, store=store, live=lambda: live, on_notice=notices) as history:
        for one in live:
            history.on_event(event(one))
        await found(history, "running", RUNNING)

        def corrupt() -> None:
            store.fault = None
            raise CorruptedError("the file is corrupted")

        store.fault = corrupt
        await history.offer(accepted("new"))
        await found(history, "pending", PENDING)
        await found(history, "running", RUNNING)
        (aside,) = history.status()["set_aside"]
        assert rows(Path(aside), "SELECT count(*) FROM tasks") == [(2,)]
        assert notices == [
            ("set_aside", f"the file is corrupted; it is now {aside}, and a new one was begun")
        ]
        assert check(path)["ok"]


# ---------------------------------------------------------------------- owners


async def test_what_a_dead_process_left_unfinished_is_lost_and_says_what_it_was_doing(
    make: Make, path: Path
) -> None:
    store = make(path, instance="one", service="shop", version="1")
    first = DurableHistory(store)
    assert first.start() == []
    waits = accepted("waits", category=TaskCategory.IO)
    runs = run(accepted("runs"), attempt=2)
    first.on_event(event(waits))
    first.on_event(progress(runs, 40.0, "counting"))
    retries = accepted("retries")
    retries.state = retries.state.but(attempt=1)
    first.on_event(event(retries))
    first.on_ends([the_end(end(accepted("ended")))])
    crash(first, store)

    notices = Notices()
    second = DurableHistory(make(path, instance="two"), on_notice=notices)
    (loss,) = second.start()
    assert (loss.instance, loss.running, loss.pending) == ("one", 1, 2)
    assert loss.by_category == {TaskCategory.CORE: 2, TaskCategory.IO: 1}
    assert loss.started_at <= loss.last_seen_at <= loss.noticed_at
    assert notices == [("taken_over", "3 tasks of an earlier process were lost with it")]
    stored = second.stored
    errors = {one: stored.find(one) for one in ("waits", "runs", "retries", "ended")}
    assert {one: info and (info.status, info.error_type) for one, info in errors.items()} == {
        "waits": (FAILED, "lost"),
        "runs": (FAILED, "lost"),
        "retries": (FAILED, "lost"),
        "ended": (COMPLETED, None),
    }
    accepted_at = "it was accepted at 1970-01-01T00:00:10.000000Z"
    running_since = "was running, since 1970-01-01T00:00:11.000000Z; progress 40 %: counting"
    assert {one: info and info.error for one, info in errors.items()} == {
        "waits": f"its process died before the task had started; {accepted_at}",
        "runs": f"its process died while attempt 2 {running_since}",
        "retries": f"its process died while the task waited for attempt 2; {accepted_at}",
        "ended": None,
    }
    assert errors["waits"]
    assert errors["waits"].completed_at == loss.noticed_at
    assert {one.task_id for one in stored.select(TaskQuery(lost_by_crash=True), limit=9)} == {
        "waits",
        "runs",
        "retries",
    }
    assert stored.losses() == [loss]

    second.on_ends([the_end(end(accepted("waits")))])  # a late write of another epoch
    assert second.stop()
    third = DurableHistory(make(path, instance="three"))
    assert third.start() == [], "D17: a second recovery changes nothing"
    assert third.stored.losses() == [loss]
    assert third.stored.find("waits") == errors["waits"]
    assert third.stop()


async def test_a_clean_stop_leaves_nothing_to_find_but_a_task_that_did_not_end_is_lost(
    make: Make, path: Path
) -> None:
    with recording(path, store=make(path, instance="one")) as history:
        history.on_event(event(accepted()))
    with recording(path, store=make(path, instance="two")) as history:
        ((loss),) = history.stored.losses()
        assert (loss.running, loss.pending) == (0, 1)
        history.on_event(event(end(accepted("x")), EventKind.COMPLETED))
    with recording(path, store=make(path, instance="three")) as history:
        assert len(history.stored.losses()) == 1


def test_a_second_owner_in_the_same_process_is_refused_by_name_and_the_first_goes_on(
    make: Make, path: Path
) -> None:
    with recording(path, store=make(path, instance="one", service="shop")) as history:
        second = DurableHistory(make(path, instance="two"))
        with pytest.raises(HistoryInUseError, match=r"in use by process \d+ of shop, since "):
            second.start(0.0)
        assert second.stop()
        history.on_event(event(accepted()))
        wait_until(lambda: history.stored.find("id"))


async def test_an_owner_that_was_replaced_writes_no_more(make: Make, path: Path) -> None:
    notices = Notices()
    first = make(path, instance="one")
    with recording(path, store=first, on_notice=notices) as history:
        await history.offer(accepted("before"))
        replace_owner(path)
        with pytest.raises(HistoryUnavailableError, match="another process has taken over"):
            await history.offer(accepted("late"))
        assert await until_replaced(history)
        assert "another process has taken over" in str(history.refusal())
        history.on_ends([the_end(end(accepted("before")))])
    assert rows(path, "SELECT task_id, status FROM tasks") == [("before", "pending")]
    assert notices.kinds() == ["replaced"]
    with pytest.raises(ReplacedError):
        first.write(Batch())
    with pytest.raises(ReplacedError):
        first.leave()


async def until_replaced(history: DurableHistory) -> bool:
    await until(lambda: history.status()["state"] == "replaced")
    return True


def replace_owner(path: Path) -> None:
    """What a contender does that was allowed to."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE owners SET ended_at = 1.0")
    connection.close()


# ---------------------------------------------------------------------- lists


def fill(history: DurableHistory) -> None:
    statuses = [COMPLETED, FAILED, CANCELLED]
    for number in range(30):
        one = accepted(
            f"id {number:02}",
            name=f"job {number % 3}",
            definition_name=f"def {number % 2}",
            category=list(TaskCategory)[number % 6],
            priority=list(TaskPriority)[number % 4],
            plugin_id="plugin" if number % 5 == 0 else None,
            parent_id="id 00" if number % 10 == 1 else None,
            created_at=1.0 + number // 2,
        )
        if number % 4:
            status = statuses[number % 3]
            error = {"error": f"Broke ÄT {number}", "error_type": "ValueError"} if status is FAILED else {}
            history.on_ends([the_end(end(one, status, at=100.0 - number, **error))])
        else:
            history.on_event(event(one))
    wait_until(lambda: history.status()["waiting"] == 0)


@pytest.fixture
def full(make: Make, path: Path) -> StoredTasks:
    with recording(path, store=make(path, instance="one")) as history:
        fill(history)
    return make(path, instance="two").stored


FILTERS: dict[str, tuple[TaskQuery, Callable[[TaskInfo], bool]]] = {
    "nothing": (TaskQuery(), lambda _: True),
    "status": (TaskQuery(statuses=frozenset({FAILED, PENDING})), lambda one: one.status in {FAILED, PENDING}),
    "category": (
        TaskQuery(categories=frozenset({TaskCategory.IO})),
        lambda one: one.category is TaskCategory.IO,
    ),
    "priority": (
        TaskQuery(priorities=frozenset({TaskPriority.LOW, TaskPriority.HIGH})),
        lambda one: one.priority in {TaskPriority.LOW, TaskPriority.HIGH},
    ),
    "plugin": (TaskQuery(plugin_ids=frozenset({"plugin"})), lambda one: one.plugin_id == "plugin"),
    "name": (TaskQuery(names=frozenset({"job 1"})), lambda one: one.name == "job 1"),
    "definition": (TaskQuery(definitions=frozenset({"def 1"})), lambda one: one.definition == "def 1"),
    "error type": (
        TaskQuery(error_types=frozenset({"ValueError"})),
        lambda one: one.error_type == "ValueError",
    ),
    "parent": (TaskQuery(parent_ids=frozenset({"id 00"})), lambda one: one.parent_id == "id 00"),
    "this instance": (TaskQuery(instances=frozenset({"one"})), lambda _: True),
    "another instance": (TaskQuery(instances=frozenset({"two"})), lambda _: False),
    "time": (
        TaskQuery(created_after=3.0, created_before=7.0),
        lambda one: 3.0 <= one.created_at < 7.0,
    ),
    "text": (
        TaskQuery(texts=("ät 1", "job 2")),
        lambda one: "Broke ÄT 1" in (one.error or "") or one.name == "job 2",
    ),
    "several": (
        TaskQuery(names=frozenset({"job 1"}), statuses=frozenset({FAILED}), created_after=2.0),
        lambda one: one.name == "job 1" and one.status is FAILED and one.created_at >= 2.0,
    ),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_finds_what_fits_in_the_order_asked_for_page_by_page(full: StoredTasks, name: str) -> None:
    query, fits = FILTERS[name]
    everything = full.select(TaskQuery(), limit=100)
    assert len(everything) == 30
    orders: tuple[TaskOrder, ...] = ("newest", "oldest", "priority", "ended")
    for order in orders:
        asked = dataclasses.replace(query, order=order)
        wanted = [one for one in everything if fits(one) and (order != "ended" or one.completed_at)]
        wanted.sort(
            key=lambda one: (sort_value(one, order), one.task_id), reverse=order in {"newest", "ended"}
        )
        assert full.select(asked, limit=100) == wanted, order
        paged: list[TaskInfo] = []
        after = None
        while page := full.select(asked, limit=7, after=after):
            paged += page
            after = (sort_value(page[-1], order), page[-1].task_id)
        assert paged == wanted, order


def test_highest_priority_comes_first_and_among_equals_the_oldest(full: StoredTasks) -> None:
    listed = full.select(TaskQuery(order="priority"), limit=100)
    keys = [(-one.priority, one.created_at, one.task_id) for one in listed]
    assert keys == sorted(keys)


def test_an_export_has_each_task_once_the_oldest_first_as_plain_data(full: StoredTasks, path: Path) -> None:
    exported = list(export(path))
    assert [one["task_id"] for one in exported] == [f"id {number:02}" for number in range(30)]
    assert json.loads(json.dumps(exported)) == exported
    assert "result" not in exported[0]
    found = check(path)
    assert found["ok"]
    assert sum(found["tasks"].values()) == 30
    assert [(owner["instance"], owner["goodbye"]) for owner in found["owners"]] == [("one", 1)]


# ---------------------------------------------------------------------- retention


@pytest.mark.parametrize(
    ("options", "left"),
    [({"max_records": 5}, 5), ({"max_age_days": 1.0}, 3), ({"max_records": 2, "max_age_days": 1.0}, 2)],
    ids=["number", "age", "both"],
)
async def test_the_oldest_ended_tasks_go_with_their_logs_and_live_ones_never(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], left: int
) -> None:
    monkeypatch.setattr("qorzen_obs.history.writer._PRUNE_SECONDS", 0.01)
    monkeypatch.setattr("qorzen_obs.history.sqlite.storage.PRUNED_AT_ONCE", 7)
    store = make(path, instance="one", **options)
    with recording(path, store=store, lines_of=lambda task_id: [{"event": task_id}]) as history:
        history.on_event(event(accepted("live")))
        for number in range(50):
            at = time.time() if number >= 47 else float(number)
            history.on_ends([the_end(end(accepted(f"id {number:02}"), at=at))])
        await until(lambda: history.status()["waiting"] == 0)
        expected = {"live"} | {
            f"id {number}" for number in range(50 - left + (left != 3 and "max_records" in options), 50)
        }
        await until(lambda: {one.task_id for one in history.stored.select(TaskQuery(), limit=99)} == expected)
        assert history.status()["pruned"] == 51 - len(expected)
    logs = {task_id for (task_id,) in rows(path, "SELECT task_id FROM task_logs")}
    assert logs == expected - {"live"}


def test_an_order_to_prune_drops_at_once_and_says_how_many(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qorzen_obs.history.sqlite.storage.PRUNED_AT_ONCE", 7)
    with recording(path, store=make(path, instance="one")) as history:
        history.on_event(event(accepted("live")))
        history.on_ends([the_end(end(accepted(f"id {number:02}"), at=float(number))) for number in range(30)])
        wait_until(lambda: history.status()["waiting"] == 0)
        assert history.prune(max_records=10).result(PATIENCE_SECONDS) == 21
        assert history.prune(max_age_days=1.0).result(PATIENCE_SECONDS) == 9
        assert history.prune().result(PATIENCE_SECONDS) == 0
        assert [one.task_id for one in history.stored.select(TaskQuery(), limit=9)] == ["live"]
        assert history.status()["pruned"] == 30
    with pytest.raises(HistoryUnavailableError, match="has stopped"):
        history.prune(max_records=1).result(PATIENCE_SECONDS)
