"""The scheduler, against a model that looks at every pending task each time."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qorzen_obs.definition_limit import DefinitionLimit
from qorzen_obs.engines.traits import LOOP, THREAD, EngineTraits
from qorzen_obs.scheduling.limits import Limits
from qorzen_obs.scheduling.scheduler import Scheduler
from qorzen_obs.tasks import TaskCategory, TaskPriority

CATEGORIES = [TaskCategory.CORE, TaskCategory.IO, TaskCategory.USER]
ENGINES = [LOOP, THREAD]


@dataclass(eq=False)
class Task:
    sequence: int
    category: TaskCategory = TaskCategory.CORE
    engine: EngineTraits = LOOP
    priority: TaskPriority = TaskPriority.NORMAL
    eligible_at: float = 0.0
    limit: DefinitionLimit | None = None
    queue_entry: list[object] | None = field(default=None, repr=False)

    def key(self, ageing: float) -> tuple[float, float, int]:
        """The rule of the order, as it is written down."""
        if ageing == 0:
            return (-self.priority, self.eligible_at, self.sequence)
        return (0, self.eligible_at - self.priority * ageing / 50, self.sequence)


def scheduler(total: int = 1, ageing: float = 300.0) -> Scheduler[Task]:
    return Scheduler(Limits(total), ageing_seconds=ageing)


class SchedulerMachine(RuleBasedStateMachine):
    """Tasks come, go, start, end, lend and return in any order, and limits change meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sequence = 0
        self.pending: list[Task] = []  # waiting for a slot or for their time
        self.own = DefinitionLimit("crowd", 2)
        self.holding: list[Task] = []
        self.lending: list[Task] = []
        self.returning: list[Task] = []
        self.paused: set[TaskCategory] = set()
        self.accepted = self.left = 0

    @initialize(
        total=st.integers(1, 6),
        categories=st.dictionaries(st.sampled_from(CATEGORIES), st.integers(1, 4)),
        engines=st.dictionaries(st.sampled_from([LOOP.kind, THREAD.kind]), st.integers(1, 4)),
        ageing=st.sampled_from([0.0, 1.0, 300.0]),
    )
    def begin(
        self,
        total: int,
        categories: dict[TaskCategory, int],
        engines: dict[str, int],
        ageing: float,
    ) -> None:
        self.ageing = ageing
        self.limits = Limits(total, categories=categories, engines=engines)
        self.scheduler: Scheduler[Task] = Scheduler(self.limits, ageing_seconds=ageing)

    def admitted(self, task: Task) -> bool:
        """Whether the limits leave room for one more like `task`, counted anew."""
        same_category = [other for other in self.holding if other.category is task.category]
        same_engine = [other for other in self.holding if other.engine is task.engine]
        return (
            len(self.holding) < self.limits.total
            and len(same_category) < self.limits.categories.get(task.category, math.inf)
            and len(same_engine) < self.limits.engines.get(task.engine.kind, math.inf)
            and (task.limit is None or len([o for o in self.holding if o.limit]) < self.own.maximum)
        )

    def startable(self) -> list[Task]:
        return [task for task in self.eligible() if task.category not in self.paused and self.admitted(task)]

    def eligible(self) -> list[Task]:
        return [task for task in self.pending if task.eligible_at <= self.now]

    def pick(self, data: Any, tasks: list[Task]) -> Task:
        index: int = data.draw(st.integers(0, len(tasks) - 1))
        return tasks[index]

    @rule(
        category=st.sampled_from(CATEGORIES),
        engine=st.sampled_from(ENGINES),
        priority=st.sampled_from(list(TaskPriority)),
        later=st.sampled_from([0.0, 0.5, 400.0, 1200.0]),
        delay=st.sampled_from([0.0, 0.0, 1.0, 500.0]),
        limited=st.booleans(),
    )
    def push(
        self,
        category: TaskCategory,
        engine: EngineTraits,
        priority: TaskPriority,
        later: float,
        delay: float,
        limited: bool,
    ) -> None:
        self.now += later
        self.sequence += 1
        limit = self.own if limited else None
        task = Task(self.sequence, category, engine, priority, self.now + delay, limit)
        self.scheduler.push(task, self.now)
        self.pending.append(task)
        self.accepted += 1

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        task = self.pick(data, self.pending)
        assert self.scheduler.remove(task)
        assert not self.scheduler.remove(task), "it has gone"
        self.pending.remove(task)
        self.left += 1

    @rule()
    def start_all(self) -> None:
        while (task := self.scheduler.start_next(self.now)) is not None:
            assert task.category not in self.paused
            assert task is min(self.startable(), key=lambda other: other.key(self.ageing)), "no inversion"
            self.pending.remove(task)
            self.holding.append(task)
        assert not self.startable(), "work-conserving"
        self.nothing_eligible_is_left_among_the_scheduled()

    def nothing_eligible_is_left_among_the_scheduled(self) -> None:
        times = [task.eligible_at for task in self.pending if task.eligible_at > self.now]
        assert self.scheduler.scheduled == len(times)
        assert self.scheduler.next_eligible_at == min(times, default=None)

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def explain(self, data: Any) -> None:
        self.start_all()
        if self.pending:
            task = self.pick(data, self.pending)
            why = self.scheduler.explain(task, self.now)
            if task.eligible_at > self.now:
                assert (why.held_by, why.ahead) == ("eligible_at", 0)
                assert why.eligible_in_seconds == task.eligible_at - self.now
            else:
                mine = task.key(self.ageing)
                assert why.held_by is not None, "else it would have started"
                paused = f"the pause of category {task.category.value}"
                assert (why.held_by == paused) is (task.category in self.paused)
                assert why.ahead == sum(other.key(self.ageing) < mine for other in self.eligible())

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def lend(self, data: Any) -> None:
        task = self.pick(data, self.holding)
        self.scheduler.lend(task)
        self.scheduler.lend(task)
        self.holding.remove(task)
        self.lending.append(task)

    @precondition(lambda self: self.lending)
    @rule(data=st.data())
    def take_back(self, data: Any) -> None:
        task = self.pick(data, self.lending)
        self.scheduler.take_back(task)
        if task not in self.returning:
            self.returning.append(task)

    @precondition(lambda self: self.returning)
    @rule(data=st.data())
    def cancel_return(self, data: Any) -> None:
        task = self.pick(data, self.returning)
        self.scheduler.cancel_return(task)
        self.returning.remove(task)

    @rule()
    def resume_all(self) -> None:
        while (task := self.scheduler.resume_next()) is not None:
            assert task is next(other for other in self.returning if self.admitted(other)), "in order"
            self.returning.remove(task)
            self.lending.remove(task)
            self.holding.append(task)
        assert not any(self.admitted(task) for task in self.returning)

    @precondition(lambda self: self.holding or self.lending)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        task = self.pick(data, self.holding + self.lending)
        self.scheduler.finish(task)
        assert not self.scheduler.remove(task), "it is not pending"
        for tasks in (self.holding, self.lending, self.returning):
            if task in tasks:
                tasks.remove(task)
        self.left += 1

    @rule(
        total=st.integers(1, 6),
        categories=st.dictionaries(st.sampled_from(CATEGORIES), st.integers(1, 4)),
    )
    def change_limits(self, total: int, categories: dict[TaskCategory, int]) -> None:
        self.limits.total = total
        self.limits.categories = categories

    @rule(category=st.sampled_from(CATEGORIES), resume=st.booleans())
    def pause(self, category: TaskCategory, resume: bool) -> None:
        (self.paused.discard if resume else self.paused.add)(category)
        self.scheduler.paused = frozenset(self.paused)

    @rule(ageing=st.sampled_from([0.0, 1.0, 300.0]))
    def change_ageing(self, ageing: float) -> None:
        self.ageing = self.scheduler.ageing_seconds = ageing

    @invariant()
    def nothing_is_lost_and_every_count_is_right(self) -> None:
        if not hasattr(self, "limits"):
            return
        assert self.accepted == self.left + len(self.pending) + len(self.holding) + len(self.lending)
        assert len(self.scheduler) == len(self.pending)
        assert self.limits.held == len(self.holding)
        assert self.own.held == len([task for task in self.holding if task.limit])
        for category in CATEGORIES:
            held = [task for task in self.holding if task.category is category]
            assert self.limits.held_by_category[category] == len(held)
        for engine in ENGINES:
            assert self.limits.held_by_engine.get(engine.kind, 0) == len(
                [task for task in self.holding if task.engine is engine]
            )
            assert self.scheduler.lent[engine.kind] == len(
                [task for task in self.lending if task.engine is engine]
            )

    @invariant()
    def the_oldest_of_each_kind_is_known(self) -> None:
        if not hasattr(self, "limits"):
            return
        oldest: dict[tuple[TaskCategory, TaskPriority], float] = {}
        for task in self.eligible():
            kind = (task.category, task.priority)
            oldest[kind] = min(task.eligible_at, oldest.get(kind, math.inf))
        next_ = self.scheduler.next_eligible_at
        if next_ is None or next_ > self.now:  # else the next start promotes what is due
            assert self.scheduler.oldest() == oldest


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = hypothesis_settings(max_examples=40, stateful_step_count=50, deadline=None)


class StartingMachine(RuleBasedStateMachine):
    """Two schedulers are told the same: one by `start_or_push`, the other by `push` and `start_next`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sequence = 0
        self.holding: set[int] = set()
        self.lending: set[int] = set()

    @initialize(
        total=st.integers(1, 4),
        categories=st.dictionaries(st.sampled_from(CATEGORIES), st.integers(1, 3)),
        engines=st.dictionaries(st.sampled_from([LOOP.kind, THREAD.kind]), st.integers(1, 3)),
        ageing=st.sampled_from([0.0, 300.0]),
    )
    def begin(
        self,
        total: int,
        categories: dict[TaskCategory, int],
        engines: dict[str, int],
        ageing: float,
    ) -> None:
        self.both = [
            Scheduler[Task](Limits(total, categories=categories, engines=engines), ageing_seconds=ageing)
            for _ in range(2)
        ]
        self.tasks: list[dict[int, Task]] = [{}, {}]
        self.own = [DefinitionLimit("crowd", 2) for _ in range(2)]

    @rule(
        category=st.sampled_from(CATEGORIES),
        engine=st.sampled_from(ENGINES),
        priority=st.sampled_from(list(TaskPriority)),
        later=st.sampled_from([0.0, 0.5, 400.0]),
        delay=st.sampled_from([0.0, 0.0, 0.0, 1.0, 500.0]),
        limited=st.booleans(),
    )
    def submit(
        self,
        category: TaskCategory,
        engine: EngineTraits,
        priority: TaskPriority,
        later: float,
        delay: float,
        limited: bool,
    ) -> None:
        self.now += later
        self.sequence += 1
        (starting, pushing), eligible_at = self.both, self.now + delay
        nothing_could_start = starting.startable(self.now) is None
        for tasks, own in zip(self.tasks, self.own, strict=True):
            limit = own if limited else None
            tasks[self.sequence] = Task(self.sequence, category, engine, priority, eligible_at, limit)
        new, same = (tasks[self.sequence] for tasks in self.tasks)
        has_slot = starting.start_or_push(new, self.now)
        pushing.push(same, self.now)
        is_held = not has_slot and starting.is_held(new)
        started = [self.start_all(starting), self.start_all(pushing)]
        if has_slot:
            assert started[0] == [], "else the other one would have gone first"
            started[0] = [self.sequence]
        assert started[0] == started[1]
        if nothing_could_start and is_held:
            assert started[0] == [], "a task that is held changes nothing"
        self.holding.update(started[0])

    def start_all(self, one: Scheduler[Task]) -> list[int]:
        while (lender := one.resume_next()) is not None:
            self.lending.discard(lender.sequence)
            self.holding.add(lender.sequence)
        started = []
        while (task := one.start_next(self.now)) is not None:
            started.append(task.sequence)
        return started

    @precondition(lambda self: self.holding)
    @rule(data=st.data(), lends=st.booleans())
    def leave(self, data: Any, lends: bool) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.holding)))
        for one, tasks in zip(self.both, self.tasks, strict=True):
            (one.lend if lends else one.finish)(tasks[sequence])
        self.holding.remove(sequence)
        if lends:
            self.lending.add(sequence)

    @precondition(lambda self: self.lending)
    @rule(data=st.data())
    def take_back(self, data: Any) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.lending)))
        for one, tasks in zip(self.both, self.tasks, strict=True):
            one.take_back(tasks[sequence])

    @rule(total=st.integers(1, 4), paused=st.sets(st.sampled_from(CATEGORIES), max_size=2))
    def change(self, total: int, paused: set[TaskCategory]) -> None:
        for one in self.both:
            one.limits.total, one.paused = total, frozenset(paused)

    @invariant()
    def both_say_the_same(self) -> None:
        if hasattr(self, "both"):
            said = [
                (one.depth, one.scheduled, one.limits.held, one.limits.held_by_engine, dict(one.lent))
                for one in self.both
            ]
            assert said[0] == said[1]


TestStarting = StartingMachine.TestCase
TestStarting.settings = hypothesis_settings(max_examples=40, stateful_step_count=50, deadline=None)


def order(tasks: list[Task], ageing: float) -> list[int]:
    pending = scheduler(len(tasks) + 1, ageing)
    for task in tasks:
        pending.push(task, math.inf)
    return [task.sequence for task in start_all(pending)]


waiting = st.lists(
    st.tuples(st.sampled_from(list(TaskPriority)), st.sampled_from([0.0, 1.0, 300.0, 301.0, 1200.0])),
    max_size=25,
).map(
    lambda steps: [
        Task(number, priority=priority, eligible_at=sum(later for _, later in steps[: number + 1]))
        for number, (priority, later) in enumerate(steps)
    ]
)


@given(waiting)
def test_no_task_is_overtaken_by_one_submitted_20_minutes_later_or_more(tasks: list[Task]) -> None:
    started = order(tasks, ageing=300.0)
    by_sequence = {task.sequence: task for task in tasks}
    for place, sequence in enumerate(started):
        for earlier in started[:place]:
            first, late = by_sequence[earlier], by_sequence[sequence]
            overtook_by = first.eligible_at - late.eligible_at
            assert overtook_by < 20 * 60 or first.sequence < late.sequence


@given(waiting)
def test_with_strict_priority_only_priority_and_age_decide(tasks: list[Task]) -> None:
    assert order(tasks, ageing=0.0) == [
        task.sequence for task in sorted(tasks, key=lambda task: (-task.priority, task.sequence))
    ]


@pytest.mark.parametrize(
    ("later", "first"),
    [(1199.0, "critical"), (1200.0, "low"), (1201.0, "low")],
)
def test_the_bound_is_exactly_20_minutes(later: float, first: str) -> None:
    low = Task(1, priority=TaskPriority.LOW, eligible_at=0.0)
    critical = Task(2, priority=TaskPriority.CRITICAL, eligible_at=later)
    assert order([low, critical], ageing=300.0)[0] == (1 if first == "low" else 2)


def test_a_task_that_never_was_pending_cannot_be_removed() -> None:
    assert not scheduler().remove(Task(1))


def test_a_lender_that_ends_while_it_wants_its_slot_back_is_forgotten() -> None:
    tasks, task = scheduler(2), Task(1)
    tasks.push(task, 0.0)
    assert tasks.start_next(0.0) is task
    tasks.lend(task)
    tasks.take_back(task)
    tasks.finish(task)
    assert tasks.resume_next() is None
    assert (tasks.limits.held, tasks.lent[LOOP.kind]) == (0, 0)


def test_nothing_pending_starts_nothing() -> None:
    assert scheduler().start_next(0.0) is None
    assert scheduler().resume_next() is None


def test_a_returning_task_that_is_blocked_by_its_category_lets_the_next_one_through() -> None:
    tasks = scheduler(2)
    tasks.limits.categories = {TaskCategory.IO: 1}
    blocked, free = Task(1, TaskCategory.IO), Task(2)
    for task in (blocked, free):
        tasks.push(task, 0.0)
        assert tasks.start_next(0.0) is task
        tasks.lend(task)
    other = Task(3, TaskCategory.IO)
    tasks.push(other, 0.0)
    assert tasks.start_next(0.0) is other
    tasks.take_back(blocked)
    tasks.take_back(free)
    assert tasks.resume_next() is free
    assert tasks.resume_next() is None
    tasks.finish(other)
    assert tasks.resume_next() is blocked


@given(waiting, st.sets(st.sampled_from(CATEGORIES)), st.randoms(use_true_random=False))
def test_a_pause_takes_nothing_from_the_order_and_loses_nobody(
    tasks: list[Task], paused: set[TaskCategory], random: Any
) -> None:
    for task in tasks:
        task.category = random.choice(CATEGORIES)
    pending = scheduler(len(tasks) + 1)
    for task in tasks:
        pending.push(task, math.inf)
    in_order = sorted(tasks, key=lambda task: task.key(300.0))
    pending.paused = frozenset(paused)
    assert start_all(pending) == [task for task in in_order if task.category not in paused]
    assert pending.depth == len([task for task in tasks if task.category in paused])
    pending.paused = frozenset()
    assert start_all(pending) == [task for task in in_order if task.category in paused]


def start_all(pending: Scheduler[Task]) -> list[Task]:
    started = []
    while (task := pending.start_next(math.inf)) is not None:
        started.append(task)
    return started


def test_a_task_whose_time_has_not_come_is_held_by_that_first_and_by_the_pause_then() -> None:
    tasks, task = scheduler(), Task(1, eligible_at=5.0)
    tasks.paused = frozenset({TaskCategory.CORE})
    tasks.push(task, 0.0)
    assert tasks.explain(task, 1.0).held_by == "eligible_at"
    assert tasks.start_next(6.0) is None
    assert tasks.explain(task, 6.0).held_by == "the pause of category core"


def test_a_lender_of_a_paused_category_has_its_slot_back() -> None:
    tasks, task = scheduler(), Task(1)
    tasks.push(task, 0.0)
    assert tasks.start_next(0.0) is task
    tasks.lend(task)
    tasks.paused = frozenset({TaskCategory.CORE})
    tasks.take_back(task)
    assert tasks.resume_next() is task
