"""The script that every variant runs, and the clocks that it is read by.

So many no-op tasks, at most OUTSTANDING of them unfinished. Knows of no task system.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

OUTSTANDING: Final = 1_000


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement: its value and, where that is a time of this process, the processor time beside it."""

    value: float
    cpu: float | None = None
    facts: Mapping[str, float] = field(default_factory=dict)  #: what shows that the work was done


class Stopwatch:
    """Reads the wall and this process's processor time of a block, after a garbage collection."""

    seconds = 0.0
    cpu_seconds = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._wall
        self.cpu_seconds = time.process_time() - self._cpu

    def each(self, times: int, **facts: float) -> Measured:
        """Return the microseconds of each of so many."""
        return Measured(self.seconds / times * 1e6, self.cpu_seconds / times * 1e6, facts)


async def no_op() -> None:
    """The work of a task."""


class Script:
    """Submits tasks and waits for the last one."""

    def __init__(self) -> None:
        gate = self._gate = asyncio.Semaphore(OUTSTANDING)

        async def task() -> None:
            await no_op()
            gate.release()

        self.task = task  #: a function: not every task system takes a method

    async def run(self, tasks: int, submit: Callable[[], Awaitable[object]]) -> None:
        """Have `submit` start `task` so often, and wait until each has run."""
        for _ in range(tasks):
            await self._gate.acquire()
            await submit()
        for _ in range(OUTSTANDING):
            await self._gate.acquire()


async def call(calls: int, once: Callable[[], Awaitable[object]]) -> None:
    """Await `once` so often from OUTSTANDING callers, each of whom waits for its answer."""
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            await once()

    await asyncio.gather(*(caller() for _ in range(min(calls, OUTSTANDING))))
