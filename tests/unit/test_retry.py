"""How long the next attempt waits."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.retry import exponential


@given(
    base=st.floats(0.001, 100),
    factor=st.floats(1, 10),
    longest=st.floats(0.001, 10_000),
    attempt=st.integers(1, 1_000_000),
    seed=st.integers(),
)
def test_the_wait_with_jitter_lies_between_nothing_and_the_wait_without(
    base: float, factor: float, longest: float, attempt: int, seed: int
) -> None:
    plain = exponential(base, factor=factor, max_seconds=longest, jitter=False)
    full = exponential(base, factor=factor, max_seconds=longest)
    source = random.Random(seed)
    assert 0 <= full(attempt, source) <= plain(attempt, source) <= longest


def test_the_wait_doubles_up_to_its_bound() -> None:
    wait = exponential(1, max_seconds=10, jitter=False)
    assert [wait(attempt, random.Random()) for attempt in range(1, 6)] == [1, 2, 4, 8, 10]
