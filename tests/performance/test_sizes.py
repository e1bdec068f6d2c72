"""What is pending, ended or kept takes no more memory than the bounds that a service is sized by."""

import json
import subprocess
import sys
from typing import Final

import pytest

from tests.performance import sizes
from tests.services.program import ROOT, environment

#: A quarter above what they take on Python 3.11; of the details what 64 MiB have room for, see docs/decisions/0085.
CEILING_BYTES: Final = {
    sizes.PENDING: 1_050,
    sizes.WHOLE: 3_200,
    sizes.OUTLINE: 800,
    sizes.TRACE: 4_600,
    sizes.DETAILS: 64 * 2**20 // sizes.WITH_DETAILS,
}


@pytest.mark.slow
def test_no_task_and_no_trace_outgrows_its_ceiling() -> None:
    script = subprocess.run(
        [sys.executable, "-m", "tests.performance.sizes"],
        cwd=ROOT,
        env=environment({}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    taken: dict[str, int] = json.loads(script.stdout)
    assert taken.keys() == CEILING_BYTES.keys()
    assert {what: size for what, size in taken.items() if size > CEILING_BYTES[what]} == {}
