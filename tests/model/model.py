"""What must be true of the manager, from what was asked of it and what it announced: D1 to D29 of docs/faults.md.

The model folds the event stream as it happens, predicts each end from the asks and from what the code did, and
keeps the slots that tasks must be holding. It reads no state of the manager.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from opentelemetry.trace import SpanKind, StatusCode

from qorzen_obs.errors import RetryLater
from qorzen_obs.record import TaskEvent
from qorzen_obs.tasks import EngineKind, EventKind, TaskCategory, TaskInfo, TaskStatus
from tests.model.actors import Actor, Plan, Show
from tests.model.ends import CANCELLED, COMPLETED, FAILED, Ask, End, asked, given_up, unasked
from tests.model.spans import NOBODY, Recorded, SpanRecorder

EPSILON: Final = 1e-6
PENDING, RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING

#: Written out again, so that a change of the manager's own table is seen here.
NEXT: Final = {
    EventKind.SUBMITTED: (None, PENDING),
    EventKind.STARTED: (PENDING, RUNNING),
    EventKind.PROGRESS: (RUNNING, RUNNING),
    EventKind.RETRYING: (RUNNING, PENDING),
}
ENDS: Final = {EventKind.COMPLETED: COMPLETED, EventKind.FAILED: FAILED, EventKind.CANCELLED: CANCELLED}


@dataclass(eq=False)
class Life:
    """One accepted task."""

    actor: Actor
    task_id: str
    order: int
    accepted_at: float
    eligible_at: float
    status: TaskStatus = PENDING
    attempt: int = 0
    started_at: float = 0.0
    percent: float = 0.0
    asks: list[Ask] = field(default_factory=list)  #: cancels of this attempt, or of the wait before it
    cancel_wanted: bool = False
    final: TaskInfo | None = None
    unsure: bool = False  #: its waiting was over when it was asked to stop: it may have its slot back, or not
    keeps_slot: bool = False  #: it was abandoned when no more slots were to be replaced
    still_runs: bool = False  #: it was abandoned, and its code has not ended
    ends_with: Life | None = None  #: the task that submitted it while the manager drained
    spans: list[Recorded] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        return self.actor.plan

    @property
    def show(self) -> Show | None:
        """The run of the present attempt; None before its code has begun."""
        show = self.actor.show
        return show if show is not None and show.number == self.attempt else None

    @property
    def lent(self) -> bool:
        return self.show is not None and self.show.lent

    def show_lent(self, lent: bool) -> None:
        """Settle what was unsure."""
        assert self.show is not None
        self.show.lent = lent


class UpTo(float):
    """The seconds of a wait, at most: chance has its say."""

    __slots__ = ()


class Limited(NamedTuple):
    """Slots by everything that may limit them."""

    total: int
    categories: Counter[TaskCategory]
    engines: Counter[EngineKind]
    definitions: Counter[str]

    def of(self, plan: Plan) -> Iterator[tuple[str, int]]:
        """Yield the names of what limits a plan, with the slots held of each."""
        yield "total", self.total
        yield plan.category.value, self.categories[plan.category]
        yield f"engine {plan.engine.value}", self.engines[plan.engine]
        if plan.limit is not None:
            yield f"definition {plan.limit[0]}", self.definitions[plan.limit[0]]


class Model:
    """The reference. `settings` are what the machine has set, by their names below `tasks`."""

    def __init__(
        self,
        settings: dict[str, Any],
        engine_slots: dict[EngineKind, int],
        spans: SpanRecorder,
        actors: list[Actor],
        now: Callable[[], float],
    ) -> None:
        self.settings, self.engine_slots, self.now = settings, engine_slots, now
        self.spans, self.actors = spans, actors
        self.problems: list[str] = []
        self.lives: dict[int, Life] = {}  #: by the actor's number, in order of acceptance
        self.ended: list[Life] = []  #: in order of their ends
        self.retained: list[Life] = []
        self.stream: list[tuple[str, str]] = []  #: (event, task id)
        self.definition_limits: dict[str, int] = {}
        self.rejected: Counter[str] = Counter()
        self.retries = 0
        self.cancelled_attempts = 0
        self.late_results = 0
        self.sequence = 0
        self.ready = True
        self.stop_asked_at = math.inf  #: when a shutdown cancels what is left
        self.paused: set[TaskCategory] = set()
        self.sure_lent: set[int] = set()  #: actors that had lent their slot when all was quiet
        self.highest_limits: dict[str, int] = {}  #: of definitions, since all was last quiet
        self.ends_since_rest = 0

    def expect(self, condition: object, problem: str) -> None:
        if not condition:
            self.problems.append(problem)

    # ------------------------------------------------------------------ what is

    @property
    def live(self) -> list[Life]:
        return [life for life in self.lives.values() if life.final is None]

    @property
    def pending(self) -> list[Life]:
        return [life for life in self.live if life.status is PENDING]

    @property
    def running(self) -> list[Life]:
        return [life for life in self.live if life.status is RUNNING]

    @property
    def abandoned(self) -> list[Life]:
        return [life for life in self.ended if life.still_runs]

    def limit(self, name: str, plan: Plan) -> float:
        """Return the limit in force of one of the names that `Limited.of` yields."""
        if name == "total":
            return int(self.settings["max_concurrent_tasks"])
        if name.startswith("engine "):
            return self.engine_slots.get(plan.engine, math.inf)
        if name.startswith("definition "):
            return self.definition_limits[name.removeprefix("definition ")]
        return float(self.settings["category_limits"].get(name, math.inf))

    def held(self, *, at_most: bool = False, besides: Life | None = None) -> Limited:
        """Return the slots held for certain; `at_most` adds those of lenders that may have them back."""
        holders = [
            life
            for life in self.running
            if not life.lent or life is besides or (at_most and not self._surely_lent(life))
        ]
        holders += [life for life in self.abandoned if life.keeps_slot and not life.lent]
        plans = [life.plan for life in holders]
        return Limited(
            len(plans),
            Counter(plan.category for plan in plans),
            Counter(plan.engine for plan in plans),
            Counter(plan.limit[0] for plan in plans if plan.limit is not None),
        )

    def admits(self, plan: Plan, held: Limited) -> bool:
        return all(n < self.limit(name, plan) for name, n in held.of(plan))

    def may_start(self, plan: Plan, held: Limited) -> bool:
        return plan.category not in self.paused and self.admits(plan, held)

    def cannot_start(self, life: Life) -> bool:
        """Whether the manager drains, and this pending task would not start before the end of the grace."""
        never = life.eligible_at > self.stop_asked_at + EPSILON or life.plan.category in self.paused
        return never and not self.ready

    def returning(self, life: Life) -> bool:
        """Whether a lender's waiting is over, so that it wants its slot back."""
        show = life.show
        return show is not None and show.lent and self.waits_for_nobody(life) and not self.asks_of(life)

    def waits_for_nobody(self, life: Life) -> bool:
        """Whether its code awaits what is over already."""
        targets = life.show.targets if life.show else []
        return bool(targets) and all(self._is_over(target) for target in targets)

    def _was_asked_earlier(self, life: Life) -> bool:
        asks = self.asks_of(life)
        return bool(asks) and asks[0].at < self.now() - EPSILON

    def _is_over(self, target: Actor) -> bool:
        life = self.lives.get(target.number)
        return life is not None and life.final is not None

    def _surely_lent(self, life: Life) -> bool:
        return life.actor.number in self.sure_lent and not self.returning(life) and not life.unsure

    def asks_of(self, life: Life) -> list[Ask]:
        """Return all reasons that a running attempt has had to stop, first ones first."""
        asks = list(life.asks)
        if life.actor.plan.engine is not EngineKind.MAIN:
            asks.append(Ask("timeout", life.started_at + self.timeout_of(life), "timeout"))
        if life.actor.deadline is not None:
            asks.append(Ask("timeout", life.accepted_at + life.actor.deadline, "deadline"))
        asks.append(Ask("cancel", self.stop_asked_at, "shutdown"))
        return sorted((ask for ask in asks if ask.at <= self.now() + EPSILON), key=lambda ask: ask.at)

    def timeout_of(self, life: Life) -> float:
        return life.actor.timeout or float(self.settings["default_timeout"])

    # ------------------------------------------------------------------ what actors tell

    def accepts(self, caller: Show | None = None) -> str | None:
        """Return the reason for which a submission must be refused now; `caller` is the run that makes it."""
        if not self.ready and not self._may_have_children(caller):
            return "closed"
        return "queue_full" if len(self.pending) >= self.settings["max_pending"] else None

    def _may_have_children(self, caller: Show | None) -> bool:
        """Whether the caller is a running task that nobody asked to stop: it goes on as usual during the drain."""
        life = None if caller is None else self.lives[caller.actor.number]
        return (
            life is not None
            and life.final is None
            and life.status is RUNNING
            and life.show is caller
            and not self.asks_of(life)
        )

    def note_show(self, show: Show) -> None:
        life = self.lives.get(show.actor.number)
        self.expect(
            life is not None and life.status is RUNNING and life.final is None,
            f"D9: the code of {show.actor} runs, and it is {life.status if life else 'unknown'}",
        )
        if life is not None:
            self.expect(show.number == life.attempt, f"D2: {show.actor} runs {show.number} in {life.attempt}")
        numbers = [other.number for other in show.actor.shows]
        self.expect(len(set(numbers)) == len(numbers), f"D1: {show.actor} runs twice in one attempt")

    def note_show_end(self, show: Show) -> None:
        life = self.lives[show.actor.number]
        if life.still_runs and show is life.show:
            life.still_runs = False
            self.late_results += 1

    def note_cancel(self, life: Life, reason: str) -> None:
        life.cancel_wanted = True
        life.asks.append(Ask("cancel", self.now(), reason))

    def may_not_wait(self, show: Show, target: Actor) -> bool:
        """Return whether `target` waits, directly or by others, for the task of `show`."""
        if self._is_over(target):
            return False
        seen: set[Actor] = set()
        pending = [target]
        while pending:
            one = pending.pop()
            if one is show.actor:
                return True
            life = self.lives.get(one.number)
            if one not in seen and life is not None and life.status is RUNNING and life.show is not None:
                seen.add(one)
                pending += life.show.targets
        return False

    # ------------------------------------------------------------------ the stream

    def on_event(self, event: TaskEvent) -> None:
        """Fold one event, at the moment it happens."""
        info = event.info
        self.stream.append((event.kind.value, info.task_id))
        self.expect(event.sequence == self.sequence + 1, f"D2: event {event.sequence} after {self.sequence}")
        self.sequence = event.sequence
        number = info.metadata["actor"]
        life = self.lives.get(number)
        if event.kind is EventKind.SUBMITTED:
            self.expect(life is None, f"D1: actor {number} was accepted twice")
            self._accept(self.actors[number], info)
            return
        if life is None:
            self.expect(False, f"D1: {event.kind.value} of actor {number}, which was not accepted")
            return
        before, after = NEXT.get(event.kind) or (life.status, ENDS[event.kind])
        self.expect(
            life.final is None and life.status is before is event.previous and info.status is after,
            f"D2: {event.kind.value} of {life.actor} in {life.status}, to {info.status}",
        )
        if life.final is None:
            self._fold(event, life, info)
            life.status = after

    def _fold(self, event: TaskEvent, life: Life, info: TaskInfo) -> None:
        if event.kind is EventKind.STARTED:
            self._start(life, info)
        elif event.kind is EventKind.PROGRESS:
            self.expect(
                life.percent <= info.progress.percent <= 100,
                f"D19: {life.actor} fell from {life.percent} to {info.progress.percent}",
            )
            life.percent = info.progress.percent
        elif event.kind is EventKind.RETRYING:
            assert info.eligible_at is not None
            self._retry(life, info, info.eligible_at - event.at)
        else:
            self._end(life, info)

    def _accept(self, actor: Actor, info: TaskInfo) -> None:
        now = self.now()
        obstacle = self.accepts(actor.caller)
        self.expect(obstacle is None, f"D22: {actor} was accepted though {obstacle}")
        self.expect(info.status is PENDING, f"D2: {actor} is accepted as {info.status}")
        if actor.plan.limit is not None:
            name, maximum = actor.plan.limit
            self.definition_limits[name] = maximum
            self.highest_limits[name] = max(maximum, self.highest_limits.get(name, 0))
        actor.task_id = info.task_id
        life = Life(actor, info.task_id, len(self.lives), now, now + actor.delay)
        self.lives[actor.number] = life
        caller = self._caller_of(life)
        if caller is not None:
            self.sure_lent.discard(caller.actor.number)
            life.ends_with = None if self.ready else caller

    def _start(self, life: Life, info: TaskInfo) -> None:
        now = self.now()
        life.attempt += 1
        life.started_at = now
        self.expect(
            info.attempt == life.attempt, f"D2: {life.actor} starts {info.attempt}, not {life.attempt}"
        )
        self.expect(life.eligible_at <= now + EPSILON, f"D12: {life.actor} starts before its time")
        self.expect(not life.cancel_wanted, f"D9: {life.actor} was cancelled, and starts")
        self.expect(now < self.stop_asked_at + EPSILON, f"D23: {life.actor} starts after all was cancelled")
        self.expect(life.plan.category not in self.paused, f"D6: {life.actor} is paused, and starts")
        waited = info.queue_wait_seconds
        self.expect(
            waited is not None and abs(waited - (now - life.eligible_at)) < EPSILON,
            f"D3: {life.actor} waited {now - life.eligible_at} s, not {waited}",
        )
        held = self.held()
        for name, n in held.of(life.plan):
            self.expect(n < self.limit(name, life.plan), f"D5: {life.actor} starts with {n} slots of {name}")
        self._expect_turn(life)
        self._expect_span(life)

    def _expect_turn(self, life: Life) -> None:
        """D7 and D8: whoever else might have had this slot comes later in the order."""
        at_most = self.held(at_most=True)
        for other in self.pending:
            waits = other.eligible_at < self.now() - EPSILON or other.eligible_at == other.accepted_at
            if (
                other is not life
                and waits
                and self.precedes(other, life)
                and self.may_start(other.plan, at_most)
            ):
                self.expect(False, f"D7: {life.actor} starts before {other.actor}")
        if self.ends_since_rest > 1:
            return  # who of several lenders asks first is the loop's choice
        for lender in self.running:
            if self.returning(lender) and self.admits(lender.plan, self.held(besides=self._caller_of(life))):
                both = self.held(besides=lender)
                self.expect(
                    self.admits(life.plan, both),
                    f"D7: {life.actor} starts while {lender.actor} wants its slot back",
                )

    def _caller_of(self, life: Life) -> Life | None:
        """The task that submitted this one, which has its slot for that, also where it lends it before and after."""
        caller = life.actor.caller
        return None if caller is None else self.lives[caller.actor.number]

    def precedes(self, one: Life, other: Life) -> bool:
        """Return whether `one` goes before `other`: by points aged linearly, by age among equals."""
        mine, theirs = one.plan.priority, other.plan.priority
        if mine is theirs:
            return (one.eligible_at, one.order) < (other.eligible_at, other.order)
        ageing = self.settings["ageing_seconds"]
        if not ageing:
            return mine > theirs
        return self._points(one, ageing) > self._points(other, ageing) + 1e-4

    def _points(self, life: Life, ageing: float) -> float:
        return life.plan.priority + 50 * (self.now() - life.eligible_at) / ageing

    # ------------------------------------------------------------------ ends

    def _retry(self, life: Life, info: TaskInfo, waits: float) -> None:
        end = End(FAILED, info.error_type)
        self._expect_end(life, end)
        wait = self._retry_in(life, end)
        self.expect(wait is not None, f"D13: {life.actor} is tried again after {info.error_type}")
        if isinstance(wait, UpTo):
            self.expect(0.0 <= waits <= wait, f"D13: {life.actor} waits {waits} s, which is no default wait")
            wait = waits
        self._expect_span_end(life, end, will_retry=True, duration=info.duration_seconds)
        self.retries += 1
        life.eligible_at = self.now() + (wait or 0.0)
        life.asks = []

    def _end(self, life: Life, info: TaskInfo) -> None:
        now = self.now()
        reason = info.cancel_reason if info.status is CANCELLED else None
        info = info.replace(cancel_reason=reason, waiting_for=None)  # of the attempt, whose end this is
        end = End(info.status, info.error_type, reason, info.abandoned)
        self.expect(
            (info.result is not None) == (info.status is COMPLETED), f"D11: {life.actor} has {info.result!r}"
        )
        self.expect((info.error_type is not None) == (info.status is FAILED), f"D13: {life.actor}: {info}")
        if life.status is RUNNING:
            self.cancelled_attempts += end.status is CANCELLED
            self._expect_end(life, end)
            if end.status is FAILED and self._retry_in(life, end) is not None:
                self.expect(False, f"D13: {life.actor} is not tried again after {info.error_type}")
            self._expect_span_end(life, end, will_retry=False, duration=info.duration_seconds)
            self.expect(
                info.duration_seconds is not None
                and abs(info.duration_seconds - (now - life.started_at)) < EPSILON,
                f"D3: {life.actor} ran {now - life.started_at} s, not {info.duration_seconds}",
            )
        else:
            self._expect_end_before_a_start(life, end)
        self.expect(
            abs(sum(info.phases.values()) - (now - life.accepted_at)) < EPSILON,
            f"D3: {life.actor} lived {now - life.accepted_at} s, and its phases are {info.phases}",
        )
        said = [min(100.0, max(0.0, percent)) for show in life.actor.shows for percent in show.reported]
        self.expect(
            info.progress.percent == max(said, default=0.0),
            f"D19: {life.actor} reported {said}: {info.progress}",
        )
        if info.abandoned:
            life.keeps_slot = len(self.abandoned) >= self.settings["max_abandoned"]
            life.still_runs = True
        life.final = info
        self.ends_since_rest += 1
        for lender in self.running:
            if lender.lent and self.waits_for_nobody(lender) and not self._was_asked_earlier(lender):
                lender.unsure = True
        for child in self.live:
            if child.ends_with is life:
                child.asks.append(Ask("cancel", now, "shutdown"))
        self.ended.append(life)
        self.retained.append(life)
        self.retain()

    def retain(self) -> None:
        """Forget the oldest ends beyond `keep_completed_tasks`, of those that failed and of the others."""
        left = Counter[bool]()
        retained = []
        for life in reversed(self.retained):
            assert life.final is not None
            failed = life.final.status is FAILED
            left[failed] += 1
            if left[failed] <= self.settings["keep_completed_tasks"]:
                retained.append(life)
        self.retained = retained[::-1]

    def _expect_end_before_a_start(self, life: Life, end: End) -> None:
        now = self.now()
        allowed = [End(CANCELLED, cancel_reason=ask.reason) for ask in life.asks[:1]]
        if now >= self.stop_asked_at - EPSILON or self.cannot_start(life):
            allowed.append(End(CANCELLED, cancel_reason="shutdown"))
        if life.actor.deadline is not None and now >= life.accepted_at + life.actor.deadline - EPSILON:
            allowed.append(End(FAILED, "timeout"))
        self.expect(end in allowed, f"D13: {life.actor} waits and ends as {end}, not {allowed}")

    def _expect_end(self, life: Life, end: End) -> None:
        allowed = set(self._ends_allowed(life))
        self.expect(end in allowed, f"D13: {life.actor} ends as {end}, not {allowed}")
        outcome = life.show.outcome if life.show else None
        if end.status is COMPLETED and outcome is not None:
            self.expect(outcome[0] == "returned", f"D11: {life.actor} completed and {outcome}")

    def _ends_allowed(self, life: Life) -> Iterable[End]:
        """Yield how the running attempt may end now. Several first asks are possible where two clocks agree."""
        asks = self.asks_of(life)
        outcome = life.show.outcome if life.show else None
        if not asks:
            yield from [] if outcome is None else [unasked(*outcome)]
            return
        for ask in (ask for ask in asks if ask.at <= asks[0].at + EPSILON):
            if outcome is not None:
                yield asked(ask, *outcome)
            elif life.show is None and ask.at >= self.now() - EPSILON:
                yield asked(ask, "raised", asyncio.CancelledError())  # before its code had begun
            elif self.now() >= ask.at + self.settings["cancel_grace_seconds"] - EPSILON:
                yield given_up(ask)

    def _retry_in(self, life: Life, end: End) -> float | None:
        """Return after how long a failed attempt must be followed by another; None when by none."""
        deadline = life.actor.deadline
        if end.abandoned or life.cancel_wanted or not self.ready:
            return None
        if deadline is not None and self.now() >= life.accepted_at + deadline - EPSILON:
            return None
        plan = life.plan.retry
        if plan is not None and life.attempt >= plan.max_attempts:
            return None
        outcome = life.show.outcome if life.show else None
        error = TimeoutError() if end.error_type == "timeout" else outcome[1] if outcome else None
        if isinstance(error, RetryLater):
            return error.seconds
        if plan is None or not isinstance(error, plan.only):
            return None
        return UpTo(2.0 ** (life.attempt - 1)) if plan.broken else plan.wait_seconds

    # ------------------------------------------------------------------ spans

    def _expect_span(self, life: Life) -> None:
        """D15: one span for the attempt that starts, with the right parent and links."""
        own = [
            span
            for span in self.spans.spans
            if span.name.startswith("run ") and span.attributes.get("qorzen.task.id") == life.task_id
        ]
        new = own[len(life.spans) :]
        self.expect(len(new) == 1, f"D15: {life.actor} starts with {len(new)} spans")
        if not new:
            return
        (span, *_), before = new, life.spans[-1:]
        life.spans = own
        submitter = life.actor.submitter
        links = [earlier.context for earlier in before]
        if life.actor.delay:
            self.expect(not span.parent.is_valid, f"D15: {life.actor} was delayed and has a parent")
            links = [submitter, *links] if submitter.is_valid else links
        elif submitter.is_valid:
            parent = self.spans.spans[span.parent.span_id - 1] if span.parent.is_valid else None
            self.expect(
                parent is not None and parent.kind is SpanKind.PRODUCER and parent.parent == submitter,
                f"D15: {life.actor} is not below its submission",
            )
        else:
            self.expect(span.parent == NOBODY, f"D15: {life.actor} has a parent from nowhere")
        self.expect(span.links == links, f"D15: {life.actor} has links {span.links}, not {links}")
        self.expect(
            span.attributes.get("qorzen.task.attempt") == life.attempt,
            f"D15: {life.actor}: attempt of its span",
        )

    def _expect_span_end(self, life: Life, end: End, *, will_retry: bool, duration: float | None) -> None:
        """D15: its span has ended, once, and says how."""
        if not life.spans:
            return
        span = life.spans[-1]
        said = span.attributes
        self.expect(span.ends == 1, f"D15: the span of {life.actor} was ended {span.ends} times")
        wanted = {
            "qorzen.task.status": end.status.value,
            "error.type": end.error_type,
            "qorzen.task.cancel_reason": end.cancel_reason,
            "qorzen.task.will_retry": will_retry or None,
            "qorzen.task.abandoned": end.abandoned or None,
        }
        shown = {key: said.get(key) for key in wanted}
        self.expect(shown == wanted, f"D15: the span of {life.actor} says {shown}, not {wanted}")
        status = StatusCode.ERROR if end.status is FAILED else StatusCode.UNSET
        self.expect(span.status is status, f"D15: the span of {life.actor} has status {span.status}")
        length = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
        self.expect(duration is not None and abs(length - duration) < 1e-3, f"D15: span of {length} s")
