"""Quantiles of histograms: Prometheus' histogram_quantile, and what holds whatever was counted."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.telemetry.quantiles import bucket_quantile

BOUNDS = (1.0, 2.0, 5.0)


@pytest.mark.parametrize(
    ("quantile", "counts", "value"),
    [
        (0.95, (0, 0, 0, 0), None),
        (0.5, (10, 0, 0, 0), 0.5),  # spread from 0 in the first bucket
        (0.95, (100, 0, 0, 0), 0.95),
        (0.5, (0, 10, 0, 0), 1.5),
        (0.95, (90, 0, 10, 0), 3.5),  # an empty bucket between
        (0.9, (90, 0, 10, 0), 1.0),
        (0.95, (0, 0, 0, 3), 5.0),  # what is above all bounds
        (1.0, (1, 1, 1, 1), 5.0),
        (0.0, (0, 1, 0, 0), 0.0),
    ],
)
def test_it_answers_as_prometheus_does(quantile: float, counts: tuple[int, ...], value: float | None) -> None:
    found = bucket_quantile(quantile, BOUNDS, counts)
    assert found == (None if value is None else pytest.approx(value))


@given(
    st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_it_lies_within_the_bounds_and_rises_with_the_quantile(
    counts: list[int], one: float, other: float
) -> None:
    lower, upper = (bucket_quantile(quantile, BOUNDS, counts) for quantile in sorted((one, other)))
    assert lower is not None
    assert upper is not None
    assert 0.0 <= lower <= upper + 1e-9 <= BOUNDS[-1] + 2e-9


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any), st.floats(0.01, 1))
def test_as_many_as_it_says_lie_in_the_buckets_up_to_it(counts: list[int], quantile: float) -> None:
    found = bucket_quantile(quantile, BOUNDS, counts)
    assert found is not None
    rank, cumulative = quantile * sum(counts), list(accumulate(counts))
    bucket = next(index for index, up_to in enumerate(cumulative) if up_to >= rank - 1e-9)
    ends = (0.0, *BOUNDS, BOUNDS[-1])
    assert ends[bucket] - 1e-9 <= found <= ends[bucket + 1] + 1e-9


@given(st.lists(st.floats(0.001, 20.0), min_size=1, max_size=30), st.floats(0.01, 1), st.floats(1.0, 10.0))
def test_it_is_no_more_than_the_largest_that_was_observed(
    values: list[float], quantile: float, more: float
) -> None:
    counts = [0, 0, 0, 0]
    for value in values:
        counts[sum(value > bound for bound in BOUNDS)] += 1
    for largest in (max(values), max(values) * more):  # one that is known too large does no harm
        found = bucket_quantile(quantile, BOUNDS, counts, largest)
        assert found is not None
        assert found <= largest + 1e-9
        plain = bucket_quantile(quantile, BOUNDS, counts)
        assert plain is not None
        assert found <= plain + 1e-9 or plain == BOUNDS[-1]


def test_the_bucket_of_the_largest_ends_there() -> None:
    assert bucket_quantile(0.95, BOUNDS, (0, 0, 20, 0), 3.0) == pytest.approx(2.95)
    assert bucket_quantile(0.5, BOUNDS, (0, 0, 0, 20), 9.0) == pytest.approx(7.0)
