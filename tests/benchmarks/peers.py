"""Other task systems, each as its documents set it up, with nothing of its network: `make bench` installs them.

Each is imported where it runs, so that what one of them does at import is not done to the others.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import math
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from tests.benchmarks.script import OUTSTANDING, Measured, Script, Stopwatch
from tests.benchmarks.spans import Nowhere, batching_provider


async def aiojobs(tasks: int) -> Measured:
    """Run the tasks as jobs, which nothing observes."""
    from aiojobs import Scheduler  # noqa: PLC0415 - see the module's docstring

    scheduler = Scheduler(limit=OUTSTANDING)
    script = Script()
    with Stopwatch() as watch:
        await script.run(tasks, lambda: scheduler.spawn(script.task()))
        await scheduler.wait_and_close()
    return watch.each(tasks)


async def taskiq_opentelemetry(tasks: int) -> Measured:
    """Run the tasks through taskiq's broker in memory, with two spans each: sent and executed."""
    from taskiq.middlewares.opentelemetry_middleware import OpenTelemetryMiddleware  # noqa: PLC0415

    provider, exporter = batching_provider()
    watch = await _taskiq(tasks, OpenTelemetryMiddleware(tracer_provider=provider))
    provider.shutdown()
    return watch.each(tasks, spans_exported=exporter.spans)


async def taskiq_prometheus(tasks: int) -> Measured:
    """Run the tasks through taskiq's broker in memory, with its metrics."""
    middleware = _prometheus_middleware()
    before = _received(middleware)
    watch = await _taskiq(tasks, middleware)
    return watch.each(tasks, tasks_counted=_received(middleware) - before)


@functools.cache  # its metrics are the process's
def _prometheus_middleware() -> Any:
    from taskiq.middlewares.prometheus_middleware import PrometheusMiddleware  # noqa: PLC0415

    folder = Path(tempfile.mkdtemp(prefix="taskiq-metrics-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return PrometheusMiddleware(metrics_path=folder)  # serves in taskiq's worker processes alone


def _received(middleware: Any) -> float:
    return math.fsum(
        sample.value
        for metric in middleware.received_tasks.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


async def _taskiq(tasks: int, middleware: Any) -> Stopwatch:
    from taskiq import InMemoryBroker  # noqa: PLC0415

    broker = InMemoryBroker(max_async_tasks=OUTSTANDING).with_middlewares(middleware)
    script = Script()
    task = broker.register_task(script.task, task_name="no_op")
    await broker.startup()
    with Stopwatch() as watch:
        await script.run(tasks, task.kiq)
        await broker.wait_all()
    await broker.shutdown()
    return watch


async def celery(tasks: int) -> Measured:
    """Run the tasks through Celery's transport in memory and a worker of one thread, with two spans each."""
    task, gate, provider, exporter = _celery()
    before = exporter.spans

    def run() -> Stopwatch:
        with Stopwatch() as watch:
            gate.release(OUTSTANDING)
            for _ in range(tasks):
                gate.acquire()
                task.delay()
            for _ in range(OUTSTANDING):
                gate.acquire()
        return watch

    watch = await asyncio.to_thread(run)
    provider.force_flush()
    return watch.each(tasks, spans_exported=exporter.spans - before)


@functools.cache  # of a second worker in the process, the transport in memory takes no notice
def _celery() -> tuple[Any, threading.Semaphore, TracerProvider, Nowhere]:
    from celery import Celery  # noqa: PLC0415
    from celery.contrib.testing.worker import start_worker  # noqa: PLC0415
    from opentelemetry.instrumentation.celery import CeleryInstrumentor  # noqa: PLC0415

    provider, exporter = batching_provider()
    CeleryInstrumentor().instrument(tracer_provider=provider)
    app = Celery("benchmark", broker="memory://", set_as_current=False)
    app.conf.task_ignore_result = True
    app.conf.broker_transport_options = {"polling_interval": 0.01}  # of an idle worker, a second otherwise
    gate = threading.Semaphore(0)

    def no_op() -> None:
        gate.release()

    task = app.task(no_op, name="no_op")
    worker = start_worker(app, pool="solo", perform_ping_check=False)
    worker.__enter__()
    atexit.register(worker.__exit__, None, None, None)
    return task, gate, provider, exporter
