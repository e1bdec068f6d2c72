"""What is counted of tasks: status() and the metrics agree at every moment, and the whole catalogue is served."""

import asyncio
import collections
import itertools
import math
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import format_span_id
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
from prometheus_client.utils import floatToGoString

from qorzen_obs import Retry, TaskRegistry, TaskStatus, exponential, task, with_options
from qorzen_obs.app import Service
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.counts import CATEGORIES, PRIORITIES
from qorzen_obs.settings import EngineSettings, ServerSettings, Settings, TelemetrySettings
from qorzen_obs.tasks import LEGAL_TRANSITIONS, EngineKind, TaskCategory, TaskPriority
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.collector import TaskMetricsCollector
from qorzen_obs.telemetry.names import MetricName
from qorzen_obs.testing import CapturedEvents, CapturedLogs, VirtualTimeLoop, open_test_manager
from tests.conftest import require
from tests.integration.telemetry.ends import every_kind_of_end, fail
from tests.services.backends import PROMETHEUS_HINT
from tests.services.whole_service import url_of, whole_service
from tests.support import Gate, Spans, ThreadGate, metric, settings, turns, until, virtual_time

DECLARED = {value.name: value for value in vars(names).values() if isinstance(value, MetricName)}
OF_A_DURABLE_HISTORY = {one.name for one in (names.TASKS_LOST, names.HISTORY_DURABLE, names.HISTORY_WAITING)}
SETTINGS = Settings(server=ServerSettings(port=0), telemetry=TelemetrySettings(log_level="off"))


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
        assert metric(tasks.registry, names.ATTEMPT_DURATION.name + "_count") == started
        assert metric(tasks.registry, names.NEVER_STARTED.name + "_total") == len(ids) - started
        assert metric(tasks.registry, names.DEFINITION_TASKS.name + "_total") == len(ids)
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
    promtool = require("promtool", PROMETHEUS_HINT)
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
        assert shown[names.NEVER_STARTED.name + "_total"] == kinds * 2
        assert shown[names.QUEUE_WAIT_MAX.name] == shown[names.RUN_MAX.name] == kinds
        assert shown[names.ENGINE_SLOTS.name] == 5
        assert [name for name in shown if name.startswith("qorzen_task_") and name.endswith("_bucket")] == [
            names.CANCEL_LATENCY.name + "_bucket"
        ], "histograms of tasks begin with the first task of their kind"
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


async def scrape(service: Service) -> dict[str, Counter[tuple[tuple[str, str], ...]]]:
    """Return the number of samples of each declared family by its labels, bucket bounds left out."""
    headers = {"Accept": "application/openmetrics-text"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url_of(service)}/metrics", headers=headers) as answer,
    ):
        text = await answer.text()
    families: dict[str, Counter[tuple[tuple[str, str], ...]]] = {}
    for family in parse(text):  # type: ignore[no-untyped-call]  # theirs
        if family.name in DECLARED:
            declared = DECLARED[family.name]
            assert (family.type, family.documentation) == (declared.type, declared.help)
            families[family.name] = Counter(
                tuple(sorted((key, value) for key, value in sample.labels.items() if key != "le"))
                for sample in family.samples
            )
    return families


async def test_every_declared_metric_is_served_and_known_series_are_there_from_the_start() -> None:
    async with whole_service(SETTINGS) as service:
        await scrape(service)  # the requests are a metric too, once there was one
        families = await scrape(service)
    assert set(families) == set(DECLARED) - OF_A_DURABLE_HISTORY
    for family, series in families.items():
        declared = DECLARED[family]
        if declared.labels[:2] == ("category", "priority") and declared.type != "histogram":
            seen = {(dict(one)["category"], dict(one)["priority"]) for one in series}
            assert seen == {(c.value, p.label) for c, p in itertools.product(CATEGORIES, PRIORITIES)}, family
    phases = {dict(one)["phase"] for one in families[names.PHASE_SECONDS.name]}
    assert phases == set(names.PHASES)
    for declared, label in (
        (names.SPANS, "outcome"),
        (names.TRACES, "decision"),
        (names.LOOP_BLOCKED, "category"),
        (names.LOG_MESSAGES, "level"),
        (names.HEALTH_CHECK, "probe"),
        (names.EVENTS_DROPPED, "kind"),
    ):
        assert len({dict(one)[label] for one in families[declared.name]}) > 1, declared.name


# ------------------------------------------------------------------ when it is counted

ONE_SLOT = settings(max_concurrent_tasks=1)
EVERY_SECOND = Retry(max_attempts=5, backoff=exponential(1.0, factor=1.0, jitter=False))


def waits(tasks: TaskManager, up_to: float = math.inf) -> float:
    return metric(tasks.registry, names.QUEUE_WAIT.name + "_bucket", le=floatToGoString(up_to))  # type: ignore[no-untyped-call]  # theirs


@virtual_time
async def test_a_wait_is_counted_when_the_attempt_starts_and_what_never_starts_is_counted_apart() -> None:
    gate = Gate()
    async with open_test_manager(ONE_SLOT) as tasks:
        first = await tasks.submit_task(gate, priority="high", timeout=math.inf)
        assert (waits(tasks), waits(tasks, 0.001)) == (1, 1), (
            "it has not ended, and has not even begun to run"
        )
        late = [
            await tasks.submit_task(with_options(gate, deadline=10), category="io", priority="low")
            for _ in range(20)
        ]
        unwanted = await tasks.submit_task(gate, category="io", priority="low")
        for task_id in late:
            assert (await tasks.wait_for_task(task_id)).error_type == "timeout"
        await tasks.cancel_task(unwanted)
        await turns()
        labels = {"category": "io", "priority": "low"}
        never_started = names.NEVER_STARTED.name + "_total"
        assert metric(tasks.registry, never_started, status="failed", **labels) == 20
        assert metric(tasks.registry, never_started, status="cancelled", **labels) == 1
        assert metric(tasks.registry, never_started) == 21
        assert waits(tasks) == 1
        assert metric(tasks.registry, names.QUEUE_WAIT.name + "_count", **labels) == 0, "the series is there"

        second = await tasks.submit_task(gate, category="io", priority="low", timeout=math.inf)
        await asyncio.sleep(3)
        gate.open()
        await tasks.wait_for_task(first)
        await tasks.wait_for_task(second)
        assert (waits(tasks), waits(tasks, 2.5), waits(tasks, 5.0)) == (2, 1, 2)
        assert metric(tasks.registry, names.QUEUE_WAIT.name + "_sum", **labels) == pytest.approx(3)
        assert metric(tasks.registry, names.QUEUE_WAIT_MAX.name, **labels) == pytest.approx(3)
        await asyncio.sleep(62)
        assert metric(tasks.registry, names.QUEUE_WAIT_MAX.name) == 0


@virtual_time
async def test_each_attempt_counts_its_wait_its_duration_its_outcome_and_its_error() -> None:
    async def fail_after_two_seconds() -> None:
        await asyncio.sleep(2)
        raise OSError("on purpose")

    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(
            with_options(fail_after_two_seconds, retry=EVERY_SECOND), category="io"
        )
        await asyncio.sleep(4)
        attempts = names.ATTEMPT_DURATION.name
        assert metric(tasks.registry, attempts + "_count", category="io", outcome="retrying") == 1
        assert (
            metric(tasks.registry, names.TASK_ERRORS.name + "_total", category="io", error_type="OSError")
            == 1
        )
        assert waits(tasks) == 2, "the second attempt runs"
        assert metric(tasks.registry, names.RUN_DURATION.name + "_count") == 0
        await tasks.wait_for_task(task_id)
        assert waits(tasks) == 5
        assert metric(tasks.registry, attempts + "_count", outcome="retrying") == 4
        assert metric(tasks.registry, attempts + "_count", outcome="failed") == 1
        assert metric(tasks.registry, attempts + "_sum") == pytest.approx(10)
        assert metric(tasks.registry, names.TASK_ERRORS.name + "_total", error_type="OSError") == 5
        assert metric(tasks.registry, names.RUN_DURATION.name + "_sum") == pytest.approx(2)
        assert metric(tasks.registry, names.RUN_MAX.name, category="io") == pytest.approx(2)
        by_name = {"definition": fail_after_two_seconds.__qualname__}
        assert metric(tasks.registry, names.DEFINITION_TASKS.name + "_total", status="failed", **by_name) == 1
        assert metric(
            tasks.registry, names.DEFINITION_RUN_DURATION.name + "_sum", **by_name
        ) == pytest.approx(2)


@virtual_time
async def test_a_deadline_that_passes_between_two_attempts_ends_a_task_that_has_started() -> None:
    impatient = with_options(fail, retry=EVERY_SECOND, deadline=0.5)
    async with open_test_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(impatient))
        assert (info.attempt, info.error_type) == (1, "timeout")
        assert metric(tasks.registry, names.NEVER_STARTED.name + "_total") == 0
        assert metric(tasks.registry, names.ATTEMPT_DURATION.name + "_count") == 1
        assert metric(tasks.registry, names.RUN_DURATION.name + "_count") == 1
        assert metric(tasks.registry, names.TASK_ERRORS.name + "_total", error_type="ValueError") == 1
        assert metric(tasks.registry, names.TASK_ERRORS.name + "_total", error_type="timeout") == 1


@virtual_time
async def test_the_wait_of_a_running_task_that_is_cancelled_is_counted_apart_as_well() -> None:
    gate = Gate()
    async with open_test_manager(ONE_SLOT) as tasks:
        first, second = [await tasks.submit_task(gate, timeout=math.inf) for _ in range(2)]
        await asyncio.sleep(3)
        await tasks.cancel_task(first)
        await tasks.wait_for_task(first)
        await asyncio.sleep(1)
        await tasks.cancel_task(second)
        await tasks.wait_for_task(second)
        cancelled = names.CANCELLED_WAIT.name
        assert metric(tasks.registry, cancelled + "_bucket", le="1.0") == 1
        assert metric(tasks.registry, cancelled + "_count") == waits(tasks) == 2
        assert metric(tasks.registry, cancelled + "_sum") == metric(
            tasks.registry, names.QUEUE_WAIT.name + "_sum"
        )
        assert metric(tasks.registry, names.ATTEMPT_DURATION.name + "_count", outcome="cancelled") == 2


async def test_the_wait_of_each_attempt_leads_to_its_own_span() -> None:
    spans = Spans(sampler=ALWAYS_ON)
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        at_once = Retry(max_attempts=2, backoff=exponential(0.001))
        await tasks.wait_for_task(await tasks.submit_task(with_options(fail, retry=at_once)))
        first, second = spans.all()
        found = {
            sample.exemplar.labels["span_id"]
            for family in tasks.registry.collect()
            for sample in family.samples
            if sample.exemplar is not None and sample.name == names.QUEUE_WAIT.name + "_bucket"
        }
        ids = {format_span_id(span.context.span_id) for span in (first, second)}
        assert found
        assert found <= ids
        assert format_span_id(second.context.span_id) in found


async def test_the_series_of_registered_definitions_start_at_0() -> None:
    registry = TaskRegistry()
    registry.add(task(name="nightly", category="background", priority="low")(fail_quietly))
    async with whole_service(SETTINGS, known=registry) as service:
        families = await scrape(service)
        assert {dict(one)["status"] for one in families[names.DEFINITION_TASKS.name]} == {
            "completed",
            "failed",
            "cancelled",
        }
        for histogram in (names.QUEUE_WAIT, names.RUN_DURATION, names.CANCELLED_WAIT):
            kinds = {(dict(one)["category"], dict(one)["priority"]) for one in families[histogram.name]}
            assert kinds == {("background", "low")}, histogram.name
        assert {dict(one)["category"] for one in families[names.ATTEMPT_DURATION.name]} == {"background"}
        assert (
            metric(service.parts.registry, names.DEFINITION_TASKS.name + "_total", definition="nightly") == 0
        )


async def fail_quietly() -> None:
    """What nobody runs here."""


async def test_settings_replace_the_buckets_of_a_service() -> None:
    telemetry = TelemetrySettings(
        log_level="off", run_buckets=(0.5, 600), wait_buckets=(5,), metrics_by_definition=0
    )
    async with whole_service(Settings(server=ServerSettings(port=0), telemetry=telemetry)) as service:
        await service.tasks.run(asyncio.sleep, 0)
        bounds: dict[str, set[str]] = collections.defaultdict(set)
        for family in service.parts.registry.collect():
            for sample in family.samples:
                if family.name in DECLARED and "le" in sample.labels:
                    bounds[family.name].add(sample.labels["le"])
        for histogram in (names.RUN_DURATION, names.ATTEMPT_DURATION):
            assert bounds[histogram.name] == {"0.5", "600.0", "+Inf"}
        assert bounds[names.QUEUE_WAIT.name] == bounds[names.CANCELLED_WAIT.name] == {"5.0", "+Inf"}
        assert names.DEFINITION_RUN_DURATION.name not in bounds
        load = service.tasks.looks.load(-math.inf)
        assert (load.wait_buckets, len(load.queue_waits[TaskPriority.NORMAL])) == ((5.0,), 2)
