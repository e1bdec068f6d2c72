"""What a task leaves behind without any code from the user: counts, metrics, spans, log lines and events."""

import asyncio
import collections
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from qorzen_obs import TaskStatus, current_task, task
from qorzen_obs.core.event_bus_manager import Event, EventBusManager
from qorzen_obs.core.event_feed import CAPACITY
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.settings import EngineSettings
from qorzen_obs.tasks import LEGAL_TRANSITIONS, EngineKind, EventKind, TaskCategory, TaskPriority
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.collector import TaskMetricsCollector
from qorzen_obs.testing import CapturedEvents, CapturedLogs, VirtualTimeLoop, open_test_manager
from tests.conftest import require
from tests.support import Gate, Spans, ThreadGate, metric, settings, turns, until, virtual_time

ROOT = Path(__file__).parents[3]


async def fail() -> None:
    raise ValueError("on purpose")


async def overrun() -> None:
    await asyncio.sleep(10)


async def every_kind_of_end(tasks: TaskManager, times: int = 1) -> list[str]:
    """Submit tasks of every kind that complete, fail, time out, and are cancelled while they wait or run."""
    ids = []
    kinds = [(category, priority) for category in TaskCategory for priority in TaskPriority]
    for number in range(times * len(kinds)):
        category, priority = kinds[number % len(kinds)]
        options: dict[str, Any] = {"category": category, "priority": priority}
        ids += [
            await tasks.submit_task(asyncio.sleep, 0, **options),
            await tasks.submit_task(max, 1, 2, **options),
            await tasks.submit_task(fail, **options),
        ]
        if number % 8 == 0:
            ids.append(await tasks.submit_task(overrun, timeout=0.005, **options))
            ids.append(await tasks.submit_task(overrun, **options))
            await tasks.cancel_task(ids[-1])
    for task_id in ids:
        await tasks.wait_for_task(task_id)
    return ids


# ---------------------------------------------------------------- counts and metrics


def assert_counts_agree(tasks: TaskManager) -> dict[str, Any]:
    """One reading of status() agrees with itself, and one of the metrics with itself."""
    counts: dict[str, Any] = tasks.status()["tasks"]
    for by in ("by_status", "by_category", "by_priority"):
        assert sum(counts[by].values()) == counts["total"], by
    collector = TaskMetricsCollector(tasks.looks.metrics, tasks.looks)
    # The first ones come from one reading of the counters, and so does status().
    families = {family.name: family.samples for family in itertools.islice(collector.collect(), 4)}
    now = sum(sample.value for sample in families[names.TASKS.name])
    assert now == sum(sample.value for sample in families[names.TASKS_SUBMITTED.name])
    finals = {status.value for status in TaskStatus if status.final}
    assert sum(s.value for s in families[names.TASKS.name] if s.labels["status"] in finals) == sum(
        sample.value for sample in families[names.TASKS_FINISHED.name]
    )
    assert all(sample.value >= 0 for samples in families.values() for sample in samples)
    return counts


async def test_every_reading_of_status_and_metrics_is_of_one_moment_while_tasks_run() -> None:
    stop, problems, readings = threading.Event(), list[BaseException](), collections.Counter[str]()

    def read(tasks: TaskManager) -> None:
        last = -1
        while not stop.wait(0.001):  # or it would leave the tasks no time
            try:
                total = assert_counts_agree(tasks)["total"]
                assert total >= last
                last = total
            except BaseException as error:  # noqa: BLE001 - the test's own thread: it is shown below
                problems.append(error)
                return
            readings["counts"] += 1
            if readings["counts"] % 10 == 0:
                readings["families"] += len(list(tasks.registry.collect()))

    async with open_test_manager(settings(max_concurrent_tasks=50)) as tasks:
        reader = threading.Thread(target=read, args=(tasks,))
        reader.start()
        try:
            for _ in range(5):
                async with asyncio.TaskGroup() as group:
                    for _ in range(1_000):
                        group.create_task(tasks.run(asyncio.sleep, 0))
        finally:
            stop.set()
            await asyncio.to_thread(reader.join)
        assert problems == []
        assert readings["counts"] > 10
        assert readings["families"] > 10
        assert assert_counts_agree(tasks)["by_status"]["completed"] == 5_000


async def test_at_rest_all_surfaces_agree() -> None:
    events, logs = CapturedEvents(), CapturedLogs()
    spans = Spans()
    async with open_test_manager(events=events, logs=logs, tracer_provider=spans.provider) as tasks:
        ids = await every_kind_of_end(tasks)
        await tasks.shutdown()
        counts = assert_counts_agree(tasks)
        assert counts["total"] == len(ids)
        by_status = counts["by_status"]
        assert by_status["pending"] == by_status["running"] == 0
        assert min(by_status["completed"], by_status["failed"], by_status["cancelled"]) > 0

        infos = [tasks.find(task_id) for task_id in ids]
        ends = collections.Counter(info.status.value for info in infos if info is not None)
        assert ends == {status: n for status, n in by_status.items() if n}
        told = collections.Counter(event.event_type for event in events.events)
        assert told["task/submitted"] == len(ids)
        assert {kind: told[f"task/{kind}"] for kind in ends} == dict(ends)
        lines = logs.of(names.LOG_FINISHED)
        assert collections.Counter(line["status"] for line in lines) == ends
        started = told["task/started"]
        assert len(spans.all()) == started
        assert metric(tasks.registry, names.RUN_DURATION.name + "_count") == started
        assert metric(tasks.registry, names.QUEUE_WAIT.name + "_count") == started
        for status in ends:
            assert metric(tasks.registry, names.TASKS_FINISHED.name + "_total", status=status) == ends[status]
        for category in TaskCategory:
            assert (
                metric(tasks.registry, names.TASKS.name, category=category.value)
                == (counts["by_category"][category.value])
            )
        assert metric(tasks.registry, names.TASK_ERRORS.name + "_total") == by_status["failed"]
        timeouts = metric(tasks.registry, names.TASK_ERRORS.name + "_total", error_type="timeout")
        assert timeouts == sum(1 for info in infos if info is not None and info.error_type == "timeout") > 0


async def test_every_task_makes_only_legal_transitions_and_ends_once() -> None:
    events = CapturedEvents()
    async with open_test_manager(settings(max_concurrent_tasks=5), events=events) as tasks:
        ids = await every_kind_of_end(tasks)
        await tasks.shutdown()
    now: dict[str, TaskStatus] = {}
    for event in events.events:
        task_id, after = event.payload["task_id"], TaskStatus(event.payload["status"])
        if task_id in now:
            assert after in LEGAL_TRANSITIONS[now[task_id]]
        else:
            assert after is TaskStatus.PENDING
        now[task_id] = after
    assert set(now) == set(ids)
    assert all(status.final for status in now.values())


async def test_promtool_has_nothing_to_say_about_the_metrics_of_a_busy_manager() -> None:
    promtool = require("promtool", "apt-get install prometheus")
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=5, max_pending=200)) as tasks:
        await every_kind_of_end(tasks)
        await tasks.submit_task(gate)
        tasks.looks.metrics.on_request("GET", "/metrics", 200, 0.01)
        text: bytes = generate_latest(tasks.registry)
        check = await asyncio.to_thread(
            subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, check=False
        )
        assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


async def test_known_series_are_there_before_anything_happens() -> None:
    async with open_test_manager() as tasks:
        samples = [sample for family in tasks.registry.collect() for sample in family.samples]
        kinds = len(TaskCategory) * len(TaskPriority)
        shown = collections.Counter(sample.name for sample in samples)
        assert shown[names.TASKS.name] == kinds * len(TaskStatus)
        assert shown[names.TASKS_SUBMITTED.name + "_total"] == kinds
        assert shown[names.TASKS_FINISHED.name + "_total"] == kinds * 3
        assert shown[names.RUN_DURATION.name + "_count"] == kinds * 3
        assert shown[names.QUEUE_WAIT.name + "_count"] == kinds
        assert shown[names.ENGINE_SLOTS.name] == 5
        assert metric(tasks.registry, names.TASKS.name) == 0
        assert metric(tasks.registry, names.QUEUE_LIMIT.name) == 10_000


async def test_a_last_success_is_dated_per_category() -> None:
    async with open_test_manager() as tasks:
        await tasks.wait_for_task(await tasks.submit_task(fail, category="io"))
        assert metric(tasks.registry, names.LAST_SUCCESS.name, category="io") == 0
        info = await tasks.wait_for_task(await tasks.submit_task(max, 1, 2, category="io"))
        assert info.completed_at is not None
        assert metric(tasks.registry, names.LAST_SUCCESS.name, category="io") == pytest.approx(
            info.completed_at, abs=1
        )


def exemplars(registry: CollectorRegistry) -> list[dict[str, str]]:
    return [
        sample.exemplar.labels
        for family in registry.collect()
        for sample in family.samples
        if sample.exemplar is not None
    ]


async def test_exemplars_name_the_trace_of_a_sampled_task() -> None:
    spans = Spans(sampler=ALWAYS_ON)
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(asyncio.sleep, 0))
        found = exemplars(tasks.registry)
        assert found == [{"trace_id": info.trace_id, "span_id": info.span_id}] * 3
        assert info.trace_id is not None
        assert info.trace_id in generate_openmetrics(tasks.registry).decode()  # type: ignore[no-untyped-call]  # theirs


@pytest.mark.parametrize("provider", ["samples nothing", "none"])
async def test_without_a_sampled_span_there_is_no_exemplar(provider: str) -> None:
    spans = Spans(sampler=ParentBased(ALWAYS_OFF)).provider if provider == "samples nothing" else None
    async with open_test_manager(tracer_provider=spans) as tasks:
        await tasks.run(asyncio.sleep, 0)
        assert exemplars(tasks.registry) == []


@virtual_time
async def test_the_loops_lag_is_observed() -> None:
    async with open_test_manager() as tasks:
        await asyncio.sleep(10)
        assert metric(tasks.registry, names.LOOP_LAG.name + "_count") == pytest.approx(100, abs=1)
        assert tasks.looks.blocked_seconds() == 0
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.jump(3)
        assert tasks.looks.blocked_seconds() == pytest.approx(3, abs=0.1)
        await asyncio.sleep(0.1)
        assert metric(tasks.registry, names.LOOP_LAG.name + "_bucket", le="1.0") == pytest.approx(100, abs=1)
        assert metric(tasks.registry, names.LOOP_LAG.name + "_sum") == pytest.approx(3, abs=0.2)


# ---------------------------------------------------------------- spans


async def test_a_task_is_one_span_with_what_is_worth_knowing() -> None:
    spans = Spans()
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        info = await tasks.wait_for_task(
            await tasks.submit_task(
                overrun,
                name="slow",
                category="io",
                priority="high",
                plugin_id="reports",
                timeout=0.01,
            )
        )
        span = spans.one("run slow")
        assert span.kind is SpanKind.CONSUMER
        assert span.parent is None
        attributes = dict(span.attributes or {})
        assert attributes.pop(names.TASK_QUEUE_WAIT) == info.queue_wait_seconds
        parts = [attributes.pop(names.TASK_PHASE + phase) for phase in ("loop", "await")]
        assert parts == [info.phases["loop"], info.phases["await"]]
        assert attributes == {
            names.TASK_ID: info.task_id,
            names.TASK_NAME: "slow",
            names.TASK_CATEGORY: "io",
            names.TASK_PRIORITY: "high",
            names.TASK_PLUGIN_ID: "reports",
            names.TASK_ATTEMPT: 1,
            names.TASK_ENGINE: "loop",
            names.FUNCTION_NAME: f"{__name__}.overrun",
            names.CODE_FILE: __file__,
            names.CODE_LINE: overrun.__code__.co_firstlineno,
            names.TASK_STATUS: "failed",
            names.ERROR_TYPE: "timeout",
        }
        assert (info.trace_id, info.span_id) == (
            trace.format_trace_id(span.context.trace_id),
            trace.format_span_id(span.context.span_id),
        )
        assert span.instrumentation_scope is not None
        assert (span.instrumentation_scope.name, span.instrumentation_scope.version) == (
            names.SCOPE,
            tasks.looks.version,
        )


async def test_only_a_failed_task_has_an_error_status() -> None:
    spans, gate = Spans(), Gate()
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        await tasks.wait_for_task(await tasks.submit_task(asyncio.sleep, 0, name="completed"))
        await tasks.wait_for_task(await tasks.submit_task(fail, name="failed"))
        cancelled = await tasks.submit_task(gate, name="cancelled")
        await gate.holds(1)
        await tasks.cancel_task(cancelled, reason="enough")
        await tasks.wait_for_task(cancelled)
    status = {name: spans.one(f"run {name}").status for name in ("completed", "failed", "cancelled")}
    assert status["completed"].status_code is StatusCode.UNSET
    assert status["cancelled"].status_code is StatusCode.UNSET
    assert (status["failed"].status_code, status["failed"].description) == (
        StatusCode.ERROR,
        "ValueError: on purpose",
    )
    attributes = spans.one("run cancelled").attributes or {}
    assert (attributes[names.TASK_STATUS], attributes[names.TASK_CANCEL_REASON]) == ("cancelled", "enough")
    assert names.ERROR_TYPE not in attributes


@virtual_time
async def test_an_abandoned_task_ends_its_span_when_it_is_decided() -> None:
    spans, release = Spans(), asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        await tasks.wait_for_task(await tasks.submit_task(stubborn, name="stuck", timeout=5))
        attributes = spans.one("run stuck").attributes or {}
        assert attributes[names.TASK_ABANDONED] is True
        release.set()
        await turns()
        assert len(spans.all()) == 1


@pytest.mark.parametrize("category", ["core", "io", "ui"])
async def test_spans_of_user_code_inside_a_task_are_its_children_on_every_engine(category: str) -> None:
    spans = Spans()

    def work() -> None:
        with spans.tracer.start_as_current_span("inside"):
            pass

    async def work_async() -> None:
        await asyncio.sleep(0)
        work()

    for func in (work, work_async):
        async with open_test_manager(tracer_provider=spans.provider) as tasks:
            await tasks.run(func, category=category)
    inside = [span for span in spans.all() if span.name == "inside"]
    outside = {span.context.span_id: span for span in spans.all() if span.name.startswith("run ")}
    assert len(inside) == len(outside) == 2
    for span in inside:
        assert span.parent is not None
        assert span.parent.span_id in outside


async def test_a_task_submitted_inside_a_span_is_below_its_submission_even_when_it_runs_later() -> None:
    spans, gate = Spans(), Gate()
    one_slot = settings(max_concurrent_tasks=1)
    async with open_test_manager(one_slot, tracer_provider=spans.provider) as tasks:
        await tasks.submit_task(gate, name="first")
        with spans.tracer.start_as_current_span("request") as request:
            queued = await tasks.submit_task(max, 1, 2, name="queued")
        gate.open()
        await tasks.wait_for_task(queued)
    submit, run = spans.one("submit queued"), spans.one("run queued")
    assert submit.kind is SpanKind.PRODUCER
    assert submit.parent is not None
    assert submit.parent.span_id == request.get_span_context().span_id
    assert run.parent is not None
    assert run.parent.span_id == submit.context.span_id
    assert run.context.trace_id == request.get_span_context().trace_id
    assert [span.name for span in spans.all() if span.name == "submit first"] == []


async def test_a_task_with_a_trace_of_its_own_is_linked_to_its_submitter() -> None:
    spans = Spans()

    @task(name="nightly", new_trace=True)
    async def nightly() -> None: ...

    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        with spans.tracer.start_as_current_span("request") as request:
            await tasks.run(nightly)
        await tasks.wait_for_task(await tasks.submit_task(nightly))
    runs = [span for span in spans.all() if span.name == "run nightly"]
    assert [span.parent for span in runs] == [None, None]
    assert len({span.context.trace_id for span in [*runs, spans.one("request")]}) == 3
    assert [[link.context.span_id for link in span.links] for span in runs] == [
        [request.get_span_context().span_id],
        [],
    ]


@virtual_time
async def test_a_span_is_as_long_as_the_attempt_by_the_monotonic_clock() -> None:
    spans, loop = Spans(), asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        task_id = await tasks.submit_task(asyncio.sleep, 30, name="jump")
        await asyncio.sleep(10)
        loop.clock.wall_offset -= 10_000
        info = await tasks.wait_for_task(task_id)
    span = spans.one("run jump")
    assert span.start_time is not None
    assert span.end_time is not None
    assert info.duration_seconds == pytest.approx(30)
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(info.duration_seconds, abs=1e-6)


@pytest.mark.parametrize("provider", ["NoOpTracerProvider", "ProxyTracerProvider"])
def test_without_an_sdk_nothing_breaks_and_there_is_no_trace(provider: str) -> None:
    # In a process of its own: a proxy stands for the provider that another test may have set.
    command = f"from {__name__} import without_an_sdk; without_an_sdk({provider!r})"
    subprocess.run([sys.executable, "-W", "error", "-c", command], cwd=ROOT, check=True, timeout=50)


def without_an_sdk(provider: str) -> None:
    async def scenario() -> None:
        logs = CapturedLogs()
        async with open_test_manager(tracer_provider=getattr(trace, provider)(), logs=logs) as tasks:
            info = await tasks.wait_for_task(await tasks.submit_task(fail))
            assert (info.status, info.trace_id, info.span_id) == (TaskStatus.FAILED, None, None)
            assert await tasks.run(max, 1, 2) == 2
        assert all("trace_id" not in line for line in logs.lines)

    asyncio.run(scenario())


@pytest.mark.parametrize("where", ["start", "end"])
async def test_a_tracer_that_raises_breaks_no_task_and_is_counted(where: str) -> None:
    class Broken(SpanProcessor):
        def on_start(self, *_: Any, **__: Any) -> None:
            if where == "start":
                raise OSError("no span today")

        def on_end(self, *_: Any) -> None:
            if where == "end":
                raise OSError("no span today")

    spans, logs = Spans(), CapturedLogs()
    spans.provider.add_span_processor(Broken())
    async with open_test_manager(tracer_provider=spans.provider, logs=logs) as tasks:

        async def parent() -> str:
            assert current_task().name == "parent"
            return str(await tasks.run(asyncio.sleep, 0, "child"))

        for _ in range(3):
            assert await tasks.run(parent, name="parent") == "child"
        counted = metric(tasks.registry, names.TELEMETRY_ERRORS.name + "_total", component="spans")
        assert counted >= 6
        assert tasks.status()["tasks"]["by_status"]["completed"] == 6
    (line,) = logs.of(names.LOG_OBSERVER_FAILED)
    assert (line["component"], line["error"]) == ("spans", "OSError('no span today')")


# ---------------------------------------------------------------- log lines


async def test_every_ended_task_has_exactly_one_finished_line() -> None:
    logs, spans = CapturedLogs(), Spans()
    async with open_test_manager(
        settings(max_concurrent_tasks=5), logs=logs, tracer_provider=spans.provider
    ) as tasks:
        ids = await every_kind_of_end(tasks)
        lines = logs.of(names.LOG_FINISHED)
        assert sorted(line["task_id"] for line in lines) == sorted(ids)
        for line in lines:
            info = tasks.find(line["task_id"])
            assert info is not None
            assert (line["status"], line["task_name"], line["category"], line["priority"]) == (
                info.status.value,
                info.name,
                info.category.value,
                info.priority.label,
            )
            assert line.get("trace_id") == info.trace_id
            assert line.get("span_id") == info.span_id
            assert line["attempt"] == info.attempt
            assert line.get("error_type") == info.error_type
            assert line["level"] == ("warning" if info.status is TaskStatus.FAILED else "info")
            for key, value in (
                ("duration_seconds", info.duration_seconds),
                ("queue_wait_seconds", info.queue_wait_seconds),
            ):
                assert line[key] == (None if value is None else round(value, 6))


async def test_a_task_cancelled_while_pending_has_its_line_in_its_submitters_trace() -> None:
    logs, spans, gate = CapturedLogs(), Spans(), Gate()
    one_slot = settings(max_concurrent_tasks=1)
    async with open_test_manager(one_slot, logs=logs, tracer_provider=spans.provider) as tasks:
        victims: list[str] = []

        async def kill() -> None:
            await gate()
            for victim in victims:
                await tasks.cancel_task(victim, reason="not needed")

        killing = await tasks.submit_task(kill, name="kill")
        victims.append(await tasks.submit_task(max, 1, 2, name="outside"))
        with spans.tracer.start_as_current_span("request") as request:
            victims.append(await tasks.submit_task(max, 1, 2, name="inside"))
        gate.open()
        await tasks.wait_for_task(killing)
    lines = {line["task_name"]: line for line in logs.of(names.LOG_FINISHED)}
    assert (lines["inside"]["status"], lines["inside"]["attempt"]) == ("cancelled", 0)
    assert lines["inside"]["cancel_reason"] == "not needed"
    assert lines["inside"]["duration_seconds"] is None
    assert lines["inside"]["trace_id"] == trace.format_trace_id(request.get_span_context().trace_id)
    assert "trace_id" not in lines["outside"], "not that of the task which cancelled it"


@pytest.mark.parametrize("category", ["core", "io", "ui"])
async def test_a_line_that_a_task_logs_says_which_task_and_trace_it_is_from(category: str) -> None:
    logs, spans = CapturedLogs(), Spans()
    logger = logs.get_logger("user")

    def work() -> None:
        logger.info("hello", size=3)

    async def work_async() -> None:
        await asyncio.sleep(0)
        logger.info("hello", size=3)

    async with open_test_manager(logs=logs, tracer_provider=spans.provider) as tasks:
        for func in (work, work_async):
            info = await tasks.wait_for_task(
                await tasks.submit_task(func, name="talker", category=category, priority="low")
            )
            assert logs.of("hello").pop() == {
                "event": "hello",
                "level": "info",
                "logger": "user",
                "size": 3,
                "task_id": info.task_id,
                "task_name": "talker",
                "category": category,
                "priority": "low",
                "attempt": 1,
                "trace_id": info.trace_id,
                "span_id": info.span_id,
            }
        logger.info("outside")
        assert set(logs.of("outside")[0]) == {"event", "level", "logger"}


# ---------------------------------------------------------------- observers and events


async def test_an_observer_that_raises_is_dismissed_and_counted_and_tasks_go_on() -> None:
    class Logs(CapturedLogs):
        def _keep(self, logger: Any, method: str, event: Any) -> Any:
            if event["event"] == names.LOG_FINISHED:
                raise OSError("disk full")
            return super()._keep(logger, method, event)

    logs, events = Logs(), CapturedEvents()
    async with open_test_manager(logs=logs, events=events) as tasks:
        for _ in range(3):
            assert await tasks.run(asyncio.sleep, 0, "works") == "works"
        assert not tasks.healthy
        assert metric(tasks.registry, names.TELEMETRY_ERRORS.name + "_total", component="log") == 1
        assert metric(tasks.registry, names.TASKS_FINISHED.name + "_total") == 3
        await tasks.shutdown()
    (line,) = logs.of(names.LOG_OBSERVER_FAILED)
    assert (line["component"], line["error"], line["level"]) == ("log", "OSError('disk full')", "error")
    assert [event.event_type for event in events.events].count("task/completed") == 3


async def test_a_logger_that_always_raises_breaks_no_task() -> None:
    class Logs(CapturedLogs):
        def _keep(self, logger: Any, method: str, event: Any) -> Any:
            if event["event"] != names.LOG_MANAGER_STATE:
                raise OSError("disk full")
            return super()._keep(logger, method, event)

    async with open_test_manager(logs=Logs()) as tasks:
        for _ in range(3):
            assert await tasks.run(asyncio.sleep, 0, "works") == "works"
        assert metric(tasks.registry, names.TELEMETRY_ERRORS.name + "_total", component="log") >= 1


async def test_events_arrive_in_order_and_a_failing_subscriber_harms_no_other() -> None:
    bus, seen = EventBusManager(), list[Event]()

    async def broken(_: Event) -> None:
        raise ValueError("theirs")

    async def keep(event: Event) -> None:
        seen.append(event)

    bus.subscribe("*", broken)
    bus.subscribe("*", keep)
    async with open_test_manager(events=bus) as tasks:
        ids = [await tasks.submit_task(asyncio.sleep, 0) for _ in range(5)]
        await tasks.shutdown()
    for task_id in ids:
        told = [event.event_type for event in seen if event.payload["task_id"] == task_id]
        assert told == ["task/submitted", "task/started", "task/completed"]
    assert [event.payload["task_id"] for event in seen if event.event_type == "task/submitted"] == ids


class BlockedBus(CapturedEvents):
    """Lets nothing through until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()

    async def publish(self, **event: Any) -> None:
        await self.open.wait()
        await super().publish(**event)


async def test_a_blocked_subscriber_delays_no_task_and_loses_nothing_up_to_the_bound() -> None:
    bus = BlockedBus()
    async with open_test_manager(events=bus) as tasks:
        for _ in range(100):
            await tasks.run(asyncio.sleep, 0)
        assert bus.events == []
        bus.open.set()
        await tasks.shutdown()
        assert len(bus.events) == 300
        assert metric(tasks.registry, names.EVENTS_DROPPED.name + "_total") == 0


async def test_beyond_the_bound_progress_is_dropped_first_then_events_and_all_are_counted() -> None:
    bus = BlockedBus()

    async def reports() -> None:
        current_task().progress(50)

    async with open_test_manager(events=bus) as tasks:

        def dropped(kind: str) -> float:
            return metric(tasks.registry, names.EVENTS_DROPPED.name + "_total", kind=kind)

        for _ in range(10):
            await tasks.run(reports)
        told = 4 * 10
        while told < CAPACITY + 1:  # one is on its way already
            await tasks.run(asyncio.sleep, 0)
            told += 3
        over = told - CAPACITY - 1
        assert (dropped("progress"), dropped("event")) == (over, 0)
        for _ in range(10):
            await tasks.run(asyncio.sleep, 0)
        assert (dropped("progress"), dropped("event")) == (10, 30 + over - 10)
        bus.open.set()
        await tasks.shutdown()
        kinds = collections.Counter(event.event_type for event in bus.events)
        assert len(bus.events) == CAPACITY + 1
        assert kinds["task/progress"] == 0


@virtual_time
async def test_a_subscriber_that_never_returns_holds_up_shutdown_for_a_bounded_time() -> None:
    class Stuck(CapturedEvents):
        async def publish(self, **_: Any) -> None:
            await asyncio.Event().wait()

    async with open_test_manager(events=Stuck()) as tasks:
        await tasks.run(asyncio.sleep, 0)
        started = asyncio.get_running_loop().time()
        await tasks.shutdown()
        assert asyncio.get_running_loop().time() - started <= 5
        assert metric(tasks.registry, names.EVENTS_DROPPED.name + "_total", kind="event") == 3


@virtual_time
async def test_a_subscriber_that_ignores_its_cancellation_is_left_behind() -> None:
    release = asyncio.Event()

    class Stubborn(CapturedEvents):
        async def publish(self, **_: Any) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

    async with open_test_manager(events=Stubborn()) as tasks:
        await tasks.run(asyncio.sleep, 0)
        await tasks.shutdown()
        assert asyncio.get_running_loop().time() <= 5
        release.set()
        await turns()


@pytest.mark.parametrize("error", [OSError("bus is down"), asyncio.CancelledError()], ids=repr)
async def test_a_bus_that_fails_is_told_about_once_and_tried_again(error: BaseException) -> None:
    class Flaky(CapturedEvents):
        fails = 5

        async def publish(self, **event: Any) -> None:
            if self.fails:
                self.fails -= 1
                raise error
            await super().publish(**event)

    logs, events = CapturedLogs(), Flaky()
    async with open_test_manager(logs=logs, events=events) as tasks:
        for _ in range(3):
            assert await tasks.run(asyncio.sleep, 0, "works") == "works"
        await tasks.shutdown()
        assert len(events.events) == 4
        assert metric(tasks.registry, names.EVENTS_DROPPED.name + "_total", kind="event") == 5
        assert tasks.looks.metrics.telemetry_errors == {}
    assert len(logs.of(names.LOG_LISTENER_FAILED)) == 1


async def test_results_and_arguments_are_in_no_event_line_span_or_metric() -> None:
    canary = "canary-4711"
    events, logs, spans = CapturedEvents(), CapturedLogs(), Spans()

    def work(secret: str, *, also: str) -> str:
        current_task().progress(50, "working")
        return secret + also

    async with open_test_manager(events=events, logs=logs, tracer_provider=spans.provider) as tasks:
        await tasks.run(work, canary, also=canary)
        await tasks.shutdown()
        sinks = [
            repr([event.payload for event in events.events]),
            repr(logs.lines),
            "".join(span.to_json() for span in spans.all()),
            generate_latest(tasks.registry).decode(),
            repr(tasks.status()),
        ]
    assert [canary in sink for sink in sinks] == [False] * 5


def every_engine() -> Iterator[EngineKind]:
    return (kind for kind in EngineKind if kind is not EngineKind.EXTERNAL)


async def test_slots_are_shown_for_every_engine() -> None:
    with ThreadGate() as gate:
        async with open_test_manager(settings(worker_threads=3, io_threads=2)) as tasks:
            slots = tasks.status()["slots"]
            assert {kind: slots[kind]["limit"] for kind in slots} == {
                "loop": 100,
                "io": 2,
                "thread": 3,
                "process": EngineSettings().processes,
                "main": 1,
            }
            await tasks.submit_task(gate)
            await gate.holds(1)
            busy = {
                kind.value: metric(tasks.registry, names.ENGINE_SLOTS_BUSY.name, engine=kind.value)
                for kind in every_engine()
            }
            assert busy == {"loop": 0, "io": 0, "thread": 1, "process": 0, "main": 0}
            gate.open()
            await until(lambda: not tasks.status()["tasks"]["by_status"]["running"])


# ---------------------------------------------------------------- when ends are told


def told_of(tasks: TaskManager, logs: CapturedLogs) -> tuple[float, int]:
    """How many ends the metrics and the log know of."""
    return metric(tasks.registry, names.RUN_DURATION.name + "_count"), len(logs.of(names.LOG_FINISHED))


async def test_a_task_that_still_runs_is_in_no_histogram_and_has_no_line() -> None:
    logs, gate = CapturedLogs(), Gate()
    async with open_test_manager(settings(), logs=logs) as tasks:
        task_id = await tasks.submit_task(gate)
        await gate.holds(1)
        assert told_of(tasks, logs) == (0, 0)
        gate.open()
        await tasks.wait_for_task(task_id)
        assert told_of(tasks, logs) == (1, 1)


async def test_who_waits_for_a_task_that_ended_in_this_very_turn_of_the_loop_finds_it_told() -> None:
    logs = CapturedLogs()
    found: list[tuple[float, int]] = []
    async with open_test_manager(settings(), logs=logs) as tasks:

        async def first() -> None:
            pass

        async def second(task_id: str) -> None:  # begins when the first has ended, before the loop turns
            await tasks.wait_for_task(task_id)
            found.append(told_of(tasks, logs))

        await tasks.run(second, await tasks.submit_task(first))
    assert found == [(1, 1)]


async def test_an_observer_and_a_subscriber_of_an_end_find_it_told() -> None:
    logs, bus = CapturedLogs(), EventBusManager()
    seen: list[str] = []
    async with open_test_manager(settings(), logs=logs, events=bus) as tasks:

        async def subscriber(_: Event) -> None:
            seen.append(f"subscriber {told_of(tasks, logs)}")

        bus.subscribe("task/completed", subscriber)
        await tasks.run(asyncio.sleep, 0)
        await until(lambda: len(seen) == 1)
        tasks.observe(
            "test", lambda _: seen.append(f"observer {told_of(tasks, logs)}"), [EventKind.COMPLETED]
        )
        await tasks.run(asyncio.sleep, 0)
        await until(lambda: len(seen) == 3)
    assert seen == ["subscriber (1, 1)", "observer (2, 2)", "subscriber (2, 2)"]
