"""Stacks of code that goes on while they are read (docs/decisions/0086)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]

#: Each object that is created may start the collector, whose callback gives the other thread a turn.
READS = """
import asyncio, gc, sys, threading, time
from qorzen_obs import stacks
from qorzen_obs.telemetry.culprit import find_culprit

def yields(phase, info):
    if threading.current_thread() is reader and phase == "start":
        time.sleep(0)

def calls(depth):
    return calls(depth - 1) if depth else None

async def awaits(depth):
    await (awaits(depth - 1) if depth else asyncio.sleep(0))

def frames():
    frame = stacks.thread_frame(me)
    while frame is not None:
        frame.f_code
        frame = stacks.unmoved(stacks.back_of, frame)

async def main(what):
    global me, reader
    loop, me, over, problems = asyncio.get_running_loop(), threading.get_ident(), False, []
    task = asyncio.current_task()
    reads = {
        "frames": frames,
        "culprit": lambda: find_culprit(loop, me),
        "coroutine": lambda: stacks.coroutine_places(task.get_coro()),
        "all": lambda: stacks.all_stacks(loop),
    }

    def read():
        try:
            while not over:
                reads[what]()
        except BaseException as error:
            problems.append(repr(error))

    reader = threading.Thread(target=read)
    gc.callbacks.append(yields)
    gc.set_threshold(1)
    reader.start()
    end = time.monotonic() + 2
    while time.monotonic() < end and not problems:
        calls(20)
        if what != "frames":
            await awaits(20)
    over = True
    reader.join()
    print(problems, gc.isenabled())

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.slow  # a program of its own for each
@pytest.mark.parametrize("reading", ["frames", "culprit", "coroutine", "all"])
def test_code_may_go_on_while_its_stack_is_read_and_the_collector_runs(reading: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READS, reading],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[] True\n"), done.stderr


#: What creates an object for a frame.
CREATES = {"_current_frames", "f_back", "f_locals", "cr_frame", "gi_frame", "ag_frame"}
#: Reads the frames of its own thread, in a signal handler.
OF_ITS_OWN_THREAD = {"qorzen_obs/engines/processes/worker.py"}


def test_nobody_reads_a_frame_but_by_unmoved() -> None:
    reads = set()
    for file in ROOT.glob("qorzen_obs/**/*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        given = {argument for call in ast.walk(tree) if isinstance(call, ast.Call) for argument in call.args}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in CREATES and node not in given:
                reads.add(file.relative_to(ROOT).as_posix())
    assert reads == OF_ITS_OWN_THREAD
