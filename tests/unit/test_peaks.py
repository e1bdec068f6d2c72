"""The largest value since a moment, against all values that came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.telemetry.peaks import RECENT_SECONDS, Peaks, RecentPeak

VALUES = st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.0, 10.0)), max_size=50)


@given(VALUES, st.floats(0.0, 60.0))
def test_it_is_the_largest_since_any_moment_of_the_last_minute(
    steps: list[tuple[float, float]], back: float
) -> None:
    peaks, at, came = Peaks(60.0), 0.0, list[tuple[float, float]]()
    for step, value in steps:
        at += step
        peaks.add(at, value)
        came.append((at, value))
    since = at - back
    largest = max((value for when, value in came if when > max(since, at - 60.0)), default=0.0)
    assert peaks.since(since) == largest


def test_what_nothing_reaches_any_more_is_let_go_of() -> None:
    peaks = Peaks(60.0)
    for at in range(10_000):
        peaks.add(at, 10_000.0 - at)  # the worst case: each is the largest from then on
    assert len(peaks._kept) == 60
    peaks.add(10_000, 10_000.0)
    assert len(peaks._kept) == 1


@given(VALUES, st.floats(0.0, RECENT_SECONDS))
def test_a_recent_peak_is_never_too_small_and_looks_back_a_second_too_far_at_most(
    steps: list[tuple[float, float]], back: float
) -> None:
    peak, at, came = RecentPeak(), 0.0, list[tuple[float, float]]()
    for step, value in steps:
        at += step
        peak.add(at, value)
        came.append((at, value))

    def largest(since: float) -> float:
        return max((value for when, value in came if when > since), default=0.0)

    assert largest(at - back) <= peak.since(at - back) <= largest(at - back - 1.0)


def test_a_value_that_comes_late_lies_no_earlier_than_those_before_it() -> None:
    peak = RecentPeak()
    for at, value in ((100.0, 1.0), (90.0, 5.0), (200.0, 2.0), (150.0, 3.0)):
        peak.add(at, value)
    assert [peak.since(since) for since in (99.0, 100.0, 101.0, 200.0, 201.0)] == [5.0, 5.0, 3.0, 3.0, 0.0]
