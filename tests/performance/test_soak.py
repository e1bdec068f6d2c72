"""F26: under the full mix nothing grows, and what tells that can tell growth from noise."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.performance import soak
from tests.services.program import ROOT, environment

SECONDS = 30


@pytest.mark.slow
def test_f26_half_a_minute_of_everything_at_once_leaves_nothing_behind() -> None:
    program = subprocess.run(
        [sys.executable, "-m", "tests.performance.soak", str(SECONDS)],
        cwd=ROOT,
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stdout


def readings(
    *,
    rss: Callable[[int], int] = lambda number: 70_000_000,
    blocks: Callable[[int], int] = lambda number: 360_000,
    objects: Callable[[int], int] = lambda number: 1_000,
    threads: Callable[[int], int] = lambda number: 12,
    seconds: float = 5.0,
) -> list[soak.Reading]:
    """Readings of which these go as told by the number of each."""
    return [
        soak.Reading(
            number * seconds,
            rss(number),
            blocks(number),
            soak.Names(Span=objects(number)),
            {what: soak.Names(one=threads(number) if what == "threads" else 3) for what in soak.HELD},
        )
        for number in range(12)
    ]


def test_what_is_flat_has_not_grown() -> None:
    assert soak.grown(readings()) == []


def test_steps_of_the_allocator_and_teeth_of_a_saw_are_no_growth() -> None:
    noisy = readings(
        rss=lambda number: 70_000_000 + 600_000 * (number > 3),
        blocks=lambda number: 360_000 + 1_500 * (number % 4),
        objects=lambda number: 1_000 + 40 * (number % 3),
    )
    assert soak.grown(noisy) == []


def test_one_object_more_with_each_of_twenty_tasks_is_named() -> None:
    (line,) = soak.grown(readings(objects=lambda number: 1_000 + 20 * number))
    assert line.startswith("objects of type Span: +")


def test_blocks_that_no_type_accounts_for_are_told() -> None:
    (line,) = soak.grown(readings(blocks=lambda number: 360_000 + 700 * number))
    assert line.startswith("blocks of memory: +")


def test_memory_is_told_by_its_slope_which_is_held_to_more_the_longer_it_was_watched() -> None:
    def half_a_megabyte_each(number: int) -> int:
        return 70_000_000 + 500_000 * number

    def a_little_each(number: int) -> int:
        return 70_000_000 + 100_000 * number

    assert soak.grown(readings(rss=half_a_megabyte_each))[0].startswith("memory: 360.00 MB an hour")
    assert soak.grown(readings(rss=a_little_each)) == []
    assert soak.grown(readings(rss=a_little_each, seconds=180.0))[0].startswith("memory: 2.00 MB an hour")


def test_what_is_held_is_told_by_name_where_there_is_more_and_more() -> None:
    assert soak.grown(readings(threads=lambda number: 12 + number % 3)) == []
    (line,) = soak.grown(readings(threads=lambda number: 12 + number))
    assert line == "threads: 23 and before 12; new are {'one': 11}"
