"""The table of legal transitions, and what follows from it."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.tasks import ENDED, LEGAL_TRANSITIONS, EventKind, TaskStatus

PENDING, RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING
FINAL = {status for status in TaskStatus if status.final}

walks = st.lists(st.integers(0, 10), max_size=12)


def walk(choices: list[int]) -> list[TaskStatus]:
    """Follow the table from pending by these choices, as far as it leads."""
    path = [PENDING]
    for choice in choices:
        possible = sorted(LEGAL_TRANSITIONS[path[-1]])
        if not possible:
            break
        path.append(possible[choice % len(possible)])
    return path


def test_the_five_states_and_no_others_are_in_the_table() -> None:
    assert set(LEGAL_TRANSITIONS) == set(TaskStatus)
    assert {status.value for status in TaskStatus} == {
        "pending",
        "running",
        "completed",
        "failed",
        "cancelled",
    }


def test_the_final_states_are_completed_failed_and_cancelled() -> None:
    assert {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED} == FINAL
    assert set(ENDED) == FINAL
    assert [ENDED[status] for status in sorted(FINAL)] == [
        EventKind.CANCELLED,
        EventKind.COMPLETED,
        EventKind.FAILED,
    ]


@given(walks)
def test_every_walk_ends_at_most_once_and_never_leaves_a_final_state(choices: list[int]) -> None:
    path = walk(choices)
    assert all(status not in FINAL for status in path[:-1])


@given(walks)
def test_only_a_task_that_ran_completes(choices: list[int]) -> None:
    path = walk(choices)
    if path[-1] is TaskStatus.COMPLETED:
        assert path[-2] is RUNNING


@given(walks)
def test_a_task_is_pending_again_only_after_it_ran(choices: list[int]) -> None:
    path = walk(choices)
    for before, after in itertools.pairwise(path):
        assert after is not PENDING or before is RUNNING
        assert after is not before


def test_every_final_state_can_be_reached() -> None:
    assert LEGAL_TRANSITIONS[RUNNING] >= FINAL
    assert TaskStatus.CANCELLED in LEGAL_TRANSITIONS[PENDING]
