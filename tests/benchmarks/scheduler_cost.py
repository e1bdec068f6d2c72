"""What a pending task costs: to submit, to start, to cancel, and in memory, with few and with a million pending.

The scheduler alone, then the whole record with its context and its heap entry, beside a bare PriorityQueue.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import queue
import random
import time
import tracemalloc
from contextvars import copy_context

from qorzen_obs.counts import CELL_OF
from qorzen_obs.definition import NO_DEFINITION
from qorzen_obs.engines.traits import THREAD
from qorzen_obs.record import TaskRecord
from qorzen_obs.scheduling.limits import Limits
from qorzen_obs.scheduling.scheduler import Scheduler
from qorzen_obs.tasks import TaskCategory, TaskPriority

DEPTHS = (1_000, 100_000, 1_000_000)
SAMPLE = 10_000
CATEGORIES = tuple(TaskCategory)
PRIORITIES = tuple(TaskPriority)

_sequence = itertools.count()
_random = random.Random(1)


def no_op() -> None:
    """The task."""


def make_record() -> TaskRecord:
    """Return a record as submit_task makes it."""
    sequence = next(_sequence)
    category, priority = _random.choice(CATEGORIES), _random.choice(PRIORITIES)
    return TaskRecord(
        task_id=f"{_random.getrandbits(128):032x}",
        sequence=sequence,
        name="no_op",
        func=no_op,
        args=(),
        kwargs={},
        category=category,
        priority=priority,
        cell=CELL_OF[category, priority],
        plugin_id=None,
        metadata=None,
        timeout=300.0,
        cancellable=True,
        definition=NO_DEFINITION,
        limit=None,
        wants_progress=False,
        engine=THREAD,
        context=copy_context(),
        created_at=time.time(),
        eligible_at=(now := time.monotonic()),
        eligible_wall=now,
    )


def main() -> None:
    """Print both tables."""
    print("Cost of one step with many tasks pending, µs (ratio to the smallest depth)")
    print(f"{'pending':>12}{'submit':>16}{'start + end':>16}{'cancel':>16}")
    base: list[float] | None = None
    for depth in DEPTHS:
        figures = _steps(depth)
        base = base or figures
        cells = (f"{one:.2f} ({one / first:.1f}x)" for one, first in zip(figures, base, strict=True))
        print(f"{depth:>12,}" + "".join(f"{cell:>16}" for cell in cells))
    print()
    records, bare = _memory(100_000)
    print(
        f"Memory of a pending task: {records:.0f} bytes, all told; an item of a bare PriorityQueue: {bare:.0f}"
    )
    print()
    asyncio.run(_hop())


def _steps(depth: int) -> list[float]:
    scheduler: Scheduler[TaskRecord] = Scheduler(Limits(10), ageing_seconds=300.0)
    pending = [make_record() for _ in range(depth)]
    extra = [make_record() for _ in range(SAMPLE)]
    gc.collect()
    gc.disable()
    for record in pending:
        scheduler.push(record, record.eligible_at)
    started = time.perf_counter()
    for record in extra:
        scheduler.push(record, record.eligible_at)
    submit = time.perf_counter() - started
    sample = _random.sample(pending, min(depth // 2, SAMPLE))
    started = time.perf_counter()
    for record in sample:
        scheduler.remove(record)
    cancel = (time.perf_counter() - started) * SAMPLE / len(sample)
    started = time.perf_counter()
    count = min(SAMPLE, len(scheduler))
    for _ in range(count):
        record_or_none = scheduler.start_next(0.0)
        assert record_or_none is not None
        scheduler.finish(record_or_none)
    start = (time.perf_counter() - started) * SAMPLE / count
    gc.enable()
    return [seconds / SAMPLE * 1e6 for seconds in (submit, start, cancel)]


def _memory(count: int) -> tuple[float, float]:
    scheduler: Scheduler[TaskRecord] = Scheduler(Limits(10), ageing_seconds=300.0)
    live: dict[str, TaskRecord] = {}
    tracemalloc.start()
    for _ in range(count):
        record = make_record()
        live[record.task_id] = record
        scheduler.push(record, record.eligible_at)
    records = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    tracemalloc.start()
    bare: queue.PriorityQueue[tuple[int, int, object]] = queue.PriorityQueue()
    for number in range(count):
        bare.put((_random.choice((0, 50, 100)), number, (no_op, (number,), {})))
    plain = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    return records, plain


async def _hop() -> None:
    """Print what a no-op costs through the worker threads, beside run_in_executor in the same run."""
    from qorzen_obs.engines.threads import ThreadEngine  # noqa: PLC0415 - the only user in this file
    from qorzen_obs.record import Attempt  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    count, outstanding = 20_000, 32
    engine = ThreadEngine(loop, THREAD, outstanding)
    gate = asyncio.Semaphore(outstanding)

    def ended(attempt: Attempt, value: object, error: BaseException | None) -> None:
        gate.release()

    records = [make_record() for _ in range(count)]
    attempts = [Attempt(record, 1, record.context.copy(), None, {}) for record in records]  # type: ignore[union-attr, arg-type]  # never looked at
    started = time.perf_counter()
    for attempt in attempts:
        await gate.acquire()
        engine.start(attempt, ended)
    for _ in range(outstanding):
        await gate.acquire()
    ours = time.perf_counter() - started
    engine.close()

    gate = asyncio.Semaphore(outstanding)
    started = time.perf_counter()
    for _ in range(count):
        await gate.acquire()
        loop.run_in_executor(None, no_op).add_done_callback(lambda _: gate.release())
    for _ in range(outstanding):
        await gate.acquire()
    bare = time.perf_counter() - started
    print(
        f"A no-op on a worker thread and back, {outstanding} outstanding: {ours / count * 1e6:.1f} µs; "
        f"run_in_executor {bare / count * 1e6:.1f} µs; ratio {ours / bare:.2f}"
    )
