"""What others would do without a task system: asyncio alone, and observation put together from the libraries."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry, Counter, Histogram

from tests.benchmarks.script import OUTSTANDING, Measured, Script, Stopwatch, call, no_op
from tests.benchmarks.spans import batching_provider

WORKERS: Final = 100
REMEMBERED: Final = 1_000


async def bare(tasks: int) -> Measured:
    """Run the tasks with asyncio alone."""
    gate = asyncio.Semaphore(OUTSTANDING)

    async def one() -> None:
        await no_op()
        gate.release()

    with Stopwatch() as watch:
        running = set()
        for _ in range(tasks):
            await gate.acquire()
            task = asyncio.create_task(one())
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
    return watch.each(tasks)


async def executor(calls: int) -> Measured:
    """Call a sync no-op by the loop's own thread pool."""
    loop = asyncio.get_running_loop()
    with Stopwatch() as watch:
        await call(calls, lambda: loop.run_in_executor(None, sync_no_op))
    return watch.each(calls)


def sync_no_op() -> None:
    """The work of a task that is not async."""


@dataclass(slots=True)
class _Job:
    """What the straightforward implementation knows of a task."""

    job_id: str
    name: str
    category: str
    priority: int
    func: Callable[[], Awaitable[object]]
    submitted_at: float
    status: str = "pending"
    seconds: float | None = None


def _add_trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the current trace to a line, as structlog's documents have it for OpenTelemetry."""
    span = trace.get_current_span()
    if span.is_recording():
        context = span.get_span_context()
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


class _Straightforward:
    """Workers on a PriorityQueue, a span, metrics and two log lines for each task: no frills, no mistakes."""

    def __init__(self, provider: TracerProvider, out: Any) -> None:
        labels = ("category", "priority")
        registry = CollectorRegistry()
        self._tracer = provider.get_tracer("straightforward")
        self._submitted = Counter("jobs_submitted", "Jobs accepted.", labels, registry=registry)
        self._finished = Counter("jobs_finished", "Jobs ended.", (*labels, "status"), registry=registry)
        self._duration = Histogram("job_seconds", "Duration.", (*labels, "status"), registry=registry)
        self._wait = Histogram("job_wait_seconds", "Queue wait.", labels, registry=registry)
        self._log = structlog.wrap_logger(
            structlog.WriteLogger(out),
            processors=[
                structlog.contextvars.merge_contextvars,
                _add_trace,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(20),
            context_class=dict,
            cache_logger_on_first_use=True,
        )
        self._sequence = itertools.count()
        self._queue: asyncio.PriorityQueue[tuple[int, int, _Job]] = asyncio.PriorityQueue()
        self._ended: deque[_Job] = deque(maxlen=REMEMBERED)
        self._workers = [asyncio.create_task(self._work()) for _ in range(WORKERS)]

    async def submit(self, func: Callable[[], Awaitable[object]]) -> str:
        """Queue one task; return its id."""
        job = _Job(uuid.uuid4().hex, "no_op", "core", 50, func, time.monotonic())
        self._submitted.labels(job.category, job.priority).inc()
        self._queue.put_nowait((-job.priority, next(self._sequence), job))
        return job.job_id

    async def stop(self) -> None:
        """Wait for what was submitted, and end the workers."""
        await self._queue.join()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            _, _, job = await self._queue.get()
            await self._run(job)
            self._queue.task_done()

    async def _run(self, job: _Job) -> None:
        started = time.monotonic()
        wait = started - job.submitted_at
        attributes: dict[str, str | int] = {
            "task.id": job.job_id,
            "task.name": job.name,
            "task.category": job.category,
            "task.priority": job.priority,
            "task.attempt": 1,
            "code.function.name": "no_op",
        }
        name = f"run {job.name}"
        with self._tracer.start_as_current_span(name, kind=SpanKind.CONSUMER, attributes=attributes) as span:
            # For the lines of the task's own code too.
            structlog.contextvars.bind_contextvars(
                task_id=job.job_id, task_name=job.name, category=job.category, priority=job.priority
            )
            log = self._log
            log.info("task.started", queue_wait_seconds=wait)
            try:
                await job.func()
                job.status = "completed"
            except Exception as error:  # noqa: BLE001 - a task's exception is its outcome
                job.status = "failed"
                log.warning("task.error", error=repr(error))
            job.seconds = time.monotonic() - started
            span.set_attribute("task.status", job.status)
            span.set_attribute("task.queue_wait", wait)
            log.info("task.finished", status=job.status, duration_seconds=job.seconds)
        structlog.contextvars.clear_contextvars()
        self._finished.labels(job.category, job.priority, job.status).inc()
        self._duration.labels(job.category, job.priority, job.status).observe(job.seconds)
        self._wait.labels(job.category, job.priority).observe(wait)
        self._ended.append(job)


async def straightforward(tasks: int) -> Measured:
    """Run the tasks through what a competent engineer writes in an afternoon."""
    provider, exporter = batching_provider()
    script = Script()
    with open(os.devnull, "w") as out:  # noqa: ASYNC230, PTH123 - never waits
        jobs = _Straightforward(provider, out)
        with Stopwatch() as watch:
            await script.run(tasks, lambda: jobs.submit(script.task))
            await jobs.stop()
    provider.shutdown()
    return watch.each(tasks, spans_exported=exporter.spans)
