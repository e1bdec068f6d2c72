"""The work loop's side of a durable history: it takes what happens to tasks, and blocks for nothing.

Everything that takes time happens on the writer's thread (history/writer.py).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Final

from qorzen_obs.clock import Clock, SystemClock
from qorzen_obs.errors import HistoryError, HistoryUnavailableError
from qorzen_obs.history.base import Loss, StoredTasks
from qorzen_obs.history.forks import call_in_child
from qorzen_obs.history.held import Waiter
from qorzen_obs.history.intake import Intake, Offer, Withdrawal
from qorzen_obs.history.rows import Metadata, RowMaker
from qorzen_obs.history.storage import Retention, Storage
from qorzen_obs.history.writer import LinesOf, Notice, WhenBroken, Writer, WriterOptions
from qorzen_obs.record import End, TaskEvent, TaskRecord
from qorzen_obs.tasks import EventKind

__all__ = ["DurableHistory", "Notice", "WhenBroken"]

_PROGRESS: Final = EventKind.PROGRESS


def _none(_: str) -> Sequence[Any]:
    return ()


def _nobody() -> Iterable[TaskRecord]:
    return ()


def _unheard(_: Notice) -> None: ...


class DurableHistory:
    """Records the tasks of one manager in a storage, from `start` to `stop`. A Recorder; see history/base.py.

    Args:
        storage: where to; nobody else may use it.
        commits_first: a submission waits until its record is on disk.
        when_broken: `refuse` new tasks while nothing can be written, or go on `undurable`.
        limit: maximum number of tasks with changes that wait for the disk, before new tasks are refused.
        ageing_seconds: of the scheduler, for the stored order of pending tasks.
        redact: gives metadata without secrets.
        lines_of: gives the log lines of a task that has ended.
        spans_of: gives the kept spans of a trace, by its id in hexadecimal digits.
        live: gives the records of all pending and running tasks.
        on_notice: takes what the log should say.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        commits_first: bool = False,
        when_broken: WhenBroken = "refuse",
        limit: int = 10_000,
        ageing_seconds: float = 300.0,
        redact: Callable[[Metadata], Metadata] = dict,
        lines_of: LinesOf = _none,
        spans_of: LinesOf = _none,
        live: Callable[[], Iterable[TaskRecord]] = _nobody,
        on_notice: Callable[[Notice], object] = _unheard,
        clock: Clock | None = None,
    ) -> None:
        self.commits_first = commits_first
        self._storage = storage
        self._when_broken: WhenBroken = when_broken
        self._limit = limit
        self._clock = clock or SystemClock()
        self._intake = Intake()
        options = WriterOptions(
            when_broken=when_broken,
            maker=RowMaker(ageing_seconds=ageing_seconds, redact=redact),
            lines_of=lines_of,
            spans_of=spans_of,
            live=live,
            on_notice=on_notice,
        )
        self._writer = Writer(storage, self._intake, options, self._clock)
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._losses: list[Loss] = []
        self._problem: BaseException | None = None  # why it did not start
        self._is_written = True
        self._takes = False  # changes, because a writer takes them in turn
        self._is_forked = False
        self._progress_dropped = 0

    # ------------------------------------------------------------------ its life

    @property
    def stored(self) -> StoredTasks:
        """The reading side; from any thread."""
        return self._storage.stored

    def start(self, wait_seconds: float = 5.0) -> list[Loss]:
        """Own the storage, mark what dead processes left unfinished, and begin to write. Blocks; for any thread.

        Returns:
            What each of them took along, the newest first.

        Raises:
            HistoryInUseError: another process owns or locks it, for `wait_seconds` and at least a second.
            HistorySchemaError: a newer program has written it.
            HistoryError: it cannot be opened or written, or was started before.
        """
        if self._thread is not None:
            raise HistoryError(self._storage.name, "was started before; make a new one")
        call_in_child(self._be_forked)
        thread = threading.Thread(target=self._run, args=(wait_seconds,), name="qorzen-history", daemon=True)
        self._thread = thread
        thread.start()
        try:
            self._started.wait()
        except BaseException:
            self._writer.finish(0.0)
            raise
        if self._problem is not None:
            thread.join()
            raise self._problem
        return self._losses

    def stop(self, timeout_seconds: float = 5.0) -> bool:
        """Write everything, say goodbye and free the storage. Blocks; for any thread; a second call changes nothing.

        Returns:
            Whether everything is on disk.
        """
        thread = self._thread
        if thread is None or self._is_forked:
            return True
        self._writer.finish(timeout_seconds)
        thread.join(timeout_seconds + 1.0)  # the disk may hold up the last statement
        self._takes = False
        return self._is_written and not thread.is_alive()

    def _run(self, wait_seconds: float) -> None:
        """Be the writer's thread."""
        try:
            self._losses = self._writer.own(wait_seconds).losses
        except BaseException as error:  # noqa: BLE001 - `start` raises it
            self._problem = error
            self._storage.close()
            return
        finally:
            self._takes = self._problem is None
            self._started.set()
        self._is_written = self._writer.run()
        self._takes = False

    def _be_forked(self) -> None:
        """Record nothing in a forked child: it has no writer, and the storage is its parent's."""
        self._is_forked = True
        self._takes = False

    # ------------------------------------------------------------------ as a Recorder

    def refusal(self) -> str | None:
        """Return why no new task can be accepted now; None if it can."""
        writer = self._writer
        if self._when_broken == "undurable":
            if writer.trouble is not None or not self._takes:
                return None
        elif writer.trouble is not None:
            return writer.trouble
        elif not self._takes:
            return "the history is not open"
        waiting = self._waiting()
        if waiting < self._limit:
            return None
        return f"the changes of {waiting} tasks wait for the disk; submit again later"

    async def wait_for_room(self) -> None:
        """Wait until fewer changes wait for the disk than the limit; return at once if nothing can be written."""
        loop = asyncio.get_running_loop()
        while self._lacks_room():
            waiter = Waiter(loop.create_future(), loop)
            self._writer.room_wanted.append(waiter)
            self._intake.hurry()
            if self._lacks_room():
                await waiter.future

    def _lacks_room(self) -> bool:
        return self._takes and self._writer.trouble is None and self._waiting() >= self._limit

    def offer(self, record: TaskRecord) -> asyncio.Future[None]:
        """Store a checked record; the future is done once it is on disk.

        Its exception is HistoryUnavailableError where it could not be stored.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self._takes:
            self._intake.add(Offer(record, self._clock.now(), future, loop))
            self._intake.hurry()
            if self._is_open():  # else its last look at the intake may have been before
                return future
        if self._when_broken == "refuse":
            future.set_exception(HistoryUnavailableError(self.refusal() or "the history is not open"))
        else:
            future.set_result(None)
        return future

    def _is_open(self) -> bool:
        return self._takes

    def withdraw(self, record: TaskRecord) -> None:
        """Forget an offered record that was not accepted after all."""
        if self._takes:
            self._intake.add(Withdrawal(record))

    def on_event(self, event: TaskEvent) -> None:
        """Take a submission, a start, a retry or progress."""
        if not self._takes:
            return
        if event.kind is _PROGRESS and 2 * len(self._intake.queue) > self._limit:
            self._progress_dropped += 1
            return
        self._intake.add(event)

    def on_ends(self, ends: Sequence[End]) -> None:
        """Take the ends of a turn of the loop."""
        if self._takes:
            self._intake.extend(ends)

    def prune(self, *, max_age_days: float | None = None, max_records: int | None = None) -> Future[int]:
        """Drop ended tasks beyond these limits now, between commits; return the future of how many. From any thread.

        The future's exception is HistoryUnavailableError where the history has stopped meanwhile.
        """
        return self._writer.prune(Retention(max_age_days=max_age_days, max_records=max_records))

    def status(self) -> dict[str, Any]:
        """Return the history's part of `status()`; from any thread."""
        writer = self._writer
        return {
            **self._storage.facts(),
            "state": writer.state,
            "durable": writer.state == "writing",
            "trouble": writer.trouble,
            "commits_first": self.commits_first,
            "when_broken": self._when_broken,
            "waiting": self._waiting(),
            "limit": self._limit,
            "commits": writer.commits,
            "records_written": writer.records_written,
            "records_dropped": writer.records_dropped,
            "progress_dropped": self._progress_dropped,
            "pruned": writer.pruned,
            "last_commit_at": writer.last_commit_at,
            "commit_seconds": writer.commit_seconds,
        }

    def _waiting(self) -> int:
        return len(self._intake.queue) + self._writer.held.number
