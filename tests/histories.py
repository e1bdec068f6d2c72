"""What the tests of durable histories share: records in each state, histories that stop, and a disk that fails."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opentelemetry.trace import SpanContext

from qorzen_obs.history.recorder import DurableHistory
from qorzen_obs.history.sqlite import SqliteStorage
from qorzen_obs.history.storage import Batch, StorageError
from qorzen_obs.record import End, TaskEvent, TaskRecord, TaskState
from qorzen_obs.tasks import COMPLETED, ENDED, PENDING, RUNNING, EventKind, TaskProgress, TaskStatus
from tests.support import PATIENCE_SECONDS, record

SPAN = SpanContext(0xA, 0xB, is_remote=False)


def accepted(task_id: str = "id", **fields: Any) -> TaskRecord:
    """A record of a task that was accepted."""
    return record(task_id=task_id, **{"created_at": 10.0, "eligible_wall": 10.0, **fields})


def run(one: TaskRecord, attempt: int = 1, **fields: Any) -> TaskRecord:
    """Let the task run."""
    one.state = TaskState(RUNNING, attempt=attempt, started_at=11.0, **fields)
    return one


def end(one: TaskRecord, status: TaskStatus = COMPLETED, *, at: float = 12.0, **fields: Any) -> TaskRecord:
    """Let the task end."""
    attempt = max(1, one.state.attempt)
    one.state = TaskState(status, attempt=attempt, started_at=11.0, completed_at=at, **fields)
    return one


_KINDS = {PENDING: EventKind.SUBMITTED, RUNNING: EventKind.STARTED}


def event(one: TaskRecord, kind: EventKind | None = None) -> TaskEvent:
    """What the announcer says about the task's present state."""
    return TaskEvent(1, kind or _KINDS[one.state.status], 10.0, one, one.state, one.progress)


def progress(one: TaskRecord, percent: float, message: str = "") -> TaskEvent:
    one.progress = TaskProgress(percent, message, 11.5)
    return event(one, EventKind.PROGRESS)


def the_end(one: TaskRecord) -> End:
    """What observers of ends get."""
    return End(ENDED[one.state.status], 12.0, one, one.state, None, None)


class Notices(list[tuple[str, str]]):
    """What the history wanted to say in the log."""

    def __call__(self, notice: Any) -> None:
        self.append((notice.kind, notice.text))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self]


class Broken(SqliteStorage):
    """A storage whose disk fails as a test says."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self.fault: Callable[[], object] | None = None  #: raises before each write
        #: Raises behind each commit, which has reached the disk.
        self.after: Callable[[], object] | None = None
        self.batches: list[int] = []  #: the rows of each commit

    def write(self, batch: Batch) -> None:
        if self.fault is not None:
            self.fault()
        batch.rows = list(batch.rows)
        super().write(batch)
        self.batches.append(len(batch.rows))
        if self.after is not None:
            self.after()


def full_disk() -> None:
    raise StorageError("the disk is full; free some space")


def storage(path: Path, instance: str = "one", **options: Any) -> Broken:
    return Broken(path, instance=instance, service="shop", version="1.0", **options)


@contextmanager
def recording(
    path: Path, instance: str = "one", *, store: SqliteStorage | None = None, **options: Any
) -> Iterator[DurableHistory]:
    """A history that records, until the end of the block."""
    history = DurableHistory(store or storage(path, instance), **options)
    history.start()
    try:
        yield history
    finally:
        history.stop(PATIENCE_SECONDS)


def wait_until(condition: Callable[[], object]) -> None:
    """Return once a condition of another thread holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.003)


def crash(history: DurableHistory, store: SqliteStorage) -> None:
    """Let the writer end without a goodbye, with everything written: what is left is as after a kill."""
    wait_until(lambda: history.status()["waiting"] == 0)
    store.leave = lambda: None  # type: ignore[method-assign]  # a process that was killed has said nothing
    history.stop(PATIENCE_SECONDS)


def rows(path: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """What a statement finds in the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()
