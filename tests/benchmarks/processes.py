"""Worker processes beside the standard library's and Pebble's, all in one run: killing, being killed, carrying.

Each kill is asked for as the library offers it: ours by `cancel_task`, timed from the end of a short grace; Pebble's by
its future's cancel, timed until the pool runs another task; the standard library cannot end one task.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import multiprocessing
import os
import pickle
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pebble
from opentelemetry.trace import NoOpTracerProvider

from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.core.event_bus_manager import EventBusManager
from qorzen_obs.core.logger_manager import LoggerManager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.options import task
from qorzen_obs.settings import EngineSettings, Settings, TaskSettings

KILLS: Final = 50
PEBBLE_KILLS: Final = 5  # each takes seconds
GRACE_SECONDS: Final = 0.05
NEIGHBOURS: Final = 3
ROUNDS: Final = 4
NO_OPS: Final = 500
BUFFER_BYTES: Final = 50_000_000
BUFFER_ROUNDS: Final = 5
PATIENCE_SECONDS: Final = 5.0


def no_op() -> None:
    """The smallest task."""


def stubborn(started: str) -> None:
    """Ignore every signal that can be ignored, after saying so."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(started).touch()
    while True:
        pass


def neighbour(gate: str) -> int:
    """Run until the gate opens."""
    while not Path(gate).exists():
        time.sleep(0.01)
    return os.getpid()


def die(started: str) -> None:
    """Be killed from outside, as by the kernel for want of memory."""
    Path(started).touch()
    os.kill(os.getpid(), signal.SIGKILL)


def carry(buffer: Any) -> Any:
    """Send a buffer back."""
    return buffer


class Buffer:
    """What an array is to pickle: data beside the stream."""

    def __init__(self, data: bytearray) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Buffer, (pickle.PickleBuffer(self.data) if protocol >= 5 else bytes(self.data),)


OURS: Final = {func: task(engine="process")(func) for func in (no_op, stubborn, neighbour, die, carry)}


@asynccontextmanager
async def manager(processes: int) -> AsyncIterator[TaskManager]:
    """Give a manager without spans and log lines: what is measured is the engine."""
    settings = Settings(
        tasks=TaskSettings(cancel_grace_seconds=GRACE_SECONDS), engines=EngineSettings(processes=processes)
    )
    loggers, events, config = (
        LoggerManager("error", io.StringIO()),
        EventBusManager(),
        ConfigManager(settings),
    )
    concurrency = ConcurrencyManager(settings.engines)
    for part in (loggers, events, config, concurrency):
        await part.initialize()
    tasks = TaskManager(concurrency, events, loggers, config, tracer_provider=NoOpTracerProvider())
    await tasks.initialize()
    try:
        yield tasks
    finally:
        await tasks.shutdown(grace_seconds=0)
        await concurrency.shutdown()


async def appears(path: Path) -> None:
    """Wait for a file that a task makes."""
    # It is made in another process, and this is a benchmark.
    while not path.exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.001)


async def our_kills(folder: Path) -> list[float]:
    """Return the seconds from the kill at the end of the grace until the caller has its answer."""
    took = []
    async with manager(2) as tasks:
        for number in range(KILLS):
            mark = folder / f"ours {number}"
            task_id = await tasks.submit_task(stubborn, str(mark))
            await appears(mark)
            asked = time.perf_counter()
            await tasks.cancel_task(task_id)
            await tasks.wait_for_task(task_id)
            took.append(time.perf_counter() - asked - GRACE_SECONDS)
    return took


def pebble_kills(folder: Path) -> list[float]:
    """Return the seconds from the cancel until the pool has a worker for the next task."""
    took = []
    with pebble.ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn")) as pool:
        for number in range(PEBBLE_KILLS):
            mark = folder / f"pebble {number}"
            future = pool.schedule(stubborn, args=[str(mark)])
            while not mark.exists():
                time.sleep(0.001)
            asked = time.perf_counter()
            future.cancel()  # type: ignore[no-untyped-call]  # Pebble has few types
            pool.schedule(no_op).result()
            took.append(time.perf_counter() - asked)
    return took


async def our_neighbours(folder: Path) -> int:
    """Return how many neighbours a death has hurt."""
    hurt = 0
    async with manager(NEIGHBOURS + 1) as tasks:
        for number in range(ROUNDS):
            gate = folder / f"our gate {number}"
            ids = [await tasks.submit_task(neighbour, str(gate)) for _ in range(NEIGHBOURS)]
            victim = await tasks.submit_task(die, str(folder / "died"), name=f"victim {number}")
            await tasks.wait_for_task(victim)
            gate.touch()
            hurt += sum([(await tasks.wait_for_task(one)).error is not None for one in ids])
    return hurt


def end(pool: Any) -> None:
    """End a pool that may be wedged: the standard library's, whose worker died with a lock, does not end itself."""
    if isinstance(pool, pebble.ProcessPool):
        pool.stop()  # type: ignore[no-untyped-call]  # Pebble has few types
        return
    for process in list((pool._processes or {}).values()):
        process.kill()


def their_neighbours(folder: Path, name: str, make: Callable[[], Any], submit: Callable[..., Any]) -> int:
    """Return how many neighbours a death has hurt in somebody else's pool, a new one each round."""
    hurt = 0
    for number in range(ROUNDS):
        gate = folder / f"{name} gate {number}"
        with make() as pool:
            futures = [submit(pool, neighbour, str(gate)) for _ in range(NEIGHBOURS)]
            concurrent.futures.wait([submit(pool, die, str(folder / "died"))], PATIENCE_SECONDS)
            gate.touch()
            concurrent.futures.wait(futures, PATIENCE_SECONDS)
            hurt += sum(not future.done() or future.exception() is not None for future in futures)
            end(pool)
    return hurt


async def our_round_trips(values: Sequence[Any], func: Callable[..., Any]) -> list[float]:
    """Return the seconds of each call with its value, one after the other."""
    took = []
    async with manager(1) as tasks:
        await tasks.run(no_op)
        for value in values:
            started = time.perf_counter()
            await tasks.run(func, *value)
            took.append(time.perf_counter() - started)
    return took


def their_round_trips(pool: Any, submit: Callable[..., Any], values: Sequence[Any], func: Any) -> list[float]:
    """As ours, in somebody else's pool."""
    took = []
    with pool:
        submit(pool, no_op).result()
        for value in values:
            started = time.perf_counter()
            submit(pool, func, *value).result()
            took.append(time.perf_counter() - started)
    return took


def stdlib_pool(workers: int = NEIGHBOURS + 1) -> concurrent.futures.ProcessPoolExecutor:
    """Make the standard library's pool, with processes that a service with threads may start."""
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def pebble_pool(workers: int = NEIGHBOURS + 1) -> pebble.ProcessPool:
    """Make Pebble's pool, likewise."""
    return pebble.ProcessPool(max_workers=workers, context=multiprocessing.get_context("spawn"))


def stdlib_submit(pool: Any, func: Any, *args: Any) -> Any:
    """Submit to the standard library's pool."""
    return pool.submit(func, *args)


def pebble_submit(pool: Any, func: Any, *args: Any) -> Any:
    """Submit to Pebble's pool."""
    return pool.schedule(func, args=args)


def quantiles(seconds: list[float]) -> str:
    """Return median and p99 (the largest of a few) in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {statistics.median(ordered) * 1e3:9.2f} ms   p99 {p99 * 1e3:9.2f} ms   n={len(ordered)}"


def main() -> None:
    """Print the table."""
    theirs = (("concurrent.futures", stdlib_pool, stdlib_submit), ("Pebble", pebble_pool, pebble_submit))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("Killing a stubborn process: from the kill to the answer (Pebble: to the next task's)")
        print(f"  {'ours':20} {quantiles(asyncio.run(our_kills(folder)))}")
        print(f"  {'Pebble':20} {quantiles(pebble_kills(folder))}")
        print(f"  {'concurrent.futures':20} cannot end a running task")
        print(f"Neighbours hurt by a death, of {NEIGHBOURS * ROUNDS}")
        print(f"  {'ours':20} {asyncio.run(our_neighbours(folder))}")
        for pool_name, make, submit in theirs:
            print(f"  {pool_name:20} {their_neighbours(folder, pool_name, make, submit)}")
    buffers = [(Buffer(bytearray(BUFFER_BYTES)),) for _ in range(BUFFER_ROUNDS)]
    data = [(os.urandom(BUFFER_BYTES),) for _ in range(BUFFER_ROUNDS)]
    for title, values, func in (
        ("A no-op there and back", [()] * NO_OPS, no_op),
        ("A buffer of 50 MB there and back, as of an array", buffers, carry),
        ("50 MB of bytes there and back", data, carry),
    ):
        print(title)
        print(f"  {'ours':20} {quantiles(asyncio.run(our_round_trips(values, func)))}")
        for pool_name, make, submit in theirs:
            print(f"  {pool_name:20} {quantiles(their_round_trips(make(1), submit, values, func))}")


if __name__ == "__main__":
    main()
