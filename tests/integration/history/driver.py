"""A small program with a durable history, to be killed: `python -m tests.integration.history.driver MODE PATH …`.

It says on its standard output what it has accepted, before anything else depends on that.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import resource
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qorzen_obs.errors import HistoryInUseError, HistoryUnavailableError
from qorzen_obs.history.base import TaskQuery
from qorzen_obs.history.recorder import DurableHistory
from qorzen_obs.history.sqlite import SqliteStorage, check
from qorzen_obs.tasks import CANCELLED, COMPLETED, FAILED, PENDING, EventKind
from tests.histories import accepted, end, event, progress, run, the_end
from tests.integration.history.checking import Found, Said, problems_of

STATUSES = (COMPLETED, FAILED, CANCELLED)


def say(*words: object) -> None:
    """Say one line, in one write to the pipe, which outlives this process."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def open_history(path: Path, **options: Any) -> DurableHistory:
    storage = SqliteStorage(
        path, instance=f"{os.getpid()}-{time.monotonic_ns()}", service="driver", version="1"
    )
    return DurableHistory(storage, lines_of=lambda task_id: [{"event": task_id}], **options)


def find(path: Path) -> Found:
    """What a start finds, with everything closed behind it."""
    history = open_history(path)
    history.start()
    stored = history.stored
    found = Found(
        tasks={one.task_id: one for one in stored.select(TaskQuery(), limit=1_000_000)},
        losses=stored.losses(),
        crash_took={one.task_id for one in stored.select(TaskQuery(lost_by_crash=True), limit=1_000_000)},
        problems=check(path)["problems"],
    )
    history.stop()
    return found


# ---------------------------------------------------------------------- a kill at each statement


class Killing(sqlite3.Connection):
    """A connection that kills the process before or after its n-th statement."""

    countdown = -1
    after = False
    said: Callable[[str], object] = staticmethod(lambda _: None)

    def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:
        kind = type(self)
        kind.countdown -= 1
        if kind.countdown == 0:
            kind.said(sql)
            if not kind.after:
                os.kill(os.getpid(), signal.SIGKILL)
        result = super().execute(sql, values)
        if kind.countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def connect(path: Any, **options: Any) -> sqlite3.Connection:
    """As sqlite3.connect; what writes is a Killing connection."""
    return _connect(path, **options) if options.get("uri") else _connect(path, factory=Killing, **options)


_connect = sqlite3.connect


async def steps(path: Path, *, commits_first: bool, say: Callable[..., object]) -> None:
    """A workload of one step after the other, so that the n-th statement is the same in each run."""
    history = open_history(path, commits_first=commits_first)
    history.start()

    async def settled() -> None:
        while history.status()["waiting"]:  # noqa: ASYNC110 - the writer's thread sets no Event of ours
            await asyncio.sleep(0.001)

    for number in range(4):
        one = accepted(f"step-{number}", created_at=time.time())
        if commits_first:
            await history.offer(one)
        else:
            history.on_event(event(one))
            await settled()
        if number == 2:
            say("withdrawn", one.task_id)
            history.withdraw(one)
            await settled()
            continue
        say("accepted", one.task_id, time.monotonic())
        history.on_event(event(one))
        history.on_event(event(run(one)))
        history.on_event(progress(one, 10.0 * number))
        await settled()
        if number == 1:
            one.state = one.state.but(status=PENDING)
            history.on_event(event(one, EventKind.RETRYING))
            history.on_event(event(run(one, attempt=2)))
            await settled()
        if number < 3:
            say("ends", one.task_id, STATUSES[number].value)
            history.on_ends([the_end(end(one, STATUSES[number]))])
            await settled()
    history.stop()


def in_child(work: Callable[[], object]) -> tuple[int, list[str]]:
    """Fork a child that does the work; return how it ended and what it said. This process has no thread yet."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(writes, 1)
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - the end of a process
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        lines = pipe.read().decode().splitlines()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), lines


def every_statement(path: Path, mode: str) -> None:
    """Kill the workload before and after each of its statements, and check each time; say the result as JSON."""
    template = path.with_name("template")
    template.mkdir()

    def leave_orphans() -> None:
        asyncio.run(_leave_orphans(template / "history"))

    in_child(leave_orphans)
    failures, killed_at, seconds = [], set[str](), list[float]()
    for after in (False, True):
        for number in itertools.count(1):
            folder = path.with_name(f"{after}-{number}")
            shutil.copytree(template, folder)
            code, lines = in_child(lambda: _die(folder / "history", number, after, mode))  # noqa: B023
            if code == 0:
                break
            killed_at |= {line.partition(" ")[2] for line in lines if line.startswith("statement")}
            code, problems = in_child(lambda: _check(folder / "history", lines))  # noqa: B023
            seconds += [float(line.split()[1]) for line in problems if line.startswith("seconds")]
            problems = [line for line in problems if not line.startswith("seconds")]
            if code or problems:
                failures.append([after, number, problems])
            shutil.rmtree(folder)
    say(json.dumps({"failures": failures, "killed_at": sorted(killed_at), "seconds": sorted(seconds)}))


async def _leave_orphans(path: Path) -> None:
    history = open_history(path)
    history.start()
    for number in range(3):
        one = accepted(f"orphan-{number}")
        await history.offer(one if number else run(one))
    os.kill(os.getpid(), signal.SIGKILL)


def _die(path: Path, number: int, after: bool, mode: str) -> None:
    Killing.countdown, Killing.after = number, after
    Killing.said = staticmethod(lambda sql: say("statement", " ".join(sql.split())[:40]))
    sqlite3.connect = connect  # type: ignore[assignment]
    asyncio.run(steps(path, commits_first=mode == "committed", say=say))


def _check(path: Path, lines: Sequence[str]) -> None:
    began = time.monotonic()
    first = find(path)
    say("seconds", time.monotonic() - began)
    for problem in problems_of(Said.of(lines), first, find(path)):
        say(problem)


# ---------------------------------------------------------------------- under load, until somebody kills it


async def load(path: Path, mode: str) -> None:
    """Accept and end tasks as fast as it can."""
    history = open_history(path, commits_first=mode == "committed")
    history.start()
    numbers = itertools.count()

    async def work() -> None:
        for number in numbers:
            one = accepted(f"id-{number}", created_at=time.time())
            if history.refusal() is not None:
                await history.wait_for_room()
            if history.commits_first:
                await history.offer(one)
            say("accepted", one.task_id, time.monotonic())
            history.on_event(event(one))
            await asyncio.sleep(0)
            history.on_event(event(run(one)))
            await asyncio.sleep(0.001 * (number % 5))
            if number % 7:
                status = STATUSES[number % 3]
                say("ends", one.task_id, status.value)
                history.on_ends([the_end(end(one, status))])

    await asyncio.gather(*(work() for _ in range(50)))


# ---------------------------------------------------------------------- an owner, and what it may meet


async def own(path: Path) -> None:
    """Own the history with one running task, until its input ends; then finish it."""
    history = open_history(path)
    history.start()
    one = run(accepted("running"))
    await history.offer(one)
    say("owns")
    sys.stdin.read()
    history.on_ends([the_end(end(one))])
    say("stopped" if history.stop() else "not everything is written")


async def fork(path: Path) -> None:
    """As `own`; a forked child outlives this process and says what it may do."""
    history = open_history(path)
    history.start()
    await history.offer(run(accepted("running")))
    pid = os.fork()
    if pid == 0:
        history.on_event(event(accepted("of the child")))
        say("child", os.getpid(), history.refusal(), history.stop(), history.status()["waiting"])
        sys.stdin.read()
        sys.exit()  # with everything that Python does at its end
    say("owns", pid)
    signal.pause()


async def full(path: Path) -> None:
    """Fill a disk, as far as this process may; then give it room again."""
    history = open_history(path)
    history.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    confirmed = []
    for number in range(10_000):
        one = accepted(f"id-{number}", name="x" * 150)
        try:
            await history.offer(one)
        except HistoryUnavailableError as error:
            say("refused", error.reason)
            break
        confirmed.append(one.task_id)
    assert history.refusal()
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    began = time.monotonic()
    while history.refusal():  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
    say("healed", time.monotonic() - began)
    await history.offer(accepted("after"))
    found = {one.task_id for one in history.stored.select(TaskQuery(), limit=100_000)}
    say("stored", found == {*confirmed, "after"})
    history.stop()


def contend(path: Path) -> None:
    """Wait for a sign, then become the owner or say who is; stay it until the input ends."""
    history = open_history(path)
    say("ready")
    sys.stdin.readline()
    try:
        losses = history.start(0.0)
    except HistoryInUseError:
        say("in use")
        return
    say("lost", sum(loss.running + loss.pending for loss in losses))
    sys.stdin.read()
    history.stop()


def main(mode: str, path: str, *rest: str) -> None:
    match mode:
        case "every_statement":
            every_statement(Path(path), rest[0])
        case "load":
            asyncio.run(load(Path(path), rest[0]))
        case "own":
            asyncio.run(own(Path(path)))
        case "fork":
            asyncio.run(fork(Path(path)))
        case "full":
            asyncio.run(full(Path(path)))
        case "contend":
            contend(Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
