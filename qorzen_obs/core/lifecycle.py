"""The way of a task, in reading order: accept, dispatch, start, decide, retry, end.

`change` is the one function in which a task's status changes. Everything here runs on the work loop, for each task, so
lines are straight and names are bound once; what such code may cost is held by tests/performance/calls.json.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from qorzen_obs import foreign
from qorzen_obs.clock import Clock
from qorzen_obs.core.announcer import Announcer
from qorzen_obs.core.deadlines import Deadlines
from qorzen_obs.core.decision import TASK_DEADLINE, shown_text
from qorzen_obs.core.runner import Runner
from qorzen_obs.core.runtime import ManagerState, Runtime
from qorzen_obs.core.task_table import TaskTable
from qorzen_obs.core.waiting import Waiting
from qorzen_obs.counts import TaskCounts
from qorzen_obs.definition import TaskDefinition
from qorzen_obs.definition_limit import DefinitionLimit
from qorzen_obs.ledger import Ledger, Meter
from qorzen_obs.record import Ask, Attempt, Decision, End, FarSide, TaskRecord, TaskState
from qorzen_obs.retry import retry_wait_seconds
from qorzen_obs.scheduling.scheduler import Scheduler
from qorzen_obs.tasks import (
    COMPLETED,
    ENDED,
    FAILED,
    PENDING,
    TIMEOUT,
    EventKind,
    TaskProgress,
    TaskStatus,
)
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.instrument import SpanInstrument
from qorzen_obs.telemetry.loop_monitor import LoopMonitor
from qorzen_obs.telemetry.metrics import TaskMetrics
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.task_lines import TaskLines

_MAX_PROGRESS_MESSAGE: Final = 500

# As in tasks.py: what is needed for each task, by names that Python finds at once.
_READY: Final = ManagerState.READY
_SUBMITTED: Final = EventKind.SUBMITTED
_STARTED: Final = EventKind.STARTED


class Lifecycle:
    """Moves the tasks of one manager through their states, and owns what that takes: scheduler, runner, deadlines.

    Args:
        manager: what `current_task().manager` gives to the code inside a task.
        far_side: what observes the calls of tasks in other processes.
        task_lines: where the log lines go that the code inside a task writes.
        ledger_clock: the time ledger's; None where the ledger is off.
    """

    def __init__(
        self,
        runtime: Runtime,
        table: TaskTable,
        scheduler: Scheduler[TaskRecord],
        announcer: Announcer,
        *,
        manager: object,
        far_side: FarSide,
        clock: Clock,
        counts: TaskCounts,
        metrics: TaskMetrics,
        logger: Any,
        instrument: SpanInstrument,
        loop_monitor: LoopMonitor,
        redactor: Redactor,
        task_lines: TaskLines,
        ledger_clock: Callable[[], float] | None,
    ) -> None:
        self._runtime = runtime
        self._table, self._live, self._running = table, table.live, table.running
        self._scheduler = scheduler
        self._announcer, self._observers, self._ends = announcer, announcer.observers, announcer.ends
        self.manager = manager
        self.far_side: FarSide | None = far_side
        self._clock = clock
        self._counts = counts
        self._metrics = metrics
        self._logger = logger
        self._instrument = instrument
        self._loop_monitor = loop_monitor
        self.redactor = redactor
        self.task_lines = task_lines
        self._ledger_clock = ledger_clock
        self.waiting = Waiting(self, runtime, scheduler, table.running, self.dispatch)
        self.runner = Runner(
            runtime,
            clock,
            on_decided=self._decided,
            on_late_end=self._late_end,
            on_progress=self._progressed,
            redactor=redactor,
        )
        # Of whole tasks; the runner has those of attempts.
        self._deadlines: Deadlines[TaskRecord] = Deadlines(runtime, clock, self._deadline_passed)
        self._deadline_entries: dict[int, list[Any]] = {}  # in them, by the task's sequence
        # By name. A limit exists as long as a task of it is live or kept, or made-up names would pile up.
        self._definition_limits: WeakValueDictionary[str, DefinitionLimit] = WeakValueDictionary()
        self._task_sequence = itertools.count(1)
        self._random = random.Random()
        self._dispatching = False
        self._shrinks = False  # the history, in the next turn of the loop
        self._alarm: asyncio.TimerHandle | None = None  # rings when the next scheduled task's time comes
        self._alarm_at: float | None = None

    # ------------------------------------------------------------------ accept

    def accept(self, record: TaskRecord) -> None:
        """Take a checked record in: from here on its task exists. It starts at once where it may."""
        now, wall = self._clock.monotonic(), self._clock.now()
        definition = record.definition
        wait = (
            max(definition.delay, (definition.run_at or 0.0) - wall, 0.0) if definition.starts_later else 0.0
        )
        record.sequence = next(self._task_sequence)
        record.created_at = wall
        record.eligible_at, record.eligible_wall = now + wait, wall + wait
        if self._ledger_clock is not None:
            record.clock = self._ledger_clock
            record.state = TaskState(PENDING, ledger=Ledger(now))
        self._instrument.submitted(record)
        self._live[record.task_id] = record
        self._table.nothing_lives.clear()
        if record.plugin_id is not None:
            self._table.plugins[record.plugin_id] += 1
        if definition.max_concurrent is not None:
            record.limit = self._limit_of(record.name, definition)
        if definition.deadline is not None:
            when = now + definition.deadline
            self._deadline_entries[record.sequence] = self._deadlines.add(when, record)
        self._counts.accept(record.cell)
        starts = self._scheduler.start_or_push(record, now)
        if self._observers[_SUBMITTED]:
            self._announcer.announce(_SUBMITTED, record, None, wall)
        if starts:
            self._start(record, now, wall)
            if self.waiting.submitters:  # it has left the room to the next
                self.wake_submitters()
        elif wait or not self._scheduler.is_held(record):
            self.dispatch()

    def _limit_of(self, name: str, definition: TaskDefinition) -> DefinitionLimit:
        assert definition.max_concurrent is not None, "asked for where there is a limit"
        key = definition.name or name
        limit = self._definition_limits.get(key)
        if limit is None:
            limit = self._definition_limits[key] = DefinitionLimit(key, definition.max_concurrent)
        limit.maximum = definition.max_concurrent
        return limit

    # ------------------------------------------------------------------ dispatch

    def dispatch(self) -> None:
        """Start and resume whatever may run now."""
        if self._dispatching:
            return  # a start ended at once: the outer loop sees the slot
        if self._scheduler.wants_slots:
            self._dispatching = True
            try:
                while (lender := self._scheduler.resume_next()) is not None:
                    self.waiting.resume(lender)
                while (record := self._scheduler.start_next(self._clock.monotonic())) is not None:
                    self._start(record, self._clock.monotonic(), self._clock.now())
            finally:
                self._dispatching = False
        elif self._alarm_at is None and not self.waiting.submitters:
            return
        self.wake_submitters()
        if self._scheduler.next_eligible_at != self._alarm_at:
            self._set_alarm()

    def wake_submitters(self) -> None:
        """Let the submitters that wait for room look again, as many as there is room for; all, when none will come."""
        runtime = self._runtime
        free = (
            runtime.settings.max_pending - self._scheduler.waiting
            if runtime.state is _READY
            else float("inf")
        )
        self.waiting.let_in(free)

    def _set_alarm(self) -> None:
        """Have the loop dispatch again when the next scheduled task's time comes."""
        when = self._scheduler.next_eligible_at
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at, self._alarm = when, None
        if when is not None:
            wait = max(0.0, when - self._clock.monotonic())
            self._alarm = self._runtime.call_later(wait, self._ring)

    def _ring(self) -> None:
        self._alarm_at = self._alarm = None
        self.dispatch()

    # ------------------------------------------------------------------ start

    def _start(self, record: TaskRecord, now: float, wall: float) -> None:
        assert record.context is not None, "a record keeps its context until it ends"
        before = record.state
        attempt = Attempt(
            record,
            before.attempt + 1,
            record.context.copy(),
            self,
            record.kwargs,
            started_at=now,
            started_wall=wall,
        )
        if record.wants_progress:
            attempt.kwargs = {**record.kwargs, "progress_reporter": attempt.progress}
        record.attempt = attempt
        self._running[record.task_id] = attempt
        if not record.engine.reports_steps or before.attempt or self._observers[_STARTED]:
            self.begin(attempt)
        state = before.started(
            wall if before.started_at is None else before.started_at,
            now - record.eligible_at,
            attempt.span_context,
            self._account_wait(record, now),
        )
        self._change(record, state, _STARTED, wall)
        self.runner.start(attempt)

    def begin(self, attempt: Attempt) -> None:
        """Make the attempt current in its context, with a span of its own; a second call changes nothing.

        On the loop, where nobody looks, this waits until the code begins, in this turn of the loop or the next: what
        it takes is made, used and dropped before the next attempt's, and stays in the processor's cache.
        """
        if not attempt.begun:
            attempt.begun = True
            if self._ledger_clock is not None:
                attempt.meter = Meter(self._ledger_clock)
            attempt.span_context = self._instrument.begin(attempt)

    def suspended(self, attempt: Attempt) -> None:
        """An attempt on the loop waits for the first time: from now on its deadline can be met."""
        self.runner.set_deadline(attempt)

    def report_progress(self, attempt: Attempt, percent: float, message: str) -> None:
        """Take a report of a running attempt; from any thread. Use `current_task().progress`."""
        self.runner.report_progress(attempt, percent, message)

    def keep_trace(self, attempt: Attempt) -> None:
        """Mark the attempt's trace to be kept; from any thread. Use `current_task().keep_trace`."""
        self._instrument.keep(attempt)

    def _progressed(self, attempt: Attempt) -> None:
        record = attempt.record
        assert attempt.reported is not None
        percent, message = attempt.reported
        record.progress = TaskProgress(
            max(record.progress.percent, float(percent)),
            shown_text(self.redactor.head(message, _MAX_PROGRESS_MESSAGE), _MAX_PROGRESS_MESSAGE),
            self._clock.now(),
        )
        self._announcer.announce(EventKind.PROGRESS, record, record.state.status, self._clock.now())

    # ------------------------------------------------------------------ decide

    def _decided(self, attempt: Attempt, decision: Decision) -> None:
        """The end of an attempt is decided, and with it whether the task ends or is tried again."""
        record, running = attempt.record, attempt.record.state
        now, wall = self._clock.monotonic(), self._clock.now()
        if attempt.asked is not None:
            self._metrics.on_stopped(record.engine.kind, attempt.asked, now - attempt.asked_at)
        duration, ledger = now - attempt.started_at, self._account_attempt(attempt, now)
        del self._running[record.task_id]
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
            self._retry(record, state, retry_in, now, wall)

    def _abandoned(self, attempt: Attempt) -> None:
        """Its code still runs: replace its slot, up to `tasks.max_abandoned` of them."""
        keeps_slot = len(self._table.abandoned) >= self._runtime.settings.max_abandoned
        self._table.abandoned[attempt] = keeps_slot
        if not keeps_slot:
            self._scheduler.finish(attempt.record)

    def _late_end(self, attempt: Attempt) -> None:
        """The code of an abandoned attempt has ended at last; what it returned is dropped."""
        self._metrics.dropped["late_result"] += 1
        if self._table.abandoned.pop(attempt, False):
            self._scheduler.finish(attempt.record)
            self.dispatch()

    def _account_wait(self, record: TaskRecord, now: float) -> Ledger | None:
        """Account in the time ledger for how long a pending task has waited."""
        ledger = record.state.ledger
        if ledger is None or ledger.until == now:
            return ledger
        seconds = ledger.waiting(now, record.eligible_at, before=record.state.attempt)
        self._metrics.on_phases(record.cell, seconds)
        return ledger.plus(now, seconds)

    def _account_attempt(self, attempt: Attempt, now: float) -> Ledger | None:
        """Account in the time ledger for the time of an attempt that has ended `now`."""
        if attempt.meter is None:
            return None
        record = attempt.record
        attempt.phases = seconds = attempt.meter.phases(record.engine, now - attempt.started_at, now)
        self._metrics.on_phases(record.cell, seconds)
        ledger = record.state.ledger
        assert ledger is not None, "it is on or off for the whole life of a manager"
        return ledger.plus(now, seconds)

    # ------------------------------------------------------------------ retry

    def _retry_in(self, attempt: Attempt, decision: Decision) -> float | None:
        """Return after how many seconds a task that failed is tried again; None when this is its end."""
        if decision.status is not FAILED or decision.abandoned:
            return None
        if attempt.last or self._runtime.state is not _READY:
            return None
        policy = attempt.record.definition.retry
        try:
            return retry_wait_seconds(
                policy, attempt.number, decision.exception, decision.error_type, self._random
            )
        except BaseException as error:  # noqa: BLE001 - the user's backoff may fail: the task's own error stands
            self._announcer.say(
                self._logger.error,
                names.LOG_BACKOFF_FAILED,
                task_id=attempt.task_id,
                error=self.redactor.text(foreign.shown(error)),
            )
            return None

    def _retry(
        self, record: TaskRecord, state: TaskState, wait_seconds: float, now: float, wall: float
    ) -> None:
        """Have an attempt that failed `now` followed by another; the task holds no slot until then."""
        record.eligible_at, record.eligible_wall = now + wait_seconds, wall + wait_seconds
        state = state.but(status=PENDING, completed_at=None, exception=None, traceback=None)
        self._scheduler.push(record, now)
        attempt, record.attempt = record.attempt, None
        self._change(record, state, EventKind.RETRYING, wall, attempt)
        self._ends.notify()  # the next attempt may begin in this turn of the loop, and comes after it in the log
        self.dispatch()

    # ------------------------------------------------------------------ end

    def _deadline_passed(self, record: TaskRecord) -> None:
        if record.attempt is not None:
            record.attempt.last = True
            self.runner.ask(record.attempt, Ask.DEADLINE, TASK_DEADLINE)
        elif self._scheduler.remove(record):
            message = f"the task had not ended {record.definition.deadline:g} s after it was accepted"
            self._end_pending(record, status=FAILED, error=message, error_type=TIMEOUT)

    def cancel(self, record: TaskRecord, reason: str) -> None:
        """Cancel a pending task, or ask a running one to stop."""
        if record.attempt is not None:
            record.attempt.last = True
            self.runner.ask(record.attempt, Ask.CANCEL, reason)
        elif self._scheduler.remove(record):
            self._end_pending(
                record, status=TaskStatus.CANCELLED, cancel_reason=reason, error=None, error_type=None
            )

    def _end_pending(self, record: TaskRecord, **outcome: Any) -> None:
        """End a task that was taken out of the queue."""
        wall, ledger = self._clock.now(), self._account_wait(record, self._clock.monotonic())
        self._end(record, record.state.but(completed_at=wall, ledger=ledger, **outcome), wall)

    def _end(self, record: TaskRecord, state: TaskState, wall: float) -> None:
        if self._deadline_entries:
            deadline = self._deadline_entries.pop(record.sequence, None)
            if deadline is not None:
                self._deadlines.remove(deadline)
        self._change(record, state, ENDED[state.status], wall, record.attempt)
        record.attempt = None
        keeps_call = state.status is not COMPLETED and self._runtime.settings.keep_arguments
        record.release(keep_call=keeps_call)
        # Into the history before it leaves the live tasks, so that a reader always finds it.
        if self._table.history.add(record) and not self._shrinks:
            self._shrinks = True
            self._runtime.work_loop.call_soon(self._shrink_history)
        del self._live[record.task_id]
        if record.waiters is not None:
            self.waiting.ended(record)
        if not self._live:
            self._table.nothing_lives.set()
        self.dispatch()

    def _shrink_history(self) -> None:
        """Evict what a turn of the loop made too many, all together, as ends are announced (core/ends.py)."""
        self._shrinks = False
        self._table.history.shrink()

    def _change(
        self, record: TaskRecord, state: TaskState, kind: EventKind, wall: float, ended: Attempt | None = None
    ) -> None:
        """The one place where a task's status changes: the record, the counters, the announcement."""
        before = record.state.status
        record.state = state
        self._counts.move(record.cell, before, state.status)  # raises for a transition that is not legal
        if kind is not _STARTED:
            self._ends.add(End(kind, wall, record, state, ended, record.context))
        if self._observers[kind]:
            if self._announcer.look_at_once:
                self._ends.notify()
            self._announcer.announce(kind, record, before, wall)

    def close(self) -> None:
        """Stop all timers."""
        self.runner.close()
        self._deadlines.close()
        if self._alarm is not None:
            self._alarm.cancel()
