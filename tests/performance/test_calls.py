"""What a task costs in calls of functions stays what it is, unless somebody means it to change."""

import os

import pytest

from tests.performance import baseline

BEFORE = {"async task": {"python": 200.0, "c": 100.0}}


def test_a_task_costs_as_many_calls_as_the_baseline_says() -> None:
    known = baseline.read().get(baseline.VERSION)
    if known is None:
        message = f"no calls are known for Python {baseline.VERSION}: {baseline.ACCEPT}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    assert list(baseline.differences(known, baseline.count_calls())) == []


def test_up_to_a_twentieth_more_or_less_is_the_same() -> None:
    for calls in ({"python": 210.0, "c": 105.0}, {"python": 190.0, "c": 95.0}):
        assert list(baseline.differences(BEFORE, {"async task": calls})) == []


def test_growth_is_told_by_scenario_from_what_to_what_and_how_to_accept_it() -> None:
    (told,) = baseline.differences(BEFORE, {"async task": {"python": 212.0, "c": 100.0}})
    assert told.startswith("async task: from 200 to 212 calls of Python functions a task, +6%")
    assert "make baseline" in told


def test_calls_of_c_functions_are_held_apart() -> None:
    (told,) = baseline.differences(BEFORE, {"async task": {"python": 190.0, "c": 106.0}})
    assert "calls of C functions" in told


def test_a_gain_has_to_be_written_down() -> None:
    (told,) = baseline.differences(BEFORE, {"async task": {"python": 189.0, "c": 100.0}})
    assert "Keep the gain: make baseline" in told


def test_a_scenario_that_one_side_lacks_is_told() -> None:
    told = list(baseline.differences(BEFORE, {"sync task": {"python": 1.0, "c": 1.0}}))
    assert [line.partition(":")[0] for line in sorted(told)] == ["async task", "sync task"]
