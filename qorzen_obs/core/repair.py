"""Repairs the tables of a manager after an interrupted step, or when a check finds that they disagree.

An exception may be raised at any call: RecursionError where the caller's stack is deep, MemoryError, KeyboardInterrupt.
The truth about a task is then its record, which changes whole or not at all: whether it is live, its state, its
attempt and how that was decided. Queues, slots and the table of running attempts follow from the records, so they are
rebuilt, and each task continues from its state (docs/decisions/0050-interrupted-steps.md).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from qorzen_obs import foreign
from qorzen_obs.clock import Clock
from qorzen_obs.core.announcer import Announcer
from qorzen_obs.core.runner import Runner
from qorzen_obs.core.runtime import SHUTDOWN, ManagerState, Runtime
from qorzen_obs.core.task_table import TaskTable
from qorzen_obs.core.waiting import Waiting
from qorzen_obs.counts import CELLS, TaskCounts
from qorzen_obs.definition_limit import DefinitionLimits
from qorzen_obs.errors import TaskLostError
from qorzen_obs.record import Attempt, Decision, End, TaskRecord
from qorzen_obs.scheduling.scheduler import Scheduler
from qorzen_obs.tasks import FAILED, PENDING, RUNNING, EventKind, TaskStatus

LOST_TRACK: Final = "lost_track"  #: the error type of a task that the manager could not bring to its end
_SWEEP_SECONDS: Final = 1.0  # between two sweeps that readers request
_PATIENCE: Final = 3  # failures of one task's step after which it is given up
_RETRY_SECONDS: Final = 0.1
_MAX_LINES: Final = 20  # of one sweep


class Moves(Protocol):
    """The steps of a task that may be repeated (core/lifecycle.py)."""

    @property
    def runner(self) -> Runner: ...
    @property
    def waiting(self) -> Waiting: ...

    def start(self, record: TaskRecord, now: float, wall: float) -> None: ...
    def decided(self, attempt: Attempt, decision: Decision) -> None: ...
    def late_end(self, attempt: Attempt) -> None: ...
    def conclude(self, record: TaskRecord) -> None: ...
    def cannot_start(self, record: TaskRecord) -> bool: ...
    def cancel(self, record: TaskRecord, reason: str) -> None: ...
    def dispatch(self) -> None: ...


class Repairs:
    """Finishes or undoes interrupted steps of one manager. For its work loop, except `sweep_soon`."""

    def __init__(
        self,
        moves: Moves,
        runtime: Runtime,
        table: TaskTable,
        scheduler: Scheduler[TaskRecord],
        announcer: Announcer,
        limits: DefinitionLimits,
        *,
        clock: Clock,
        counts: TaskCounts,
    ) -> None:
        self._moves = moves
        self._runtime = runtime
        self._table = table
        self._scheduler = scheduler
        self._announcer = announcer
        self._limits = limits
        self._clock = clock
        self._counts = counts
        self._tries_again = False  # soon
        self._at_work = False
        self._failures: Counter[str] = Counter()  # of live tasks, by their ids
        self._swept_at = float("-inf")

    # ------------------------------------------------------------------ after an interruption

    def repair_now(self) -> None:
        """Repair what was interrupted, if anything; in a turn of its own, where the stack is short."""
        if self._runtime.interruption is None or self._tries_again:
            return
        try:
            self.repair(gives_up=True)
        except Exception as error:  # noqa: BLE001 - it is tried again
            self._runtime.interruption = error
        if self._runtime.interruption is not None:
            self._runtime.call_later(_RETRY_SECONDS, self._try_again)
            self._tries_again = True

    def _try_again(self) -> None:
        self._tries_again = False
        self.repair_now()

    def repair(self, *, gives_up: bool = False) -> None:
        """Finish or undo the step in `Runtime.interruption`. Raise a non-Exception in the loop's next turn.

        O(n) in the live tasks. A task whose step fails is tried again later and delays no other. With `gives_up`, a
        task that keeps failing is ended; a caller whose own stack may be the cause must not ask for that.
        """
        if self._at_work:
            return
        interruption, self._runtime.interruption = self._runtime.interruption, None
        self._at_work = True
        try:
            self._rebuild()
            failed = [
                error
                for record in list(self._table.live.values())
                if (error := self._take_on(record, gives_up)) is not None
            ]
            if gives_up and failed:
                self._rebuild()
            for attempt in [one for one in self._table.abandoned if one.ended]:
                self._moves.late_end(attempt)
            self._moves.waiting.wake_again()
            self._announcer.ends.notify()
            self._announcer.announce()
            if not self._table.live:
                self._runtime.work_loop.call_soon(self._table.nothing_lives.set)
            self._moves.dispatch()
            if interruption is not None and not foreign.is_a(interruption, Exception):
                self._runtime.work_loop.call_soon(_raise, interruption)
            if failed:
                self._runtime.interruption = failed[0]
                if not gives_up:
                    ready = self._runtime.ready
                    ready += self._runtime.repairs
        except BaseException as error:
            self._runtime.interruption = error  # first: it takes no call
            if interruption is not None and not foreign.is_a(interruption, Exception):
                self._runtime.interruption = interruption
            raise
        finally:
            self._at_work = False

    def _rebuild(self) -> None:
        """Rebuild what follows from the records: running attempts, queues and slots."""
        table, live = self._table, list(self._table.live.values())
        attempts = {record.task_id: record.attempt for record in live if record.attempt is not None}
        for task_id in [task_id for task_id in table.running if task_id not in attempts]:
            del table.running[task_id]
        table.running.update(attempts)
        for attempt in [one for one in table.abandoned if one.record.attempt is one]:
            del table.abandoned[attempt]  # its end is decided again
        resumes = self._moves.waiting.resumes
        for attempt in attempts.values():
            returns = attempt.record.sequence in resumes
            if not (attempt.waits_for or returns or attempt.settled or attempt.asked is not None):
                self._scheduler.reclaim(attempt.record)  # none of the waits that it lent its slot for is left
        self._scheduler.rebuild(
            (record for record in live if record.attempt is None and not record.state.status.final),
            (attempt.record for attempt in self._holders()),
            self._limits,
            self._clock.monotonic(),
        )
        for attempt in attempts.values():
            if attempt.record.sequence in resumes and not self._scheduler.keeps_lent(attempt.record):
                self._moves.waiting.resume(attempt.record)

    def _holders(self) -> list[Attempt]:
        """The attempts that hold a slot, or lend it."""
        kept = [attempt for attempt, keeps_slot in self._table.abandoned.items() if keeps_slot]
        return [*self._table.running.values(), *kept]

    def _take_on(self, record: TaskRecord, gives_up: bool) -> Exception | None:
        """Continue a task from its state; return the exception that prevented it."""
        try:
            self._go_on(record)
        except Exception as error:
            if not gives_up and foreign.is_a(error, (RecursionError, MemoryError)):
                raise  # the caller's stack may be the cause, and then all others fail too
            self._failures[record.task_id] += gives_up
            if self._failures[record.task_id] >= _PATIENCE:
                self._give_up(record, f"a step of it failed with {foreign.kind_name(type(error))}")
            return error
        return None

    def _go_on(self, record: TaskRecord) -> None:
        attempt, runner = record.attempt, self._moves.runner
        if record.state.status.final:
            if self._table.history.record(record.task_id) is record:
                self._moves.waiting.ended(record)
                del self._table.live[record.task_id]
            else:
                self._moves.conclude(record)
        elif attempt is None:
            if self._moves.cannot_start(record):
                self._moves.cancel(record, SHUTDOWN)
        elif attempt.decision is not None:
            self._moves.decided(attempt, attempt.decision)
            if attempt.ended:
                attempt.release()
        elif attempt.ended:
            attempt.settled = False  # its outcome is lost
            lost = (None, TaskLostError(record.name, "the manager has lost how it ended"))
            runner.ended(attempt, *(attempt.outcome or lost))
        elif attempt.driver is None:
            self._moves.start(record, self._clock.monotonic(), self._clock.now())
        else:
            attempt.settled = False
            runner.watch(attempt)

    def give_up_all(self, why: str) -> None:
        """End all live tasks as failed, whatever the tables say."""
        records = list(self._table.live.values())
        for record in records:
            self._give_up(record, why)
        if records:
            self.repair()

    def _give_up(self, record: TaskRecord, why: str) -> None:
        """End a live task as failed in the fewest steps. The next `_rebuild` corrects queues and slots."""
        attempt, before, wall = record.attempt, record.state, self._clock.now()
        message = f"given up: {why}"
        state = before.but(status=FAILED, error=message, error_type=LOST_TRACK, completed_at=wall)
        if attempt is not None:
            state = state.but(duration_seconds=self._clock.monotonic() - attempt.started_at)
            attempt.settled = True
            if attempt.driver is not None and not attempt.ended:  # its code still runs
                state = state.but(abandoned=True)
                kept = len(self._table.abandoned) >= self._runtime.settings.max_abandoned
                self._table.abandoned[attempt] = kept
        with contextlib.suppress(KeyError):  # from a state that cannot end; `sweep` corrects the counts
            self._counts.move(record.cell, before.status, FAILED)
        record.state, record.attempt = state, None
        self._table.running.pop(record.task_id, None)
        self._failures.pop(record.task_id, None)
        end = End(EventKind.FAILED, wall, record, state, attempt, record.context)
        self._announcer.ends.queue.append(end)
        if self._announcer.observers[EventKind.FAILED]:
            event = (EventKind.FAILED, wall, record, state, record.progress, before.status)
            self._announcer.unannounced.append(event)
        with contextlib.suppress(Exception):  # it has ended in any case
            self._moves.conclude(record)
        self._table.live.pop(record.task_id, None)
        self._report([f"task {record.task_id} was given up: {why}"])

    # ------------------------------------------------------------------ the sweep

    def sweep_soon(self) -> None:
        """Make sure that readers find consistent tables; from any thread, as often as you like.

        On the work loop an interrupted step is repaired at once. Tables are compared at most once a second, in the
        loop's next turn, when no step is under way.
        """
        runtime = self._runtime
        if runtime.loop is None or runtime.state is ManagerState.STOPPED:
            return
        if runtime.interruption is not None and runtime.runs_here:
            self.repair()
        now = self._clock.monotonic()
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            with contextlib.suppress(RuntimeError):  # the loop is closed
                runtime.loop.call_soon_threadsafe(self.sweep)

    def sweep(self) -> None:
        """Compare the tables; count, log and repair any disagreement.

        Between two steps, never within one. O(n) in the live tasks.
        """
        if self._runtime.interruption is not None:
            self.repair()
        found = list(self._disagreements())
        if found:
            self._report(found)
            self.repair()
            self._correct()

    def _report(self, found: list[str]) -> None:
        self._announcer.disagree(found[:_MAX_LINES], len(found))

    def _disagreements(self) -> Iterator[str]:
        """Yield a description of each disagreement."""
        table, scheduler, limits = self._table, self._scheduler, self._scheduler.limits
        there = self._what_is_there()
        for record in there.out_of_place:
            attempt = record.attempt
            if record.state.status.final:
                yield f"task {record.task_id} has ended and is among the live ones"
            elif attempt is None:
                yield f"task {record.task_id} is pending and in no queue"
            else:
                yield f"task {record.task_id} is running, and its attempt has ended"
        running = len(there.attempts)
        if table.running != there.attempts:
            yield f"{len(table.running)} attempts are listed as running, and {running} tasks have one"
        if scheduler.waiting != there.queued:
            yield f"{scheduler.waiting} tasks are queued, and {there.queued} are pending"
        held = Counter(
            attempt.record.engine.kind
            for attempt in self._holders()
            if not scheduler.keeps_lent(attempt.record)
        )
        if (limits.held, +Counter(limits.held_by_engine)) != (held.total(), held):
            yield f"{limits.held} slots are held, and {held.total()} attempts hold one"
        for status, actual in there.by_status.items():
            for cell, counted in enumerate(self._counts.live(status)):
                if counted != actual[cell]:
                    where = "/".join(name.name.lower() for name in CELLS[cell])
                    yield f"{counted} tasks of {where} count as {status.value}, and {actual[cell]} are"
        if table.plugins != there.plugins:
            yield "the tasks by plugin are not those of the tables"

    def _what_is_there(self) -> _Found:
        """Look at each record only once: a sweep takes time from the work loop."""
        pending, running, queued = [0] * len(CELLS), [0] * len(CELLS), 0
        attempts: dict[str, Attempt] = {}
        plugins: Counter[str] = Counter()
        out_of_place: list[TaskRecord] = []
        for task_id, record in self._table.live.items():
            attempt, status = record.attempt, record.state.status
            if record.plugin_id is not None:
                plugins[record.plugin_id] += 1
            if status is PENDING:
                pending[record.cell] += 1
            elif status is RUNNING:
                running[record.cell] += 1
            else:
                out_of_place.append(record)
                continue
            if attempt is None:
                queued += 1
                if record.queue_entry is None:
                    out_of_place.append(record)
            else:
                attempts[task_id] = attempt
                if attempt.settled or attempt.ended:
                    out_of_place.append(record)
        for record in self._table.history.records():
            if record.plugin_id is not None and record.task_id not in self._table.live:
                plugins[record.plugin_id] += 1
        return _Found(attempts, queued, {PENDING: pending, RUNNING: running}, plugins, out_of_place)

    def _correct(self) -> None:
        """Correct the counts of present tasks; ends that were counted stay."""
        there = self._what_is_there()
        for status, actual in there.by_status.items():
            for cell, counted in enumerate(self._counts.live(status)):
                if counted != actual[cell]:
                    self._counts.correct(cell, status, actual[cell] - counted)
        self._table.plugins.clear()
        self._table.plugins.update(there.plugins)


@dataclass(frozen=True, slots=True)
class _Found:
    """The counts that follow from the records."""

    attempts: dict[str, Attempt]
    queued: int
    by_status: dict[TaskStatus, list[int]]
    plugins: Counter[str]
    out_of_place: list[TaskRecord]  #: its state and its place do not agree


def _raise(error: BaseException) -> NoReturn:
    raise error
