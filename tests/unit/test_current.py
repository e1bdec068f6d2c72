"""current_task() and track(), with a task that only notes what it is told."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from qorzen_obs.core.current_task import current_task
from qorzen_obs.current import CURRENT, track
from qorzen_obs.errors import TaskError


class Notes:
    def __init__(self) -> None:
        self.reports: list[tuple[float, str]] = []

    def progress(self, percent: float, message: str = "") -> None:
        self.reports.append((percent, message))


@pytest.fixture
def notes() -> Iterator[Notes]:
    notes = Notes()
    token = CURRENT.set(notes)  # type: ignore[arg-type]  # it has what is used
    yield notes
    CURRENT.reset(token)


def test_outside_a_task_the_error_says_so() -> None:
    with pytest.raises(TaskError, match="outside a task; call it from a callable that was submitted"):
        current_task()
    with pytest.raises(TaskError, match="outside a task"):
        track([1])


def test_inside_a_task_it_is_that_task(notes: Notes) -> None:
    assert current_task() is notes  # type: ignore[comparison-overlap]  # as above


def test_nothing_is_reported_before_the_first_item_is_taken(notes: Notes) -> None:
    tracked = track([1, 2])
    assert notes.reports == []
    assert next(tracked) == 1
    assert notes.reports == [(0, "0/2")]


@pytest.mark.parametrize("items", [[7, 8], (7, 8), {7: 0, 8: 0}, range(7, 9)], ids=repr)
def test_what_has_a_length_is_tracked_by_its_share(notes: Notes, items: Any) -> None:
    assert list(track(items)) == [7, 8]
    assert notes.reports == [(0, "0/2"), (50, "1/2"), (100, "2/2")]


def test_nothing_to_do_is_no_division_by_zero(notes: Notes) -> None:
    assert list(track([])) == []
    assert notes.reports == [(0, "0")]


def test_a_generator_reports_its_count_or_the_share_of_a_total(notes: Notes) -> None:
    assert list(track(iter("ab"))) == ["a", "b"]
    assert notes.reports == [(0, "0"), (0, "1"), (0, "2")]
    notes.reports.clear()
    assert list(track(iter("ab"), total=4, message="letters")) == ["a", "b"]
    assert notes.reports == [(0, "letters"), (25, "letters"), (50, "letters")]


async def letters() -> AsyncIterator[str]:
    yield "a"
    yield "b"


async def test_an_async_iterable_is_tracked_alike(notes: Notes) -> None:
    assert [letter async for letter in track(letters(), total=2)] == ["a", "b"]
    assert notes.reports == [(0, "0/2"), (50, "1/2"), (100, "2/2")]


def test_an_item_that_fails_stops_the_reports_there(notes: Notes) -> None:
    def two() -> Iterator[int]:
        yield 1
        raise ValueError("no second")

    with pytest.raises(ValueError, match="no second"):
        list(track(two(), total=2))
    assert notes.reports == [(0, "0/2")]
