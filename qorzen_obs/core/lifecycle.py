"""The life of a task, in reading order: accept, dispatch, start, decide, retry, end.

Only `change` changes a task's status. Everything here runs on the work loop for each task, so the code is
straight-line and names are bound once; tests/performance/calls.json limits what it may cost.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from qorzen_obs.clock import Clock
from qorzen_obs.core.announcer import Announcer
from qorzen_obs.core.deadlines import Alarm, Deadlines
from qorzen_obs.core.decision import TASK_DEADLINE
from qorzen_obs.core.recording import failed_attempt
from qorzen_obs.core.repair import Repairs
from qorzen_obs.core.retention import Retention
from qorzen_obs.core.runner import Runner
from qorzen_obs.core.runtime import SHUTDOWN, ManagerState, Runtime
from qorzen_obs.core.task_table import TaskTable
from qorzen_obs.core.waiting import Waiting
from qorzen_obs.counts import TaskCounts
from qorzen_obs.current import CURRENT
from qorzen_obs.definition_limit import DefinitionLimits
from qorzen_obs.ledger import NO_SECONDS, Ledger, Meter, Seconds
from qorzen_obs.record import Ask, Attempt, Decision, End, FarSide, TaskRecord, TaskState
from qorzen_obs.retry import retry_wait_seconds
from qorzen_obs.scheduling.scheduler import Scheduler
from qorzen_obs.tasks import COMPLETED, ENDED, FAILED, PENDING, TIMEOUT, EventKind, TaskStatus
from qorzen_obs.telemetry.instrument import SpanInstrument
from qorzen_obs.telemetry.loop_monitor import LoopMonitor
from qorzen_obs.telemetry.metrics import TaskMetrics
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.task_lines import TaskLines

# As in tasks.py: what is needed for each task, by names that Python finds at once.
_READY: Final = ManagerState.READY
_SUBMITTED: Final = EventKind.SUBMITTED
_STARTED: Final = EventKind.STARTED


class Lifecycle:
    """Moves the tasks of one manager through their states. Owns the scheduler, the runner and the deadlines.

    Args:
        manager: given by `current_task().manager` to the code inside a task.
        far_side: observes the calls of tasks in other processes.
        task_lines: takes the log lines that the code inside a task writes.
        ledger_clock: the time ledger's clock; None if the ledger is off.
    """

    def __init__(
        self,
        runtime: Runtime,
        table: TaskTable,
        scheduler: Scheduler[TaskRecord],
        announcer: Announcer,
        *,
        manager: object,
        retention: Retention,
        far_side: FarSide,
        clock: Clock,
        counts: TaskCounts,
        metrics: TaskMetrics,
        instrument: SpanInstrument,
        loop_monitor: LoopMonitor,
        redactor: Redactor,
        task_lines: TaskLines,
        ledger_clock: Callable[[], float] | None,
    ) -> None:
        self._runtime = runtime
        self._table = table
        self._scheduler = scheduler
        self._announcer, self._observers, self._ends = announcer, announcer.observers, announcer.ends
        self._unannounced = announcer.unannounced
        self.manager = manager
        self._retention = retention
        self.far_side: FarSide | None = far_side
        self._monotonic, self._wall = clock.monotonic, clock.now
        self._counts, self._metrics = counts, metrics
        self._instrument, self._loop_monitor = instrument, loop_monitor
        self.redactor, self.task_lines = redactor, task_lines
        self._ledger_clock = ledger_clock
        self.waiting = Waiting(self, runtime, scheduler, table.running, self.dispatch)
        self._limits = limits = DefinitionLimits()
        self.repairs = Repairs(self, runtime, table, scheduler, announcer, limits, clock=clock, counts=counts)
        self.runner = Runner(
            runtime,
            clock,
            on_decided=self.decided,
            on_late_end=self.late_end,
            on_progress=announcer.progressed,
            on_engine_failed=partial(announcer.failed, "engine"),
            redactor=redactor,
        )
        # Deadlines of whole tasks; the runner has those of attempts.
        self._deadlines: Deadlines[TaskRecord] = Deadlines(runtime, clock, self._deadline_passed)
        self._deadline_entries: dict[int, list[Any]] = {}  # entries in them, by the task's sequence
        self._task_sequence = itertools.count(1)
        self._random = random.Random()
        self._dispatching = False
        self._alarm = Alarm(runtime, clock, self.dispatch)  # fires when the next scheduled task's time comes

    # ------------------------------------------------------------------ accept

    def accept(self, record: TaskRecord) -> None:
        """Accept a checked record: from here on its task exists. It starts at once if it may.

        If this raises, no trace is left. If the start of an accepted task is interrupted, `Repairs` finishes it.
        """
        runtime, definition = self._runtime, record.definition
        if runtime.interruption is not None:
            self.repairs.repair()
        monotonic, wall_clock = self._monotonic, self._wall  # CPython calls at once what a name holds
        now, wall = monotonic(), wall_clock()
        later = definition.starts_later
        wait = max(definition.delay, (definition.run_at or 0.0) - wall, 0.0) if later else 0.0
        record.sequence = next(self._task_sequence)
        record.created_at = wall
        record.eligible_at, record.eligible_wall = now + wait, wall + wait
        if self._ledger_clock is not None:
            record.state = TaskState(PENDING, ledger=Ledger(now))
        self._instrument.submitted(record)
        if runtime.state is not _READY:  # while it drains, what its running tasks submit ends with them
            attempt = CURRENT.get()
            if isinstance(attempt, Attempt):
                attempt.children += (record,)
        if definition.max_concurrent is not None:
            record.limit = self._limits.of(record.definition_name, definition.max_concurrent)
        if definition.deadline is not None:
            self._deadline_entries[record.sequence] = self._deadlines.add(now + definition.deadline, record)
        try:
            starts = self._scheduler.start_or_push(record, now)
            self._counts.accept(record.cell)
            self._table.live[record.task_id] = record
            if record.plugin_id is not None:
                plugins = self._table.plugins
                plugins[record.plugin_id] = plugins.get(record.plugin_id, 0) + 1
            if self._observers[_SUBMITTED]:
                self._unannounced.append((_SUBMITTED, wall, record, record.state, record.progress))
        except BaseException as error:
            runtime.interruption = error
            ready = runtime.ready
            ready += runtime.repairs
            raise
        try:
            if self._unannounced:
                self._announcer.announce()
            if starts:
                self.start(record, now, wall)
                if self.waiting.submitters:  # it has left its place to the next submitter
                    self.wake_submitters()
            elif runtime.state is not _READY and self.cannot_start(record):
                self.cancel(record, SHUTDOWN)
            elif wait or not self._scheduler.is_held(record):
                self.dispatch()
            if record.limit is not None:  # it may have raised the limit for others
                self.dispatch()
        except BaseException as error:  # noqa: BLE001 - the task is accepted: `Repairs` finishes the step
            runtime.interruption = error
            ready = runtime.ready
            ready += runtime.repairs

    def cannot_start(self, record: TaskRecord) -> bool:
        """Whether a pending task would only hold up a drain: it is paused, or scheduled for after the grace."""
        runtime = self._runtime
        return (
            runtime.state is ManagerState.DRAINING
            and record.attempt is None
            and (record.category in self._scheduler.paused or record.eligible_at > runtime.horizon)
        )

    # ------------------------------------------------------------------ dispatch

    def dispatch(self) -> None:
        """Start and resume whatever may run now. An interruption is not raised, as in `accept`."""
        if self._dispatching:
            return  # a start ended at once: the outer loop sees the slot
        runtime = self._runtime
        try:
            if runtime.interruption is not None:
                self.repairs.repair()
            if self._scheduler.wants_slots():
                self._dispatching = True
                while (lender := self._scheduler.resume_next()) is not None:
                    self.waiting.resume(lender)
                while (record := self._scheduler.start_next(self._monotonic())) is not None:
                    self.start(record, self._monotonic(), self._wall())
            elif self._alarm.at is None and not self.waiting.submitters:
                return
            self.wake_submitters()
            if self._scheduler.next_eligible_at != self._alarm.at:
                self._alarm.set(self._scheduler.next_eligible_at)
        except BaseException as error:  # noqa: BLE001 - it concerns other tasks than the caller's
            runtime.interruption = error
            ready = runtime.ready
            ready += runtime.repairs
        finally:
            self._dispatching = False

    def wake_submitters(self) -> None:
        """Let as many waiting submitters look again as there is room for."""
        self.waiting.let_in(self._runtime.settings.max_pending - self._scheduler.waiting)

    # ------------------------------------------------------------------ start

    def start(self, record: TaskRecord, now: float, wall: float) -> None:
        """Start the next attempt of a task that has a slot, or continue an interrupted start."""
        before, attempt = record.state, record.attempt
        if attempt is None:
            assert record.context is not None, "a record keeps its context until it ends"
            attempt = Attempt(
                record,
                before.attempt + 1,
                record.context.copy(),
                self,
                record.kwargs,
                started_at=now,
                started_wall=wall,
            )
            record.attempt = self._table.running[record.task_id] = attempt
        if before.status is PENDING:
            if record.wants_progress:
                attempt.kwargs = {**record.kwargs, "progress_reporter": attempt.progress}
            if not record.engine.reports_steps or before.attempt or self._observers[_STARTED]:
                self.begin(attempt)
            ledger = before.ledger
            if ledger is not None and ledger.until != attempt.started_at:
                attempt.waited, ledger = self._waited(record, attempt.started_at)
            queue_wait = attempt.started_at - record.eligible_at
            self._metrics.wait_peaks[record.cell].add(attempt.started_at, queue_wait)
            state = before.started(
                attempt.started_wall if before.started_at is None else before.started_at,
                queue_wait,
                attempt.span_context,
                ledger,
            )
            self._change(record, state, _STARTED, attempt.started_wall)
        self.runner.start(attempt)

    def begin(self, attempt: Attempt) -> None:
        """Make the attempt current in its context, with a span of its own; a second call changes nothing.

        For an attempt on the loop this is put off until the code begins, in this turn of the loop or the next, since
        nobody sees the difference. Its objects are then made, used and dropped before the next attempt's, and stay in
        the processor's cache.
        """
        if not attempt.begun:
            if self._ledger_clock is not None:
                attempt.meter = Meter(self._ledger_clock)
            attempt.span_context = self._instrument.begin(attempt)
            attempt.begun = True

    def suspended(self, attempt: Attempt) -> None:
        """Set the deadline of an attempt on the loop that waits for the first time; it could not be met earlier."""
        try:
            self.runner.set_deadline(attempt)
        except BaseException as error:  # noqa: BLE001 - its code continues
            self._runtime.interruption = error
            ready = self._runtime.ready
            ready += self._runtime.repairs

    def report_progress(self, attempt: Attempt, percent: float, message: str) -> None:
        """Take a report of a running attempt; from any thread. Use `current_task().progress`."""
        self.runner.report_progress(attempt, percent, message)

    def keep_trace(self, attempt: Attempt) -> None:
        """Mark the attempt's trace to be kept; from any thread. Use `current_task().keep_trace`."""
        self._instrument.keep(attempt)

    # ------------------------------------------------------------------ decide

    def decided(self, attempt: Attempt, decision: Decision) -> None:
        """Handle the decided end of an attempt: end the task, or try it again."""
        record, running = attempt.record, attempt.record.state
        monotonic, wall_clock = self._monotonic, self._wall
        now, wall = monotonic(), wall_clock()
        attempt.ended_at = now
        duration, ledger = now - attempt.started_at, running.ledger
        if attempt.meter is not None and ledger is not None:
            attempt.phases = attempt.meter.phases(record.engine, duration, now)
            ledger = ledger.plus(now, attempt.phases)
        if record.task_id in self._table.running:
            del self._table.running[record.task_id]
        if self.waiting.resumes:
            self.waiting.give_up_return(record)
        if decision.abandoned:
            self._abandoned(attempt)
        else:
            self._scheduler.finish(record)
        retry_in = None if decision.status is COMPLETED else self._retry_in(attempt, decision)
        state = running.decided(decision, attempt.span_context, wall, duration, ledger)
        self._loop_monitor.on_attempt_ends(attempt)
        if retry_in is None:
            self._end(record, state, wall)
        else:
            attempt.traceback = decision.traceback
            record.remember(failed_attempt(self._runtime.engines, attempt, state, wall))
            self._retry(record, state, retry_in, now, wall)
        for child in attempt.children:
            if child.task_id in self._table.live:
                self.cancel(child, SHUTDOWN)

    def _abandoned(self, attempt: Attempt) -> None:
        """Free the slot of an attempt whose code still runs, for up to `tasks.max_abandoned` of them."""
        keeps_slot = len(self._table.abandoned) >= self._runtime.settings.max_abandoned
        self._table.abandoned[attempt] = keeps_slot
        if not keeps_slot:
            self._scheduler.finish(attempt.record)

    def late_end(self, attempt: Attempt) -> None:
        """Forget an abandoned attempt whose code has ended at last; its value is dropped."""
        keeps_slot = self._table.abandoned.pop(attempt, None)
        self._metrics.dropped["late_result"] += 1
        record = attempt.record
        record.state = record.state.but(code_ended_at=self._wall())
        if keeps_slot:
            self._scheduler.finish(record)
            self.dispatch()

    def _waited(self, record: TaskRecord, now: float) -> tuple[Seconds, Ledger | None]:
        """Return the ledger of a pending task, with the time since its last transition."""
        ledger = record.state.ledger
        if ledger is None or ledger.until == now:
            return NO_SECONDS, ledger
        seconds = ledger.waiting(now, record.eligible_at, before=record.state.attempt)
        return seconds, ledger.plus(now, seconds)

    # ------------------------------------------------------------------ retry

    def _retry_in(self, attempt: Attempt, decision: Decision) -> float | None:
        """Return the seconds until a failed task is tried again; None if it is not."""
        if decision.status is not FAILED or decision.abandoned:
            return None
        if attempt.last or self._runtime.state is not _READY:
            return None
        policy = attempt.record.definition.retry
        on_broken = partial(self._announcer.backoff_failed, attempt.task_id)
        error, kind = decision.exception, decision.error_type
        return retry_wait_seconds(policy, attempt.number, error, kind, self._random, on_broken)

    def _retry(
        self, record: TaskRecord, state: TaskState, wait_seconds: float, now: float, wall: float
    ) -> None:
        """Plan another attempt after one that failed `now`; the task holds no slot until then."""
        record.eligible_at, record.eligible_wall = now + wait_seconds, wall + wait_seconds
        state = state.but(status=PENDING, completed_at=None, exception=None, traceback=None)
        self._scheduler.push(record, now)
        self._change(record, state, EventKind.RETRYING, wall)
        self._ends.notify()  # the next attempt may begin in this turn of the loop, and follows this one in the log
        self.dispatch()

    # ------------------------------------------------------------------ end

    def _deadline_passed(self, record: TaskRecord) -> None:
        self._deadline_entries.pop(record.sequence, None)
        if record.task_id in self._table.live:  # else its submission was undone
            message = f"the task had not ended {record.definition.deadline:g} s after it was accepted"
            self._stop(record, Ask.DEADLINE, TASK_DEADLINE, status=FAILED, error=message, error_type=TIMEOUT)

    def cancel(self, record: TaskRecord, reason: str) -> None:
        """Cancel a pending task, or ask a running one to stop. If this raises, it was undone or will be finished."""
        outcome = {"status": TaskStatus.CANCELLED, "cancel_reason": reason, "error": None, "error_type": None}
        self._stop(record, Ask.CANCEL, reason, **outcome)

    def _stop(self, record: TaskRecord, why: Ask, reason: str, **outcome: Any) -> None:
        """Ask a running attempt to stop, and retry no more; end a pending task with this outcome."""
        try:
            if self._runtime.interruption is not None:
                self.repairs.repair()
            if record.attempt is not None:
                record.attempt.last = True
                self.runner.ask(record.attempt, why, reason)
            elif self._scheduler.remove(record):
                wall = self._wall()
                waited, ledger = self._waited(record, self._monotonic())
                self._end(record, record.state.but(completed_at=wall, ledger=ledger, **outcome), wall, waited)
        except BaseException as error:
            self._runtime.interruption = error
            ready = self._runtime.ready
            ready += self._runtime.repairs
            raise

    def _end(self, record: TaskRecord, state: TaskState, wall: float, waited: Seconds = NO_SECONDS) -> None:
        self._change(record, state, ENDED[state.status], wall, waited)
        self.conclude(record)
        self.dispatch()

    def conclude(self, record: TaskRecord) -> None:
        """Move a task that has ended from the live tasks to the history."""
        if self._deadline_entries:
            deadline = self._deadline_entries.pop(record.sequence, None)
            if deadline is not None:
                self._deadlines.remove(deadline)
        state, kind = record.state, type(record.state.result)
        is_small = state.result is None or kind is bool or kind is int
        if is_small and state.status is COMPLETED and record.metadata is None:
            record.release()
        else:
            self._retention.ended(record)
        # Into the history before it leaves the live tasks, so that a reader always finds it.
        if self._table.history.add(record) and not self._retention.shrinks:
            self._retention.shrink_soon()
        if record.waiters is not None:
            self.waiting.ended(record)
        del self._table.live[record.task_id]
        if not self._table.live and not self._table.nothing_lives.is_set():
            # In a turn of its own: on a deep stack its waiter could be lost.
            self._runtime.work_loop.call_soon(self._table.nothing_lives.set)

    def _change(
        self, record: TaskRecord, state: TaskState, kind: EventKind, wall: float, waited: Seconds = NO_SECONDS
    ) -> None:
        """Change a task's status, only here: the record, the counters, the announcement.

        Nothing can interrupt this between the count and the queues: everything changes or nothing. The announcement
        follows later.
        """
        before, attempt, seconds = record.state.status, record.attempt, state.queue_wait_seconds or 0.0
        histogram = self._metrics.queue_wait[record.cell] if kind is _STARTED else None
        self._counts.move(record.cell, before, state.status)  # raises for an illegal transition
        record.state = state
        if histogram is not None:
            histogram.counts[bisect_left(histogram.bounds, seconds)] += 1
            histogram.sums[0] += seconds
        else:
            record.attempt = None
            self._ends.queue.append(End(kind, wall, record, state, attempt, record.context, waited=waited))
        if self._observers[kind]:
            self._unannounced.append((kind, wall, record, state, record.progress, before))
        if histogram is None:
            self._ends.notify_soon()
        elif histogram.exponential is not None:
            histogram.exponential.observe(seconds)
        if self._unannounced:
            if self._announcer.look_at_once:
                self._ends.notify()
            self._announcer.announce()

    def close(self) -> None:
        """Stop all timers."""
        self.runner.close()
        self._deadlines.close()
        self._alarm.set(None)
