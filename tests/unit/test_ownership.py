"""Who owns a durable history: random scripts of processes against what must hold, each fault row by name, and seeded
faults that the scripts must find."""

from __future__ import annotations

import dataclasses
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from qorzen_obs.history.ownership import (
    FREE_LOOKS,
    FREE_SECONDS,
    RENEWAL_SECONDS,
    Contender,
    Identity,
    Life,
    Look,
    Takeover,
    Tenure,
    life_of,
)
from tests.ownership_world import Owner, Process, Task, World


class Machine(RuleBasedStateMachine):
    """N instances that start, look, take over, write, lose their lock, pause, fork, say goodbye and are killed."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.world.actions()), label="action")()

    @invariant()
    def holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.check_in_the_end()


def test_at_any_moment_one_process_owns_the_history_and_nothing_of_a_living_one_is_lost() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=100, stateful_step_count=60))


def play(world: World, seed: int, steps: int = 80) -> None:
    """Play a random script, and check it after each step."""
    random = Random(seed)
    for _ in range(steps):
        random.choice(world.actions())()
        world.check()
    world.check_in_the_end()


# ---------------------------------------------------------------------- the rows of docs/faults.md


def owner(world: World, namespace: str = "a", tasks: int = 1) -> Process:
    """An owner with tasks."""
    process = contend(world, world.start(namespace))
    for _ in range(tasks):
        world.submit(process)
    return process


def contend(world: World, process: Process, looks: int = 30) -> Process:
    """Let a process look until it is the owner, or for so long."""
    for _ in range(looks):
        if process.tenure is None:
            world.look(process)
            if process.takeover is not None:
                world.take_over(process)
            world.tick()
    return process


@pytest.mark.parametrize("loses_lock", [False, True], ids=["keeps its lock", "lost its lock"])
@pytest.mark.parametrize("stops", [False, True], ids=["runs", "is stopped"])
def test_f2_nothing_of_an_owner_that_lives_is_lost(stops: bool, loses_lock: bool) -> None:
    world = World()
    first = owner(world)
    if stops:
        world.stop(first)
    if loses_lock:
        world.lose_lock(first)
    second = contend(world, world.start())
    assert second.tenure is None
    assert world.tasks["task 1"].ends == []
    world.resume(first)
    world.finish(first)
    world.land(first)
    assert world.tasks["task 1"].ends == [first.identity.instance]
    world.check()


def test_f2_a_running_owner_in_another_pid_namespace_takes_a_lost_lock_back_in_time() -> None:
    world = World()
    first = owner(world, "b")
    world.lose_lock(first)
    assert contend(world, world.start("a")).tenure is None
    assert world.lock is first
    world.check()


def test_f2_a_stopped_owner_in_another_namespace_that_lost_its_lock_is_fenced_when_it_goes_on() -> None:
    world = World()
    first = owner(world, "b")
    world.finish(first)
    world.stop(first)
    world.lose_lock(first)
    assert contend(world, world.start("a")).tenure is not None
    assert world.tasks["task 1"].ends == ["lost"]
    world.resume(first)
    world.land(first)
    assert world.tasks["task 1"].ends == ["lost"]
    assert not first.is_working
    world.check()


def test_f29_the_orphans_of_a_killed_owner_are_found_although_its_forked_child_lives() -> None:
    world = World()
    first = owner(world)
    child = world.fork(first)
    world.finish(child)
    world.land(child)
    assert world.tasks["task 1"].ends == [], "a forked child writes nothing"
    world.kill(first)
    began = world.now
    contend(world, world.start())
    assert world.now - began < 1.0
    assert world.tasks["task 1"].ends == ["lost"]
    world.check()


def test_f32_a_recovery_with_a_stale_list_ends_nothing_a_second_time() -> None:
    world = World()
    world.kill(owner(world))
    second, third = world.start(), world.start()
    world.look(second)
    world.lose_lock(second)
    world.look(third)
    assert second.takeover is not None
    assert third.takeover is not None
    world.take_over(second)
    world.take_over(third)
    assert third.tenure is None
    assert world.tasks["task 1"].ends == ["lost"]
    assert contend(world, third).tenure is None
    world.check()


def test_f33_the_goodbye_of_a_twin_frees_nothing_of_the_living_one() -> None:
    world = World()
    twin = owner(world, tasks=0)
    living = world.start()
    assert twin.identity.service == living.identity.service
    world.leave(twin)
    contend(world, living)
    world.submit(living)
    assert contend(world, world.start()).tenure is None
    assert world.tasks["task 1"].ends == []
    world.check()


# ---------------------------------------------------------------------- single decisions

HERE = Identity(
    instance="here", service="shop", version="1", boot_id="boot", pid_namespace="a", pid=7, process_start=70
)
NOBODY: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("changes", "start_of_pid", "life"),
    [
        ({"pid": 8, "process_start": 80}, 80, Life.ALIVE),
        ({"pid": 8, "process_start": 80}, None, Life.DEAD),
        ({"pid": 8, "process_start": 80}, 81, Life.DEAD),
        ({"pid_namespace": "b"}, None, Life.UNKNOWN),
        ({"boot_id": "earlier"}, None, Life.UNKNOWN),
        ({"boot_id": ""}, 70, Life.UNKNOWN),
        ({"pid_namespace": ""}, 70, Life.UNKNOWN),
        ({"process_start": None}, 70, Life.UNKNOWN),
        ({"instance": "earlier"}, 70, Life.DEAD),
        ({"instance": "works"}, 70, Life.ALIVE),
    ],
)
def test_a_process_is_dead_only_where_the_system_proves_it(
    changes: dict[str, Any], start_of_pid: int | None, life: Life
) -> None:
    claimed = dataclasses.replace(HERE, **changes)
    assert life_of(claimed, HERE, start_of_pid, frozenset({"works"})) is life


def test_a_free_lock_and_no_claim_or_a_dead_owner_is_enough() -> None:
    assert Contender().decide(Look(0.0, True, {})) == Takeover(frozenset())
    assert Contender().decide(Look(0.0, True, {1: Life.DEAD, 2: Life.DEAD})) == Takeover(frozenset({1, 2}))
    assert Contender().decide(Look(0.0, True, {1: Life.DEAD, 2: Life.ALIVE})) is None
    assert Contender().decide(Look(0.0, False, {})) is None


def test_where_nothing_is_known_the_lock_must_stay_free_for_a_while_and_many_looks() -> None:
    contender = Contender()
    unknown = {1: Life.UNKNOWN}
    decisions = [contender.decide(Look(number * 0.1, True, unknown)) for number in range(6)]
    assert decisions == [*[None] * 5, Takeover(frozenset({1}))]
    contender = Contender()
    assert contender.decide(Look(0.0, True, unknown)) is None
    assert contender.decide(Look(FREE_SECONDS * 4, True, unknown)) is None, "a busy machine looked twice"
    assert contender.decide(Look(2.1, False, {})) is None
    for number in range(FREE_LOOKS):
        assert contender.decide(Look(2.2 + number * 0.01, True, unknown)) is None, "it begins anew"
    assert contender.decide(Look(9.0, True, {2: Life.UNKNOWN})) is None, "another owner has come"


def test_an_owner_that_was_replaced_never_writes_again() -> None:
    tenure = Tenure(1, pid=7)
    assert tenure.may_write(7)
    assert not tenure.may_write(8)
    assert tenure.fenced(1)
    assert not tenure.fenced(0)
    assert not tenure.fenced(1)
    assert not tenure.may_write(7)


# ---------------------------------------------------------------------- faults that the scripts must find


class IgnoresTheLock(World):
    def takes_lock(self, process: Process) -> bool:
        return True


class BelievesTheLockOnly(World):
    def life(self, owner: Identity, here: Process) -> Life:
        return Life.DEAD


class IgnoresNamespaces(World):
    def life(self, owner: Identity, here: Process) -> Life:
        return super().life(dataclasses.replace(owner, pid_namespace=here.identity.pid_namespace), here)


class IgnoresTheStart(World):
    def life(self, owner: Identity, here: Process) -> Life:
        pids = {one.identity.pid: one.identity.process_start for one in self.processes if one.is_alive}
        start = pids.get(owner.pid, owner.process_start)
        found = super().life(dataclasses.replace(owner, process_start=start), here)
        return Life.ALIVE if owner.pid == here.identity.pid else found


class WaitsForNothing(World):
    def life(self, owner: Identity, here: Process) -> Life:
        found = super().life(owner, here)
        return Life.DEAD if found is Life.UNKNOWN else found


class NeverRenews(World):
    def renew(self, process: Process) -> None:
        process.renewed_at = self.now


class KeepsAStaleList(World):
    def is_valid(self, takeover: Takeover, claims: dict[int, Owner]) -> bool:
        return True


class EndsTwice(World):
    def is_lost(self, task: Task) -> bool:
        return "lost" not in task.ends


class Unfenced(Tenure):
    def fenced(self, claims_found: int) -> bool:
        return True


class HasNoFence(World):
    def tenure(self, epoch: int, process: Process) -> Tenure:
        return Unfenced(epoch, process.identity.pid)


class Forkable(Tenure):
    def may_write(self, pid: int) -> bool:
        return not self.is_replaced


class LetsChildrenWrite(World):
    def tenure(self, epoch: int, process: Process) -> Tenure:
        return Forkable(epoch, process.identity.pid)


class InheritsLocks(World):
    def inheritor(self, process: Process) -> Process | None:
        return next((one for one in self.processes if one.parent is process and one.is_alive), None)


class SaysGoodbyeByName(World):
    def say_goodbye(self, process: Process) -> None:
        for owner in self.owners.values():
            if owner.process.identity.service == process.identity.service:
                owner.is_ended = True


SEEDED = [
    IgnoresTheLock,
    BelievesTheLockOnly,
    IgnoresNamespaces,
    IgnoresTheStart,
    WaitsForNothing,
    NeverRenews,
    KeepsAStaleList,
    EndsTwice,
    HasNoFence,
    LetsChildrenWrite,
    InheritsLocks,
    SaysGoodbyeByName,
]


SCRIPTS = 3_000


def test_random_scripts_find_nothing_where_there_is_no_fault() -> None:
    for seed in range(SCRIPTS // 10):
        play(World(), seed)


@pytest.mark.parametrize("fault", SEEDED, ids=lambda fault: fault.__name__)
def test_random_scripts_find_a_seeded_fault(fault: type[World]) -> None:
    for seed in range(SCRIPTS):
        try:
            play(fault(), seed)
        except AssertionError:
            return
    pytest.fail(f"{SCRIPTS} scripts have found nothing")


def test_a_running_owner_renews_its_lock_before_it_is_given_up() -> None:
    assert RENEWAL_SECONDS < FREE_SECONDS - RENEWAL_SECONDS
