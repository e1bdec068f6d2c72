"""F1, F2, F18, F20, F29, F32, D17: programs with a durable history that are killed, stopped, forked or out of disk."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from qorzen_obs.errors import HistoryError, HistoryInUseError, HistorySchemaError, HistoryUnavailableError
from qorzen_obs.history.base import Loss
from qorzen_obs.history.recorder import DurableHistory
from qorzen_obs.history.sqlite import StoredHistory, check
from qorzen_obs.tasks import COMPLETED, FAILED, TaskInfo
from tests.histories import Notices, accepted, end, event, recording, rows, run, storage, wait_until
from tests.integration.history.checking import Found, Said, problems_of
from tests.integration.history.driver import find
from tests.support import PATIENCE_SECONDS, until

ROOT = Path(__file__).parents[3]
#: How many programs are killed at a random moment.
KILLS = int(os.environ.get("QORZEN_TEST_KILLS", "4"))
#: What the docs promise of an idle machine, and how long a busy one may keep the writer from running.
BUFFERED_SECONDS, STARVED_SECONDS = 0.05, 5.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


@contextmanager
def program(mode: str, *words: object, stdout: Any = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    """Run the driver; its output is not buffered here, so that `line` and `finish` get all of it."""
    command = [sys.executable, "-m", "tests.integration.history.driver", mode, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, bufsize=0, stdin=subprocess.PIPE, stdout=stdout, cwd=ROOT, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def finish(process: subprocess.Popen[bytes]) -> list[str]:
    """End the input of a program, and return what it said since."""
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return said.decode().splitlines()


# ---------------------------------------------------------------------- F1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["committed", "buffered"])
def test_f1_a_kill_before_or_after_any_statement_loses_and_doubles_nothing(path: Path, mode: str) -> None:
    with program("every_statement", path, mode) as process:
        result = json.loads(finish(process)[-1])
    assert result["failures"] == []
    statements = "\n".join(result["killed_at"])
    for words in (
        "BEGIN IMMEDIATE",
        "COMMIT",
        "INSERT INTO owners",
        "UPDATE owners SET ended_at",
        "UPDATE tasks SET error = lost_error",
        "INSERT INTO losses",
        "INSERT INTO tasks",
        "INSERT INTO task_logs",
        "DELETE FROM tasks",
        "UPDATE owners SET last_seen_at = ? WHERE",
        "UPDATE owners SET last_seen_at = ?, ende",
    ):
        assert words in statements
    seconds = result["seconds"]
    assert len(seconds) > 50
    tenths = [round(seconds[len(seconds) * tenth // 10], 3) for tenth in (1, 5, 9)]
    print(f"{len(seconds)} kills; seconds until all were marked, in tenths: {tenths}")  # noqa: T201 - the figure
    assert seconds[0] < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["committed", "buffered"])
@pytest.mark.parametrize("seed", range((KILLS + 1) // 2))
def test_f1_a_kill_under_load_loses_no_committed_task_and_of_buffered_ones_the_last(
    path: Path, mode: str, seed: int
) -> None:
    said_file = path.with_name("said")
    with said_file.open("wb") as output, program("load", path, mode, stdout=output) as process:
        wait_until(lambda: said_file.stat().st_size)
        time.sleep(random.Random(seed).uniform(0.05, 1.0))
        process.kill()
    said = Said.of(said_file.read_text().splitlines())
    began = time.monotonic()
    found = find(path)
    seconds = time.monotonic() - began
    forgotten = STARVED_SECONDS if mode == "buffered" else 0.0
    assert problems_of(said, found, find(path), forgotten_seconds=forgotten) == []
    last = max(said.accepted.values())
    missing = [last - at for task_id, at in said.accepted.items() if task_id not in found.tasks]
    print(  # noqa: T201 - the figures
        f"{len(said.accepted)} accepted; {len(found.crash_took)} lost, and marked after {seconds:.3f} s; "
        f"{len(missing)} forgotten, the oldest {max(missing, default=0.0):.3f} s before the last"
    )


TASK = accepted("a")
ENDED = end(accepted("b")).info()
LOST = end(accepted("a"), FAILED, error="its process died before", error_type="lost").info()
SAID = Said(accepted={"a": 1.0, "b": 2.0}, ends={"b": "completed"})
LOSS = Loss(
    instance="one", started_at=1.0, last_seen_at=2.0, noticed_at=3.0, running=0, pending=1, by_category={}
)
RIGHT = Found(tasks={"a": LOST, "b": ENDED}, losses=[LOSS], crash_took={"a"})


def but(**tasks: TaskInfo) -> Found:
    return dataclasses.replace(RIGHT, tasks={**RIGHT.tasks, **tasks})


def test_the_checker_finds_nothing_where_all_is_well() -> None:
    assert problems_of(SAID, RIGHT, RIGHT) == []
    newest_missing = dataclasses.replace(RIGHT, tasks={"a": LOST})
    assert problems_of(SAID, newest_missing, newest_missing, forgotten_seconds=0.5) == []


@pytest.mark.parametrize(
    ("first", "second", "seconds", "words"),
    [
        (dataclasses.replace(RIGHT, tasks={"a": LOST}), None, 0.0, "1 accepted tasks are missing, such as b"),
        (
            dataclasses.replace(RIGHT, tasks={"b": ENDED}),
            None,
            0.5,
            "1 accepted tasks are missing, such as a",
        ),
        (dataclasses.replace(RIGHT, tasks={"b": ENDED}), None, 5.0, "accepted before one that is not"),
        (but(a=TASK.info()), None, 0.0, "a is still pending"),
        (but(b=ENDED.replace(status=FAILED)), None, 0.0, "b has ended as failed, not as completed"),
        (but(a=ENDED.replace(task_id="a")), None, 0.0, "a has ended as completed, not as None"),
        (but(a=LOST.replace(error="lost")), None, 0.0, "does not say what it was doing"),
        (dataclasses.replace(RIGHT, losses=[]), None, 0.0, "1 tasks are lost, 0 counted, 1 listed"),
        (dataclasses.replace(RIGHT, crash_took=set()), None, 0.0, "1 tasks are lost, 1 counted, 0 listed"),
        (RIGHT, but(a=LOST.replace(completed_at=99.0)), 0.0, "D17: a second start has changed something"),
        (RIGHT, dataclasses.replace(RIGHT, losses=[LOSS, LOSS]), 0.0, "D17: a second start"),
        (dataclasses.replace(RIGHT, problems=["row 1 missing"]), None, 0.0, "corrupted: row 1 missing"),
    ],
)
def test_the_checker_finds_a_seeded_fault(
    first: Found, second: Found | None, seconds: float, words: str
) -> None:
    assert words in "\n".join(problems_of(SAID, first, second or first, forgotten_seconds=seconds))


def test_the_checker_finds_a_task_that_ran_before_it_was_accepted() -> None:
    said = Said(accepted={"a": 1.0}, ends={"b": "completed"})
    assert "b has run and was never accepted" in "\n".join(problems_of(said, RIGHT, RIGHT))


# ---------------------------------------------------------------------- F2, F29, F32


def test_f2_a_stopped_owner_lives_and_nothing_of_it_is_lost(path: Path) -> None:
    with program("own", path) as process:
        assert line(process) == "owns"
        os.kill(process.pid, signal.SIGSTOP)
        second = DurableHistory(storage(path, "second"))
        with pytest.raises(HistoryInUseError, match=f"in use by process {process.pid} of driver, since "):
            second.start(0.0)
        os.kill(process.pid, signal.SIGCONT)
        assert finish(process) == ["stopped"]
    found = find(path)
    assert {one.task_id: one.status for one in found.tasks.values()} == {"running": COMPLETED}
    assert found.losses == []


def test_f29_orphans_are_found_although_a_forked_child_outlives_the_killed_owner(path: Path) -> None:
    with program("fork", path) as process:
        lines = sorted([line(process), line(process)])
        child = int(lines[1].split()[1])
        try:
            assert lines[0] == f"child {child} the history is not open True 0"
            process.kill()
            process.wait(PATIENCE_SECONDS)
            os.kill(child, 0)
            history = DurableHistory(storage(path, "second"))
            (loss,) = history.start()
            assert (loss.running, loss.pending) == (1, 0)
            assert process.stdin is not None
            process.stdin.close()
            with suppress(ProcessLookupError):
                wait_for_end(child)
            assert history.stop()
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    assert check(path)["ok"]
    assert find(path).tasks.keys() == {"running"}


def wait_for_end(pid: int) -> None:
    """Return once a process that is not our child has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() or ["Z"])[0] == "Z":
            return
        time.sleep(0.01)


def test_f32_of_several_processes_that_recover_at_once_one_ends_each_orphan_once(path: Path) -> None:
    with program("own", path) as process:
        assert line(process) == "owns"
    with program("contend", path) as one, program("contend", path) as two, program("contend", path) as three:
        all_of_them = [one, two, three]
        assert [line(each) for each in all_of_them] == ["ready"] * 3
        for each in all_of_them:
            assert each.stdin is not None
            each.stdin.write(b"go\n")
            each.stdin.flush()
        answers = sorted(line(each) for each in all_of_them)
        assert answers == ["in use", "in use", "lost 1"]
        for each in all_of_them:
            finish(each)
    found = find(path)
    assert [(loss.running, loss.pending) for loss in found.losses] == [(1, 0)]
    assert rows(path, "SELECT goodbye FROM owners ORDER BY epoch") == [(0,), (1,), (1,)]


# ---------------------------------------------------------------------- F18, F20, files that cannot be used


def test_f18_a_full_disk_refuses_new_tasks_loses_none_and_heals_by_itself(path: Path) -> None:
    with program("full", path) as process:
        refused, healed, stored = finish(process)
    assert refused.startswith("refused the disk")
    assert stored == "stored True"
    assert healed.startswith("healed")
    assert check(path)["ok"]


async def test_f20_a_lock_of_another_program_refuses_new_tasks_and_loses_none(path: Path) -> None:
    with recording(path, "one") as history:
        await history.offer(accepted("before"))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(HistoryUnavailableError, match="another program locks the database; end it"):
            await history.offer(accepted("refused"))
        assert not history.status()["durable"]
        other.execute("ROLLBACK")
        other.close()
        await until(lambda: history.refusal() is None)
        await history.offer(accepted("after"))
    assert set(rows(path, "SELECT task_id FROM tasks")) == {("before",), ("after",)}


def test_f20_a_start_while_another_program_locks_the_file_says_so(path: Path) -> None:
    with recording(path, "one"):
        pass
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(HistoryInUseError, match="in use by another process"):
        DurableHistory(storage(path, "two")).start(0.0)
    other.close()
    with recording(path, "three"):
        pass


@pytest.mark.parametrize("damage", ["not a database", "a page of it", "its head"])
def test_a_corrupted_file_is_set_aside_and_named_and_a_new_one_is_begun(path: Path, damage: str) -> None:
    with recording(path, "one") as history:
        for number in range(200):
            history.on_event(event(accepted(f"id {number}", created_at=float(number))))
    content = bytearray(path.read_bytes())
    if damage == "not a database":
        content = bytearray(b"my notes, not a database at all " * 100)
    else:
        at = 0 if damage == "its head" else 4_096
        content[at : at + 40_000] = b"\xff" * 40_000
    path.write_bytes(content)
    notices = Notices()
    with recording(path, "two", on_notice=notices) as history:
        (aside,) = history.status()["set_aside"]
        assert Path(aside).read_bytes() == bytes(content)
        assert aside.startswith(f"{path}.corrupt-")
        assert notices.kinds() == ["set_aside"]
        assert aside in notices[0][1]
        history.on_event(event(accepted("new")))
    assert find(path).tasks.keys() == {"new"}


def test_a_file_that_somebody_removes_is_made_again_with_all_live_tasks(path: Path) -> None:
    notices, live = Notices(), accepted("live")
    with recording(path, "one", live=lambda: [live], on_notice=notices) as history:
        history.on_event(event(live))
        wait_until(lambda: history.stored.find("live"))
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        history.on_event(event(accepted("new")))
        wait_until(lambda: history.stored.find("new") and history.stored.find("live"))
    assert notices == [("set_aside", "the file was removed or replaced; a new one was begun")]
    assert check(path)["ok"]


def test_a_newer_schema_is_refused_by_name_and_left_as_it_is(path: Path) -> None:
    with recording(path, "one"):
        pass
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(HistorySchemaError, match="version 99, and this program knows up to 1") as caught:
        DurableHistory(storage(path, "two")).start()
    assert (caught.value.found, caught.value.known) == (99, 1)
    assert path.read_bytes() == before
    with pytest.raises(HistorySchemaError):
        StoredHistory(path).find("id")
    with pytest.raises(HistorySchemaError):
        check(path)


def test_the_database_of_another_program_is_refused_and_left_as_it_is(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(HistoryError, match="another program"):
        DurableHistory(storage(path, "one")).start()
    assert path.read_bytes() == before


def test_a_path_that_cannot_be_written_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history = DurableHistory(storage(tmp_path / "file" / "history", "one"))
    with pytest.raises(HistoryError, match="history"):
        history.start()
    assert history.refusal() == "the history is not open"


def test_only_the_owner_may_read_the_files(path: Path) -> None:
    with recording(path / "below" / "history", "one"):
        modes = {one.name: oct(one.stat().st_mode & 0o777) for one in (path / "below").iterdir()}
    assert modes.keys() >= {"history", "history-wal", "history.lock"}
    assert set(modes.values()) == {"0o600"}
    assert (path / "below").stat().st_mode & 0o777 == 0o700


def test_an_owner_that_lost_its_lock_takes_it_again(path: Path) -> None:
    with recording(path, "one") as history:
        history.on_event(event(run(accepted())))
        with Path(f"{path}.lock").open():
            pass  # closing it drops the lock
        with program("contend", path) as process:
            assert line(process) == "ready"
            assert finish(process) == ["in use"]
        history.on_event(event(accepted("more")))
    assert rows(path, "SELECT count(*) FROM owners") == [(1,)]
    assert rows(path, "SELECT count(*) FROM tasks") == [(2,)]
