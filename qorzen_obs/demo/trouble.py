"""What goes wrong on purpose in `qorzen-obs demo --trouble`: the back office of a shop on a bad day.

Each round goes wrong in six ways, which stay visible for some seconds, and leaves nothing behind: every wait has an
end, and what leaks is bounded and given back. Light to import, since a worker process does it too.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import socket
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any, Final

from qorzen_obs.core.current_task import current_task
from qorzen_obs.demo.ends import Ends
from qorzen_obs.options import task
from qorzen_obs.retry import Retry, exponential
from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus

#: What the screen says at the start: how it goes wrong, and where to see it.
WHERE_TO_LOOK: Final = (
    ("hangs", "charge order: its thread ignores the timeout and is abandoned; await courier waits in vain"),
    ("blocks", "render invoice holds the event loop; the page and top name it and its line"),
    ("backs up", "send mail runs one at a time; `qorzen-obs show ID` of a pending one says why it waits"),
    ("fails", "import orders: a batch in which three of twelve fail; `qorzen-obs trace ID` marks them"),
    ("leaks", "fill cache keeps up to 64 MiB until the round ends; top shows the memory grow"),
    ("loses", "convert scan: its worker process is killed, and only this task is lost"),
)

CHARGE_TIMEOUT_SECONDS: Final = 3.0
COURIER_TIMEOUT_SECONDS: Final = 10.0
MAILS: Final = 40
MAIL_SECONDS: Final = 0.3
INVOICES: Final = 3
INVOICE_SECONDS: Final = 2.0
ORDERS: Final = 12
LEAKS: Final = 32
LEAK_BYTES: Final = 2 * 1024 * 1024
LEAK_SECONDS: Final = 0.4  # between two
SCAN_SECONDS: Final = 1.0

_cache: list[bytes] = []  # what leaks; the round empties it


class OrderError(ValueError):
    """A line of an order cannot be read."""


class BatchError(Exception):
    """Some orders of a batch were not imported."""


@task(timeout=math.inf)
async def trouble(number: int, ends: Ends) -> None:
    """Go wrong in each of the ways, side by side; `number` tells the rounds apart."""
    this = current_task()
    strands = (
        _hang(number, ends),
        _block(ends),
        _back_up(ends),
        _fail(number, ends),
        _leak(ends),
        _lose(number, ends),
    )
    over = 0

    async def run(strand: Coroutine[Any, Any, None]) -> None:
        nonlocal over
        await strand
        over += 1
        this.progress(100 * over / len(strands), f"{over} of {len(strands)} troubles are over")

    try:
        async with asyncio.TaskGroup() as group:
            for strand in strands:
                group.create_task(run(strand))
    finally:
        _cache.clear()


# ---------------------------------------------------------------------- a call hangs


async def _hang(number: int, ends: Ends) -> None:
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.callback(theirs.close)
        # Closing our end lets the call return that was abandoned, so no thread is left over.
        stack.callback(ours.close)
        await asyncio.gather(
            ends.run(charge, theirs, name=f"charge order {number:04}"),
            ends.run(courier, name=f"await courier {number:04}"),
        )


@task(category=TaskCategory.IO, priority=TaskPriority.HIGH, timeout=CHARGE_TIMEOUT_SECONDS, new_trace=True)
def charge(gateway: socket.socket) -> bytes:
    """Wait for a payment service that does not answer; a thread in a system call cannot be interrupted."""
    answer = gateway.recv(1024)
    current_task().raise_if_cancelled()
    return answer


@task(category=TaskCategory.PLUGIN, timeout=COURIER_TIMEOUT_SECONDS, new_trace=True)
async def courier() -> None:
    """Await a message that nobody sends."""
    await asyncio.Event().wait()


# ---------------------------------------------------------------------- the loop is blocked


async def _block(ends: Ends) -> None:
    for number in range(INVOICES):
        await asyncio.sleep(INVOICE_SECONDS)
        await ends.run(render, name=f"render invoice {number + 1}")


@task(category=TaskCategory.USER, priority=TaskPriority.HIGH, new_trace=True)
async def render() -> int:
    """Compute on the event loop, which waits meanwhile, with everything that runs there."""
    rows = [{"article": number, "price": number / 7} for number in range(1_000)]
    until = time.monotonic() + INVOICE_SECONDS
    size = 0
    while time.monotonic() < until:
        size = len(json.dumps(rows, indent=2))
    return size


# ---------------------------------------------------------------------- a queue backs up


async def _back_up(ends: Ends) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(MAILS):
            group.create_task(ends.run(send, name=f"send mail {number + 1}"))


@task(name="send mail", category=TaskCategory.BACKGROUND, max_concurrent=1, timeout=5, new_trace=True)
async def send() -> None:
    """Send a mail over the only connection that there is."""
    await asyncio.sleep(MAIL_SECONDS)


# ---------------------------------------------------------------------- a batch fails


async def _fail(number: int, ends: Ends) -> None:
    await ends.run(import_orders, ends, name=f"import orders {number:04}")


@task(category=TaskCategory.USER, priority=TaskPriority.HIGH, new_trace=True)
async def import_orders(ends: Ends) -> None:
    """Import orders at once, each as a task.

    Raises:
        BatchError: some were not imported.
    """
    lines = [f"{100 + index};{'12,50' if index % 4 == 3 else '12.50'}" for index in range(ORDERS)]
    imported = await asyncio.gather(
        *(ends.run(import_order, line, name=f"import order {line.partition(';')[0]}") for line in lines)
    )
    failed = [info.name for info in imported if info is not None and info.status is TaskStatus.FAILED]
    if failed:
        raise BatchError(f"{len(failed)} of {len(lines)} were not imported: {', '.join(failed)}")


@task(
    category=TaskCategory.USER,
    retry=Retry(max_attempts=3, on=(ConnectionError,), backoff=exponential(0.2, jitter=False)),
)
async def import_order(line: str) -> float:
    """Read an order. The store drops a third of the connections, which is tried again.

    Raises:
        OrderError: the price is not a number.
    """
    order, _, price = line.partition(";")
    await asyncio.sleep(random.uniform(0.05, 0.3))
    if int(order) % 3 == 0 and current_task().number == 1:
        raise ConnectionResetError("the store closed the connection")
    try:
        return float(price)
    except ValueError as error:
        raise OrderError(f"order {order}: {price!r} is not a price") from error


# ---------------------------------------------------------------------- memory leaks


async def _leak(ends: Ends) -> None:
    await ends.run(fill_cache)


@task(name="fill cache", category=TaskCategory.CORE, new_trace=True)
async def fill_cache() -> None:
    """Keep more and more and give nothing back."""
    this = current_task()
    for number in range(1, LEAKS + 1):
        _cache.append(b"\xff" * LEAK_BYTES)
        this.progress(100 * number / LEAKS, f"holds {number * LEAK_BYTES // 2**20} MiB")
        await asyncio.sleep(LEAK_SECONDS)


# ---------------------------------------------------------------------- a worker is lost


async def _lose(number: int, ends: Ends) -> None:
    # By another name each time: one that kills three workers in ten minutes is put into quarantine.
    await ends.run(convert, name=f"convert scan {number:04}")


@task(engine="process", category=TaskCategory.BACKGROUND, priority=TaskPriority.CRITICAL, new_trace=True)
def convert() -> None:
    """Use a processor for a moment, and be killed, as the system kills what takes too much memory."""
    print("convert scan: page 1 of 2", flush=True)  # noqa: T201 - what a task prints is kept with it
    until = time.monotonic() + SCAN_SECONDS
    while time.monotonic() < until:
        sum(range(10_000))
    os.kill(os.getpid(), signal.SIGKILL)
