"""What the documents say holds: generated pages, examples in docstrings, and which test shows which fault."""

import doctest
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from qorzen_obs import endpoint
from qorzen_obs.server import body, documents, negotiation, openapi, security
from qorzen_obs.telemetry import program_logging

DOCS = Path(__file__).parents[2] / "docs"


def test_the_generated_pages_are_as_the_code_has_them() -> None:
    checked = subprocess.run(
        [sys.executable, DOCS / "reference.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    "module", [body, documents, endpoint, negotiation, openapi, program_logging, security]
)
def test_the_examples_hold(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


# ---------------------------------------------------------------- docs/faults.md

ROOT = DOCS.parent
ROW = re.compile(r"^\| ([FTD]\d+) \|.*\| ([^|]+) \|$", re.MULTILINE)
SHOWN_BY = {
    row[1]: re.findall(r"`([^`]+)`", row[2]) for row in ROW.finditer((DOCS / "faults.md").read_text())
}


def ids_in(source: str) -> set[str]:
    """The ids that a source mentions: as F3 or D15 in texts, as test_f3_… in names."""
    in_names = re.findall(r"def test((?:_(?:and_)?[ftd]\d+)+)_", source)
    in_texts = re.findall(r"(?<![\w%])[FTD]\d{1,2}\b", source)
    return {*in_texts, *re.findall(r"[FTD]\d+", "".join(in_names).upper())}


def test_each_fault_threat_and_invariant_that_is_mentioned_is_explained() -> None:
    unexplained = {
        str(path): unknown
        for folder in ("tests", "qorzen_obs")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(__file__) and (unknown := ids_in(path.read_text("utf-8")) - set(SHOWN_BY))
    }
    assert unexplained == {}, "docs/faults.md has no row for it"


@pytest.mark.parametrize("fault", SHOWN_BY)
def test_the_tests_that_show_a_fault_exist_and_mention_it(fault: str) -> None:
    assert SHOWN_BY[fault]
    for path in SHOWN_BY[fault]:
        assert fault in ids_in((ROOT / "tests" / path).read_text("utf-8")), path


def test_ids_are_found_in_texts_and_in_names() -> None:
    assert ids_in("async def test_t2_and_t10_x(): 'D15: no'; '%D9'; 'XF3'") == {"T2", "T10", "D15"}
