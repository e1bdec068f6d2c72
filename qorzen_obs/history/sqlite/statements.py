"""The SQL of the SQLite history: one statement in each file of `statements/`, numbered scripts in `migrations/`."""

from __future__ import annotations

import sqlite3
from functools import cache
from importlib.resources import files
from typing import Final

_PACKAGE: Final = "qorzen_obs.history.sqlite"


@cache
def statement(name: str, **parts: str) -> str:
    """Return a statement by the name of its file, with its `{places}` filled."""
    text = files(_PACKAGE).joinpath("statements", f"{name}.sql").read_text("utf-8")
    for place, part in parts.items():
        text = text.replace(f"{{{place}}}", part)
    return "\n".join(line for line in text.splitlines() if not line.startswith("--"))


@cache
def migrations() -> tuple[tuple[str, ...], ...]:
    """Return the statements of each migration in order; number n leads from version n - 1 of the schema to n."""
    folder = files(_PACKAGE).joinpath("migrations")
    scripts = sorted(one.name for one in folder.iterdir() if one.name.endswith(".sql"))
    return tuple(tuple(_split(folder.joinpath(name).read_text("utf-8"))) for name in scripts)


def _split(script: str) -> list[str]:
    """Split a script into its statements; a trigger contains more than one semicolon."""
    found, lines = list[str](), list[str]()
    for line in script.splitlines():
        if line.strip().startswith("--"):
            continue
        lines.append(line)
        text = "\n".join(lines)
        if sqlite3.complete_statement(text):
            found.append(text.strip())
            lines = []
    return found
