"""The checker is tested too: whatever is broken in the task manager, the model tells of it, and of nothing else."""

import gc
import sys
from collections.abc import Iterator

import pytest

from tests.model.faults import FAULTS, seeded
from tests.model.playing import problems, tells
from tests.model.scripts import SCRIPTS
from tests.model.search import find

#: What nearly every random script meets. All others are found by `python -m tests.model.search`, and kept.
FOUND_EARLY = ("an_alarm_is_not_set", "priority_is_upside_down", "progress_falls")


pytestmark = pytest.mark.slow  # for `make test`: it is the checker that is checked, not the task manager


@pytest.fixture(autouse=True, scope="module")
def only_what_a_test_makes_is_collected() -> Iterator[None]:
    """Each test collects twice; what the other tests have left would make that take most of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_word_of_dead_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault leaves coroutines of loops behind that are closed."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_the_model_tells_that(name: str) -> None:
    assert name in SCRIPTS, f"`python -m tests.model.search {name}` looks for a script that tells"
    with seeded(name):
        told = tells(SCRIPTS[name], FAULTS[name].row)
    gc.collect()
    assert told, f"no problem of {FAULTS[name].row} tells that {name.replace('_', ' ')}"
    assert problems(SCRIPTS[name]) == [], "this is also told of a task manager without the fault"


@pytest.mark.parametrize("name", FOUND_EARLY)
def test_the_machine_comes_to_scripts_that_tell(name: str) -> None:
    with seeded(name):
        script = find(FAULTS[name].row)
    gc.collect()
    assert script is not None
