"""How many bytes a value keeps alive."""

import array
import functools
import itertools
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from qorzen_obs.footprint import MAX_OBJECTS, footprint_of
from tests import hostile
from tests.hostile import RAISED, VALUE_HOOKS

MEGABYTE = 1_000_000
BIG = b"x" * MEGABYTE
NUMBERS = itertools.count(1)


@dataclass
class Report:
    data: Any


class Slotted:
    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = data


class Array:
    """As an array of numpy, which says its size."""

    nbytes = MEGABYTE


class Data(bytes):
    __slots__ = ()


class Row(NamedTuple):
    data: bytes


def function(data: bytes) -> None: ...


@pytest.mark.parametrize(
    "value",
    [
        BIG,
        bytearray(BIG),
        Data(BIG),
        "x" * MEGABYTE,
        "\u20ac" * (MEGABYTE // 2),
        memoryview(BIG),
        memoryview(BIG)[:10],
        array.array("b", BIG),
        Array(),
        [BIG],
        (1, (2, (3, [BIG]))),
        {"key": BIG},
        {BIG: "value"},
        frozenset({BIG}),
        deque([BIG]),
        Report(BIG),
        Slotted([BIG]),
        [Report({"rows": BIG})],
        Row(BIG),
        functools.partial(function, BIG),
        functools.partial(function, data=BIG),
        [None] * (MEGABYTE // 8),
        [bytes(1_000) for _ in range(1_000)],
    ],
    ids=lambda value: f"{type(value).__name__} {next(NUMBERS)}",
)
def test_texts_buffers_and_what_contains_them_count(value: object) -> None:
    assert MEGABYTE <= footprint_of(value) <= 1.2 * MEGABYTE


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        2.5,
        True,
        "text",
        (),
        [1, 2],
        {"a": 1},
        object(),
        function,
        Report,
        pytest,
        Report(Report(BIG)),
    ],
    ids=lambda value: f"{type(value).__name__} {next(NUMBERS)}",
)
def test_small_values_and_what_is_shared_count_for_little(value: object) -> None:
    assert footprint_of(value) < 1_000


def test_a_value_counts_once_however_often_it_is_there() -> None:
    circle: list[Any] = [BIG, BIG, (BIG,)]
    circle.append(circle)
    assert footprint_of(circle) < 1.2 * MEGABYTE


def test_the_number_of_objects_that_are_looked_at_is_bounded() -> None:
    looked_at = 0

    class Counted:
        @property
        def nbytes(self) -> int:
            nonlocal looked_at
            looked_at += 1
            return 1

    deep: Any = [Counted() for _ in range(100)]
    for _ in range(5):
        deep = [deep, [Counted() for _ in range(10_000)]]
    footprint_of(deep)
    assert 1 <= looked_at <= MAX_OBJECTS


def test_a_view_that_was_released_counts_for_nothing() -> None:
    view = memoryview(BIG)
    view.release()
    assert footprint_of(view) == 0


@pytest.mark.parametrize("raised", RAISED, ids=lambda one: one.__name__)
def test_f37_whatever_a_value_does_when_it_is_looked_at_it_has_a_footprint(
    raised: type[BaseException],
) -> None:
    for hook in VALUE_HOOKS:
        assert footprint_of(hostile.value(hook, raised)) >= 0, hook
        for base in (str, bytes, list, dict, tuple, set):
            assert footprint_of(hostile.kind(hook, raised, base)()) >= 0, hook
