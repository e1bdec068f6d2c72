"""What the time ledger costs: a step of a coroutine, and a task that has none, with it on and off in the same run.

The variants take turns, so that a busy moment of the machine hits both; the median of the rounds counts. A step
is an `await asyncio.sleep(0)`, the cheapest there is: the loop's own work for it is in both figures.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from qorzen_obs.settings import Settings, TaskSettings, TelemetrySettings
from qorzen_obs.testing import CapturedEvents, open_test_manager

STEPS = 1_000
COROUTINES = 100
TASKS = 2_000
ROUNDS = 9


class Silence(CapturedEvents):
    """An event bus and a logger manager that keep nothing."""

    async def publish(self, **_: object) -> None:
        """Drop it."""

    def get_logger(self, name: str) -> Silence:
        return self

    def __getattr__(self, level: str) -> object:
        return lambda *_, **__: None


async def steps() -> None:
    """A task of STEPS steps."""
    for _ in range(STEPS):
        await asyncio.sleep(0)


async def no_op() -> None:
    """A task that has no step but its first."""


async def seconds_with(ledger: bool) -> tuple[float, float]:
    """Return the seconds of a step, and of a task without any."""
    settings = Settings(
        tasks=TaskSettings(max_concurrent_tasks=COROUTINES),
        telemetry=TelemetrySettings(time_ledger=ledger),
    )
    async with open_test_manager(settings, events=Silence(), logs=Silence()) as tasks:
        began = time.perf_counter()
        await asyncio.gather(*(tasks.run(steps) for _ in range(COROUTINES)))
        stepped = time.perf_counter()
        await asyncio.gather(*(tasks.run(no_op) for _ in range(TASKS)))
        ended = time.perf_counter()
    return (stepped - began) / (COROUTINES * STEPS), (ended - stepped) / TASKS


async def measure() -> None:
    """Print both figures with the ledger off and on."""
    seen: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for ledger, figures in seen.items():
            figures.append(await seconds_with(ledger))
    for index, what in enumerate(("a step", "a task without steps")):
        off, on = (statistics.median(one[index] for one in seen[ledger]) * 1e6 for ledger in (False, True))
        print(
            f"{what:<22} off {off:7.2f} us   on {on:7.2f} us   ledger {on - off:+6.2f} us   ratio {on / off:.2f}"
        )


def main() -> None:
    """Print what the ledger costs."""
    print(
        f"time ledger: {COROUTINES} tasks of {STEPS} steps, {TASKS} tasks without, median of {ROUNDS} rounds"
    )
    asyncio.run(measure())


if __name__ == "__main__":
    main()
