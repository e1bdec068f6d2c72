"""Lists in order cost a walk over the tasks, however many there are: counted, not timed."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from qorzen_obs.core.task_table import TaskTable, by_priority
from qorzen_obs.history.memory import MemoryHistory
from qorzen_obs.record import ACCEPTED, TaskRecord
from qorzen_obs.server.tasks import Order, TaskFilter, select
from qorzen_obs.tasks import TaskPriority, TaskStatus
from tests.support import record

TASKS = 2_000


class Counted(int):
    """A number that counts how often any of its kind is compared."""

    compared = 0

    def __lt__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) < int(other)

    def __gt__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) > int(other)


def numbered(sequence: int, **fields: Any) -> TaskRecord:
    made = record(task_id=f"task-{sequence}", sequence=Counted(sequence), **fields)
    made.state = ACCEPTED.but(status=TaskStatus.COMPLETED)
    return made


@pytest.fixture
def table() -> TaskTable:
    """Many tasks that live, in order, and some that have ended, in another."""
    random.seed(1)
    table = TaskTable(lambda on_evicted: MemoryHistory(TASKS, on_evicted))
    priorities = itertools.cycle(TaskPriority)
    made = [numbered(sequence, priority=next(priorities)) for sequence in range(1, TASKS + 1)]
    for ended in random.sample(made, 20):
        table.history.add(ended)
    for one in made:
        if table.history.record(one.task_id) is None:
            table.live[one.task_id] = one
    Counted.compared = 0
    return table


def test_all_tasks_come_newest_first_after_about_one_comparison_each(table: TaskTable) -> None:
    assert [one.sequence for one in table.records()] == list(range(TASKS, 0, -1))
    assert Counted.compared < 1.5 * TASKS  # sorting from scratch takes 11 for each


def test_tasks_by_priority_are_found_without_a_comparison(table: TaskTable) -> None:
    records = table.records()
    Counted.compared = 0
    found = list(by_priority(records))
    assert Counted.compared == 0
    assert found == sorted(records, key=lambda one: (-one.priority, int(one.sequence)))


@pytest.mark.parametrize("order", [Order.NEWEST, Order.OLDEST, Order.PRIORITY])
def test_a_page_takes_no_comparisons_of_its_own(table: TaskTable, order: Order) -> None:
    records = table.records()
    Counted.compared = 0
    infos, following = select(records, TaskFilter(), order, None, 100)
    assert (len(infos), following is None) == (100, False)
    assert Counted.compared == 0
