"""The machine: what may be done to a task manager, in any order, with the model watching every step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from qorzen_obs.tasks import EngineKind, TaskCategory, TaskPriority
from tests.model.actors import Actor, BoomError, Line, Manner, Plan, RetryPlan
from tests.model.world import World


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """Draw `usual` half of the time."""
    return st.sampled_from([*(usual for _ in others), *others])


PICKS = st.integers(0, 63)
LIMITS = st.integers(1, 4)
SECONDS = st.sampled_from([0.05, 0.3, 1.0, 1.0, 2.0, 5.0, 60.0, 310.0, 1200.0])
CATEGORY_LIMITS = st.sampled_from(
    [{}, {"core": 1}, {"core": 2, "io": 1}, {"background": 1, "core": 3, "io": 2}]
)
CATEGORIES = st.sampled_from([TaskCategory.CORE, TaskCategory.IO, TaskCategory.UI, TaskCategory.BACKGROUND])
RETRIES = st.builds(
    RetryPlan,
    max_attempts=mostly(3, 2, 1),
    wait_seconds=st.sampled_from([0.0, 1.0, 30.0]),
    only=mostly(Exception, OSError, BoomError),
    broken=mostly(False, False, False, True),
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """What a task may be submitted with."""
    return Plan(
        sync=draw(mostly(False, True, True)),
        category=draw(CATEGORIES),
        priority=draw(st.sampled_from(TaskPriority)),
        timeout=draw(mostly(None, 0.5, 4.0)),
        deadline=draw(mostly(None, None, 3.0, 20.0)),
        delay=draw(mostly(0.0, 0.0, 1.5, 50.0)),
        cancellable=draw(mostly(True, True, False)),
        retry=draw(st.one_of(st.none(), RETRIES)),
        limit=draw(mostly(None, ("few", 1), ("few", 2))),
        manner=draw(st.sampled_from(Manner)),
        plugin_id=draw(mostly(None, "a plugin")),
        traced=draw(st.booleans()),
    )


OUTCOMES = st.sampled_from(
    [
        (Line.RETURN, None),
        (Line.RETURN, None),
        (Line.HEED, None),
        (Line.REPORT, 70.0),
        (Line.REPORT, -5.0),
        *(
            (Line.RAISE, error)
            for error in (
                "BoomError",
                "OSError",
                "RetryLater",
                "CancelledError",
                "TaskCancelled",
                "SystemExit",
            )
        ),
    ]
)
SETTINGS = st.fixed_dictionaries(
    {
        "max_concurrent_tasks": LIMITS,
        "max_pending": st.sampled_from([2, 5, 50]),
        "keep_completed_tasks": st.sampled_from([0, 2, 100]),
        "ageing_seconds": st.sampled_from([0.0, 10.0, 300.0]),
        "cancel_grace_seconds": st.sampled_from([1.0, 5.0]),
        "max_abandoned": st.sampled_from([0, 1, 16]),
        "when_full": mostly("refuse", "refuse", "wait"),
        "default_timeout": st.sampled_from([7.77, 299.9]),
        "category_limits": CATEGORY_LIMITS,
    }
)
CHANGES = st.one_of(
    st.tuples(st.just("max_concurrent_tasks"), LIMITS),
    st.tuples(st.just("category_limits"), CATEGORY_LIMITS),
    st.tuples(st.just("ageing_seconds"), st.sampled_from([0.0, 10.0, 300.0])),
    st.tuples(st.just("keep_completed_tasks"), st.integers(0, 5)),
    st.tuples(st.just("max_pending"), st.integers(1, 6)),
    st.tuples(st.just("max_abandoned"), st.integers(0, 2)),
)


class TaskManagerMachine(RuleBasedStateMachine):
    """Drives one World. Every rule ends at rest, where the model is compared with the manager."""

    world: World | None = None
    ended_well = True

    @initialize(settings=SETTINGS, io=st.integers(1, 2), threads=st.integers(1, 2))
    def open(self, settings: dict[str, Any], io: int, threads: int) -> None:
        self.world = World(settings, {EngineKind.IO: io, EngineKind.THREAD: threads})
        self.do("open")

    def do(self, operation: str, *arguments: Any) -> None:
        try:
            getattr(self._world, operation)(*arguments)
        except BaseException:
            self.ended_well = False
            raise

    @property
    def _world(self) -> World:
        assert self.world is not None
        return self.world

    def _accepted(self) -> list[Actor]:
        return [life.actor for life in self._world.model.lives.values()] if self.world else []

    def _on_stage(self) -> list[Actor]:
        """The actors whose code waits for a line, those of abandoned tasks included."""
        actors = self._world.actors if self.world else []
        return [actor for actor in actors if actor.show is not None and actor.show.idle]

    def _parents(self) -> list[Actor]:
        model = self._world.model if self.world else None
        return [actor for actor in self._on_stage() if model and model.lives[actor.number].final is None]

    def _abandoned(self) -> list[Actor]:
        parents = self._parents()
        return [actor for actor in self._on_stage() if actor not in parents]

    def _stopping(self) -> list[Actor]:
        """The actors that were asked to stop and have not."""
        return [actor for actor in self._parents() if actor.show is not None and actor.show.task.cancelled]

    def _submits_at_once(self, parent: Actor) -> bool:
        """Whether it is accepted or refused, and need not wait for room."""
        model = self._world.model
        return model.accepts(parent.show) != "queue_full" or model.settings["when_full"] == "refuse"

    def _can_shut_down(self) -> bool:
        return self.world is not None and len(self.world.script) > 8 and len(self.world.stopping) < 2

    # ------------------------------------------------------------------ rules

    @rule(plans=st.lists(plans(), min_size=1, max_size=4), cancel_at_once=mostly(False, False, False, True))
    def submit(self, plans: list[Plan], cancel_at_once: bool) -> None:
        self.do("submit", plans, cancel_at_once)

    @rule(plan=plans(), count=st.integers(2, 5), priority=st.sampled_from(TaskPriority))
    def submit_many(self, plan: Plan, count: int, priority: TaskPriority) -> None:
        """Fill the queue with tasks that differ in nothing but priority."""
        other = replace(plan, priority=priority)
        self.do("submit", [other if index % 2 else plan for index in range(count)])

    @rule(plan=plans())
    def run(self, plan: Plan) -> None:
        self.do("run", plan)

    @rule(plan=plans(), error=st.sampled_from(["BoomError", "OSError"]), seconds=SECONDS)
    def submit_what_fails(self, plan: Plan, error: str, seconds: float) -> None:
        """Let a task fail that is tried again, twice where it gets that far."""
        self.do("submit", [replace(plan, retry=plan.retry or RetryPlan())])
        actor = self._world.actors[-1]
        for _ in range(2):
            if actor in self._on_stage():
                self.do("tell", actor.number, Line.RAISE, error)
                self.do("advance", seconds)

    @precondition(lambda self: self.world and self.world.model.ready)
    @rule(
        plan=plans(),
        ageing=st.sampled_from([0.0, 10.0, 300.0]),
        seconds=st.sampled_from([1.0, 15.0, 60.0, 640.0]),
        limit=LIMITS,
    )
    def let_a_queue_age(self, plan: Plan, ageing: float, seconds: float, limit: int) -> None:
        """Let tasks wait behind one that takes long, add what is more urgent, and make room."""
        waits = replace(plan, delay=0.0, deadline=None)
        self.do("configure", "max_concurrent_tasks", 1)
        self.do("submit", [replace(waits, timeout=1e6)])
        self.do("submit", [replace(waits, priority=TaskPriority.LOW)] * 2)
        self.do("configure", "ageing_seconds", ageing)
        self.do("advance", seconds)
        self.do("submit", [replace(waits, priority=TaskPriority.HIGH)])
        self.do("configure", "max_concurrent_tasks", limit)

    @rule(plan=plans(), first=st.booleans(), seconds=SECONDS)
    def ask_twice(self, plan: Plan, first: bool, seconds: float) -> None:
        """Cancel what its timeout has asked to stop already, or let it time out after it was cancelled."""
        self.do("submit", [replace(plan, timeout=0.5, delay=0.0, manner=Manner.IGNORES)])
        actor = self._world.actors[-1]
        for ask in ("cancel", "advance") if first else ("advance", "cancel"):
            if actor in self._parents():
                self.do(ask, actor.number if ask == "cancel" else 0.7)
        self.do("advance", seconds)

    @precondition(lambda self: self._on_stage())
    @rule(endings=st.lists(st.tuples(PICKS, OUTCOMES), min_size=1, max_size=4))
    def finish(self, endings: list[tuple[int, tuple[Line, Any]]]) -> None:
        for pick, outcome in endings:
            self._finish(self._on_stage(), pick, outcome)

    def _finish(self, actors: list[Actor], pick: int, outcome: tuple[Line, Any]) -> None:
        if actors:
            self.do("tell", actors[pick % len(actors)].number, *outcome)

    @precondition(lambda self: self._abandoned())
    @rule(pick=PICKS, outcome=OUTCOMES)
    def finish_late(self, pick: int, outcome: tuple[Line, Any]) -> None:
        """Let the code of an abandoned task report, and end."""
        self._finish(self._abandoned(), pick, (Line.REPORT, 99.0))
        self._finish(self._abandoned(), pick, outcome)

    @precondition(lambda self: self._on_stage())
    @rule(
        pick=PICKS,
        percents=st.lists(st.sampled_from([-5.0, 10.0, 50.0, 30.0, 150.0]), min_size=1, max_size=3),
    )
    def report(self, pick: int, percents: list[float]) -> None:
        actors = self._on_stage()
        for percent in percents:
            self.do("tell", actors[pick % len(actors)].number, Line.REPORT, percent)

    @precondition(lambda self: self._parents())
    @rule(pick=PICKS, children=st.lists(plans(), min_size=1, max_size=3))
    def run_children(self, pick: int, children: list[Plan]) -> None:
        """Let a running task run others and wait for them, together where it is a coroutine."""
        parents = self._parents()
        parent = parents[pick % len(parents)]
        self.do("tell", parent.number, Line.RUN, children[:1] if parent.plan.sync else children)

    @precondition(lambda self: self._parents())
    @rule(pick=PICKS, child=plans())
    def pause_a_lender(self, pick: int, child: Plan) -> None:
        """Let a running task wait for another, pause its category, and let the other end."""
        parents = self._parents()
        parent = parents[pick % len(parents)]
        self.do("tell", parent.number, Line.RUN, [replace(child, delay=0.0)])
        self.do("pause", parent.plan.category)
        ran = self._world.actors[-1]
        if ran in self._parents():
            self.do("tell", ran.number, Line.RETURN)

    @precondition(lambda self: self._parents())
    @rule(pick=PICKS, children=st.lists(plans(), min_size=1, max_size=3))
    def submit_children(self, pick: int, children: list[Plan]) -> None:
        """Let a running task submit others, where it need not wait for room, and not wait for them."""
        parents = self._parents()
        parent = parents[pick % len(parents)]
        for child in children:
            if self._submits_at_once(parent):
                self.do("tell", parent.number, Line.SUBMIT, child)

    @precondition(lambda self: self._can_shut_down() and self._world.model.ready and self._parents())
    @rule(pick=PICKS, children=st.lists(plans(), min_size=1, max_size=3), outcome=OUTCOMES)
    def have_children_while_it_drains(
        self, pick: int, children: list[Plan], outcome: tuple[Line, Any]
    ) -> None:
        """Let a running task submit others after the shutdown has begun, and end before them."""
        actor = self._parents()[pick % len(self._parents())]
        self.do("shutdown", 60.0)
        for child in children:
            if self._submits_at_once(actor):
                self.do("tell", actor.number, Line.SUBMIT, child)
        if actor in self._parents():
            self.do("tell", actor.number, *outcome)

    @precondition(lambda self: self._parents())
    @rule(pick=PICKS, picks=st.lists(PICKS, min_size=1, max_size=2))
    def wait_for_others(self, pick: int, picks: list[int]) -> None:
        """Let a running task wait for any tasks, its own included."""
        parents, targets = self._parents(), self._accepted()
        parent = parents[pick % len(parents)]
        numbers = sorted({targets[one % len(targets)].number for one in picks})
        self.do("tell", parent.number, Line.WAIT, numbers[:1] if parent.plan.sync else numbers)

    @precondition(lambda self: self._accepted())
    @rule(pick=PICKS, again=st.booleans(), ended=mostly(False, True))
    def cancel(self, pick: int, again: bool, ended: bool) -> None:
        live = [life.actor for life in self._world.model.live]
        actors = self._accepted() if ended or not live else live
        for _ in range(1 + again):
            self.do("cancel", actors[pick % len(actors)].number)

    @precondition(lambda self: self._stopping())
    @rule(pick=PICKS, seconds=SECONDS)
    def cancel_what_is_stopping(self, pick: int, seconds: float) -> None:
        actors = self._stopping()
        self.do("cancel", actors[pick % len(actors)].number)
        self.do("advance", seconds)

    @precondition(lambda self: self._accepted())
    @rule(pick=PICKS, timeout=mostly(None, 1.0, 100.0))
    def wait(self, pick: int, timeout: float | None) -> None:
        actors = self._accepted()
        self.do("wait", actors[pick % len(actors)].number, timeout)

    @precondition(lambda self: self.world and self.world.waiters)
    @rule(pick=PICKS)
    def stop_waiting(self, pick: int) -> None:
        self.do("stop_waiting", pick % len(self._world.waiters))

    @rule(seconds=SECONDS, wall_jump=mostly(0.0, 0.0, -3e8, -1.0, 1.0, 3e8))
    def advance(self, seconds: float, wall_jump: float) -> None:
        if wall_jump:
            self.do("move_wall_clock", wall_jump)
        self.do("advance", seconds)

    @precondition(lambda self: self.world and self.world.model.ready)
    @rule(change=CHANGES)
    def configure(self, change: tuple[str, Any]) -> None:
        self.do("configure", *change)

    @rule(category=CATEGORIES, seconds=st.sampled_from([0.0, 0.0, 1.0]))
    def pause(self, category: TaskCategory, seconds: float) -> None:
        self.do("pause", category)
        if seconds:
            self.do("advance", seconds)

    @precondition(lambda self: self.world and self.world.model.paused)
    @rule(pick=PICKS)
    def resume(self, pick: int) -> None:
        paused = sorted(self._world.model.paused)
        self.do("resume", paused[pick % len(paused)])

    @precondition(lambda self: self.world and self.world.script.count(("look", ())) < 2)
    @rule()
    def look(self) -> None:
        self.do("cancel_unknown")
        self.do("look")
        self.do("scrape")

    @precondition(lambda self: self._can_shut_down())
    @rule(grace=st.sampled_from([0.0, 2.0, 60.0]))
    def shutdown(self, grace: float) -> None:
        self.do("shutdown", 0.0 if self._world.stopping else grace)

    def teardown(self) -> None:
        if self.world is None:
            return
        try:
            if self.ended_well:
                self.world.end()
                self.compare(self.world)
        finally:
            self.world.close()

    def compare(self, world: World) -> None:
        """Look at a world that has come to its end; for machines that want more."""
