"""One list of live, kept and stored tasks: its pages together are the union, in order, whatever their size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qorzen_obs.history.base import TaskQuery, sort_value
from qorzen_obs.record import TaskRecord, TaskState
from qorzen_obs.server.tasks import STORED_ORDERS, Order, TaskFilter, in_positions
from qorzen_obs.server.union import Listed, Position, is_after, page_of_both, position_of, read_stored
from qorzen_obs.tasks import COMPLETED, FAILED, PENDING, RUNNING, TaskInfo, TaskPriority, TaskStatus
from tests.services.stored_tasks import ListedStore
from tests.support import record

IDS = [f"task-{number}" for number in range(12)]
#: Few moments, so that many tasks have the same.
MOMENTS = st.sampled_from([1_000.0, 1_000.25, 1_000.5, 2_000.0])


@st.composite
def records(draw: st.DrawFn) -> list[TaskRecord]:
    """Tasks of each state, with ids of their own."""
    ids = draw(st.lists(st.sampled_from(IDS), unique=True))
    return [_made(draw, task_id, number) for number, task_id in enumerate(ids)]


def _made(draw: st.DrawFn, task_id: str, sequence: int) -> TaskRecord:
    made = record(
        task_id=task_id,
        sequence=sequence,
        created_at=draw(MOMENTS),
        priority=draw(st.sampled_from(list(TaskPriority))),
    )
    status = draw(st.sampled_from([PENDING, RUNNING, COMPLETED, FAILED]))
    fields: dict[str, Any] = {"completed_at": draw(MOMENTS)} if status.final else {}
    made.state = TaskState(status, attempt=1, **fields)
    return made


def pages(
    memory: Sequence[TaskRecord], store: ListedStore, wanted: TaskFilter, order: Order, size: int
) -> list[Listed]:
    """Every page of the list, put together."""
    found: list[Listed] = []
    after: Position | None = None
    query = wanted.query(STORED_ORDERS[order])
    assert query is not None
    while True:
        page, after = page_of_both(
            in_positions(memory, wanted, order, after, size + 1),
            {one.task_id for one in memory},
            read_stored(store, query, after, size + 1),
            STORED_ORDERS[order],
            size,
        )
        assert len(page) == size or after is None
        found += page
        if after is None:
            return found


@settings(deadline=None)
@given(
    memory=records(),
    on_disk=records(),
    order=st.sampled_from(Order),
    size=st.integers(1, 15),
    statuses=st.frozensets(st.sampled_from(TaskStatus), max_size=2),
)
def test_pages_together_are_the_union_in_order_whatever_their_size(
    memory: list[TaskRecord],
    on_disk: list[TaskRecord],
    order: Order,
    size: int,
    statuses: frozenset[TaskStatus],
) -> None:
    stored_order = STORED_ORDERS[order]
    store = ListedStore(one.info() for one in on_disk)
    newest = {**store.infos, **{one.task_id: one.info() for one in memory}}  # memory wins

    found = pages(memory, store, TaskFilter(statuses=statuses), order, size)

    expected = [
        info
        for info in newest.values()
        if (not statuses or info.status in statuses)
        and (order is not Order.ENDED or info.completed_at is not None)
    ]
    expected.sort(
        key=lambda info: position_of(info, stored_order), reverse=stored_order not in ("oldest", "priority")
    )
    assert [listed.info for listed in found] == expected
    in_memory = {one.task_id for one in memory}
    assert all(listed.stored is (listed.info.task_id not in in_memory) for listed in found)


def test_a_page_that_memory_fills_reads_one_part_of_the_store() -> None:
    memory = [record(task_id=f"task-{at:04}", sequence=at, created_at=float(at)) for at in range(1_000)]
    store = ListedStore(one.info() for one in memory)
    page, _ = page_of_both(
        in_positions(memory, TaskFilter(), Order.NEWEST, None, len(memory)),
        {one.task_id for one in memory},
        read_stored(store, TaskQuery(), None, 11),
        "newest",
        10,
    )
    assert [listed.info.task_id for listed in page] == [f"task-{at:04}" for at in range(999, 989, -1)]
    assert store.asked == 1


@pytest.mark.parametrize("order", ["newest", "oldest", "priority", "ended"])
def test_every_task_stands_behind_the_start_and_none_behind_itself(order: Any) -> None:
    info: TaskInfo = record(created_at=3.0).info()
    position = position_of(info, order)
    assert position == (sort_value(info, order), info.task_id)
    assert is_after(position, None, order)
    assert not is_after(position, position, order)
