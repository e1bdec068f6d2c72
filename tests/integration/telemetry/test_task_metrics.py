"""What is counted of tasks: status() and the metrics agree at every moment, and the whole catalogue is served."""

import asyncio
import collections
import itertools
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

from qorzen_obs import TaskStatus
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
from tests.support import Gate, Spans, ThreadGate, metric, settings, until, virtual_time

DECLARED = {value.name: value for value in vars(names).values() if isinstance(value, MetricName)}
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
    assert set(families) == set(DECLARED)
    for family, series in families.items():
        labels = DECLARED[family].labels
        if labels[:2] == ("category", "priority"):
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
