"""The one thread that writes a durable history: it takes changes, groups them in commits, and survives a bad disk.

It knows a Storage and no database. What it finds out, other threads read from its attributes.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import msgspec
from opentelemetry.trace import format_trace_id

from qorzen_obs import foreign
from qorzen_obs.clock import Clock
from qorzen_obs.errors import HistoryError, HistoryInUseError, HistoryUnavailableError
from qorzen_obs.history.held import Held, HeldChanges, Waiter, resolve
from qorzen_obs.history.intake import Intake
from qorzen_obs.history.ownership import FREE_SECONDS, RENEWAL_SECONDS
from qorzen_obs.history.rows import Row, RowMaker, with_epoch
from qorzen_obs.history.storage import (
    Batch,
    CorruptedError,
    Ownership,
    ReplacedError,
    Retention,
    Storage,
    StorageError,
)
from qorzen_obs.record import TaskRecord

WhenBroken = Literal["refuse", "undurable"]
WriterState = Literal["new", "writing", "broken", "replaced", "stopped"]
NoticeKind = Literal["taken_over", "broken", "healed", "set_aside", "replaced"]

#: How long a change waits for others that share its commit, unless somebody waits for it. With the commit itself it is
#: on disk within 50 ms.
GATHER_SECONDS: Final = 0.025
#: How long another program may lock the database before that counts as broken.
BUSY_SECONDS: Final = 1.0
#: Maximum number of tasks whose changes are held while the disk is broken and work goes on.
MOST_HELD: Final = 100_000
_MOST_IN_COMMIT: Final = 2_000
_LOOK_SECONDS: Final = 0.05
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.1, 1.0
_HEARTBEAT_SECONDS: Final = 10.0
_PRUNE_SECONDS: Final = 10.0
_TRACE_SECONDS: Final = 2.0  # from the end of a task until its trace is decided, usually
_MAX_LOG_BYTES: Final = 65_536
_MAX_TRACE_BYTES: Final = 262_144
_MOST_TRACES: Final = 10_000

LinesOf = Callable[[str], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the log should say about the history."""

    kind: NoticeKind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterOptions:
    """How the writer works, and whom it asks and tells. It calls all of them on its thread; none may block."""

    when_broken: WhenBroken
    maker: RowMaker
    lines_of: LinesOf  #: the log lines of a task, as JSON objects
    spans_of: LinesOf  #: the kept spans of a trace, as JSON objects
    live: Callable[[], Iterable[TaskRecord]]  #: the records of the pending and running tasks
    on_notice: Callable[[Notice], object]


class PruneOrder(NamedTuple):
    """A request to drop ended tasks now."""

    retention: Retention
    done: Future[int]
    dropped: list[int]  #: in each step so far


class Writer:
    """The body of the thread. `run` belongs to it; the attributes may be read from any thread."""

    def __init__(self, storage: Storage, intake: Intake, options: WriterOptions, clock: Clock) -> None:
        self._storage = storage
        self._intake = intake
        self._options = options
        self._clock = clock
        self.held = HeldChanges()
        self.state: WriterState = "new"
        self.trouble: str | None = None  #: why nothing can be written now
        self.room_wanted: list[Waiter] = []  #: those who wait until less is held; any thread may add
        self.commits = 0
        self.records_written = 0
        self.records_dropped = 0
        self.pruned = 0
        self.last_commit_at: float | None = None  #: Unix seconds
        self.commit_seconds = 0.0  #: of the last commit
        self._prune_orders: deque[PruneOrder] = deque()
        self._until: float | None = None  # monotonic: when it gives up finishing
        self._broken_since: float | None = None
        self._retry_at = 0.0
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._renew_at = 0.0
        self._prune_at = 0.0
        self._heartbeat_at = 0.0
        # By trace id: when to store it, and for which task.
        self._traces: OrderedDict[str, tuple[float, str]] = OrderedDict()

    # ------------------------------------------------------------------ its life

    def own(self, wait_seconds: float) -> Ownership:
        """Become the owner of the storage.

        Raises:
            HistoryInUseError: another process owns or locks it, for `wait_seconds` and at least a second.
            HistoryError: it cannot be used.
        """
        until = time.monotonic() + max(wait_seconds, 2 * FREE_SECONDS)
        while True:
            try:
                ownership = self._storage.own()
            except StorageError as error:
                if not error.is_busy:
                    raise HistoryError(self._storage.name, error.problem) from error
                ownership = None
            if ownership is not None:
                break
            if time.monotonic() >= until or self._until is not None:
                raise HistoryInUseError(self._storage.name, self._storage.holder())
            time.sleep(_LOOK_SECONDS)
        self._set_state("writing")
        now = time.monotonic()
        self._renew_at, self._heartbeat_at = now + RENEWAL_SECONDS, now + _HEARTBEAT_SECONDS
        if ownership.set_aside:
            self._notice(
                "set_aside",
                f"the file was corrupted; it is now {ownership.set_aside}, and a new one was begun",
            )
        if ownership.losses:
            lost = sum(loss.running + loss.pending for loss in ownership.losses)
            self._notice("taken_over", f"{lost} tasks of an earlier process were lost with it")
        return ownership

    def finish(self, seconds: float) -> None:
        """Write what there is, for so long at most, and end; from any thread."""
        self._until = time.monotonic() + seconds
        self._intake.hurry()

    def run(self) -> bool:
        """Write until `finish` or until another process is the owner; return whether everything is on disk."""
        try:
            while not self._is_over():
                self._turn()
            return self._leave()
        except ReplacedError:
            self._be_replaced()
        except BaseException as error:  # noqa: BLE001 - the thread's top
            self._say_broken(f"the history's writer has failed: {foreign.described(error)}")
        finally:
            self._end()
        return False

    def _is_over(self) -> bool:
        until = self._until
        if until is None:
            return False
        return time.monotonic() >= until or not (self.held or self._intake.queue)

    def _leave(self) -> bool:
        """Say goodbye; return whether everything is on disk."""
        self._storage.renew()
        try:
            if not self.held:
                self._store_traces(everything=True)
            self._storage.leave()
        except StorageError as error:
            self._say_broken(error.problem)
            return False
        return not (self.held or self._intake.queue)

    def _end(self) -> None:
        """Give everything back, and leave nobody waiting."""
        self._storage.close()
        if self.trouble is None:
            self._set_state("stopped")
        self._take_all()
        self._leave_nobody_waiting(self.trouble or "the history has stopped")
        self._drop_orders()

    # ------------------------------------------------------------------ a turn

    def _turn(self) -> None:
        now = time.monotonic()
        is_called = self._intake.wait(max(0.0, self._next_at() - now))
        if is_called and self._until is None:
            # What came during a long commit has waited already.
            self._intake.gather(max(0.0, GATHER_SECONDS - self.commit_seconds))
        self._take_all()
        now = time.monotonic()
        if now >= self._renew_at:
            self._storage.renew()
            self._renew_at = now + RENEWAL_SECONDS
        if self._broken_since is not None:
            if self.trouble is not None:
                self._while_broken()
            if now < self._retry_at:
                if is_called:  # changes come in all the time, and the next turn begins at once
                    time.sleep(min(GATHER_SECONDS, self._retry_at - now))
                return
        try:
            self._work(now)
        except CorruptedError as error:
            self._begin_anew(error)
        except StorageError as error:
            self._broke(error)

    def _next_at(self) -> float:
        if self._broken_since is not None:
            return min(self._retry_at, self._renew_at)
        return self._renew_at if not self.held else 0.0

    def _take_all(self) -> None:
        """Move what is in the intake to what is held."""
        self._intake.begin()
        queue, take = self._intake.queue, self.held.take
        taken = [take(queue.popleft()) for _ in range(len(queue))]
        if self.trouble is not None and self._options.when_broken == "undurable":
            self.held.compact(taken, self._row)

    def _work(self, now: float) -> None:
        """Write one commit, and do what else is due."""
        if self.held or self._broken_since is not None or now >= self._heartbeat_at:
            self._commit()
        self._store_traces()
        if self._prune_orders:
            self._prune_as_ordered()
        elif now >= self._prune_at:
            dropped = self._storage.prune()
            self.pruned += dropped
            self._prune_at = now if dropped else now + _PRUNE_SECONDS
            if not dropped:
                self._storage.analyze()

    def prune(self, retention: Retention) -> Future[int]:
        """Drop at once what need not be kept; return the future of how many. From any thread."""
        order = PruneOrder(retention, Future(), [])
        self._prune_orders.append(order)
        self._intake.hurry()
        if self.state in {"new", "replaced", "stopped"}:
            self._drop_orders()
        return order.done

    def _prune_as_ordered(self) -> None:
        """Do one step of the first order: commits come in between."""
        order = self._prune_orders[0]
        if not order.dropped and not order.done.set_running_or_notify_cancel():
            self._prune_orders.popleft()
            return
        dropped = self._storage.prune(order.retention)
        self.pruned += dropped
        order.dropped.append(dropped)
        if dropped:
            self._intake.hurry()
            return
        self._prune_orders.popleft()
        order.done.set_result(sum(order.dropped))

    def _drop_orders(self) -> None:
        with suppress(IndexError):  # the writer's thread may do this too
            while True:
                done = self._prune_orders.popleft().done
                if not done.cancelled():
                    done.set_exception(HistoryUnavailableError(self.trouble or "the history has stopped"))

    def _commit(self) -> None:
        batch, withdrawn = self.held.first(_MOST_IN_COMMIT), list(self.held.withdrawn)
        ended = [held for held in batch if held.state.status.final]
        began = time.monotonic()
        self._storage.write(Batch(rows=self._rows(batch), withdrawn=withdrawn, logs=self._logs(ended)))
        now = time.monotonic()
        self.commit_seconds, self.last_commit_at = now - began, self._clock.now()
        self.commits += 1
        self.records_written += len(batch)
        self._heartbeat_at = now + _HEARTBEAT_SECONDS
        self.held.written(batch, withdrawn)
        resolve([waiter for held in batch for waiter in held.waiters])
        self._note_traces(ended, now)
        if self._broken_since is not None:
            self._heal()
        self._give_room()

    def _rows(self, batch: Sequence[Held]) -> Iterator[Row]:
        """Make the rows while they are written: between two statements the work loop gets its turn."""
        epoch = self._storage.epoch
        for held in batch:
            yield self._row(held) if held.row is None else with_epoch(held.row, epoch)

    def _row(self, held: Held) -> Row:
        make, epoch = self._options.maker.row, self._storage.epoch
        try:
            return make(held.record, held.state, held.progress, epoch=epoch, at=held.at)
        except Exception:  # noqa: BLE001 - a record holds users' objects
            return make(held.record.outline(), held.state, held.progress, epoch=epoch, at=held.at)

    def _logs(self, ended: Sequence[Held]) -> list[tuple[str, bytes]]:
        found = (
            (held.record.task_id, self._ask(self._options.lines_of, held.record.task_id)) for held in ended
        )
        return [(task_id, _bounded(lines, _MAX_LOG_BYTES)) for task_id, lines in found if lines]

    def _ask(self, of: LinesOf, key: str) -> Sequence[Any]:
        try:
            return of(key)
        except Exception:  # noqa: BLE001 - without its lines a task is still a task
            return ()

    def _note_traces(self, ended: Sequence[Held], now: float) -> None:
        for held in ended:
            if (span := held.state.span) is not None:
                self._traces[format_trace_id(span.trace_id)] = (now + _TRACE_SECONDS, held.record.task_id)
        while len(self._traces) > _MOST_TRACES:
            self._traces.popitem(last=False)

    def _store_traces(self, *, everything: bool = False) -> None:
        """Store the spans of traces that should be decided by now."""
        now, due = time.monotonic(), list[str]()
        for trace_id, (at, _) in self._traces.items():
            if len(due) == _MOST_IN_COMMIT or not (at <= now or everything):
                break
            due.append(trace_id)
        if not due:
            return
        found = ((trace_id, self._ask(self._options.spans_of, trace_id)) for trace_id in due)
        traces = [
            (trace_id, self._traces[trace_id][1], _bounded(spans, _MAX_TRACE_BYTES))
            for trace_id, spans in found
            if spans
        ]
        if traces:
            self._storage.write(Batch(traces=traces))
        for trace_id in due:
            del self._traces[trace_id]

    # ------------------------------------------------------------------ faults

    def _broke(self, error: StorageError) -> None:
        """Plan a retry; say that it is broken, unless another program locks it for a moment only."""
        now = time.monotonic()
        if self._broken_since is None:
            self._broken_since, self._retry_seconds = now, _FIRST_RETRY_SECONDS
        self._retry_at = now + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _LAST_RETRY_SECONDS)
        if not error.is_busy:
            self._storage.reopen()
        elif now - self._broken_since < BUSY_SECONDS:
            return
        self._say_broken(error.problem)
        self._while_broken()

    def _say_broken(self, problem: str) -> None:
        is_new, self.trouble = self.trouble is None, problem
        self._set_state("broken")
        if is_new and self._options.when_broken == "undurable":
            self.held.compact(self.held.ids(), self._row)
        if is_new:
            self._notice("broken", problem)

    def _while_broken(self) -> None:
        """Leave nobody waiting, and keep what is held within its bound."""
        self._leave_nobody_waiting(self.trouble or "")
        if self._options.when_broken == "undurable":
            self.records_dropped += self.held.shrink(MOST_HELD)

    def _heal(self) -> None:
        had_trouble = self.trouble is not None
        self._broken_since, self.trouble = None, None
        self._set_state("writing")
        if had_trouble:
            self._notice("healed", "the history can be written again")

    def _begin_anew(self, error: CorruptedError) -> None:
        """Put the corrupted file aside; write all live tasks and what is held to a new one."""
        try:
            name = self._storage.set_aside()
        except StorageError as again:
            self._broke(again)
            return
        where = f"it is now {name}, and " if name else ""
        self._notice("set_aside", f"{error.problem}; {where}a new one was begun")
        at = self._clock.now()
        try:
            live = list(self._options.live())
        except Exception:  # noqa: BLE001 - without them the new file is still of use
            live = []
        for record in live:
            self.held.put(Held(record, record.state, record.progress, at))

    def _be_replaced(self) -> None:
        self.trouble = "another process has taken over the history; this one writes no more"
        self._set_state("replaced")
        self._notice("replaced", self.trouble)

    def _leave_nobody_waiting(self, reason: str) -> None:
        if self._options.when_broken == "refuse":
            resolve(self.held.refuse(), lambda: HistoryUnavailableError(reason))
        else:
            resolve(self.held.release())
        self._give_room()

    def _give_room(self) -> None:
        """Wake those who wait for room; they look themselves whether there is some."""
        if self.room_wanted:
            waiters, self.room_wanted[:] = list(self.room_wanted), []
            resolve(waiters)

    def _set_state(self, state: WriterState) -> None:
        self.state = state

    def _notice(self, kind: NoticeKind, text: str) -> None:
        try:
            self._options.on_notice(Notice(kind, text))
        except Exception:  # noqa: BLE001 - observation must not break the observed
            return


def _bounded(items: Sequence[Any], most_bytes: int) -> bytes:
    """Return a JSON array of the last items that fit."""
    encoded, size = list[bytes](), 2
    for item in reversed(items):
        one = msgspec.json.encode(item, enc_hook=foreign.text)
        size += len(one) + 1
        if size > most_bytes:
            break
        encoded.append(one)
    return b"[" + b",".join(reversed(encoded)) + b"]"
