"""The metric families, from a source that stands still: names, labels, bounds and formats."""

import collections
import inspect
import math
import random
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from opentelemetry.trace import SpanContext, TraceFlags
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from qorzen_obs.counts import CELL_OF, CELLS, TaskCounts
from qorzen_obs.definition import TaskDefinition
from qorzen_obs.engines.traits import THREAD
from qorzen_obs.record import Ask, End, TaskState
from qorzen_obs.server.metrics import Variant, render
from qorzen_obs.server.negotiation import OPENMETRICS, TEXT, MediaType
from qorzen_obs.settings import TelemetrySettings
from qorzen_obs.tasks import ENDED, EventKind, TaskCategory, TaskPriority, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.collector import NEWS_SECONDS, TaskMetricsCollector
from qorzen_obs.telemetry.families import ALL_KNOWN, NOBODY_KNOWN
from qorzen_obs.telemetry.gathering import Gathering
from qorzen_obs.telemetry.metrics import LABEL_CAP, TaskMetrics
from tests.both_texts import assert_same
from tests.support import attempt, metric, record

IO_HIGH = (TaskCategory.IO, TaskPriority.HIGH)


class Source:
    """A task manager as the metrics see it."""

    version = "1.2.3"
    paused = frozenset({TaskCategory.IO})

    def __init__(self) -> None:
        self.counts = TaskCounts()

    def oldest_pending_ages(self) -> Mapping[tuple[TaskCategory, TaskPriority], float]:
        return {IO_HIGH: 12.5}

    def oldest_running_ages(self) -> Mapping[tuple[TaskCategory, TaskPriority], float]:
        return {IO_HIGH: 2.5}

    def abandoned_by_category(self) -> Mapping[TaskCategory, int]:
        return {TaskCategory.UI: 3}

    def slots(self) -> Mapping[str, Mapping[str, int]]:
        return {"thread": {"limit": 8, "busy": 5}}

    def loop_blocked_by_category(self) -> Mapping[str, float]:
        return {"core": 2.5}

    def status(self) -> Mapping[str, object]:
        return {"durable": True, "waiting": 6}

    def lost_by_category(self) -> Mapping[TaskCategory, int]:
        return {TaskCategory.IO: 4}

    def queue_limit(self) -> int:
        return 77

    def service_states(self) -> Mapping[str, bool]:
        return {"ready": True, "stopped": False}


@pytest.fixture
def metrics() -> TaskMetrics:
    return TaskMetrics(monotonic=lambda: 0.0)


@pytest.fixture
def source() -> Source:
    source = Source()
    source.counts.accept(CELL_OF[IO_HIGH])
    return source


@pytest.fixture
def collector(metrics: TaskMetrics, source: Source) -> TaskMetricsCollector:
    return TaskMetricsCollector(metrics, source, history=source)


@pytest.fixture
def registry(collector: TaskMetricsCollector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def ended(
    status: TaskStatus,
    *,
    error_type: str | None = None,
    ran: bool = True,
    name: str = "job",
    kind: EventKind | None = None,
) -> list[End]:
    """The end of a task, or of an attempt that is `kind`."""
    one = record(category=IO_HIGH[0], priority=IO_HIGH[1], cell=CELL_OF[IO_HIGH], definition_name=name)
    one.state = TaskState(
        status,
        error_type=error_type,
        attempt=1 if ran else 0,
        duration_seconds=0.3 if ran else None,
        queue_wait_seconds=0.02 if ran else None,
    )
    return [End(kind or ENDED[status], 1234.5, one, one.state, attempt(one) if ran else None, None)]


DECLARED = [value for _, value in inspect.getmembers(names) if isinstance(value, names.MetricName)]


def test_no_metric_is_collected_that_is_not_declared(collector: TaskMetricsCollector) -> None:
    collected = {family.name: family.type for family in collector.collect()}
    assert collected.items() <= {metric.name: metric.type for metric in DECLARED}.items()


@pytest.mark.parametrize("declared", DECLARED, ids=lambda declared: declared.name)
def test_a_metric_is_well_named_explained_and_has_rising_buckets(declared: names.MetricName) -> None:
    assert re.fullmatch(r"qorzen_[a-z_]*[a-z]", declared.name)
    assert not declared.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
    assert declared.help.endswith(".")
    assert list(declared.buckets) == sorted(set(declared.buckets))


def test_samples_carry_the_declared_labels_and_no_others(
    metrics: TaskMetrics, registry: CollectorRegistry
) -> None:
    metrics.on_ends(ended(TaskStatus.COMPLETED))
    metrics.on_ends(ended(TaskStatus.FAILED, error_type="ValueError"))
    metrics.on_request("GET", "/metrics", 200, 0.001)
    metrics.telemetry_errors["log"] += 1
    declared = {metric.name: set(metric.labels) for metric in DECLARED}
    for family in registry.collect():
        assert family.samples, family.name
        if family.type != "stateset":  # whose label has the name of the family
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == declared[family.name]


def test_state_is_read_at_scrape(registry: CollectorRegistry) -> None:
    assert metric(registry, names.OLDEST_PENDING.name, category="io", priority="high") == 12.5
    assert metric(registry, names.OLDEST_RUNNING.name, category="io", priority="high") == 2.5
    assert metric(registry, names.OLDEST_RUNNING.name) == 2.5, "the others are 0"
    assert metric(registry, names.TASKS_ABANDONED.name, category="ui") == 3
    assert metric(registry, names.ENGINE_SLOTS.name, engine="thread") == 8
    assert metric(registry, names.ENGINE_SLOTS_BUSY.name, engine="thread") == 5
    assert metric(registry, names.QUEUE_LIMIT.name) == 77
    assert metric(registry, names.BUILD_INFO.name + "_info", version="1.2.3") == 1


@pytest.mark.parametrize("status", [status for status in TaskStatus if status.final])
def test_an_end_is_observed_once_with_its_status(
    metrics: TaskMetrics, registry: CollectorRegistry, status: TaskStatus
) -> None:
    metrics.on_ends(ended(status, error_type="ValueError" if status is TaskStatus.FAILED else None))
    labels = {"category": "io", "priority": "high"}
    duration, attempts = names.RUN_DURATION.name, names.ATTEMPT_DURATION.name
    assert metric(registry, duration + "_count", status=status.value, **labels) == 1
    assert metric(registry, duration + "_count") == 1
    assert metric(registry, duration + "_sum") == 0.3
    assert metric(registry, names.RUN_MAX.name, **labels) == metric(registry, names.RUN_MAX.name) == 0.3
    assert metric(registry, attempts + "_count", category="io", outcome=status.value) == 1
    assert metric(registry, attempts + "_count") == 1
    cancelled = status is TaskStatus.CANCELLED
    assert metric(registry, names.CANCELLED_WAIT.name + "_sum", **labels) == (0.02 if cancelled else 0)
    assert (
        metric(registry, names.DEFINITION_TASKS.name + "_total", definition="job", status=status.value) == 1
    )
    assert metric(registry, names.DEFINITION_TASKS.name + "_total") == 1
    assert metric(registry, names.DEFINITION_RUN_DURATION.name + "_sum", definition="job") == 0.3
    failed = status is TaskStatus.FAILED
    assert (
        metric(registry, names.TASK_ERRORS.name + "_total", category="io", error_type="ValueError") == failed
    )
    completed = status is TaskStatus.COMPLETED
    assert metric(registry, names.LAST_SUCCESS.name, category="io") == (1234.5 if completed else 0)


@pytest.mark.parametrize("status", [TaskStatus.FAILED, TaskStatus.CANCELLED])
def test_a_task_that_never_started_is_counted_and_in_no_histogram(
    metrics: TaskMetrics, registry: CollectorRegistry, status: TaskStatus
) -> None:
    metrics.on_ends(ended(status, ran=False, error_type="timeout"))
    for histogram in (names.RUN_DURATION, names.QUEUE_WAIT, names.ATTEMPT_DURATION, names.CANCELLED_WAIT):
        assert metric(registry, histogram.name + "_count") == 0
    never_started = names.NEVER_STARTED.name + "_total"
    assert metric(registry, never_started, category="io", priority="high", status=status.value) == 1
    assert metric(registry, never_started) == 1
    assert metric(registry, names.DEFINITION_TASKS.name + "_total", status=status.value) == 1


def test_each_attempt_that_failed_counts_in_the_errors_and_in_the_attempts(
    metrics: TaskMetrics, registry: CollectorRegistry
) -> None:
    for _ in range(4):
        metrics.on_ends(ended(TaskStatus.PENDING, error_type="OSError", kind=EventKind.RETRYING))
    metrics.on_ends(ended(TaskStatus.FAILED, error_type="OSError"))
    assert metric(registry, names.TASK_ERRORS.name + "_total", error_type="OSError") == 5
    attempts = names.ATTEMPT_DURATION.name + "_count"
    assert metric(registry, attempts, outcome="retrying") == metric(
        registry, names.TASK_RETRIES.name + "_total"
    )
    assert (metric(registry, attempts, outcome="retrying"), metric(registry, attempts, outcome="failed")) == (
        4,
        1,
    )
    assert metric(registry, names.RUN_DURATION.name + "_count") == 1
    assert metric(registry, names.DEFINITION_TASKS.name + "_total") == 1


def test_the_first_definitions_are_told_apart_and_the_others_fold_into_one() -> None:
    source, metrics = Source(), TaskMetrics(settings=TelemetrySettings(metrics_by_definition=3))
    registry = CollectorRegistry()
    registry.register(TaskMetricsCollector(metrics, source))
    metrics.know_definition("nightly", TaskDefinition(name="nightly"))
    name = names.DEFINITION_TASKS.name + "_total"

    def shown() -> dict[str, float]:
        (family,) = (one for one in registry.collect() if one.name == names.DEFINITION_TASKS.name)
        sums: collections.Counter[str] = collections.Counter()
        for sample in family.samples:
            sums[sample.labels["definition"]] += int(sample.value)
        return dict(sums)

    assert shown() == {"nightly": 0}
    assert metric(registry, names.DEFINITION_RUN_DURATION.name + "_bucket", le="+Inf") == 0
    for number in range(10):
        metrics.on_ends(ended(TaskStatus.COMPLETED, name=f"job {number}"))
    assert shown() == {"nightly": 0, "job 0": 1, "job 1": 1, "_other": 8}
    assert metric(registry, names.LABEL_OVERFLOW.name + "_total", label="definition") == 8
    assert metric(registry, name, definition="_other", status="completed") == 8


def test_metrics_by_definition_can_be_off() -> None:
    metrics = TaskMetrics(settings=TelemetrySettings(metrics_by_definition=0))
    registry = CollectorRegistry()
    registry.register(TaskMetricsCollector(metrics, Source()))
    metrics.know_definition("nightly", TaskDefinition(name="nightly"))
    metrics.on_ends(ended(TaskStatus.COMPLETED))
    shown = {sample.name for family in registry.collect() for sample in family.samples}
    assert [name for name in shown if "definition" in name] == []


def test_histograms_begin_with_the_first_task_of_a_kind_or_with_a_registered_definition(
    metrics: TaskMetrics, source: Source, registry: CollectorRegistry
) -> None:
    definition = TaskDefinition(category=TaskCategory.UI, priority=TaskPriority.CRITICAL)

    def kinds(metric: names.MetricName) -> set[tuple[str, ...]]:
        samples = (sample for family in registry.collect() for sample in family.samples)
        return {
            tuple(sample.labels[label] for label in metric.labels)
            for sample in samples
            if sample.name == f"{metric.name}_count"
        }

    assert kinds(names.QUEUE_WAIT) == kinds(names.CANCELLED_WAIT) == {("io", "high")}
    assert {kind[:2] for kind in kinds(names.RUN_DURATION)} == {("io", "high")}
    assert kinds(names.ATTEMPT_DURATION) == {("io", outcome) for outcome in names.ATTEMPT_OUTCOMES}
    metrics.know_definition("click", definition)
    assert kinds(names.QUEUE_WAIT) == {("io", "high"), ("ui", "critical")}
    assert {category for category, _ in kinds(names.ATTEMPT_DURATION)} == {"io", "ui"}
    source.counts.accept(0)
    assert len(kinds(names.RUN_DURATION)) == 3 * 3
    assert metric(registry, names.RUN_DURATION.name + "_count") == 0


def test_settings_replace_the_buckets(source: Source) -> None:
    settings = TelemetrySettings(run_buckets=(0.25, 1), wait_buckets=(2,))
    metrics, registry = TaskMetrics(settings=settings), CollectorRegistry()
    registry.register(TaskMetricsCollector(metrics, source))
    metrics.on_ends(ended(TaskStatus.COMPLETED))
    bounds = collections.defaultdict(set)
    for family in registry.collect():
        for sample in family.samples:
            if "le" in sample.labels:
                bounds[family.name].add(sample.labels["le"])
    for histogram in (names.RUN_DURATION, names.ATTEMPT_DURATION, names.DEFINITION_RUN_DURATION):
        assert bounds[histogram.name] == {"0.25", "1.0", "+Inf"}
        assert metric(registry, histogram.name + "_bucket", le="1.0") == 1
        assert metric(registry, histogram.name + "_bucket", le="0.25") == 0
    for histogram in (names.QUEUE_WAIT, names.CANCELLED_WAIT):
        assert bounds[histogram.name] == {"2.0", "+Inf"}


def test_the_longest_of_the_last_minute_is_told_by_kind() -> None:
    moments = [130.0, 169.0, 171.0, 191.0, math.inf]
    metrics, registry = TaskMetrics(monotonic=lambda: moments[0]), CollectorRegistry()
    registry.register(TaskMetricsCollector(metrics, Source()))
    for at, seconds in ((100.0, 3.0), (110.0, 8.0), (130.0, 5.0)):
        metrics.wait_peaks[CELL_OF[IO_HIGH]].add(at, seconds)
    for longest in (8.0, 8.0, 5.0, 0.0):
        assert metric(registry, names.QUEUE_WAIT_MAX.name, category="io", priority="high") == longest
        assert metric(registry, names.QUEUE_WAIT_MAX.name) == longest, "the others have none"
        moments.pop(0)


def test_refusals_are_counted_by_kind_and_reason(metrics: TaskMetrics, registry: CollectorRegistry) -> None:
    metrics.on_rejected(CELL_OF[IO_HIGH], "queue_full")
    metrics.on_rejected(CELL_OF[IO_HIGH], "closed")
    metrics.on_rejected(0, "closed")
    name = names.TASKS_REJECTED.name + "_total"
    assert metric(registry, name, category="io", priority="high", reason="queue_full") == 1
    assert metric(registry, name, reason="closed") == 2
    assert metrics.rejected == 3


def test_only_what_was_cancelled_counts_in_the_latency_of_cancelling(
    metrics: TaskMetrics, registry: CollectorRegistry
) -> None:
    for why, seconds in ((Ask.CANCEL, 0.25), (Ask.DEADLINE, 5.0)):
        stopped = attempt(record(engine=THREAD))
        stopped.asked, stopped.asked_at, stopped.ended_at = why, 10.0, 10.0 + seconds
        (end,) = ended(TaskStatus.CANCELLED)
        metrics.on_ends([msgspec.structs.replace(end, record=stopped.record, attempt=stopped)])
    assert metric(registry, names.CANCEL_LATENCY.name + "_count", engine="thread") == 1
    assert metric(registry, names.CANCEL_LATENCY.name + "_sum") == 0.25


def test_error_types_that_users_make_up_are_bounded(
    metrics: TaskMetrics, registry: CollectorRegistry
) -> None:
    for number in range(LABEL_CAP + 50):
        metrics.on_ends(ended(TaskStatus.FAILED, error_type=f"made.up.Error{number}"))
    name = names.TASK_ERRORS.name + "_total"
    assert metric(registry, name) == LABEL_CAP + 50
    assert metric(registry, name, error_type="_other") == 50
    assert metric(registry, names.LABEL_OVERFLOW.name + "_total", label="error_type") == 50


def test_only_what_is_new_shows_0_to_a_scraper_that_has_not_come_before() -> None:
    now, registry = [0.0], CollectorRegistry()
    metrics = TaskMetrics(monotonic=lambda: now[0])
    registry.register(TaskMetricsCollector(metrics, Source()))

    def shown(already: int) -> list[float]:
        text = render(
            Gathering(registry).gather, Variant(TEXT, compressed=False, shown=already)
        ).body.decode()
        (family,) = (one for one in parse(text) if one.name == names.TASK_ERRORS.name)
        return [sample.value for sample in family.samples]

    for now[0], kind in ((0.0, "Old"), (NEWS_SECONDS, "Old"), (NEWS_SECONDS, "New")):
        metrics.on_ends(ended(TaskStatus.FAILED, error_type=kind))
    assert shown(NOBODY_KNOWN) == [2, 0]
    assert [shown(already) for already in (0, 1, 2)] == [[0, 0], [2, 0], [2, 1]]
    now[0] += NEWS_SECONDS
    assert shown(NOBODY_KNOWN) == shown(ALL_KNOWN) == [2, 1]


def test_routes_are_bounded_too(metrics: TaskMetrics, registry: CollectorRegistry) -> None:
    for number in range(LABEL_CAP + 50):
        metrics.on_request("GET", f"/{number}", 200, 0.001)
    name = names.HTTP_DURATION.name + "_count"
    assert metric(registry, name) == LABEL_CAP + 50
    assert metric(registry, name, route="other") == 50


def test_both_formats_can_be_read_back_with_the_same_values(
    metrics: TaskMetrics, registry: CollectorRegistry
) -> None:
    metrics.on_ends(ended(TaskStatus.COMPLETED))
    metrics.on_ends(ended(TaskStatus.FAILED, error_type='quotes " and \\ and\nlines'))
    text: bytes = generate_latest(registry)
    modern: bytes = generate_openmetrics(registry)  # type: ignore[no-untyped-call]  # theirs

    def values(families: Any) -> collections.Counter[tuple[str, frozenset[tuple[str, str]]]]:
        counted: collections.Counter[Any] = collections.Counter()
        for family in families:
            for sample in family.samples:
                counted[sample.name, frozenset(sample.labels.items())] += sample.value
        return counted

    plain = parse(text.decode())
    assert values(plain) == values(parse_openmetrics(modern.decode()))  # type: ignore[no-untyped-call]  # as above


@pytest.mark.parametrize("media_type", [TEXT, OPENMETRICS], ids=lambda media_type: media_type.name)
def test_the_whole_catalogue_is_written_as_the_client_writes_it(media_type: MediaType) -> None:
    source, chance = Source(), random.Random(6)
    metrics = TaskMetrics()
    collector = TaskMetricsCollector(metrics, source)
    assert_same(collector.collect(), media_type)
    for ends in (1, 10, 1000):
        for number in range(ends):
            cell = chance.randrange(len(CELLS))
            category, priority = CELLS[cell]
            one = record(category=category, priority=priority, cell=cell)
            one.state = TaskState(
                chance.choice([status for status in TaskStatus if status.final]),
                error_type=chance.choice(["ValueError", 'a "quoted" \\ name\nof two lines', "%d.0 {}"]),
                duration_seconds=chance.choice([None, chance.expovariate(0.1)]),
                queue_wait_seconds=chance.expovariate(0.1),
                span=SpanContext(7, number + 1, is_remote=False, trace_flags=TraceFlags(number % 2)),
            )
            source.counts.accept(cell)
            source.counts.move(cell, TaskStatus.PENDING, TaskStatus.RUNNING)
            source.counts.move(cell, TaskStatus.RUNNING, one.state.status)
            at = chance.random() * 1e9
            metrics.queue_wait[cell].observe(one.state.queue_wait_seconds or 0.0)
            metrics.on_ends([End(ENDED[one.state.status], at, one, one.state, attempt(one), None)])
            metrics.on_request("GET", f"/{number % 7}", 200, chance.expovariate(0.1))
        assert_same(collector.collect(), media_type)


def test_a_second_manager_cannot_take_the_same_registry(registry: CollectorRegistry) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(TaskMetricsCollector(TaskMetrics(), Source()))
