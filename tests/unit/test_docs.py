"""What the documents say holds: the generated pages, and the examples in docstrings."""

import doctest
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from qorzen_obs.server import body, documents, negotiation, security

DOCS = Path(__file__).parents[2] / "docs"


def test_the_generated_pages_are_as_the_code_has_them() -> None:
    checked = subprocess.run(
        [sys.executable, DOCS / "reference.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("module", [body, documents, negotiation, security])
def test_the_examples_hold(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
