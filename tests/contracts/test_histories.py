"""What every history does (history/base.py): the last ended tasks whole, more as outlines, oldest out first."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanContext

from qorzen_obs.engines.traits import THREAD
from qorzen_obs.history import memory
from qorzen_obs.history.base import History, OnEvicted
from qorzen_obs.history.memory import MemoryHistory
from qorzen_obs.record import TaskRecord, TaskState
from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus
from tests.support import record

Make = Callable[[int, OnEvicted], History]

#: Each history by its name, made from how many to keep and what to call with an evicted record.
MAKE: dict[str, Make] = {"memory": MemoryHistory}
each_history = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)

SPAN = SpanContext(0xA, 0xB, is_remote=False)


def ignored(_: TaskRecord) -> None:
    """Nobody asks what was evicted."""


def ended(number: int, status: TaskStatus = TaskStatus.FAILED) -> TaskRecord:
    one = record(
        task_id=f"id {number}",
        sequence=number,
        name=f"job {number}",
        category=TaskCategory.IO,
        priority=TaskPriority.HIGH,
        plugin_id="reports",
        metadata={"number": number},
        engine=THREAD,
        created_at=10.0,
    )
    one.state = TaskState(
        status,
        attempt=1,
        started_at=11.0,
        completed_at=12.0,
        queue_wait_seconds=0.5,
        duration_seconds=1.0,
        error="private words",
        error_type="ValueError",
        result=None,
        span=SPAN,
    )
    return one


@each_history
def test_a_kept_record_is_whole_and_an_evicted_one_is_an_outline(make: Make) -> None:
    evicted: list[TaskRecord] = []
    history = make(1, evicted.append)
    old, new = ended(1), ended(2)
    assert not history.add(old)
    history.shrink()
    assert evicted == []
    assert history.add(new)
    history.shrink()
    assert evicted == [old]
    assert (history.record("id 1"), history.record("id 2")) == (None, new)
    whole, outline = history.info("id 2"), history.info("id 1")
    assert whole is not None
    assert outline is not None
    assert (whole.evicted, whole.error, whole.metadata) == (False, "private words", {"number": 2})
    assert (outline.evicted, outline.error, outline.metadata) == (True, None, {})
    assert (outline.status, outline.error_type, outline.duration_seconds, outline.engine) == (
        TaskStatus.FAILED,
        "ValueError",
        1.0,
        "thread",
    )
    assert (outline.created_at, outline.started_at, outline.completed_at) == (10.0, 11.0, 12.0)
    assert outline.queue_wait_seconds == 0.5
    assert (outline.trace_id, outline.span_id) == (f"{0xA:032x}", f"{0xB:016x}")
    assert history.info("id 3") is None


@each_history
def test_an_outline_of_a_task_that_never_ran_has_no_trace(make: Make) -> None:
    history = make(0, ignored)
    never_ran = ended(1, TaskStatus.CANCELLED)
    never_ran.state = never_ran.state.but(span=None, queue_wait_seconds=None)
    history.add(never_ran)
    history.shrink()
    outline = history.info("id 1")
    assert outline is not None
    assert (outline.evicted, outline.trace_id, outline.span_id, outline.queue_wait_seconds) == (
        True,
        None,
        None,
        None,
    )


@each_history
def test_a_failure_is_still_whole_after_any_number_of_others_and_they_after_any_number_of_failures(
    make: Make,
) -> None:
    evicted: list[TaskRecord] = []
    history = make(2, evicted.append)
    statuses = [TaskStatus.FAILED, *[TaskStatus.COMPLETED, TaskStatus.CANCELLED] * 10, TaskStatus.FAILED]
    for number, status in enumerate(statuses):
        history.add(ended(number, status))
        history.shrink()
    assert [kept.sequence for kept in history.records()] == [0, 19, 20, 21]
    assert len(history) == 4
    for number in range(30, 33):
        history.add(ended(number))
    history.shrink()
    assert [kept.sequence for kept in history.records()] == [19, 20, 31, 32]
    history.keep = 1
    history.shrink()
    assert [kept.sequence for kept in history.records()] == [20, 32]
    gone = {*range(len(statuses)), 30, 31} - {20}
    assert sorted(record.sequence for record in evicted) == sorted(gone)


@each_history
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 6))
def test_the_last_ones_are_whole_and_the_rest_outlines(make: Make, keeps: list[int], first: int) -> None:
    history = make(first, ignored)
    for number, keep in enumerate(keeps):
        history.add(ended(number))
        history.keep = keep
        history.shrink()
        assert len(history) <= keep
        assert [kept.sequence for kept in history.records()] == list(
            range(number + 1 - len(history), number + 1)
        )
        for earlier in range(number + 1):
            info = history.info(f"id {earlier}")
            assert info is not None
            assert info.evicted is (earlier <= number - len(history))


def test_outlines_in_memory_are_bounded_too_and_the_oldest_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "MAX_OUTLINES", 3)
    history = MemoryHistory(1, ignored)
    for number in range(6):
        history.add(ended(number))
        history.shrink()
    assert [history.info(f"id {number}") is None for number in range(6)] == [True, True] + [False] * 4


def big(number: int, size: int, status: TaskStatus = TaskStatus.COMPLETED) -> TaskRecord:
    one = ended(number, status)
    one.kept_bytes = size
    return one


def whole(history: History) -> list[int]:
    return [one.sequence for one in history.records()]


@each_history
def test_the_oldest_go_where_the_kept_ones_take_too_much(make: Make) -> None:
    history = make(100, ignored)
    history.keep_bytes = 1_000_000
    for number in range(9):
        assert not history.add(big(number, 100_000)), number
    assert history.add(big(9, 100_000))
    history.shrink()
    assert whole(history) == list(range(1, 10)), "one more would not have fitted"
    history.keep_bytes = 500_000
    history.shrink()
    assert whole(history) == [6, 7, 8, 9]
    found = history.info("id 5")
    assert found is not None
    assert found.evicted
    history.keep_bytes = 0
    history.shrink()
    assert whole(history) == []


@each_history
@pytest.mark.parametrize("many", [TaskStatus.FAILED, TaskStatus.COMPLETED], ids=["failed ones", "other ones"])
def test_half_of_the_room_is_for_the_failed_and_half_for_the_others(make: Make, many: TaskStatus) -> None:
    few = TaskStatus.COMPLETED if many is TaskStatus.FAILED else TaskStatus.FAILED
    history = make(1_000, ignored)
    history.keep_bytes = 1_000_000
    for number in range(4):
        history.add(big(number, 100_000, few))
    for number in range(4, 50):
        history.add(big(number, 100_000, many))
        history.shrink()
    assert whole(history) == [0, 1, 2, 3, 45, 46, 47, 48, 49]
