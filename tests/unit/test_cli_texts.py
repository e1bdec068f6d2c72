"""What the command line makes of texts and figures; the examples in its docstrings do what they say."""

import doctest
from datetime import UTC, datetime
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs import client
from qorzen_obs.cli import texts
from qorzen_obs.cli.account import task_lines
from qorzen_obs.cli.top import figures, terminal, view
from qorzen_obs.client import Task


@pytest.mark.parametrize("module", [client, texts, terminal, view])
def test_the_examples_hold(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("parse café.py", "parse café.py"),
        ("\x1b]0;owned\x07", "\\u001b]0;owned\\u0007"),
        ("\x9b2J", "\\u009b2J"),
        ("a\rb\nc\td", "a\\u000db\\u000ac\\u0009d"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\ud800", "\\ud800"),
        ("[red]x[/red]", "[red]x[/red]"),
    ],
)
def test_t10_no_character_does_anything_to_a_terminal(text: str, shown: str) -> None:
    assert texts.printable(text) == shown


EXPOSITION = """
qorzen_tasks{category="io",priority="high",status="pending"} 3.0
qorzen_tasks{category="ui",priority="high",status="pending"} 2.0
qorzen_tasks{category="ui",priority="low",status="running"} 9.0
qorzen_task_oldest_pending_age_seconds{category="io",priority="high"} 1.5
qorzen_task_oldest_pending_age_seconds{category="ui",priority="high"} 4.0
qorzen_event_loop_lag_seconds_bucket{le="0.001"} %s
qorzen_event_loop_lag_seconds_bucket{le="0.005"} %s
qorzen_event_loop_lag_seconds_bucket{le="+Inf"} %s
qorzen_event_loop_blocked_seconds_total{category="io"} %s
qorzen_event_loop_blocked_seconds_total{category="gc"} 7.0
something_else_total 1.0
"""


def look(at: float, *values: float) -> figures.Gauges:
    return figures.read_gauges(EXPOSITION % values, at)


def test_the_queue_by_priority_is_read_from_the_metrics() -> None:
    gauges = look(0.0, 0, 0, 0, 0)

    assert gauges.pending == {"high": 5}
    assert gauges.oldest == {"high": 4.0}


def test_lag_and_blocks_are_those_between_two_looks() -> None:
    before, now = look(10.0, 100, 100, 100, 1.0), look(12.0, 190, 200, 200, 1.5)

    assert figures.lag_quantile(before, now, 0.5) == pytest.approx(0.001 * 50 / 90)
    assert figures.lag_quantile(before, now, 0.95) == pytest.approx(0.003)
    assert figures.blocked_share(before, now) == {"io": 0.25}


def test_a_block_that_ends_between_two_looks_is_never_more_than_all_of_the_time() -> None:
    before, now = look(10.0, 0, 0, 0, 1.0), look(12.0, 0, 0, 0, 5.0)
    assert figures.blocked_share(before, now) == {"io": 1.0}


@given(st.lists(st.floats(0.0, 1e9), min_size=1).filter(lambda values: sum(values) > 1e-9))
def test_shares_add_up_to_100_and_each_is_off_by_less_than_1(values: list[float]) -> None:
    shown = [int(text.removesuffix("%")) for text in texts.shares(values)]
    assert sum(shown) == 100
    assert all(
        abs(share - 100 * value / sum(values)) < 1.001 for share, value in zip(shown, values, strict=True)
    )


def test_memory_is_read_where_the_service_says_it() -> None:
    assert look(0.0, 0, 0, 0, 0).memory is None
    assert figures.read_gauges("process_resident_memory_bytes 8.16e+07\n", 0.0).memory == 81.6e6


def test_beyond_the_last_bound_the_lag_is_that_bound() -> None:
    assert figures.lag_quantile(look(0.0, 0, 0, 0, 0), look(1.0, 0, 0, 10, 0), 0.99) == 0.005


def test_another_service_at_the_same_address_has_no_lag_yet() -> None:
    assert figures.lag_quantile(look(0.0, 100, 100, 100, 0), look(1.0, 5, 5, 5, 0), 0.99) is None


def test_rates_are_of_the_last_seconds_and_start_anew_with_the_service() -> None:
    rates = figures.Rates()
    rates.add(0.0, {"completed": 0})
    assert rates.per_second() == {}
    for second in range(1, 21):
        rates.add(float(second), {"completed": 10 * second if second <= 10 else 100})
    assert rates.per_second() == {"completed": 0.0}
    rates.add(21.0, {"completed": 106})
    assert rates.per_second()["completed"] == pytest.approx(1.2)
    rates.add(22.0, {"completed": 2})
    assert rates.per_second() == {}
    rates.add(23.0, {"completed": 5})
    assert rates.per_second() == {"completed": 3.0}


def abandoned(code_ended_at: datetime | None) -> Task:
    """A task that was given up at noon."""
    noon = datetime(2026, 11, 30, 12, tzinfo=UTC)
    return Task(
        task_id="t",
        name="stuck",
        category="core",
        priority="normal",
        status="failed",
        created_at=noon,
        completed_at=noon,
        abandoned=True,
        code_ended_at=code_ended_at,
    )


def test_of_an_abandoned_task_the_account_says_whether_its_code_may_still_run() -> None:
    later = datetime(2026, 11, 30, 12, 9, tzinfo=UTC)
    for task, says in (
        (abandoned(None), "failed, abandoned: its code may still run"),
        (abandoned(later), "failed, abandoned: its code ended 9m00s later"),
    ):
        (first, *_) = task_lines(task, later)
        assert first.plain == f"stuck  {says}"
        assert task.still_runs is (task.code_ended_at is None)
