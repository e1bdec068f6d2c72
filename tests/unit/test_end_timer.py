"""The timer that ends a process which does not stop, when that process forks meanwhile (F24)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys, time
from qorzen_obs.host import _EndTimer

end = _EndTimer()
end.come_in(1.0, sys.__stderr__)
child = os.fork()
if child == 0:
    sys.exit(0)
deadline = time.monotonic() + 10
while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
    time.sleep(0.01)
if ended == (0, 0):
    os.kill(child, 9)
print("ended" if ended == (child, 0) else "hung", flush=True)
if CALLED_OFF:
    end.call_off()
    time.sleep(1.5)
else:
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.parametrize(("called_off", "status"), [(False, 1), (True, 0)])
def test_f24_a_child_ends_as_any_other_does_and_its_parent_when_its_time_has_come(
    called_off: bool, status: int
) -> None:
    command = [sys.executable, "-c", PROGRAM.replace("CALLED_OFF", str(called_off))]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout) == (status, "ended\n"), ran.stderr
    assert ("Timeout" in ran.stderr) is not called_off
