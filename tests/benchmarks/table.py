"""`python -m tests.benchmarks.table` measures, prints the table of goals with what stands behind it, and keeps it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.goals import COST_HEAD, GOAL_HEAD, GOALS, Rounds, cost_row, in_markdown
from tests.benchmarks.measure import MEASUREMENTS, MeasurementFailedError, measure_apart
from tests.benchmarks.script import OUTSTANDING, Measured

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "performance.md"
MARKS: Final = ("<!-- the table, written by make bench -->", "<!-- the end of the table -->")
PACKAGES: Final = (
    "opentelemetry-sdk",
    "prometheus-client",
    "structlog",
    "aiohttp",
    "msgspec",
    "aiojobs",
    "celery",
    "opentelemetry-instrumentation-celery",
    "taskiq",
)


def take_rounds(names: Sequence[str], rounds: int, scale: float) -> Iterator[tuple[str, Measured]]:
    """Yield each measurement as it is taken; in a round all take their turn, so a busy moment hits all.

    One that fails is told of and left out from then on.
    """
    failed: set[str] = set()
    for number in range(rounds):
        for name in names:
            what = MEASUREMENTS[name]
            if number >= what.most_rounds or name in failed:
                continue
            try:
                yield name, measure_apart(name, max(1, round(what.times * scale)))
            except MeasurementFailedError as error:
                failed.add(name)
                print(error, file=sys.stderr, flush=True)


def head(rounds: int, scale: float) -> dict[str, Any]:
    """Return under what circumstances is measured."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "rounds": rounds,
        "scale": scale,
        "outstanding": OUTSTANDING,
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=DOCUMENT.parent)
    return found.stdout.strip() or "unknown"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def show(about: dict[str, Any], rounds: Rounds) -> str:
    """Return both tables with their head, as Markdown."""
    bare = rounds.get("bare", ())
    costs = [
        cost_row(MEASUREMENTS[name].title, MEASUREMENTS[name].unit, measured, bare)
        for name, measured in rounds.items()
        if measured
    ]
    parts = (
        _shown_head(about),
        in_markdown(GOAL_HEAD, [goal.row(rounds) for goal in GOALS]),
        in_markdown(COST_HEAD, costs),
    )
    return "\n\n".join(parts)


def _shown_head(about: dict[str, Any]) -> str:
    load = ", ".join(str(one) for one in about["load_before"])
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    return (
        f"Measured {about['at']} at {about['commit']}: Python {about['python']}, {about['system']}, "
        f"{about['cores']} cores, load before {load}; {about['rounds']} rounds, at most "
        f"{about['outstanding']:,} outstanding, {about['scale']:g} times the usual number of tasks; {packages}."
    )


def write_between_marks(document: str, text: str) -> str:
    """Return `document` with `text` in the place of the old table.

    Raises:
        ValueError: a mark is missing.
    """
    before, found_start, rest = document.partition(MARKS[0])
    _, found_end, after = rest.partition(MARKS[1])
    if not (found_start and found_end):
        raise ValueError(f"the document needs the lines {MARKS[0]!r} and {MARKS[1]!r}")
    return f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}"


def main(arguments: Sequence[str]) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, epilog="--only NAME runs another benchmark, see __main__.py"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each takes its turn")
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of tasks")
    parser.add_argument("--measure", nargs="+", choices=MEASUREMENTS, metavar="NAME", help="these alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there too")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    asked = parser.parse_args(arguments)
    about = head(asked.rounds, asked.scale)
    names = [name for name in MEASUREMENTS if asked.measure is None or name in asked.measure]
    rounds: dict[str, list[Measured]] = {name: [] for name in names}
    for name, measured in take_rounds(names, asked.rounds, asked.scale):
        rounds[name].append(measured)
        print(f"{name:24}{measured.value:12.2f} {MEASUREMENTS[name].unit}", file=sys.stderr, flush=True)
    text = show(about, rounds)
    print(text)
    if asked.json:
        kept = {name: [asdict(one) for one in measured] for name, measured in rounds.items()}
        goals = [dict(zip(GOAL_HEAD, goal.row(rounds), strict=True)) for goal in GOALS]
        asked.json.write_text(json.dumps({"head": about, "goals": goals, "measured": kept}, indent=1) + "\n")
    if asked.write_docs:
        DOCUMENT.write_text(write_between_marks(DOCUMENT.read_text(), text))


if __name__ == "__main__":
    main(sys.argv[1:])
