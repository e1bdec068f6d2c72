"""Finds for each fault a short script of operations in which the model tells of it, and keeps it in scripts.py.

For people who add or change a fault, an operation or the model: `python -m tests.model.search [NAME…]` writes scripts
for these faults, or for all that have none that still tells. Random scripts come from the machine; what is found is
shortened, operation by operation and argument by argument.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, reject, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from qorzen_obs.tasks import EngineKind
from tests.model.faults import FAULTS, seeded
from tests.model.machine import TaskManagerMachine
from tests.model.playing import Script, problems, tells
from tests.model.scripts import SCRIPTS

SERIES: Final = 20  #: how many series of random scripts are searched for a fault
BUDGET: Final = settings(
    max_examples=300,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
HEAD: Final = '''"""A script that tells of each fault; `python -m tests.model.search` writes them."""

from typing import Final

from qorzen_obs.tasks import EngineKind, TaskCategory, TaskPriority
from tests.model.actors import BoomError, Line, Manner, Plan, RetryPlan
from tests.model.playing import Script

SCRIPTS: Final[dict[str, Script]] = '''


class FoundError(Exception):
    """The machine has found what was looked for."""


def find(row: str, series: int = 0) -> Script | None:
    """Return a random script in which a problem of a row is seen, if a series of them has one."""
    found: list[Script] = []

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
            if any(line.startswith(f"{row}:") for line in str(problem).splitlines()):
                world = self._world
                slots = {kind: world.slots[kind] for kind in (EngineKind.IO, EngineKind.THREAD)}
                found.append(Script(world.given, slots, world.script))
                raise FoundError from problem

    try:
        run_state_machine_as_test(seed(series)(Seeker), settings=BUDGET)
    except Exception:
        if not found:
            raise
    return found[0] if found else None


def shorten(script: Script, good: Callable[[Script], bool]) -> Script:
    """Return a script that is still good, of which nothing can be left out or made usual alone."""
    before = None
    while script != before:
        before = script
        for count in (8, 4, 2, 1):
            for start in reversed(range(len(script.operations))):
                operations = script.operations[:start] + script.operations[start + count :]
                script = _first(good, [script._replace(operations=operations)]) or script
        for name in script.settings:
            fewer = {key: value for key, value in script.settings.items() if key != name}
            script = _first(good, [script._replace(settings=fewer)]) or script
        for number in range(len(script.operations)):
            while (simpler := _first(good, _with_simpler(script, number))) is not None:
                script = simpler
    return script


def _first(good: Callable[[Script], bool], scripts: Iterable[Script]) -> Script | None:
    return next(filter(good, scripts), None)


def _with_simpler(script: Script, number: int) -> Iterator[Script]:
    name, arguments = script.operations[number]
    for simpler in _simpler(arguments):
        operations = [*script.operations[:number], (name, simpler), *script.operations[number + 1 :]]
        yield script._replace(operations=operations)


def _simpler(value: Any) -> Iterator[Any]:
    """Yield what is like a value but for one thing that is usual or not there."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            now = getattr(value, field.name)
            if now != field.default:
                yield replace(value, **{field.name: field.default})
                yield from (replace(value, **{field.name: one}) for one in _simpler(now))
    elif isinstance(value, list):
        yield from (value[:number] + value[number + 1 :] for number in range(len(value)) if len(value) > 1)
    if isinstance(value, list | tuple):
        for number, one in enumerate(value):
            for usual in _simpler(one):
                changed = [*value[:number], usual, *value[number + 1 :]]
                yield changed if isinstance(value, list) else tuple(changed)


def written(value: Any) -> str:
    """Return the source of a value of a script."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, type):
        return value.__name__
    if is_dataclass(value):
        changed = (
            (one.name, getattr(value, one.name))
            for one in fields(value)
            if getattr(value, one.name) != one.default
        )
        return f"{type(value).__name__}({', '.join(f'{name}={written(given)}' for name, given in changed)})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{written(key)}: {written(one)}' for key, one in value.items())}}}"
    if isinstance(value, Script):
        return f"Script({', '.join(map(written, value))})"
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(written, value))}{',' * (len(value) == 1)})"
    return repr(value)


def search(name: str) -> Script:
    """Return a short script in which a fault is told of, and nothing is without it."""
    row = FAULTS[name].row

    def good(script: Script) -> bool:
        with seeded(name):
            if not tells(script, row):
                return False
        return not problems(script)

    for series in range(SERIES):
        with seeded(name):
            script = find(row, series)
        if script is not None and good(script):
            return shorten(script, good)
    raise SystemExit(f"no script tells that {name.replace('_', ' ')}")


def keep() -> None:
    """Write all scripts."""
    file = Path(__file__).with_name("scripts.py")
    text = written({name: SCRIPTS[name] for name in sorted(FAULTS) if name in SCRIPTS})
    file.write_text(HEAD + text + "\n", encoding="utf-8")
    for command in (("check", "--fix"), ("format",)):
        subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet", file], check=True)


def main(names: list[str]) -> None:
    """Search scripts for these faults, or for those without one."""
    sys.unraisablehook = lambda _: None  # a fault leaves coroutines of dead loops behind
    for name in names or sorted(set(FAULTS) - set(SCRIPTS)):
        SCRIPTS[name] = search(name)
        keep()
        gc.collect()
        sys.stdout.write(f"{name}: {len(SCRIPTS[name].operations)} operations\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
