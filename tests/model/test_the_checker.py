"""The checker is tested too: whatever is broken in the task manager, the machine must find it, and nothing else."""

import gc
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, reject, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.faults import FAULTS, seeded
from tests.model.machine import TaskManagerMachine

pytestmark = pytest.mark.slow  # hundreds of scripts of the machine, where a fault is found late

BUDGET = settings(
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # that it fails is enough: nobody will read the script
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


class FoundError(Exception):
    """The machine has found what was looked for."""


def find(row: str = "", scripts: int = 0, max_examples: int = 300) -> str | None:
    """Return the first problem of a row of docs/faults.md, or of any, that the machine finds in that many scripts."""
    found: list[str] = []

    class Seeker(TaskManagerMachine):
        """Leaves a script where something else goes wrong, as it does when the fault spoils more than its row."""

        def do(self, operation: str, *arguments: Any) -> None:
            try:
                super().do(operation, *arguments)
            except Exception as problem:  # noqa: BLE001 - a fault may raise anything
                self._look_at(problem)
                reject()

        def teardown(self) -> None:
            try:
                super().teardown()
            except Exception as problem:  # noqa: BLE001 - as above
                self._look_at(problem)

        def _look_at(self, problem: Exception) -> None:
            said = str(problem).splitlines() or [repr(problem)]
            found.extend(line for line in said if line.startswith(f"{row}:" if row else ""))
            if found:
                raise FoundError(found[0]) from problem

    try:
        run_state_machine_as_test(seed(scripts)(Seeker), settings=settings(BUDGET, max_examples=max_examples))
    except Exception:
        if not found:
            raise
    return found[0] if found else None


def test_without_a_fault_the_machine_finds_nothing() -> None:
    assert find(max_examples=30) is None  # test_the_task_manager.py runs more, and would say what it found


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_the_machine_finds_that(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A fault leaves coroutines of dead loops behind.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    with seeded(name):
        found = find(FAULTS[name].row, FAULTS[name].scripts)
    gc.collect()
    assert found, f"no problem of {FAULTS[name].row} tells that {name.replace('_', ' ')}"
