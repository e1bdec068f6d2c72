"""The checker is tested too: whatever is broken in the task manager, the machine must find it."""

import gc
import sys

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.faults import FAULTS, seeded
from tests.model.machine import TaskManagerMachine

BUDGET = settings(
    max_examples=300,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # that it fails is enough: nobody will read the script
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def is_found(name: str) -> bool:
    try:
        with seeded(name):
            run_state_machine_as_test(TaskManagerMachine, settings=BUDGET)
    except AssertionError:
        return True
    return False


def test_without_a_fault_the_machine_finds_nothing() -> None:
    run_state_machine_as_test(TaskManagerMachine, settings=settings(BUDGET, max_examples=20))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_the_machine_finds_that(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A fault leaves coroutines of dead loops behind.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    found = is_found(name)
    gc.collect()
    assert found, f"nothing tells that {name.replace('_', ' ')}"
