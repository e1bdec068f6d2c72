"""A service of ours with all of its observation, and with parts of it switched off by their settings."""

from __future__ import annotations

import asyncio
import math
import os
from typing import Final

from qorzen_obs.app import Service
from qorzen_obs.core.event_bus_manager import Event
from qorzen_obs.settings import Settings, TaskSettings, TelemetrySettings
from tests.benchmarks.plain import sync_no_op
from tests.benchmarks.script import OUTSTANDING, Measured, Script, Stopwatch, call

DISABLED: Final = {"OTEL_SDK_DISABLED": "true"}


async def unobserved(tasks: int) -> Measured:
    """Run the tasks through a manager that tells nobody."""
    return await _run(tasks, spans=False, log=False, ledger=False, definitions=False, observers=False)


async def metrics(tasks: int) -> Measured:
    """Count alone."""
    return await _run(tasks, spans=False, log=False, ledger=False, definitions=False)


async def metrics_and_spans(tasks: int) -> Measured:
    """Count, and offer each span to the tail sampler."""
    return await _run(tasks, log=False, ledger=False, definitions=False)


async def metrics_and_log(tasks: int) -> Measured:
    """Count, and write the line of each task."""
    return await _run(tasks, spans=False, ledger=False, definitions=False)


async def metrics_and_ledger(tasks: int) -> Measured:
    """Count, and account for each task's time."""
    return await _run(tasks, spans=False, log=False, definitions=False)


async def metrics_and_definitions(tasks: int) -> Measured:
    """Count, and count by definition as well."""
    return await _run(tasks, spans=False, log=False, ledger=False)


async def full(tasks: int) -> Measured:
    """Observe everything, as a service does by default."""
    return await _run(tasks)


async def full_subscribed(tasks: int) -> Measured:
    """Observe everything, with a subscriber of every event on the bus."""
    return await _run(tasks, subscribe=True)


async def full_all_kept(tasks: int) -> Measured:
    """Observe everything, and keep the trace of every task."""
    return await _run(tasks, traces_per_second=math.inf)


async def _run(
    tasks: int,
    *,
    spans: bool = True,
    log: bool = True,
    ledger: bool = True,
    definitions: bool = True,
    traces_per_second: float = TelemetrySettings().traces_per_second,
    observers: bool = True,
    subscribe: bool = False,
) -> Measured:
    """Run the script; the clock stops when the last event is delivered and the last line is written."""
    telemetry = TelemetrySettings(
        log_level="info" if log else "off",
        traces_per_second=traces_per_second,
        time_ledger=ledger,
        metrics_by_definition=TelemetrySettings().metrics_by_definition if definitions else 0,
    )
    settings = Settings(tasks=TaskSettings(max_concurrent_tasks=OUTSTANDING), telemetry=telemetry)
    with open(os.devnull, "w") as out:  # noqa: ASYNC230, PTH123 - never waits
        service = Service(settings, environment={} if spans else DISABLED, log_stream=out)
        await service.start()
        if not observers:
            service.tasks._announcer.ends.stop_observing(service.tasks.looks.metrics.on_ends)
        events = 0

        async def count(_: Event) -> None:
            nonlocal events
            events += 1

        if subscribe:
            service.parts.events.subscribe("*", count)
        script, submit = Script(), service.tasks.submit_task
        with Stopwatch() as watch:
            await script.run(tasks, lambda: submit(script.task))
            await service.tasks.shutdown()
            await asyncio.to_thread(service.parts.loggers.stream.close)
        await service.stop()
    return watch.each(tasks, **_facts(service, tasks), events_delivered=events)


async def threads(calls: int) -> Measured:
    """Call a sync no-op on the worker threads, observing everything."""
    settings = Settings(tasks=TaskSettings(max_concurrent_tasks=OUTSTANDING))
    with open(os.devnull, "w") as out:  # noqa: ASYNC230, PTH123 - never waits
        service = Service(settings, environment={}, log_stream=out)
        await service.start()
        run = service.tasks.run
        with Stopwatch() as watch:
            await call(calls, lambda: run(sync_no_op))
            await service.tasks.shutdown()
            await asyncio.to_thread(service.parts.loggers.stream.close)
        await service.stop()
    return watch.each(calls, **_facts(service, calls))


async def drain(tasks: int) -> Measured:
    """Have so many tasks pending, then let them run; everything is observed. The clock runs from there."""
    settings = Settings(tasks=TaskSettings(max_pending=tasks))
    gate, nothing_left = asyncio.Event(), asyncio.Event()
    left = tasks

    async def no_op() -> None:
        nonlocal left
        left -= 1
        if not left:
            nothing_left.set()

    with open(os.devnull, "w") as out:  # noqa: ASYNC230, PTH123 - never waits
        service = Service(settings, environment={}, log_stream=out)
        await service.start()
        holders = settings.tasks.max_concurrent_tasks
        for _ in range(holders):
            await service.tasks.submit_task(gate.wait)
        with Stopwatch() as submitting:
            for _ in range(tasks):
                await service.tasks.submit_task(no_op)
        with Stopwatch() as watch:
            gate.set()
            await nothing_left.wait()
            await service.tasks.shutdown()
            await asyncio.to_thread(service.parts.loggers.stream.close)
        await service.stop()
    submit_us = submitting.each(tasks).value
    return watch.each(tasks, **_facts(service, tasks + holders), submit_us=submit_us)


def _facts(service: Service, tasks: int) -> dict[str, float]:
    """Return what shows whether everything was observed."""
    completed = service.tasks.status()["tasks"]["by_status"]["completed"]
    assert completed == tasks, f"{completed} of {tasks} tasks completed"
    outcomes = service.parts.tracing.span_outcomes()
    return {
        "lines_lost": service.parts.loggers.stream.lost()["log_line"],
        "events_lost": service.tasks.looks.metrics.dropped["event"],
        "spans": sum(outcomes.values()),
        "spans_kept": outcomes["kept"],
    }
