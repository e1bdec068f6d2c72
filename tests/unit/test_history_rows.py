"""Rows of the durable history: their order, and what a task that was lost says (history/rows.py)."""

import doctest

import pytest

from qorzen_obs.history import rows
from qorzen_obs.history.rows import RowMaker, version_of, with_epoch
from qorzen_obs.tasks import CANCELLED, COMPLETED, FAILED, PENDING, RUNNING, TaskPriority, TaskStatus
from tests.histories import accepted, end, run

CLAIM_KEY = -2  #: its place in a row


def test_the_examples_hold() -> None:
    results = doctest.testmod(rows)
    assert results.attempted > 0
    assert results.failed == 0


def test_the_version_rises_with_each_transition_of_a_task() -> None:
    one = accepted()
    life = [one.state, run(one).state, one.state.but(status=PENDING), run(one, attempt=2).state]
    versions = [version_of(state) for state in life]
    assert versions == sorted(set(versions))
    for status in (COMPLETED, FAILED, CANCELLED):
        assert version_of(end(one, status).state) > versions[-1]
    assert version_of(accepted().state.but(status=CANCELLED)) > version_of(accepted().state)


@pytest.mark.parametrize(
    ("ageing_seconds", "priority", "key"),
    [
        (300.0, TaskPriority.LOW, 10.0),
        (300.0, TaskPriority.HIGH, 10.0 - 100 * 6.0),
        (0.0, TaskPriority.HIGH, 10.0 - 100 * 1e10),
    ],
)
def test_the_claim_key_is_the_order_in_which_the_scheduler_starts_tasks(
    ageing_seconds: float, priority: TaskPriority, key: float
) -> None:
    one = accepted(priority=priority)
    row = RowMaker(ageing_seconds=ageing_seconds).row(one, one.state, one.progress, epoch=1, at=1.0)
    assert row[CLAIM_KEY] == key


def test_an_offered_record_that_has_no_time_of_acceptance_yet_gets_that_of_the_offer() -> None:
    one = accepted(created_at=0.0, eligible_wall=0.0, priority=TaskPriority.LOW)
    row = RowMaker(ageing_seconds=300.0).row(one, one.state, one.progress, epoch=1, at=7.0)
    assert (row[12], row[CLAIM_KEY]) == (7.0, 7.0)
    assert with_epoch(row, 1) is row
    assert with_epoch(row, 2)[2] == 2


@pytest.mark.parametrize("status", [PENDING, RUNNING])
def test_a_lost_task_without_progress_says_nothing_of_it(status: TaskStatus) -> None:
    text = rows.lost_error(
        status.value, 1.0, None, '{"progress": {"percent": 0.0, "message": "", "updated_at": null}}'
    )
    assert "progress" not in text
