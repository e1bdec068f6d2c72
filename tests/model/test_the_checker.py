"""The checker is tested too: whatever is broken in the task manager, the machine must find it."""

import gc

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.faults import FAULTS, seeded
from tests.model.machine import TaskManagerMachine

BUDGET = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # that it fails is enough: nobody will read the script
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def test_without_a_fault_the_machine_finds_nothing() -> None:
    run_state_machine_as_test(TaskManagerMachine, settings=settings(BUDGET, max_examples=20))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAULTS))
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # of what a fault broke
def test_the_machine_finds_that(name: str) -> None:
    with seeded(name), pytest.raises(AssertionError):
        run_state_machine_as_test(TaskManagerMachine, settings=BUDGET)
    gc.collect()  # what a fault left behind, while nobody minds
