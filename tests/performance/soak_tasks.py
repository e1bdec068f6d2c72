"""The tasks of the soak, and how each of them ends. Apart from it, so that a worker process imports only them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import structlog
from opentelemetry import trace

from qorzen_obs import Retry, TaskCategory, TaskStatus, current_task, exponential, task, track, with_options

GRACE_SECONDS: Final = 0.3
_SHORT: Final = 0.05  #: a timeout that is always passed
_tracer = trace.get_tracer("tests.soak")
_log = structlog.get_logger("tests.soak")


class SoakError(Exception):
    """What fails here, fails by this."""


@task(name="soak.async")
async def work() -> None:
    """Do a bit of everything on the loop."""
    with _tracer.start_as_current_span("soak.step", attributes={"where": "loop"}):
        for step in track(range(3)):
            await asyncio.sleep(0.002)
            _log.info("soak.step", step=step)


@task(name="soak.thread")
def work_in_thread() -> int:
    """Do a bit of everything on a worker thread, or in a process."""
    with _tracer.start_as_current_span("soak.step", attributes={"where": "elsewhere"}):
        for step in track(range(3)):
            _log.info("soak.step", step=step)
        return sum(range(10_000))


@task(name="soak.io", category="io")
def wait_in_thread() -> bytes:
    """Wait as for a file."""
    time.sleep(0.005)
    return bytes(10_000)


@task(name="soak.fail", category="plugin")
async def fail() -> None:
    """Fail on the loop."""
    raise SoakError("on the loop")


@task(name="soak.fail_elsewhere", category="background")
def fail_elsewhere() -> None:
    """Fail on a thread, or in a process."""
    raise SoakError("elsewhere")


@task(name="soak.flaky", category="user", retry=Retry(max_attempts=3, backoff=exponential(0.01)))
async def flaky() -> None:
    """Work the third time."""
    if current_task().number < 3:
        raise SoakError("not yet")


@task(name="soak.for_ever", timeout=math.inf)
async def for_ever() -> None:
    """Wait on the loop to be stopped."""
    await asyncio.Event().wait()


@task(name="soak.until_asked", timeout=math.inf)
def until_asked() -> None:
    """Wait elsewhere to be stopped."""
    while not current_task().wait(60):
        pass
    current_task().raise_if_cancelled()


@task(name="soak.deaf", timeout=math.inf)
def deaf() -> None:
    """Be asked to stop, and go on until long after the grace."""
    while not current_task().wait(60):
        pass
    time.sleep(5 * GRACE_SECONDS)


@task(name="soak.parent")
async def parent() -> None:
    """Lend the slot to a child and wait for it."""
    await current_task().manager.run(work_in_thread)


@task(name="soak.one_at_a_time", max_concurrent=1)
async def one_at_a_time() -> None:
    """Be let in alone."""
    await asyncio.sleep(0.001)


class Job(NamedTuple):
    """What is submitted, and what has to come of it."""

    func: Callable[..., Any]
    status: TaskStatus = TaskStatus.COMPLETED
    attempts: int = 1
    spans: int = 0  #: besides one for each attempt
    children: int = 0  #: which complete in one attempt each
    cancel: bool = False  #: once it runs


def _in_process(func: Callable[..., Any], timeout: float = 60.0) -> Callable[..., Any]:
    return with_options(func, engine="process", timeout=timeout)


#: Cancelled before its time comes.
NEVER: Final = Job(with_options(for_ever, delay=3600), TaskStatus.CANCELLED, attempts=0, cancel=True)
#: Submitted again and again.
JOBS: Final = (
    Job(work, spans=1),
    Job(work_in_thread, spans=1),
    Job(wait_in_thread),
    Job(fail, TaskStatus.FAILED),
    Job(_in_process(work_in_thread), spans=1),
    Job(fail_elsewhere, TaskStatus.FAILED),
    Job(flaky, attempts=3),
    Job(one_at_a_time),
    Job(with_options(for_ever, timeout=_SHORT), TaskStatus.FAILED),
    Job(with_options(until_asked, timeout=_SHORT), TaskStatus.FAILED),
    Job(for_ever, TaskStatus.CANCELLED, cancel=True),
    Job(until_asked, TaskStatus.CANCELLED, cancel=True),
    Job(parent, spans=2, children=1),
    Job(with_options(work, category=TaskCategory.USER, delay=0.02), spans=1),
    NEVER,
)
#: Those that cost a process or a thread: one per second.
RARE_JOBS: Final = (
    Job(_in_process(fail_elsewhere), TaskStatus.FAILED),
    Job(_in_process(until_asked), TaskStatus.CANCELLED, cancel=True),
    Job(_in_process(for_ever, timeout=_SHORT), TaskStatus.FAILED),
    Job(deaf, TaskStatus.CANCELLED, cancel=True),
)
