"""Makes the parts of a task manager from its collaborators. The only module of core that knows them all.

A part that has to call upwards, such as to dispatch after a change of settings, gets a callable here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import metadata as package_metadata

from opentelemetry import trace
from opentelemetry.trace import TracerProvider
from prometheus_client import REGISTRY, CollectorRegistry

from qorzen_obs.clock import Clock
from qorzen_obs.core.admission import Admission
from qorzen_obs.core.announcer import Announcer
from qorzen_obs.core.batch import Batches
from qorzen_obs.core.calls import Calls
from qorzen_obs.core.collaborators import Collaborators
from qorzen_obs.core.control import Control
from qorzen_obs.core.health_checks import HealthChecks
from qorzen_obs.core.idempotency import IdempotencyKeys
from qorzen_obs.core.inspection import Inspection
from qorzen_obs.core.life import Life
from qorzen_obs.core.lifecycle import Lifecycle
from qorzen_obs.core.live_settings import LiveSettings
from qorzen_obs.core.recording import HistoryParts, Recording, record_through
from qorzen_obs.core.remote import RemoteTelemetry
from qorzen_obs.core.retention import Retention
from qorzen_obs.core.runtime import Runtime
from qorzen_obs.core.task_table import TaskTable
from qorzen_obs.counts import TaskCounts
from qorzen_obs.history.memory import MemoryHistory
from qorzen_obs.record import TaskRecord
from qorzen_obs.scheduling.limits import Limits
from qorzen_obs.scheduling.scheduler import Scheduler
from qorzen_obs.telemetry.collector import TaskMetricsCollector
from qorzen_obs.telemetry.gathering import Gathering
from qorzen_obs.telemetry.instrument import SpanInstrument
from qorzen_obs.telemetry.loop_monitor import LoopMonitor
from qorzen_obs.telemetry.metrics import TaskMetrics
from qorzen_obs.telemetry.parts import TelemetryParts
from qorzen_obs.telemetry.task_lines import TaskLines
from qorzen_obs.telemetry.task_log import TaskLog


@dataclass(frozen=True, slots=True)
class Parts:
    """What a TaskManager delegates to."""

    life: Life
    admission: Admission
    lifecycle: Lifecycle
    control: Control
    batches: Batches
    announcer: Announcer
    inspection: Inspection
    table: TaskTable
    recording: Recording | None  #: None unless a submission waits for the disk
    calls: Calls


def assemble(
    manager: object,
    name: str,
    collaborators: Collaborators,
    *,
    registry: CollectorRegistry | None,
    tracer_provider: TracerProvider | None,
    clock: Clock,
    telemetry: TelemetryParts,
    history: HistoryParts,
) -> Parts:
    """Make the parts of `manager`, complete and not started. TaskManager documents the arguments."""
    version = package_metadata.version("qorzen-obs")
    registry = registry or CollectorRegistry()
    redactor = telemetry.redactor
    ledger_clock = clock.monotonic if telemetry.settings.time_ledger else None

    runtime, counts, keys = Runtime(), TaskCounts(), IdempotencyKeys()
    kept = telemetry.settings
    task_lines = TaskLines(kept.keep_log_lines_per_task, kept.keep_log_lines, kept.keep_log_bytes)
    make_history = partial(
        MemoryHistory,
        runtime.settings.keep_completed_tasks,
        keep_bytes=runtime.settings.keep_completed_bytes,
    )
    table = TaskTable(make_history, on_forgotten=(keys.forget, task_lines.forget))
    retention = Retention(runtime, table)
    limits = Limits(runtime.settings.max_concurrent_tasks)
    scheduler: Scheduler[TaskRecord] = Scheduler(limits, ageing_seconds=runtime.settings.ageing_seconds)

    metrics = TaskMetrics(
        telemetry.exemplars,
        telemetry.settings,
        monotonic=clock.monotonic,
        exponential_histograms=telemetry.exponential_histograms,
    )
    announcer = Announcer(
        runtime, collaborators, counts, metrics, redactor, clock=clock, instance=history.instance
    )
    loop_monitor = LoopMonitor(
        clock,
        metrics.loop_lag.observe,
        log=partial(announcer.say, collaborators.logger.warning),
        on_blocked=announcer.ends.notify,
        on_error=partial(announcer.failed, "loop_monitor"),
        redact=redactor.text,
        gil_watch=telemetry.gil_watch,
        watch=telemetry.settings.watch_loop,
    )
    registries = (registry, REGISTRY) if telemetry.settings.default_registry else (registry,)
    gathering = Gathering(*registries, on_error=partial(announcer.failed, "collector"))
    instrument = SpanInstrument(
        tracer_provider or trace.get_tracer_provider(),
        version,
        on_error=partial(announcer.failed, "spans"),
        redactor=redactor,
    )
    task_log = TaskLog(collaborators.logger, task_lines, collaborators.task_log)
    announcer.ends.observe("spans", instrument.on_ends)
    announcer.ends.observe("metrics", metrics.on_ends)
    announcer.ends.observe("log", task_log.on_ends)
    far_side = RemoteTelemetry(
        collaborators.logger,
        telemetry.on_spans,
        announcer.count_dropped_reports,
        redactor=redactor,
        lines=task_lines,
    )

    lifecycle = Lifecycle(
        runtime,
        table,
        scheduler,
        announcer,
        manager=manager,
        retention=retention,
        far_side=far_side,
        clock=clock,
        counts=counts,
        metrics=metrics,
        instrument=instrument,
        loop_monitor=loop_monitor,
        redactor=redactor,
        task_lines=task_lines,
        ledger_clock=ledger_clock,
    )
    admission = Admission(
        runtime,
        scheduler,
        lifecycle.waiting,
        metrics,
        redactor,
        ledger_clock,
        recorder=history.recorder,
        instance=history.instance,
    )
    recording = None
    if history.recorder is not None:
        record_through(history.recorder, announcer)
        if history.recorder.commits_first:
            recording = Recording(history.recorder, admission, lifecycle.waiting)
    control = Control(
        runtime,
        table,
        scheduler,
        admission,
        lifecycle,
        announcer,
        keys=keys,
        retention=retention,
        recording=recording,
        logger=collaborators.logger,
    )
    health = HealthChecks(
        lambda: runtime.loop, clock=clock, redact=redactor.head, on_change=announcer.health_check_changed
    )
    inspection = Inspection(
        runtime,
        table,
        scheduler,
        announcer,
        name=name,
        clock=clock,
        collaborators=collaborators,
        counts=counts,
        health=health,
        loop_monitor=loop_monitor,
        metrics=metrics,
        registry=registry,
        gathering=gathering,
        task_lines=task_lines,
        telemetry=telemetry,
        remembered_spans=instrument.remembered,
        sweep_soon=lifecycle.repairs.sweep_soon,
        history=history,
        version=version,
    )
    life = Life(
        name,
        runtime,
        table,
        limits,
        clock=clock,
        collaborators=collaborators,
        collector=TaskMetricsCollector(
            metrics, inspection, telemetry.lost, None if history.recorder is None else history
        ),
        registry=registry,
        settings=LiveSettings(runtime, collaborators, scheduler, table, lifecycle.dispatch),
        lifecycle=lifecycle,
        announcer=announcer,
        loop_monitor=loop_monitor,
        metrics=metrics,
    )
    return Parts(
        life=life,
        admission=admission,
        lifecycle=lifecycle,
        control=control,
        recording=recording,
        batches=Batches(
            runtime, table, scheduler, admission, lifecycle, announcer, counts=counts, recording=recording
        ),
        announcer=announcer,
        inspection=inspection,
        table=table,
        calls=Calls(runtime, admission, lifecycle, retention),
    )
