"""Plays a script of operations in a world of its own, and says what goes wrong in it."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.model.world import World


class Script(NamedTuple):
    """What a world is made of, and what is done to it."""

    settings: dict[str, Any]
    slots: dict[Any, int]
    operations: list[tuple[str, tuple[Any, ...]]]


def problems(script: Script) -> list[str]:
    """Play a script, and return what is wrong in it first, a line for each problem; none where all is well."""
    world = World(script.settings, script.slots)
    try:
        world.open()
        for operation, arguments in script.operations:
            getattr(world, operation)(*arguments)
        world.end()
    except Exception as problem:  # noqa: BLE001 - a fault may raise anything
        return str(problem).splitlines() or [repr(problem)]
    finally:
        world.close()
    return []


def tells(script: Script, row: str) -> bool:
    """Return whether a problem of a row of docs/faults.md is seen in a script."""
    return any(line.startswith(f"{row}:") for line in problems(script))
