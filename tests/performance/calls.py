"""How many functions are called on the work loop's thread for each fully observed task, those in Python and in C.

A program, run in a process of its own, that prints its counts as JSON. Time is noise on a shared machine; counts
are not, as far as nothing in them hangs on time: the sampler's budget is for seconds that the script makes, the
loop's monitor, which beats by the clock, is off, and the turns of the loop itself are left out, since the threads that
wake it decide how many there are.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self, TextIO

import qorzen_obs.engines.loop
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.settings import Settings, TaskSettings, TelemetrySettings
from tests.performance.observed import observed

TASKS: Final = 1_000
WARM_UP: Final = 200
BATCH: Final = 100
TASK_SECONDS: Final = 1e-4  #: so many pass for the sampler with each task: 10,000 a second

#: What asyncio calls in each turn of its loop, whether or not there is anything to do.
_TURN: Final = frozenset({"_run_once", "select", "_process_events", "_add_callback", "_read_from_self"})


class ScriptedClock:
    """A clock that its owner moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        """Return Unix seconds."""
        return 1_700_000_000.0 + self.seconds

    def monotonic(self) -> float:
        """Return seconds since the start."""
        return self.seconds


class Calls:
    """Counts the calls that this thread makes inside the block, with no garbage collected meanwhile."""

    def __init__(self) -> None:
        self.python = 0
        self.c = 0

    def __enter__(self) -> Self:
        gc.collect()
        gc.disable()
        sys.setprofile(self._on_event)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.setprofile(None)
        gc.enable()

    def _on_event(self, frame: FrameType, event: str, arg: Any) -> None:
        if _is_turning(frame):
            return
        if event == "call":
            self.python += 1
        elif event == "c_call":
            self.c += 1


def _is_turning(frame: FrameType) -> bool:
    name, caller = frame.f_code.co_name, frame.f_back
    return name in _TURN or (name == "time" and caller is not None and caller.f_code.co_name in _TURN)


async def no_op() -> None:
    """The task for the loop."""


def no_op_in_thread() -> None:
    """The task for a worker thread."""


async def wait_for_ever() -> None:
    """The task that keeps its slot."""
    await asyncio.Event().wait()


async def run_batches(tasks: TaskManager, clock: ScriptedClock, number: int) -> None:
    """Run async tasks, as many at once as are submitted at once."""
    for _ in range(number // BATCH):
        task_id = ""
        for _ in range(BATCH):
            clock.seconds += TASK_SECONDS
            task_id = await tasks.submit_task(no_op)
        await tasks.wait_for_task(task_id)


async def run_in_a_thread(tasks: TaskManager, clock: ScriptedClock, number: int) -> None:
    """Run sync tasks one after the other, so that each wakes the loop once, however fast the threads are."""
    for _ in range(number):
        clock.seconds += TASK_SECONDS
        await tasks.wait_for_task(await tasks.submit_task(no_op_in_thread))


async def only_queue(tasks: TaskManager, clock: ScriptedClock, number: int) -> None:
    """Submit tasks of which the very first keeps the only slot."""
    for _ in range(number):
        clock.seconds += TASK_SECONDS
        await tasks.submit_task(wait_for_ever)


Script = Callable[[TaskManager, ScriptedClock, int], Awaitable[None]]


async def count(
    script: Script, log: TextIO, settings: TaskSettings | None = None, *, to_the_end: bool = True
) -> dict[str, float]:
    """Return the calls a task, to the delivery of the last event or only of what the script does."""
    telemetry, clock = TelemetrySettings(watch_loop=False), ScriptedClock()
    everything_on = Settings(tasks=settings or TaskSettings(keep_completed_tasks=1_000), telemetry=telemetry)
    async with observed(everything_on, log, sampling_clock=clock) as tasks:
        await script(tasks, clock, WARM_UP)
        for _ in range(BATCH):  # what the warm-up has left to do is no part of it
            await asyncio.sleep(0)
        with Calls() as calls:
            await script(tasks, clock, TASKS)
            if to_the_end:
                await tasks.shutdown()
    return {"python": round(calls.python / TASKS, 1), "c": round(calls.c / TASKS, 1)}


async def count_all(log: TextIO) -> dict[str, dict[str, float]]:
    """Return the calls a task of each scenario."""
    one_slot = TaskSettings(max_concurrent_tasks=1)
    return {
        "async task": await count(run_batches, log),
        "sync task on a worker thread": await count(run_in_a_thread, log),
        "submit to the queue": await count(only_queue, log, one_slot, to_the_end=False),
    }


def main() -> None:
    """Print the counts."""
    # How many tasks begin in a turn is for BATCH to say, not for the clock.
    qorzen_obs.engines.loop._SLICE_SECONDS = math.inf  # type: ignore[misc]
    random.seed(0)  # of it the SDK makes the ids by which the sampler chooses
    with Path(os.devnull).open("w") as log:
        json.dump(asyncio.run(count_all(log)), sys.stdout)


if __name__ == "__main__":
    main()
