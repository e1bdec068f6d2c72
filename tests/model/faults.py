"""Faults to seed: each breaks one thing of the real code, as a slip of the pen might, and must be caught."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from opentelemetry import context as otel_context
from opentelemetry.trace import Status, StatusCode

from qorzen_obs.core import lifecycle, runner
from qorzen_obs.core.admission import Admission
from qorzen_obs.core.announcer import Announcer
from qorzen_obs.core.control import Control
from qorzen_obs.core.deadlines import Alarm, Deadlines
from qorzen_obs.core.life import Life
from qorzen_obs.core.lifecycle import Lifecycle
from qorzen_obs.core.live_settings import LiveSettings
from qorzen_obs.core.runner import Runner
from qorzen_obs.core.runtime import ManagerState
from qorzen_obs.counts import TaskCounts
from qorzen_obs.history.memory import MemoryHistory
from qorzen_obs.record import Ask, Attempt, Decision
from qorzen_obs.scheduling.limits import Limits
from qorzen_obs.scheduling.queue import RemovableHeap
from qorzen_obs.scheduling.scheduler import Scheduler
from qorzen_obs.tasks import EventKind, TaskProgress, TaskStatus
from qorzen_obs.telemetry.instrument import SpanInstrument
from qorzen_obs.telemetry.metrics import TaskMetrics
from qorzen_obs.telemetry.task_log import TaskLog

Seed = Callable[[pytest.MonkeyPatch], None]


class Fault(NamedTuple):
    """What is broken by `seed`, and which row of docs/faults.md says that it must not be."""

    seed: Seed
    row: str
    scripts: int  #: the number of a series of random scripts that finds it early


FAULTS: Final[dict[str, Fault]] = {}  #: by name; the name says what is wrong


def fault(row: str, *, scripts: int = 0) -> Callable[[Seed], Seed]:
    """Let the checker seed this, and look for a problem of that row."""

    def keep(seed: Seed) -> Seed:
        FAULTS[seed.__name__] = Fault(seed, row, scripts)
        return seed

    return keep


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """Break one thing for the length of the block."""
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[name].seed(patch)
        yield


def instead(patch: pytest.MonkeyPatch, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a method by what `make` returns for the real one."""
    patch.setattr(owner, name, make(getattr(owner, name)))


# ---------------------------------------------------------------------- counting


@fault("D3")
def a_decrement_is_skipped(patch: pytest.MonkeyPatch) -> None:
    def move(self: Any, cell: int, before: TaskStatus, after: TaskStatus) -> None:
        real(self, cell, before, after)
        if after is TaskStatus.CANCELLED:
            real(self, cell, after, before)
            real(self, cell, TaskStatus.FAILED, after)

    real = TaskCounts.move
    patch.setattr(TaskCounts, "move", move)


@fault("D3")
def an_end_is_counted_twice(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def move(self: Any, cell: int, before: TaskStatus, after: TaskStatus) -> None:
            real(self, cell, before, after)
            if after is TaskStatus.FAILED:
                self.accept(cell)
                real(self, cell, TaskStatus.PENDING, after)

        return move

    instead(patch, TaskCounts, "move", make)


@fault("D1")
def a_refusal_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TaskMetrics, "on_rejected", lambda *_: None)


@fault("D3")
def a_retry_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        return lambda self, ends: real(self, [end for end in ends if end.kind is not EventKind.RETRYING])

    instead(patch, TaskMetrics, "on_ends", make)


@fault("D29")
def a_label_is_outside_its_set(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def on_ends(self: Any, ends: Any) -> None:
            for end in ends:
                failed = end.state.status is TaskStatus.FAILED
                state = end.state.but(error_type=end.record.task_id) if failed else end.state
                real(self, [msgspec.structs.replace(end, state=state)])

        return on_ends

    instead(patch, TaskMetrics, "on_ends", make)


@fault("D15")
def a_line_is_not_written(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def on_ends(self: Any, ends: Any) -> None:
            real(self, [end for end in ends if end.state.status is not TaskStatus.CANCELLED])

        return on_ends

    instead(patch, TaskLog, "on_ends", make)


@fault("D3")
def an_event_is_dropped(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def announce(self: Any) -> None:
            for event in [one for one in self.unannounced if one[0] is EventKind.RETRYING]:
                self.unannounced.remove(event)
            real(self)

        return announce

    instead(patch, Announcer, "announce", make)


@fault("D2")
def an_end_is_announced_twice(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def announce(self: Any) -> None:
            self.unannounced.extend([one for one in self.unannounced if one[0] is EventKind.CANCELLED])
            real(self)

        return announce

    instead(patch, Announcer, "announce", make)


# ---------------------------------------------------------------------- order


def _order(patch: pytest.MonkeyPatch, order: Callable[[float, Any], tuple[float, ...]]) -> None:
    """Let `order` of (seconds a point, task) decide, also within the heaps of one priority."""
    patch.setattr(Scheduler, "_order", lambda self, task: order(self.ageing_seconds / 50, task))


@fault("D12")  # tasks start before their time, and that shows before their order does
def the_heap_is_upside_down(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        return lambda self, key, sequence, item: real(self, -key, sequence, item)

    instead(patch, RemovableHeap, "push", make)


@fault("D7", scripts=1)
def last_in_is_first_out(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        return lambda self, key, sequence, item: real(self, key, -sequence, item)

    instead(patch, RemovableHeap, "push", make)


@fault("D7")
def priority_is_ignored(patch: pytest.MonkeyPatch) -> None:
    _order(patch, lambda _, task: (0, task.eligible_at, task.sequence))


@fault("D7")
def priority_is_upside_down(patch: pytest.MonkeyPatch) -> None:
    _order(
        patch, lambda point, task: (task.priority * (not point), task.eligible_at + task.priority * point, 0)
    )


@fault("D7", scripts=1)
def waiting_counts_for_nothing(patch: pytest.MonkeyPatch) -> None:
    _order(patch, lambda _, task: (-task.priority, task.eligible_at, task.sequence))


@fault("D7", scripts=1)
def waiting_counts_against(patch: pytest.MonkeyPatch) -> None:
    _order(patch, lambda point, task: (0, -task.eligible_at - task.priority * point, task.sequence))


@fault("D6")
def a_full_group_holds_up_the_others(patch: pytest.MonkeyPatch) -> None:
    def start_next(self: Any, now: float) -> Any:
        self._promote(now)
        groups = list(self._groups.values())
        first = min(groups, key=lambda group: group.order, default=None)
        return real(self, now) if first is not None and self.limits.admits(*first.kind) else None

    real = Scheduler.start_next
    patch.setattr(Scheduler, "start_next", start_next)


@fault("D7", scripts=4)
def a_new_ageing_is_not_applied(patch: pytest.MonkeyPatch) -> None:
    real: Any = Scheduler.ageing_seconds
    patch.setattr(Scheduler, "ageing_seconds", property(real.fget, lambda *_: None))


@fault("D12")
def a_delay_is_ignored(patch: pytest.MonkeyPatch) -> None:
    instead(patch, Scheduler, "push", lambda real: lambda self, task, now: real(self, task, float("inf")))


@fault("D6")
def an_alarm_is_not_set(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Alarm, "set", lambda self, at: None)


# ---------------------------------------------------------------------- pausing


@fault("D6")
def a_paused_task_starts(patch: pytest.MonkeyPatch) -> None:
    def start_next(self: Any, now: float) -> Any:
        paused, self.paused = self.paused, frozenset()
        try:
            return real(self, now)
        finally:
            self.paused = paused

    real = Scheduler.start_next
    patch.setattr(Scheduler, "start_next", start_next)


@fault("D6")
def a_pause_holds_up_the_others(patch: pytest.MonkeyPatch) -> None:
    def start_next(self: Any, now: float) -> Any:
        self._promote(now)
        return None if self.paused else real(self, now)

    real = Scheduler.start_next
    patch.setattr(Scheduler, "start_next", start_next)


@fault("D6")
def a_paused_lender_has_no_slot_back(patch: pytest.MonkeyPatch) -> None:
    def resume_next(self: Any) -> Any:
        returning = self._returning
        self._returning = {key: task for key, task in returning.items() if task.category not in self.paused}
        task = real(self)
        self._returning = returning
        if task is not None:
            del returning[task.sequence]
        return task

    real = Scheduler.resume_next
    patch.setattr(Scheduler, "resume_next", resume_next)


@fault("D6", scripts=4)
def a_resumed_category_starts_nobody(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def resume(self: Any, category: Any) -> None:
            self._lifecycle._dispatching = True
            real(self, category)
            self._lifecycle._dispatching = False

        return resume

    instead(patch, Control, "resume", make)


@fault("D23")
def a_shutdown_waits_for_what_is_paused(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        return lambda self, record: record.category not in self._scheduler.paused and real(self, record)

    instead(patch, Lifecycle, "cannot_start", make)


# ---------------------------------------------------------------------- slots


@fault("D6")
def a_slot_is_not_given_back(patch: pytest.MonkeyPatch) -> None:
    def give_back(self: Any, category: Any, engine: Any, own: Any = None) -> None:
        real(self, category, engine, own)
        self.held_by_category[category] += 1

    real = Limits.give_back
    patch.setattr(Limits, "give_back", give_back)


@fault("D5")
def the_limit_of_a_definition_is_ignored(patch: pytest.MonkeyPatch) -> None:
    instead(
        patch,
        Limits,
        "admits",
        lambda real: lambda self, category, engine, own=None: real(self, category, engine),
    )


@fault("D5")
def a_limit_is_off_by_one(patch: pytest.MonkeyPatch) -> None:
    def admits(self: Any, category: Any, engine: Any, own: Any = None) -> bool:
        self.total += 1
        try:
            return bool(real(self, category, engine, own))
        finally:
            self.total -= 1

    real = Limits.admits
    patch.setattr(Limits, "admits", admits)
    patch.setattr(Limits, "full", property(lambda self: self.held > self.total))


@fault("D5")
def a_new_limit_is_not_applied(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def apply(self: Any, settings: Any) -> None:
            limits = self._scheduler.limits
            before = limits.total
            real(self, settings)
            if self._runtime.state is ManagerState.READY:
                limits.total = before

        return apply

    instead(patch, LiveSettings, "apply", make)


@fault("D6", scripts=1)
def a_raised_limit_starts_nobody(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def apply(self: Any, settings: Any) -> None:
            dispatch, self._dispatch = self._dispatch, lambda: None
            real(self, settings)
            self._dispatch = dispatch

        return apply

    instead(patch, LiveSettings, "apply", make)


@fault("D5")
def a_resumed_lender_takes_no_slot(patch: pytest.MonkeyPatch) -> None:
    def resume_next(self: Any) -> Any:
        task = real(self)
        if task is not None:
            self.limits.give_back(task.category, task.engine.kind, task.limit)
        return task

    real = Scheduler.resume_next
    patch.setattr(Scheduler, "resume_next", resume_next)


@fault("D5")
def a_lent_slot_is_counted_twice(patch: pytest.MonkeyPatch) -> None:
    def lend(self: Any, task: Any) -> None:
        real(self, task)
        self.lent[task.engine.kind] += 1

    real = Scheduler.lend
    patch.setattr(Scheduler, "lend", lend)


@fault("D5")
def a_waiting_parent_keeps_its_slot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scheduler, "lend", lambda *_: None)
    patch.setattr(Scheduler, "take_back", lambda *_: None)


@fault("D7", scripts=1)
def pending_tasks_go_before_lenders(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        return lambda self: None if len(self) > len(self._scheduled) else real(self)

    instead(patch, Scheduler, "resume_next", make)


@fault("D22")
def the_bound_on_pending_is_off_by_one(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        async def wait_for_room(self: Any, cell: int) -> None:
            settings = self._runtime.settings
            limit = settings.max_pending + 1
            self._runtime.settings = msgspec.structs.replace(settings, max_pending=limit)
            try:
                await real(self, cell)
            finally:
                self._runtime.settings = settings

        return wait_for_room

    instead(patch, Admission, "wait_for_room", make)


# ---------------------------------------------------------------------- ends


@fault("D12")
def a_timeout_runs_from_the_submission(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def start(self: Any, attempt: Attempt) -> None:
            started, attempt.started_at = attempt.started_at, attempt.record.eligible_at
            real(self, attempt)
            attempt.started_at = started

        return start

    instead(patch, Runner, "start", make)


@fault("D12")
def a_timeout_moves_with_the_wall_clock(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def fire(self: Any) -> None:
            clock = self._clock
            offset = clock.wall_offset - 1_700_000_000.0
            self._clock = type("Clock", (), {"monotonic": staticmethod(lambda: clock.monotonic() + offset)})
            try:
                real(self)
            finally:
                self._clock = clock

        return fire

    instead(patch, Deadlines, "_fire", make)


@fault("D10")
def what_is_not_cancellable_is_cancelled(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def cancel(self: Any, task_id: str, reason: str) -> bool:
            record = self._table.live.get(task_id)
            if record is not None:
                record.cancellable = True
            return bool(real(self, task_id, reason))

        return cancel

    instead(patch, Control, "cancel", make)


@fault("D3")
def a_cancelled_pending_task_stays_in_the_queue(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scheduler, "remove", lambda self, task: task.queue_entry is not None)


@fault("D13")
def a_cancelled_task_is_tried_again(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def retry_in(self: Any, attempt: Attempt, decision: Decision) -> Any:
            if decision.status is TaskStatus.CANCELLED and attempt.record.definition.retry is not None:
                return 1.0
            return real(self, attempt, decision)

        return retry_in

    instead(patch, Lifecycle, "_retry_in", make)


@fault("D13")
def one_attempt_too_many(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        return lambda policy, attempt, *rest: real(policy, attempt - 1, *rest)

    instead(patch, lifecycle, "retry_wait_seconds", make)


@fault("D2")
def the_number_of_the_attempt_does_not_rise(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def start(self: Any, record: Any, *times: float) -> None:
            record.state = record.state.but(attempt=0)
            real(self, record, *times)

        return start

    instead(patch, Lifecycle, "start", make)


@fault("D13")
def the_last_ask_wins(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def ask(self: Any, attempt: Attempt, why: Ask, reason: str) -> None:
            if attempt.asked is not None and not attempt.settled:
                attempt.asked, attempt.reason = why, reason
            real(self, attempt, why, reason)

        return ask

    instead(patch, Runner, "ask", make)


@fault("D13", scripts=1)
def a_timeout_that_is_obeyed_is_a_cancellation(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def decide(attempt: Attempt, value: object, error: BaseException | None, *rest: Any) -> Any:
            if attempt.asked is not None and isinstance(error, asyncio.CancelledError):
                return Decision(TaskStatus.CANCELLED, cancel_reason=attempt.reason)
            return real(attempt, value, error, *rest)

        return decide

    instead(patch, runner, "decide", make)


@fault("D13", scripts=2)
def a_cancellation_that_nobody_asked_for_counts(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def decide(attempt: Attempt, value: object, error: BaseException | None, *rest: Any) -> Any:
            if isinstance(error, asyncio.CancelledError) and attempt.asked is None:
                return Decision(TaskStatus.CANCELLED)
            return real(attempt, value, error, *rest)

        return decide

    instead(patch, runner, "decide", make)


@fault("D11")
def a_failure_keeps_a_result(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def decide(*given: Any) -> Any:
            decision = real(*given)
            failed = decision.status is TaskStatus.FAILED
            return msgspec.structs.replace(decision, result="something") if failed else decision

        return decide

    instead(patch, runner, "decide", make)


@fault("D12")
def the_deadline_of_a_task_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lifecycle, "_deadline_passed", lambda *_: None)


@fault("D12")
def the_grace_never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Runner, "_abandon_after", lambda *_: None)


@fault("D5")
def an_abandoned_attempt_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def decided(self: Any, attempt: Attempt, how: Any) -> None:
            real(self, attempt, how)
            self._table.abandoned.pop(attempt, None)

        return decided

    instead(patch, Lifecycle, "decided", make)


@fault("D5")
def abandoned_slots_are_replaced_without_end(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def decided(self: Any, attempt: Attempt, how: Any) -> None:
            table = self._table
            abandoned, table.abandoned = table.abandoned, {}
            real(self, attempt, how)
            table.abandoned = {**abandoned, **table.abandoned}

        return decided

    instead(patch, Lifecycle, "decided", make)


@fault("D14", scripts=3)
def a_late_result_overwrites_the_end(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def late_end(self: Any, attempt: Attempt) -> None:
            record = attempt.record
            record.state = record.state.but(status=TaskStatus.COMPLETED, result="late")
            real(self, attempt)

        return late_end

    instead(patch, Lifecycle, "late_end", make)


@fault("D3")
def a_late_result_is_counted_twice(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def late_end(self: Any, attempt: Attempt) -> None:
            self._metrics.dropped["late_result"] += 1
            real(self, attempt)

        return late_end

    instead(patch, Lifecycle, "late_end", make)


@fault("D19")
def progress_falls(patch: pytest.MonkeyPatch) -> None:
    def progressed(self: Any, attempt: Attempt) -> None:
        percent, message = attempt.reported or (0.0, "")
        record, wall = attempt.record, self._clock.now()
        record.progress = TaskProgress(100.0 - percent, message, wall)
        if self.observers[EventKind.PROGRESS]:
            state = record.state
            self.unannounced.append((EventKind.PROGRESS, wall, record, state, record.progress, state.status))
            self.announce()

    patch.setattr(Announcer, "progressed", progressed)


@fault("D25")
def a_waiter_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def end(self: Any, record: Any, state: Any, *rest: Any) -> None:
            if state.status is TaskStatus.FAILED:
                record.waiters = []
            real(self, record, state, *rest)

        return end

    instead(patch, Lifecycle, "_end", make)


@fault("D27")
def retention_drops_one_too_many(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def shrink(self: Any) -> None:
            self.keep -= self.keep > 0
            real(self)
            self.keep += 1

        return shrink

    instead(patch, MemoryHistory, "shrink", make)


@fault("D27")
def retention_drops_a_live_task(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def end(self: Any, record: Any, state: Any, *rest: Any) -> None:
            real(self, record, state, *rest)
            for other in [live for live in self._table.live.values() if live.state.attempt > 1]:
                del self._table.live[other.task_id]

        return end

    instead(patch, Lifecycle, "_end", make)


@fault("D3")
def a_wait_of_the_queue_counts_from_the_submission(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def start(self: Any, record: Any, *times: float) -> None:
            moved = record.eligible_at
            record.eligible_at -= record.definition.delay
            real(self, record, *times)
            record.eligible_at = moved

        return start

    instead(patch, Lifecycle, "start", make)


@fault("D23")
def a_shutdown_leaves_scheduled_tasks(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        async def drain(self: Any, grace_seconds: float) -> None:
            table = self._table
            for record in list(table.live.values()):
                if record.eligible_at > self._clock.monotonic():
                    del table.live[record.task_id]
            if not table.live:
                table.nothing_lives.set()
            await real(self, grace_seconds)

        return drain

    instead(patch, Life, "_drain", make)


@fault("D22")
def a_stopping_manager_takes_work(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        async def wait_for_room(self: Any, cell: int) -> None:
            if self._runtime.state is not ManagerState.DRAINING:
                await real(self, cell)

        return wait_for_room

    instead(patch, Admission, "wait_for_room", make)


@fault("D22")
def a_stopping_manager_refuses_its_own_tasks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Admission, "_is_in_running_task", lambda self: False)


@fault("D23")
def a_child_that_cannot_start_holds_up_a_shutdown(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def accept(self: Any, record: Any) -> None:
            self.cannot_start = lambda _: False
            try:
                real(self, record)
            finally:
                del self.cannot_start

        return accept

    instead(patch, Lifecycle, "accept", make)


@fault("D23", scripts=1)
def a_child_outlives_its_parent(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def decided(self: Any, attempt: Attempt, how: Any) -> None:
            attempt.children = ()
            real(self, attempt, how)

        return decided

    instead(patch, Lifecycle, "decided", make)


# ---------------------------------------------------------------------- tables


@fault("F38")
def a_phantom_record(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def accept(self: Any, record: Any) -> None:
            real(self, record)
            if record.attempt is None and record.queue_entry is not None:
                phantom = msgspec.structs.replace(
                    record, task_id=f"{record.task_id}-phantom", queue_entry=None
                )
                self._table.live[phantom.task_id] = phantom

        return accept

    instead(patch, Lifecycle, "accept", make)


@fault("D12")
def a_lost_settle(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def settle(self: Any, attempt: Attempt, decision: Decision) -> None:
            if decision.status is TaskStatus.CANCELLED:
                attempt.settled = True
            else:
                real(self, attempt, decision)

        return settle

    instead(patch, Runner, "_settle", make)


# ---------------------------------------------------------------------- spans


@fault("D15")
def a_span_is_left_open(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        return lambda self, ends: real(self, [end for end in ends if not end.state.abandoned])

    instead(patch, SpanInstrument, "on_ends", make)


@fault("D15")
def a_span_is_ended_twice(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def on_ends(self: Any, ends: Any) -> None:
            spans = [end.attempt.span for end in ends if end.state.abandoned and end.attempt is not None]
            real(self, ends)
            for span in spans:
                span.end()

        return on_ends

    instead(patch, SpanInstrument, "on_ends", make)


@fault("D15")
def a_cancelled_span_is_an_error(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def on_ends(self: Any, ends: Any) -> None:
            for end in ends:
                if end.state.status is TaskStatus.CANCELLED and end.attempt is not None:
                    end.attempt.span.set_status(Status(StatusCode.ERROR))
            real(self, ends)

        return on_ends

    instead(patch, SpanInstrument, "on_ends", make)


@fault("D15")
def a_span_has_no_parent(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def begin(self: Any, attempt: Attempt) -> Any:
            attempt.context.run(otel_context.attach, otel_context.Context())
            return real(self, attempt)

        return begin

    instead(patch, SpanInstrument, "begin", make)


@fault("D15")
def an_attempt_is_not_linked_to_the_one_before(patch: pytest.MonkeyPatch) -> None:
    def make(real: Any) -> Any:
        def begin(self: Any, attempt: Attempt) -> Any:
            record = attempt.record
            state, record.state = record.state, record.state.but(span=None)
            begun = real(self, attempt)
            record.state = state
            return begun

        return begin

    instead(patch, SpanInstrument, "begin", make)
