"""Which tasks a query selects, and how its pages fit together while tasks come and go."""

from contextvars import Context
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from qorzen_obs.definition import NO_DEFINITION
from qorzen_obs.engines.traits import THREAD
from qorzen_obs.record import ACCEPTED, TaskRecord
from qorzen_obs.server.problems import ProblemError
from qorzen_obs.server.query import read_choice
from qorzen_obs.server.tasks import (
    Order,
    TaskFilter,
    read_cursor,
    read_filter,
    select,
    write_cursor,
)
from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus


def a_record(
    sequence: int,
    *,
    name: str = "invoice.send",
    category: TaskCategory = TaskCategory.CORE,
    priority: TaskPriority = TaskPriority.NORMAL,
    plugin_id: str | None = None,
    status: TaskStatus = TaskStatus.PENDING,
    completed_at: float | None = None,
    error: str | None = None,
) -> TaskRecord:
    record = TaskRecord(
        task_id=f"task-{sequence}",
        sequence=sequence,
        name=name,
        func=print,
        args=(),
        kwargs={},
        category=category,
        priority=priority,
        cell=0,
        plugin_id=plugin_id,
        metadata=None,
        timeout=None,
        cancellable=True,
        definition=NO_DEFINITION,
        limit=None,
        wants_progress=False,
        engine=THREAD,
        context=Context(),
        created_at=60.0 * sequence,  # so that its minute of 1970 is its number
        eligible_at=0.0,
        eligible_wall=0.0,
    )
    record.state = ACCEPTED.but(status=status, completed_at=completed_at, error=error)
    return record


def ids(records: list[TaskRecord], query: str) -> list[str]:
    """The ids that a query selects, without the common beginning."""
    values = MultiDict(parse_qsl(query, keep_blank_values=True))
    infos, _ = select(
        records, read_filter(values, str), read_choice(values, "order", Order.NEWEST), None, 100
    )
    return [info.task_id.removeprefix("task-") for info in infos]


RECORDS = [
    a_record(6, name="a,b"),
    a_record(5, status=TaskStatus.FAILED, completed_at=10.0, error="Disk FULL"),
    a_record(4, category=TaskCategory.IO, priority=TaskPriority.HIGH, plugin_id="crm"),
    a_record(3, status=TaskStatus.COMPLETED, completed_at=30.0, plugin_id="mail"),
    a_record(2, status=TaskStatus.RUNNING, priority=TaskPriority.LOW),
    a_record(1, status=TaskStatus.CANCELLED, completed_at=20.0, name="a"),
]


@pytest.mark.parametrize(
    ("query", "selected"),
    [
        ("", "654321"),
        ("status=", "654321"),
        ("status=failed", "5"),
        ("status=failed&status=running", "52"),
        ("status=failed, running", "52"),
        ("status=Failed,", "5"),
        ("category=io", "4"),
        ("priority=high", "4"),
        ("priority=100,0", "42"),
        ("plugin_id=crm,mail", "43"),
        ("plugin_id=crm&plugin_id=mail", "43"),
        ("name=a", "1"),
        ("name=a,b", "61"),
        ("q=disk full", "5"),
        ("q=INVOICE", "5432"),
        ("q=crm&q=mail", "43"),
        ("q=task-2", "2"),
        ("q=nothing", ""),
        ("created_after=1970-01-01T00:03:00Z", "6543"),
        ("created_before=1970-01-01T00:03:00Z", "21"),
        ("created_after=1970-01-01T00:02:00Z&created_before=1970-01-01T00:03:00.5Z", "32"),
        ("created_after=1970-01-01t00:59:00.0000001%2b00:55", "654"),
        ("created_after=&created_before=", "654321"),
        ("status=failed&category=io", ""),
        ("order=newest", "654321"),
        ("order=oldest", "123456"),
        ("order=priority", "413562"),
        ("order=ended", "315"),
    ],
)
def test_a_query_selects_by_every_field(query: str, selected: str) -> None:
    assert "".join(ids(RECORDS, query)) == selected


@pytest.mark.parametrize(
    ("query", "parameter", "allowed"),
    [
        ("status=<b>", "status", "pending, running, completed, failed, cancelled"),
        ("category=<b>", "category", "core, plugin, ui, io, background, user"),
        ("priority=<b>", "priority", "low (0), normal (50), high (100), critical (200)"),
        ("priority=51", "priority", "low (0)"),
        ("order=<b>", "order", "newest, oldest, priority, ended"),
        ("order=newest&order=oldest", "order", "one value"),
        ("created_after=yesterday", "created_after", "a moment by RFC 3339"),
        ("created_before=1970-01-01T00:03:00", "created_before", "a moment by RFC 3339"),
        ("created_before=1970-13-01T00:03:00Z", "created_before", "a moment by RFC 3339"),
        ("created_after=1970-01-01", "created_after", "a moment by RFC 3339"),
        ("created_after=1970-W01-1T00:03:00Z", "created_after", "a moment by RFC 3339"),
        (
            "created_after=1970-01-01T00:03:00Z&created_after=1970-01-01T00:03:00Z",
            "created_after",
            "one value",
        ),
    ],
)
def test_a_value_outside_its_set_is_refused_by_name(query: str, parameter: str, allowed: str) -> None:
    with pytest.raises(ProblemError) as refused:
        ids(RECORDS, query)
    assert refused.value.status == 422
    assert refused.value.parameter == parameter
    assert allowed in refused.value.detail
    assert "<b>" not in refused.value.detail


@pytest.mark.parametrize("order", Order)
def test_a_cursor_is_read_as_it_was_written(order: Order) -> None:
    key = (1_700_000_000.123456, 2**40)
    assert read_cursor(MultiDict(cursor=write_cursor(order, key)), order) == key


@pytest.mark.parametrize(
    "cursor",
    ["x", "====", "é", "\udcff", "W10", write_cursor(Order.OLDEST, (0.0, 1)), "bnVsbA", "WzEsMiwzXQ"],
)
def test_a_cursor_of_another_making_is_refused(cursor: str) -> None:
    with pytest.raises(ProblemError) as refused:
        read_cursor(MultiDict(cursor=cursor), Order.NEWEST)
    assert refused.value.parameter == "cursor"


PRIORITIES = list(TaskPriority)


@given(
    order=st.sampled_from(Order),
    stays=st.sets(st.integers(1, 60)),
    limit=st.integers(1, 7),
    changes=st.lists(st.tuples(st.sets(st.integers(1, 60)), st.integers(0, 5)), max_size=80),
)
def test_what_stays_is_shown_once_and_in_order_while_the_others_come_and_go(
    order: Order, stays: set[int], limit: int, changes: list[tuple[set[int], int]]
) -> None:
    """Before each page some of the others leave and new ones are accepted (and end at once)."""
    others = set(range(1, 61)) - stays
    newest = 60
    shown: list[int] = []
    after = None
    for leaves, comes in [*changes, *[(set[int](), 0)] * 80]:
        others -= leaves
        others |= set(range(newest + 1, newest + 1 + comes))
        newest += comes
        records = [
            # Ends come in another order than acceptances, some at the same moment.
            a_record(
                n,
                status=TaskStatus.COMPLETED,
                completed_at=float(n if n > 60 else n * 7 % 30),
                priority=PRIORITIES[n * 7 % 4],
            )
            for n in sorted(stays | others, reverse=True)
        ]
        infos, after = select(records, TaskFilter(), order, after, limit)
        shown += [int(info.task_id.removeprefix("task-")) for info in infos]
        if after is None:
            break
    assert after is None
    assert len(shown) == len(set(shown))
    in_order = {
        Order.NEWEST: sorted(stays, reverse=True),
        Order.OLDEST: sorted(stays),
        Order.PRIORITY: sorted(stays, key=lambda n: (-PRIORITIES[n * 7 % 4], n)),
        Order.ENDED: sorted(stays, key=lambda n: (n * 7 % 30, n), reverse=True),
    }
    assert [n for n in shown if n in stays] == in_order[order]
