"""Exponential histograms: what they count, at which scale, and what is new since an earlier reading."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping.exponent_mapping import ExponentMapping
from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping.logarithm_mapping import (
    LogarithmMapping,
)

from qorzen_obs.telemetry import exponential
from qorzen_obs.telemetry.exponential import (
    MAX_BUCKETS,
    MAX_SCALE,
    ExponentialCounts,
    ExponentialReading,
)

DURATIONS = st.floats(min_value=1e-9, max_value=1e6)


def cell_of(values: list[float]) -> ExponentialCounts:
    cell = ExponentialCounts()
    for value in values:
        cell.observe(value)
    return cell


def index_at(scale: int, value: float) -> int:
    """Where the SDK counts a value."""
    mapping = LogarithmMapping(scale) if scale > 0 else ExponentMapping(scale)
    return mapping.map_to_index(value)


def test_the_examples_hold() -> None:
    assert doctest.testmod(exponential).failed == 0


@given(st.lists(DURATIONS, max_size=60))
def test_every_value_is_counted_where_the_sdk_counts_it(values: list[float]) -> None:
    reading = cell_of(values).read()
    assert sum(reading.counts.values()) == len(values)
    counted = sorted(index for index, n in reading.counts.items() for _ in range(n))
    expected = sorted(index_at(reading.scale, value) for value in values)
    # Beside a bound two ways of rounding a logarithm may differ.
    assert all(abs(ours - theirs) <= 1 for ours, theirs in zip(counted, expected, strict=True))


@given(st.lists(DURATIONS, min_size=1, max_size=60))
def test_the_scale_is_the_finest_that_has_room(values: list[float]) -> None:
    reading = cell_of(values).read()
    assert max(reading.counts) - min(reading.counts) < MAX_BUCKETS
    if reading.scale < MAX_SCALE:
        finer = [index_at(reading.scale + 1, value) for value in values]
        assert max(finer) - min(finer) >= MAX_BUCKETS - 2


@given(st.lists(DURATIONS, max_size=30), st.lists(DURATIONS, max_size=30))
def test_what_is_new_is_what_came_since(before: list[float], after: list[float]) -> None:
    cell = cell_of(before)
    earlier = cell.read()
    for value in after:
        cell.observe(value)
    new = cell.read().since(earlier)
    assert sum(new.counts.values()) == len(after)
    assert all(n > 0 for n in new.counts.values())


def test_what_is_not_above_zero_is_counted_as_zero() -> None:
    cell = cell_of([0.0, -1e-9, 1.0])
    assert cell.read() == ExponentialReading(MAX_SCALE, 2, {-1: 1})


def test_a_power_of_two_belongs_to_the_bucket_that_ends_there() -> None:
    for value in (0.25, 0.5, 1.0, 2.0, 1024.0):
        (index,) = cell_of([value]).read().counts
        assert 2.0 ** ((index + 1) / 2**MAX_SCALE) == value
