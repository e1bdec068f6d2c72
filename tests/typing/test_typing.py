"""What users call keeps the types of their functions: held by both type checkers, on calls as users write them."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import pytest

from qorzen_obs import options, tasks
from qorzen_obs.arguments import SUBMIT_OPTIONS
from qorzen_obs.engines.traits import ENGINES
from tests.conftest import require

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
RIGHT, WRONG = HERE / "right_calls.py", HERE / "wrong_calls.py"
EXPECTED: Final = re.compile(r"# Wrong: mypy ([^;]+); pyright (.+)")

Errors = Mapping[str, Mapping[int, set[str]]]  #: by the name of the file and the line, their codes


def by_line(found: Iterable[tuple[str, int, str]]) -> Errors:
    errors: defaultdict[str, defaultdict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path, line, code in found:
        errors[Path(path).name][line].add(code)
    return errors


def output_of(*command: str | Path) -> str:
    """What a checker prints; it exits with 1 where it has found something."""
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout


def mypy() -> Errors:
    """With the settings of this project, which are those of --strict and more."""
    printed = output_of(sys.executable, "-m", "mypy", "--output", "json", "--no-error-summary", RIGHT, WRONG)
    found = [json.loads(line) for line in printed.splitlines()]
    return by_line((one["file"], one["line"], one["code"]) for one in found if one["severity"] == "error")


def pyright() -> Errors:
    """In strict mode."""
    program = Path(sys.executable).with_name("pyright")
    path = program if program.exists() else require("pyright", "make .venv/.dev")
    printed = output_of(path, "--project", HERE, "--pythonpath", sys.executable, "--outputjson")
    found: list[dict[str, Any]] = json.loads(printed)["generalDiagnostics"]
    return by_line(
        (one["file"], one["range"]["start"]["line"] + 1, one.get("rule", "syntax"))
        for one in found
        if one["severity"] != "information"
    )


def expected(place: int) -> dict[int, set[str]]:
    """The codes that the comments in wrong_calls.py name for a checker, by the line below."""
    lines = enumerate(WRONG.read_text("utf-8").splitlines(), start=1)
    return {
        line + 1: set(match[place].split(", "))
        for line, text in lines
        if (match := EXPECTED.search(text)) is not None
    }


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_right_calls_pass_and_each_wrong_one_is_an_error(checker: Callable[[], Errors]) -> None:
    errors = checker()
    assert errors.get(RIGHT.name, {}) == {}
    wanted = expected([mypy, pyright].index(checker) + 1)
    assert len(wanted) > 40
    assert errors[WRONG.name] == wanted


def test_the_names_that_checkers_know_are_those_of_the_enums() -> None:
    assert get_args(tasks.CategoryName) == tuple(one.value for one in tasks.TaskCategory)
    assert get_args(tasks.StatusName) == tuple(one.value for one in tasks.TaskStatus)
    assert get_args(tasks.PriorityName) == tuple(one.label for one in tasks.TaskPriority)
    assert get_args(get_args(tasks.PriorityOrName)[-1]) == tuple(one.value for one in tasks.TaskPriority)
    assert set(get_args(tasks.EngineName)) == {one.kind for one in ENGINES.values() if one.choosable}


def test_the_options_that_checkers_know_are_those_of_a_submission() -> None:
    assert options.SubmitOptions.__optional_keys__ == SUBMIT_OPTIONS
