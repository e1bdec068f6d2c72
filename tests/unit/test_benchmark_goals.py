"""The table of `make bench`: who judges the figures, and that the document keeps what is not the table's."""

import operator

import pytest

from tests.benchmarks.goals import GOAL_HEAD, GOALS, Goal, cost_row
from tests.benchmarks.measure import MEASUREMENTS, Measurement, MeasurementFailedError, measure_apart
from tests.benchmarks.script import Measured
from tests.benchmarks.table import DOCUMENT, MARKS, show, take_rounds, write_between_marks

COST = Goal("cost", 6, 4, "ours", "bare")
GAIN = Goal("gain", 4, 6, "peer", "ours")
LOST = Goal("lost", 0, 0, "lost", unit="", middle=max)

ABOUT = {
    "at": "2026-01-01T00:00:00+00:00",
    "commit": "abc",
    "python": "3.11",
    "system": "Linux",
    "cores": 2,
    "load_before": [0.0],
    "rounds": 1,
    "scale": 1.0,
    "outstanding": 1_000,
    "packages": {"structlog": "26.1.0"},
}


def rounds_of(**values: list[float]) -> dict[str, list[Measured]]:
    return {name: [Measured(value, value / 2) for value in found] for name, found in values.items()}


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (COST, 4.0, "aim"),
        (COST, 6.0, "reach"),
        (COST, 6.01, "missed"),
        (GAIN, 6.0, "aim"),
        (GAIN, 4.0, "reach"),
        (GAIN, 3.99, "missed"),
        (LOST, 0.0, "aim"),
        (LOST, 1.0, "missed"),
    ],
)
def test_a_figure_is_judged_by_the_side_on_which_its_aim_lies(goal: Goal, value: float, verdict: str) -> None:
    assert goal.judge(value) == verdict


def test_a_ratio_is_taken_within_a_round_and_the_median_is_judged() -> None:
    # The ratio of the medians would be 20 / 10, which no round has shown.
    rounds = rounds_of(ours=[10.0, 20.0, 90.0], bare=[10.0, 4.0, 30.0])
    cells = dict(zip(GOAL_HEAD, COST.row(rounds), strict=True))
    assert (cells["measured"], cells["spread"], cells["verdict"]) == ("3x", "1 to 5", "aim")


def test_one_lost_span_in_one_round_misses_the_goal() -> None:
    assert LOST.row(rounds_of(lost=[0.0, 0.0, 1.0]))[-1] == "missed"


def test_rounds_in_which_one_side_was_not_measured_do_not_count() -> None:
    assert COST.values(rounds_of(ours=[4.0], bare=[2.0, 1.0, 1.0])) == [2.0]


def test_the_added_lag_is_a_difference_of_two_measurements() -> None:
    lag = Goal("lag", 10, 2, "watched", "alone", operator.sub, " ms")
    assert lag.values(rounds_of(watched=[5.0], alone=[4.0])) == [1.0]


def test_a_goal_of_which_nothing_was_measured_has_no_verdict() -> None:
    assert COST.row({})[-1] == "-"


def test_a_measurement_without_processor_time_shows_none() -> None:
    row = cost_row("lag", "ms", [Measured(3.0, facts={"scrapes": 7})], [Measured(1.0)])
    assert row == ("lag", "3 ms", "3 to 3", "-", "-", "scrapes 7")


def test_every_goal_is_made_of_measurements_that_there_are() -> None:
    needed = {name for goal in GOALS for name in (goal.of, goal.to) if name is not None}
    assert needed <= set(MEASUREMENTS)


def test_the_table_replaces_the_one_before_and_nothing_else() -> None:
    old = f"above\n{MARKS[0]}\nold\n{MARKS[1]}\nbelow\n"
    once = write_between_marks(old, show(ABOUT, rounds_of(bare=[1.0], full=[5.0])))
    assert once.startswith(f"above\n{MARKS[0]}\n")
    assert once.endswith(f"{MARKS[1]}\nbelow\n")
    assert "old" not in once
    assert "| reach" in once
    assert write_between_marks(once, "new") == write_between_marks(old, "new")


def test_a_document_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        write_between_marks("nothing", "table")


def test_the_document_has_a_place_for_the_table() -> None:
    assert "new" in write_between_marks(DOCUMENT.read_text(), "new")


@pytest.mark.slow
# The task systems of others are installed for `make bench` alone.
@pytest.mark.parametrize("name", ["bare", "executor", "straightforward"])
def test_a_variant_without_a_task_system_runs_every_task(name: str) -> None:
    measured = measure_apart(name, 3)
    assert measured.value > 0
    assert measured.facts.get("spans_exported", 3) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full_subscribed", "threads", "drain"])
def test_full_observation_has_a_fate_for_each_span(name: str) -> None:
    facts = measure_apart(name, 3).facts
    assert facts["spans"] >= 3
    assert facts["lines_lost"] == facts["events_lost"] == 0
    assert facts.get("events_delivered", 9) == 9


def test_what_fails_is_left_out_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEASUREMENTS, "broken", Measurement("broken", "plain.nothing", 1))
    taken = [name for name, _ in take_rounds(["broken", "bare"], rounds=2, scale=0.0001)]
    assert taken == ["bare", "bare"]


def test_a_measurement_that_fails_says_why() -> None:
    with pytest.raises(MeasurementFailedError, match="KeyError"):
        measure_apart("nothing of the kind", 3)
