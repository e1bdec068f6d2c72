"""Owns and writes the SQLite file. All of it belongs to one thread, except where it says otherwise.

history/ownership.py decides who may own the file; this module finds out the facts and does what was decided.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from qorzen_obs.clock import Clock, SystemClock, rfc_3339
from qorzen_obs.errors import HistoryError
from qorzen_obs.history import processes
from qorzen_obs.history.forks import call_in_child
from qorzen_obs.history.lock_file import LockFile
from qorzen_obs.history.ownership import Claim, Contender, Identity, Life, Look, Takeover, Tenure, life_of
from qorzen_obs.history.rows import lost_error
from qorzen_obs.history.sqlite.database import Database, reading, translated, warning_of
from qorzen_obs.history.sqlite.reader import StoredHistory, loss_of
from qorzen_obs.history.sqlite.statements import statement
from qorzen_obs.history.storage import (
    Batch,
    CorruptedError,
    Ownership,
    ReplacedError,
    Retention,
    StorageError,
)
from qorzen_obs.tasks import RUNNING

PRUNED_AT_ONCE: Final = 1_000
_DAY_SECONDS: Final = 86_400.0
#: Stands for the claims in a file that cannot be read: nobody knows whether its owner lives.
_UNREADABLE: Final = -1


class SqliteStorage:
    """The history's file, and its lock beside it.

    Args:
        path: of the database; its folder is made if it is missing.
        instance: of the manager that writes; never used before.
        service: its name.
        version: of the service.
        max_age_days: ended tasks older than that are dropped; None keeps them.
        max_records: maximum number of tasks; the oldest ended ones are dropped. None keeps all.
        clock: gives the times that are stored.
    """

    def __init__(
        self,
        path: Path,
        *,
        instance: str,
        service: str = "",
        version: str = "",
        max_age_days: float | None = None,
        max_records: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.path = path
        self._identity = processes.this_process(instance, service, version)
        self._retention = Retention(max_age_days=max_age_days, max_records=max_records)
        self._clock = clock or SystemClock()
        self._stored = StoredHistory(path)
        self._contender = Contender()
        self._tenure: Tenure | None = None
        self._lock: LockFile | None = None
        self._database: Database | None = None
        self._started_at = 0.0
        self._set_aside: tuple[str, ...] = ()
        self._number: int | None = None  # of stored tasks at most, None if nobody has counted them
        self._analyzed = 0  # how many tasks had been stored when the planner's statistics were last renewed
        call_in_child(self._be_forked)

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self.path)

    @property
    def epoch(self) -> int:
        """The epoch of the present ownership; 0 before the first."""
        return self._tenure.epoch if self._tenure else 0

    @property
    def stored(self) -> StoredHistory:
        """The reading side; from any thread."""
        return self._stored

    def facts(self) -> dict[str, Any]:
        """Return its part of the history's status; from any thread."""
        return {
            "kind": "sqlite",
            "path": str(self.path),
            "instance": self._identity.instance,
            "epoch": self.epoch,
            "set_aside": list(self._set_aside),
            "sqlite_version": sqlite3.sqlite_version,
            "warning": warning_of(),
        }

    # ------------------------------------------------------------------ ownership

    def own(self) -> Ownership | None:
        """Try once to become the owner, and mark what dead owners left unfinished; None while another one lives.

        Raises:
            StorageError: the file cannot be opened, read or written now.
            HistoryError: it never can: a newer program has written it, or it is another program's.
        """
        with translated():
            if self._lock is None:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock = LockFile(self.path.with_name(f"{self.path.name}.lock"))
            holds = self._lock.take()
        try:
            claims = self._lives() if holds else {}
            takeover = self._contender.decide(Look(time.monotonic(), holds, claims))
            if takeover is not None:
                ownership = self._take_over(takeover)
                if ownership is not None:
                    return ownership
        except BaseException:
            self._lock.give_back()
            raise
        self._lock.give_back()
        return None

    def holder(self) -> str:
        """Return who owns the file, as far as it can be read; from any thread."""
        with suppress(StorageError, HistoryError):
            if claims := self._claims():
                last = claims[-1]
                name = f" of {last.identity.service}" if last.identity.service else ""
                return f"process {last.identity.pid}{name}, since {rfc_3339(last.started_at)}"
        return "another process"

    def renew(self) -> None:
        """Take the lock again. Should another process have it, fencing decides at the next write."""
        if self._lock is not None and self._tenure is not None:
            with suppress(OSError):
                self._lock.take()

    def _claims(self) -> list[Claim]:
        if not self.path.exists() or not self.path.stat().st_size:
            return []
        with reading(self.path) as connection:
            try:
                rows = connection.execute(statement("open_claims")).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # nobody has written there yet
                    return []
                raise
        return [_claim(row) for row in rows]

    def _lives(self) -> dict[int, Life]:
        """Return what is known of the processes that claim the file."""
        try:
            claims = self._claims()
        except CorruptedError:
            return {_UNREADABLE: Life.UNKNOWN}
        working = processes.working()
        return {
            claim.epoch: life_of(
                claim.identity, self._identity, processes.start_of(claim.identity.pid), working
            )
            for claim in claims
        }

    def _take_over(self, takeover: Takeover) -> Ownership | None:
        """Become the owner, unless other claims than those judged are open by now."""
        if _UNREADABLE not in takeover.epochs:
            try:
                return self._take_over_once(takeover)
            except CorruptedError:
                self._close_database()
        name = self._move_aside()
        ownership = self._take_over_once(Takeover(frozenset()))
        return None if ownership is None else replace(ownership, set_aside=name or None)

    def _take_over_once(self, takeover: Takeover) -> Ownership | None:
        database = self._open()
        started_at = self._clock.now()
        with database.transaction():
            database.migrate()
            claims = [_claim(row) for row in database.run("open_claims")]
            if {claim.epoch for claim in claims} != takeover.epochs:
                return None
            epoch = self._add_owner(database, started_at)
            self._mark_lost(database, claims, epoch, started_at)
        self._tenure = Tenure(epoch, self._identity.pid)
        self._started_at = started_at
        processes.begin_work(self._identity.instance)
        losses = [loss_of(row) for row in database.run("losses_noticed_by", (epoch,))]
        return Ownership(epoch=epoch, losses=losses)

    def _add_owner(self, database: Database, started_at: float) -> int:
        one = self._identity
        database.run("end_dead_owners", (started_at,))
        values = (
            one.instance,
            one.service,
            one.version,
            one.boot_id,
            one.pid_namespace,
            one.pid,
            one.process_start,
            started_at,
            started_at,
        )
        epoch = database.run("add_owner", values).lastrowid
        assert epoch is not None
        return epoch

    def _mark_lost(self, database: Database, claims: Sequence[Claim], epoch: int, noticed_at: float) -> None:
        """Fail what earlier owners left unfinished, and note what each of them took along."""
        running, pending = Counter[int](), Counter[int]()
        by_category: dict[int, Counter[str]] = defaultdict(Counter)
        for claim in claims:
            by_category[claim.epoch] = Counter()
        for owner, status, category, number in database.run("count_lost"):
            (running if status == RUNNING.value else pending)[owner] += number
            by_category[owner][category] += number
        if not by_category:
            return
        database.run("mark_lost", {"at": noticed_at, "epoch": epoch})
        for owner, categories in by_category.items():
            counted = msgspec.json.encode(categories).decode()
            values = (owner, noticed_at, epoch, running[owner], pending[owner], counted)
            database.run("add_loss", values)

    # ------------------------------------------------------------------ writing

    def write(self, batch: Batch) -> None:
        """Store a batch; see Storage.

        Raises:
            ReplacedError: another process has become the owner.
            StorageError: nothing was written.
        """
        database, epoch = self._to_write()
        with database.transaction():
            self._fence(database, epoch)
            number = database.put("upsert_tasks", batch.rows)
            database.put("delete_tasks", [(task_id,) for task_id in batch.withdrawn])
            database.put("put_logs", ((task_id, _text(lines)) for task_id, lines in batch.logs))
            database.put(
                "put_traces", ((trace_id, task_id, _text(spans)) for trace_id, task_id, spans in batch.traces)
            )
        if self._number is not None:
            self._number += number

    def prune(self, retention: Retention | None = None) -> int:
        """Drop up to 1,000 of the oldest ended tasks that need not be kept; return how many."""
        keep = retention or self._retention
        if keep.max_age_days is None and keep.max_records is None:
            return 0
        database, epoch = self._to_write()
        dropped = 0
        with database.transaction():
            self._fence(database, epoch)
            if keep.max_age_days is not None:
                oldest = self._clock.now() - keep.max_age_days * _DAY_SECONDS
                dropped = database.run("prune_by_age", (oldest, PRUNED_AT_ONCE)).rowcount
            if keep.max_records is not None and not dropped:
                excess = self._count(database, keep.max_records) - keep.max_records
                if excess > 0:
                    steps = min(excess, PRUNED_AT_ONCE)
                    dropped = database.run("prune_by_number", (steps,)).rowcount
        if self._number is not None:
            self._number -= dropped
        return dropped

    def _count(self, database: Database, limit: int) -> int:
        """Return how many tasks are stored, counting only if there may be too many: `_number` never is too low."""
        if self._number is None or self._number > limit:
            self._number = int(database.run("count_tasks").fetchone()[0])
        return self._number

    def analyze(self) -> None:
        """Renew the planner's statistics when ten times as many tasks were stored as the last time."""
        database, epoch = self._to_write()
        with translated():
            number = database.run("last_row").fetchone()[0] or 0
        if number < 10 * max(self._analyzed, 100):
            return
        with database.transaction():
            self._fence(database, epoch)
            database.execute("PRAGMA analysis_limit = 1000")
            database.execute("ANALYZE")
        self._analyzed = number

    def _fence(self, database: Database, epoch: int) -> None:
        tenure = self._tenure
        found = database.run("fence", (self._clock.now(), epoch)).rowcount
        if tenure is None or not tenure.fenced(found):
            processes.end_work(self._identity.instance)
            raise ReplacedError

    def _to_write(self) -> tuple[Database, int]:
        tenure = self._tenure
        if tenure is None or not tenure.may_write(os.getpid()):
            raise ReplacedError
        database = self._open()
        database.check_file()
        return database, tenure.epoch

    # ------------------------------------------------------------------ the file

    def _open(self) -> Database:
        database = self._database
        if database is None:
            database = Database(self.path)
            database.define("lost_error", 4, _lost_error)
            self._database = database
        return database

    def reopen(self) -> None:
        """Drop the connection; the next attempt opens a new one."""
        self._close_database()

    def set_aside(self) -> str:
        """Rename the corrupted file if there is one, make a new one, and own it as before; return the new name."""
        self._close_database()
        name = self._move_aside()
        database = self._open()
        with database.transaction():
            database.migrate()
            epoch = self._add_owner(database, self._started_at)
        self._tenure = Tenure(epoch, self._identity.pid)
        self._number = None
        return name

    def _move_aside(self) -> str:
        """Rename the file and its log, and return the new name; nothing is left of an empty one."""
        moment = rfc_3339(self._clock.now()).replace(":", "").partition(".")[0]
        target = self.path.with_name(f"{self.path.name}.corrupt-{moment}")
        number = 1
        while target.exists():
            number += 1
            target = self.path.with_name(f"{self.path.name}.corrupt-{moment}-{number}")
        with translated():
            is_empty = not self.path.exists() or not self.path.stat().st_size
            for suffix in ("-wal", "-shm", ""):
                file = self.path.with_name(self.path.name + suffix)
                if is_empty:
                    file.unlink(missing_ok=True)
                elif file.exists():
                    file.rename(target.with_name(target.name + suffix))
        if is_empty:
            return ""
        self._set_aside += (str(target),)
        return str(target)

    def leave(self) -> None:
        """Say goodbye, so that the next owner need not wait and finds nothing lost."""
        database, epoch = self._to_write()
        now = self._clock.now()
        with database.transaction():
            database.run("say_goodbye", (now, now, epoch))

    def close(self) -> None:
        """Close the file and give back the lock. Without a goodbye the next owner finds this one dead."""
        self._close_database()
        processes.end_work(self._identity.instance)
        self._tenure = None
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def _be_forked(self) -> None:
        if self._database is not None:
            self._database.keep_open()

    def _close_database(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()


def _text(json: bytes) -> str:
    return json.decode("utf-8", "replace")


def _lost_error(status: str, created_at: float, started_at: float | None, details: str) -> str:
    try:
        return lost_error(status, created_at, started_at, details)
    except (msgspec.MsgspecError, AttributeError, TypeError, ValueError):
        return f"its process died while it was {status}"


def _claim(row: Sequence[Any]) -> Claim:
    epoch, instance, service, version, boot_id, namespace, pid, process_start, started_at, seen_at = row
    identity = Identity(
        instance=instance,
        service=service,
        version=version,
        boot_id=boot_id,
        pid_namespace=namespace,
        pid=pid,
        process_start=process_start,
    )
    return Claim(epoch, identity, started_at, seen_at)
