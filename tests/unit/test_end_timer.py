"""The timer that ends a process which does not stop: what it says, whom it spares (F40), and after a fork (F24)."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PATIENCE_SECONDS

pytestmark = pytest.mark.slow  # a program of its own for each test

ROOT = Path(__file__).parents[2]

FORKS = """
import os, sys, time
from qorzen_obs.host import _EndTimer

end = _EndTimer()
end.start()
end.come_in(3600)
child = os.fork()
if child == 0:
    sys.exit(0)
deadline = time.monotonic() + 60
while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
    time.sleep(0.01)
if ended == (0, 0):
    os.kill(child, 9)
print("ended" if ended == (child, 0) else "hung", flush=True)
end.come_in(0.6)
end.close()
time.sleep(3600)
"""
NOT_ASKED = """
import signal, sys, threading
from qorzen_obs.host import _EndTimer

end = _EndTimer()
end.start()
end.close()
left = "qorzen-end" in [thread.name for thread in threading.enumerate()]
sys.exit(bool(left or signal.getitimer(signal.ITIMER_REAL)[0]))
"""
AWAITS = """
import asyncio, threading
from qorzen_obs.host import _EndTimer

async def reader():
    await asyncio.Event().wait()

def worker():
    threading.Event().wait()

async def main():
    threading.Thread(target=worker, name="the worker", daemon=True).start()
    task = asyncio.create_task(reader(), name="the reader")
    end = _EndTimer(asyncio.get_running_loop())
    end.start()
    end.come_in(0.6)
    await task

asyncio.run(main())
"""
WRITES_NOTHING = """
import os, time
from qorzen_obs import host

host.all_stacks = lambda loop: time.sleep(3600)
end = host._EndTimer()
end.start()
end.come_in(0.6)
time.sleep(3600)
"""

HAS_NO_PROCESSOR = """
import atexit, os, subprocess, sys, time
from qorzen_obs import host

SPINS = "import os\\nparent = os.getppid()\\nwhile os.getppid() == parent: pass"
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # which the busy processes and the threads have in common
for _ in range(8):
    subprocess.Popen([sys.executable, "-c", SPINS])
host.STOP_SECONDS = 1.0

def work():
    began, until = time.monotonic(), time.thread_time() + 0.2
    while time.thread_time() < until:
        pass
    print(time.monotonic() - began > host.STOP_SECONDS)

atexit.register(work)
end = host._EndTimer()
end.start()
end.come_in(host.STOP_SECONDS)
work()
end.close()
"""
HOLDS_THE_INTERPRETER = """
import atexit, re
from qorzen_obs import host

host.STOP_SECONDS = 0.1
atexit.register(re.match, "(a+)+$", "a" * 64 + "b")
end = host._EndTimer()
end.start()
end.come_in(3600)
end.close()
"""
NEVER_EXITS = """
import threading
from qorzen_obs import host

host.STOP_SECONDS = 1.0

def hinders():
    threading.Event().wait()

threading.Thread(target=hinders).start()
end = host._EndTimer()
end.start()
end.come_in(3600)
end.close()
"""


def ran(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_f24_a_child_ends_as_any_other_does_and_its_parent_when_its_time_has_come() -> None:
    done = ran(FORKS)
    assert (done.returncode, done.stdout) == (1, "ended\n"), done.stderr
    assert "Timeout" in done.stderr


def test_nothing_is_left_of_it_where_nobody_asked_for_the_end() -> None:
    done = ran(NOT_ASKED)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_writes_the_stack_of_each_thread_and_of_each_coroutine_that_waits() -> None:
    done = ran(AWAITS)
    assert done.returncode == 1, done.stderr
    assert "Thread the worker:\n" in done.stderr
    assert "in worker" in done.stderr
    assert "asyncio task the reader of reader, awaiting asyncio.Event.wait:\n" in done.stderr
    assert "in reader" in done.stderr


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no such timer")
def test_the_kernel_ends_what_cannot_write_its_stacks() -> None:
    assert ran(WRITES_NOTHING).returncode == -signal.SIGALRM


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="the system does not tell who waits for it"
)
def test_f40_a_stop_and_an_exit_that_wait_for_a_processor_are_not_ended() -> None:
    done = ran(HAS_NO_PROCESSOR)
    assert (done.returncode, done.stdout) == (0, "True\nTrue\n"), done.stderr


def test_a_thread_that_hinders_the_exit_of_a_finished_stop_is_named() -> None:
    done = ran(NEVER_EXITS)
    assert done.returncode == 1
    assert "in hinders\n" in done.stderr


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no such timer")
def test_the_kernel_ends_an_exit_that_lets_no_thread_run_python() -> None:
    assert ran(HOLDS_THE_INTERPRETER).returncode == -signal.SIGPROF
