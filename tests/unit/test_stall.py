"""A scheduler that nobody asks what may start is told from one whose tasks wait for a slot, or for their time."""

import pytest

from qorzen_obs.scheduling.limits import Limits
from qorzen_obs.scheduling.scheduler import Scheduler
from qorzen_obs.scheduling.stall import StallWatch
from qorzen_obs.tasks import TaskCategory
from tests.unit.test_scheduler import Task


class Watched:
    """A scheduler of one slot, and for how long it has been stuck."""

    def __init__(self) -> None:
        self.limits = Limits(1, categories={TaskCategory.IO: 1})
        self.scheduler: Scheduler[Task] = Scheduler(self.limits, ageing_seconds=300.0)
        self._watch = StallWatch()

    def stalled(self, now: float) -> float:
        return self._watch.seconds(self.scheduler.startable(now), now)


@pytest.fixture
def one() -> Watched:
    return Watched()


def test_a_task_that_nothing_keeps_from_starting_is_a_stall_from_the_second_look_on(one: Watched) -> None:
    assert one.stalled(0.0) == 0.0
    one.scheduler.push(Task(1), 1.0)
    assert one.stalled(5.0) == 0.0, "whoever looks at just this moment sees it too, and all is well"
    assert one.stalled(15.0) == 10.0
    assert one.scheduler.start_next(16.0) is not None
    assert one.stalled(16.0) == 0.0


def test_tasks_that_wait_for_a_slot_are_none(one: Watched) -> None:
    for sequence in range(3):
        one.scheduler.push(Task(sequence), 0.0)
    one.scheduler.start_next(0.0)
    assert [one.stalled(now) for now in (1.0, 100.0)] == [0.0, 0.0]


def test_looks_that_each_meet_a_slot_between_two_tasks_are_none(one: Watched) -> None:
    tasks = [Task(sequence) for sequence in range(10)]
    for task in tasks:
        one.scheduler.push(task, 0.0)
    running = one.scheduler.start_next(0.0)
    for now in range(20, 200, 20):
        assert running is not None
        one.scheduler.finish(running)
        assert one.stalled(float(now)) == 0.0  # the slot is free
        running = one.scheduler.start_next(float(now))


def test_a_slot_that_each_time_goes_back_to_a_lender_is_none(one: Watched) -> None:
    lender, waits = Task(1), Task(2)
    one.scheduler.push(lender, 0.0)
    one.scheduler.start_next(0.0)
    one.scheduler.push(waits, 0.0)
    for now in (20.0, 40.0):
        one.scheduler.lend(lender)
        assert one.stalled(now) == 0.0
        one.scheduler.take_back(lender)
        assert one.scheduler.resume_next() is lender


def test_a_task_whose_time_has_come_and_that_nobody_has_looked_at_is_one(one: Watched) -> None:
    one.scheduler.push(Task(1, eligible_at=10.0), 0.0)
    assert one.stalled(9.0) == 0.0
    assert one.stalled(30.0) == 0.0
    assert one.stalled(45.0) == 15.0
    assert one.scheduler.start_next(46.0) is not None
    assert one.stalled(47.0) == 0.0


def test_tasks_whose_times_come_one_after_the_other_are_none_where_all_slots_are_held(one: Watched) -> None:
    one.scheduler.push(Task(0), 0.0)
    one.scheduler.start_next(0.0)
    for sequence in range(1, 10):
        one.scheduler.push(Task(sequence, eligible_at=20.0 * sequence), 0.0)
    for sequence in range(1, 10):
        now = 20.0 * sequence
        assert one.stalled(now) == 0.0  # just due, and nobody has looked yet
        assert one.scheduler.start_next(now) is None
