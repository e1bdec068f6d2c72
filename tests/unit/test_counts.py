"""The counters: sums by each axis, and readings from other threads that are of one moment."""

import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.counts import CELL_OF, CELLS, TaskCounts
from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus


def test_there_is_a_cell_for_each_kind_of_task() -> None:
    assert len(CELLS) == len(set(CELLS)) == len(TaskCategory) * len(TaskPriority)
    assert all(CELLS[index] == cell for cell, index in CELL_OF.items())


def test_every_sum_names_everything_even_what_is_0() -> None:
    view = TaskCounts().read()
    assert view.total == 0
    assert view.by_status() == dict.fromkeys(TaskStatus, 0)
    assert view.by_category() == dict.fromkeys(TaskCategory, 0)
    assert view.by_priority() == dict.fromkeys(TaskPriority, 0)


moves = st.lists(
    st.tuples(st.sampled_from(range(len(CELLS))), st.sampled_from(list(TaskStatus))), max_size=60
)


@given(moves)
def test_all_sums_follow_what_happened(ends: list[tuple[int, TaskStatus]]) -> None:
    counts = TaskCounts()
    for cell, end in ends:
        counts.accept(cell)
        if end is not TaskStatus.PENDING:
            counts.move(cell, TaskStatus.PENDING, TaskStatus.RUNNING)
        if end.final:
            counts.move(cell, TaskStatus.RUNNING, end)
    view = counts.read()
    assert view.total == len(ends)
    for status in TaskStatus:
        assert view.by_status()[status] == counts.get(status) == [end for _, end in ends].count(status)
    for cell, (category, priority) in enumerate(CELLS):
        here = [end for other, end in ends if other == cell]
        assert [view.by_cell[category, priority, status] for status in TaskStatus] == [
            here.count(status) for status in TaskStatus
        ]
    assert sum(view.by_category().values()) == sum(view.by_priority().values()) == len(ends)


def test_a_reader_that_meets_a_write_half_done_waits_until_it_is_whole() -> None:
    counts, totals = TaskCounts(), list[int]()
    for cell in range(3):
        counts.accept(cell)
    counts.version += 1  # as `move` begins
    counts._cells[0] -= 1
    reader = threading.Thread(target=lambda: totals.append(counts.read().total))
    reader.start()
    reader.join(0.02)
    assert totals == []
    counts._cells[-1] += 1
    counts.version += 1
    reader.join()
    assert totals == [3]


@pytest.fixture
def threads_change_often() -> object:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_change_often")
def test_a_reader_on_another_thread_never_sees_a_move_half_done() -> None:
    counts, stop, totals = TaskCounts(), threading.Event(), set[int]()
    for cell in range(len(CELLS)):
        counts.accept(cell)

    def read() -> None:
        while not stop.is_set():
            totals.add(counts.read().total)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(500):
        for cell in range(len(CELLS)):
            counts.move(cell, TaskStatus.PENDING, TaskStatus.RUNNING)
            counts.move(cell, TaskStatus.RUNNING, TaskStatus.PENDING)
    stop.set()
    reader.join()
    assert totals == {len(CELLS)}
