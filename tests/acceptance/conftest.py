"""A small tree of Python files with known faults, for the demo to work on."""

from __future__ import annotations

from pathlib import Path

import pytest

GOOD_FILES = 7


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a folder with seven good files, one that does not parse and one that does not decode."""
    folder = tmp_path / "tree"
    folder.mkdir()
    for number in range(GOOD_FILES):
        (folder / f"good_{number}.py").write_text(f"def f(x):\n    return x + {number}\n")
    (folder / "bad_syntax.py").write_text("def f(:\n")
    (folder / "bad_encoding.py").write_bytes(b"x = '\xff\xfe'\n")
    return folder
