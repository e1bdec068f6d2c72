"""The committed numbers of calls a task, by version of Python: what is counted now is held against them.

Both ways: what has grown is a price that somebody has to want, and what has fallen is to be kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from tests.services.program import ROOT, environment

#: Calls per task, by scenario and by the language of the called function.
Counts: TypeAlias = dict[str, dict[str, float]]

FILE: Final = Path(__file__).with_name("calls.json")
VERSION: Final = "{}.{}".format(*sys.version_info)
TOLERANCE: Final = 0.05
ACCEPT: Final = "make baseline"
_SECONDS: Final = 300.0  #: within which the script ends on the busiest machine
_LANGUAGES: Final = {"python": "Python", "c": "C"}


def count_calls() -> Counts:
    """Run the script in a process of its own; return what it counts."""
    script = subprocess.run(
        [sys.executable, "-m", "tests.performance.calls"],
        cwd=ROOT,
        env=environment({"PYTHONHASHSEED": "0", "PYTHONASYNCIODEBUG": ""}),
        stdout=subprocess.PIPE,
        text=True,
        timeout=_SECONDS,
        check=True,
    )
    counts: Counts = json.loads(script.stdout)
    return counts


def read() -> dict[str, Counts]:
    """Return the baselines by version of Python."""
    baselines: dict[str, Counts] = json.loads(FILE.read_text())
    return baselines


def write(counts: Counts) -> None:
    """Make these the baseline of this version; the others stay."""
    FILE.write_text(json.dumps({**read(), VERSION: counts}, indent=2, sort_keys=True) + "\n")


def differences(baseline: Mapping[str, Mapping[str, float]], counts: Counts) -> Iterator[str]:
    """Yield a sentence for each count that is not the baseline's any more, and for each that one of them lacks."""
    for scenario in baseline.keys() ^ counts.keys():
        yield f"{scenario}: is in {'the baseline' if scenario in baseline else 'the script'} alone; {ACCEPT}"
    for scenario in baseline.keys() & counts.keys():
        for language, name in _LANGUAGES.items():
            before, now = baseline[scenario][language], counts[scenario][language]
            if abs(now - before) <= TOLERANCE * before:
                continue
            moved = f"{scenario}: from {before:g} to {now:g} calls of {name} functions a task, {now / before - 1:+.0%}"
            if now > before:
                yield f"{moved}. If it is worth that: {ACCEPT}, and say why in the commit"
            else:
                yield f"{moved}. Keep the gain: {ACCEPT}"
