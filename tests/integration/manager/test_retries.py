"""Attempts that follow attempts, starts that wait for their time, limits of one definition."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from qorzen_obs.clock import rfc_3339
from qorzen_obs.core.current_task import current_task
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.definition_limit import DefinitionLimit
from qorzen_obs.errors import InvalidTaskError, RetryLater, TaskFailedError, TaskTimeoutError
from qorzen_obs.options import task, with_options
from qorzen_obs.retry import Retry, exponential
from qorzen_obs.settings import Settings, TaskSettings
from qorzen_obs.tasks import TaskStatus
from qorzen_obs.testing import CapturedEvents, CapturedLogs, VirtualTimeLoop, open_test_manager, virtual_time
from tests.support import metric

EVERY_SECOND = exponential(1.0, factor=1.0, jitter=False)


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


class Unspeakable(Exception):
    def __repr__(self) -> str:
        raise SystemExit


async def coroutine() -> float:
    return 1.0


#: What a backoff may come to that is no wait.
BROKEN: dict[str, Callable[[], Any]] = {
    "raises": raising(ZeroDivisionError()),
    "raises SystemExit": raising(SystemExit()),
    "raises what cannot be shown": raising(Unspeakable()),
    "text": lambda: "5",
    "nothing": lambda: None,
    "a flag": lambda: True,
    "a timedelta": lambda: timedelta(seconds=5),
    "a coroutine": coroutine,
    "not a number": lambda: math.nan,
    "for ever": lambda: math.inf,
    "milliseconds": lambda: 1e12,
    "too many digits": lambda: 10**400,
}


def now() -> float:
    return asyncio.get_running_loop().time()


def fails(times: int, error: type[Exception] = OSError) -> Callable[..., Any]:
    """Return a task that raises in its first attempts and then returns the number of the attempt."""

    @task(
        name="flaky",
        retry=Retry(max_attempts=3, backoff=EVERY_SECOND, on=(OSError,), give_up_on=(FileNotFoundError,)),
    )
    async def flaky() -> int:
        if current_task().number <= times:
            raise error("not yet")
        return current_task().number

    return flaky


@virtual_time
async def test_a_failed_attempt_is_followed_by_another_after_the_backoff() -> None:
    async with open_test_manager() as tasks:
        started = now()
        assert await tasks.run(fails(2)) == 3
        assert now() - started == pytest.approx(2.0, abs=0.01)


@virtual_time
async def test_the_last_allowed_attempt_decides() -> None:
    async with open_test_manager() as tasks:
        with pytest.raises(OSError, match="not yet"):
            await tasks.run(fails(3))
        info = (await tasks.get_tasks())[0]
        assert (info.status, info.attempt, info.error_type) == (TaskStatus.FAILED, 3, "OSError")


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError], ids=["not among on", "among give_up_on"])
def test_other_exceptions_end_the_task_at_once(error: type[Exception]) -> None:
    @virtual_time
    async def run() -> None:
        async with open_test_manager() as tasks:
            with pytest.raises(error):
                await tasks.run(fails(1, error))
            assert (await tasks.get_tasks())[0].attempt == 1

    run()


@virtual_time
async def test_waiting_for_the_next_attempt_holds_no_slot_and_counts_as_scheduled() -> None:
    async with open_test_manager(Settings(tasks=TaskSettings(max_concurrent_tasks=1))) as tasks:
        task_id = await tasks.submit_task(fails(1))
        other = await tasks.run(asyncio.sleep, 0.1, "other")
        assert other == "other"
        waiting = await tasks.get_task_info(task_id)
        assert waiting is not None
        assert (waiting.status, waiting.error_type, waiting.attempt) == (TaskStatus.PENDING, "OSError", 1)
        assert tasks.status()["queue"]["scheduled"] == 1
        assert tasks.status()["queue"]["depth"] == 0
        assert tasks.status()["slots"]["loop"]["busy"] == 0
        assert (await tasks.wait_for_task(task_id)).result == 2


@virtual_time
async def test_each_attempt_is_announced_logged_counted_and_has_a_span_of_its_own() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    events, logs, registry = CapturedEvents(), CapturedLogs(), CollectorRegistry()
    async with open_test_manager(
        events=events, logs=logs, registry=registry, tracer_provider=provider
    ) as tasks:
        task_id = await tasks.submit_task(fails(2))
        await tasks.wait_for_task(task_id)

    assert events.of(task_id) == [
        "task/submitted",
        *("task/started", "task/retrying") * 2,
        "task/started",
        "task/completed",
    ]
    assert [line["attempt"] for line in logs.of("task.retrying")] == [1, 2]
    assert len(logs.of("task.finished")) == 1
    labels = {"category": "core", "priority": "normal"}
    assert registry.get_sample_value("qorzen_task_retries_total", labels) == 2
    assert registry.get_sample_value("qorzen_task_queue_wait_seconds_count", labels) == 3

    first, second, third = exporter.get_finished_spans()
    assert [span.attributes["qorzen.task.attempt"] for span in (first, second, third) if span.attributes] == [
        1,
        2,
        3,
    ]
    assert [link.context for link in second.links] == [first.context]
    assert [link.context for link in third.links] == [second.context]
    assert first.attributes is not None
    assert third.attributes is not None
    assert first.attributes["qorzen.task.will_retry"] is True
    assert "qorzen.task.will_retry" not in third.attributes


@virtual_time
async def test_an_attempt_that_timed_out_counts_as_a_timeout_error() -> None:
    @task(timeout=1, retry=Retry(max_attempts=2, backoff=EVERY_SECOND, on=(TimeoutError,)))
    async def slow_at_first() -> str:
        if current_task().number == 1:
            await asyncio.sleep(60)
        return "in time"

    async with open_test_manager() as tasks:
        assert await tasks.run(slow_at_first) == "in time"


@virtual_time
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
async def test_a_backoff_that_fails_later_is_logged_counted_and_replaced_by_the_default(
    broken: Callable[[], Any],
) -> None:
    calls = itertools.count()

    def backoff(attempt: int, source: object) -> Any:
        return broken() if next(calls) else 1.0

    @task(retry=Retry(max_attempts=3, backoff=backoff))
    async def fail() -> None:
        raise OSError("the task's own")

    logs, registry = CapturedLogs(), CollectorRegistry()
    async with open_test_manager(logs=logs, registry=registry) as tasks:
        started = now()
        with pytest.raises(OSError, match="own"):
            await tasks.run(fail)
        assert 0 < now() - started <= 1 + 2  # the first wait of the default, and the second
        assert len(logs.of("task.backoff_failed")) == 2
        assert len(logs.of("task.retrying")) == 2
        assert metric(registry, "qorzen_telemetry_errors_total", component="backoff") == 2


@virtual_time
@pytest.mark.parametrize("seconds", ["5", None, math.nan, math.inf, 1e12, 10**400], ids=ascii)
async def test_a_later_that_is_no_number_of_seconds_is_the_default_wait(seconds: Any) -> None:
    async def poll() -> int:
        if current_task().number < 2:
            raise RetryLater(seconds)
        return current_task().number

    logs = CapturedLogs()
    async with open_test_manager(logs=logs) as tasks:
        started = now()
        assert await tasks.run(poll) == 2
        assert now() - started <= 1
        assert len(logs.of("task.backoff_failed")) == 1


class Fussy(type):
    """Does not say which classes are its own."""

    def __subclasscheck__(cls, kind: type) -> bool:
        raise SystemExit


class FussyError(Exception, metaclass=Fussy): ...


@virtual_time
async def test_a_class_that_fails_to_say_what_belongs_to_it_ends_the_task_with_its_own_error() -> None:
    @task(retry=Retry(on=(OSError, FussyError)))
    async def fail() -> None:
        raise ValueError("the task's own")

    logs = CapturedLogs()
    async with open_test_manager(logs=logs) as tasks:
        with pytest.raises(ValueError, match="own"):
            await tasks.run(fail)
        assert "SystemExit" in logs.of("task.backoff_failed")[0]["error"]


@virtual_time
async def test_a_task_may_ask_to_be_tried_again_later_without_any_policy() -> None:
    async def poll() -> int:
        if current_task().number < 4:
            raise RetryLater(60, "not there yet")
        return current_task().number

    async with open_test_manager() as tasks:
        started = now()
        assert await tasks.run(poll) == 4
        assert now() - started == pytest.approx(180, abs=0.1)


@virtual_time
async def test_asking_to_be_tried_later_does_not_go_past_max_attempts() -> None:
    @task(retry=Retry(max_attempts=2))
    async def poll() -> None:
        raise RetryLater(1)

    async with open_test_manager() as tasks:
        with pytest.raises(RetryLater):
            await tasks.run(poll)
        assert (await tasks.get_tasks())[0].attempt == 2


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
def test_what_ends_an_attempt_for_good_does_not_end_who_waits_for_it(error: type[BaseException]) -> None:
    @task(retry=Retry())
    async def leaves() -> None:
        raise error("enough")

    @virtual_time
    async def run() -> None:
        async with open_test_manager() as tasks:
            with pytest.raises(TaskFailedError, match="enough"):
                await tasks.run(leaves)

    run()


@virtual_time
async def test_a_cancelled_attempt_is_never_tried_again() -> None:
    @task(retry=Retry(on=(BaseException,)))
    async def waits() -> None:
        await asyncio.sleep(60)

    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(waits)
        await asyncio.sleep(1)
        assert await tasks.cancel_task(task_id)
        info = await tasks.wait_for_task(task_id)
        assert (info.status, info.attempt) == (TaskStatus.CANCELLED, 1)


@pytest.mark.parametrize("seconds", [1.0, 2.5], ids=["before its timeout", "after its timeout"])
def test_an_attempt_that_fails_while_it_is_cancelled_is_not_tried_again(seconds: float) -> None:
    @task(timeout=2, retry=Retry(max_attempts=9, backoff=EVERY_SECOND))
    async def fails_late() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.8)
            raise OSError("in cleaning up") from None

    @virtual_time
    async def run() -> None:
        async with open_test_manager(Settings(tasks=TaskSettings(cancel_grace_seconds=4))) as tasks:
            task_id = await tasks.submit_task(fails_late)
            await asyncio.sleep(seconds)
            assert await tasks.cancel_task(task_id)
            info = await tasks.wait_for_task(task_id)
            assert (info.status, info.attempt) == (TaskStatus.FAILED, 1)

    run()


@virtual_time
async def test_a_deadline_that_passes_while_an_attempt_times_out_ends_the_task() -> None:
    @task(timeout=2, deadline=2.5, retry=Retry(max_attempts=9, backoff=EVERY_SECOND))
    async def slow_to_stop() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.8)

    async with open_test_manager(Settings(tasks=TaskSettings(cancel_grace_seconds=9))) as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(slow_to_stop))
        assert (info.status, info.attempt, info.error_type) == (TaskStatus.FAILED, 1, "timeout")


@virtual_time
async def test_a_task_is_cancelled_between_two_attempts() -> None:
    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(fails(2))
        await asyncio.sleep(0.5)
        assert await tasks.cancel_task(task_id)
        info = await tasks.wait_for_task(task_id)
        assert (info.status, info.attempt, info.error) == (TaskStatus.CANCELLED, 1, None)
        assert tasks.status()["queue"]["scheduled"] == 0


@pytest.mark.parametrize("during", ["an attempt", "a wait"])
def test_the_deadline_of_the_whole_task_ends_it(during: str) -> None:
    seconds = 60.0 if during == "an attempt" else 0.0

    @task(deadline=5, retry=Retry(max_attempts=99, backoff=exponential(10, factor=1, jitter=False)))
    async def never() -> None:
        await asyncio.sleep(seconds)
        raise OSError

    @virtual_time
    async def run() -> None:
        async with open_test_manager() as tasks:
            started = now()
            with pytest.raises(TaskTimeoutError, match="5 s after it was accepted"):
                await tasks.run(never)
            assert now() - started == pytest.approx(5, abs=0.01)

    run()


@virtual_time
async def test_a_delayed_task_starts_when_its_time_has_come_and_not_before() -> None:
    async with open_test_manager() as tasks:
        started = now()
        task_id = await tasks.submit_task(with_options(asyncio.sleep, delay=3600), 0, "woke")
        info = await tasks.get_task_info(task_id)
        assert info is not None
        assert info.eligible_at == pytest.approx(info.created_at + 3600)
        assert (await tasks.wait_for_task(task_id)).result == "woke"
        assert now() - started == pytest.approx(3600, abs=0.01)
        assert now() - started >= 3600
        ended = await tasks.get_task_info(task_id)
        assert ended is not None
        assert ended.queue_wait_seconds == pytest.approx(0, abs=0.01), "waiting counts from when it may start"


@virtual_time
async def test_run_at_takes_an_aware_datetime() -> None:
    async with open_test_manager() as tasks:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        when = datetime.fromtimestamp(loop.clock.now(), UTC) + timedelta(hours=1)
        started = now()
        await tasks.run(with_options(asyncio.sleep, run_at=when), 0)
        assert now() - started == pytest.approx(3600, abs=0.1)


@virtual_time
async def test_an_earlier_task_submitted_later_still_starts_first() -> None:
    order: list[str] = []

    async def note(name: str) -> None:
        order.append(name)

    async with open_test_manager() as tasks:
        late = await tasks.submit_task(with_options(note, delay=20), "late")
        soon = await tasks.submit_task(with_options(note, delay=10), "soon")
        await tasks.wait_for_task(late)
        await tasks.wait_for_task(soon)
    assert order == ["soon", "late"]


@virtual_time
async def test_scheduled_tasks_count_against_max_pending_and_a_stop_does_not_wait_for_far_ones() -> None:
    async with open_test_manager(Settings(tasks=TaskSettings(max_pending=2))) as tasks:
        far = await tasks.submit_task(with_options(asyncio.sleep, delay=7200), 0)
        near = await tasks.submit_task(with_options(asyncio.sleep, delay=10), 0)
        with pytest.raises(Exception, match=r"tasks\.max_pending"):
            await tasks.submit_task(asyncio.sleep, 0)
        started = now()
        await tasks.shutdown()
        assert now() - started < 11
        assert (await tasks.wait_for_task(near)).status is TaskStatus.COMPLETED
        assert (await tasks.wait_for_task(far)).status is TaskStatus.CANCELLED


@virtual_time
async def test_a_definition_limits_how_many_of_its_tasks_run_and_holds_up_no_other() -> None:
    running = most = 0

    @task(max_concurrent=2)
    async def crowd() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1

    async with open_test_manager() as tasks:
        started = now()
        crowd_ids = [await tasks.submit_task(crowd) for _ in range(6)]
        assert await tasks.run(asyncio.sleep, 0, "other") == "other"
        assert now() - started < 1
        for task_id in crowd_ids:
            await tasks.wait_for_task(task_id)
        assert most == 2
        assert now() - started == pytest.approx(3, abs=0.1)


@virtual_time
async def test_a_parent_under_a_limit_of_one_lends_it_to_its_own_kind() -> None:
    @task(max_concurrent=1)
    async def nested(depth: int) -> int:
        tasks: TaskManager = current_task().manager
        return 1 + (await tasks.run(nested, depth - 1) if depth else 0)

    async with open_test_manager() as tasks:
        assert await tasks.run(nested, 5) == 6


@virtual_time
async def test_it_can_be_told_why_a_task_is_pending() -> None:
    settings = Settings(tasks=TaskSettings(max_concurrent_tasks=1, category_limits={}))
    async with open_test_manager(settings) as tasks:
        running = await tasks.submit_task(asyncio.sleep, 60)
        first = await tasks.submit_task(asyncio.sleep, 0)
        second = await tasks.submit_task(asyncio.sleep, 0)
        urgent = await tasks.submit_task(asyncio.sleep, 0, priority="critical")
        later = await tasks.submit_task(with_options(asyncio.sleep, delay=30), 0)
        assert tasks.why_pending(running) is None
        why = tasks.why_pending(second)
        assert why is not None
        assert (why.held_by, why.ahead) == ("tasks.max_concurrent_tasks", 2)
        assert (tasks.why_pending(urgent) or why).ahead == 0
        assert (tasks.why_pending(first) or why).ahead == 1
        waits = tasks.why_pending(later)
        assert waits is not None
        assert waits.held_by == "eligible_at"
        assert waits.eligible_in_seconds == pytest.approx(30)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("delay", -1),
        ("delay", float("nan")),
        ("run_at", datetime(2026, 1, 1)),  # noqa: DTZ001 - a naive time is the subject
        ("max_concurrent", 0),
        ("deadline", 0),
        ("retry", 3),
        ("engine", "warp"),
        ("colour", "red"),
    ],
)
def test_a_bad_option_of_a_definition_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(InvalidTaskError, match=option):
        task(**{option: value})  # type: ignore[call-overload]  # the wrong kind is the subject


MONTHS = timedelta(days=90)
LAST_DAY = datetime(9999, 12, 31, tzinfo=timezone(-timedelta(hours=12)))


@pytest.mark.parametrize(
    ("option", "value", "unit"),
    [
        ("delay", 1e12, "number of seconds"),
        ("delay", 1.7e9 * 1_000, "number of seconds"),
        ("delay", 10**400, "number of seconds"),
        ("delay", math.inf, "number of seconds"),
        ("delay", "5", "number of seconds"),
        ("delay", MONTHS, "number of seconds"),
        ("run_at", 1.7e9 * 1_000, "Unix seconds (not milliseconds)"),
        ("run_at", 1.7e9 * 1_000_000, "Unix seconds (not milliseconds)"),
        ("run_at", 10**400, "Unix seconds (not milliseconds)"),
        ("run_at", math.inf, "Unix seconds (not milliseconds)"),
        ("run_at", math.nan, "Unix seconds (not milliseconds)"),
        ("run_at", "2026-01-01", "Unix seconds (not milliseconds)"),
        ("run_at", MONTHS, "Unix seconds (not milliseconds)"),
        ("run_at", LAST_DAY, "before the year 9999"),
    ],
    ids=ascii,
)
def test_a_time_in_another_unit_is_refused_with_the_right_one(option: str, value: object, unit: str) -> None:
    for refused in (lambda: task(**{option: value}), lambda: with_options(print, **{option: value})):  # type: ignore[call-overload,arg-type]  # as above
        with pytest.raises(InvalidTaskError, match=re.escape(unit)) as caught:
            refused()
        assert caught.value.argument == option


async def test_the_longest_waits_that_are_allowed_can_be_shown() -> None:
    longest = [
        with_options(asyncio.sleep, delay=36_525 * 86_400),
        with_options(asyncio.sleep, run_at=datetime(9998, 12, 31, tzinfo=UTC)),
        with_options(asyncio.sleep, run_at=datetime(1, 1, 1, tzinfo=UTC)),
    ]
    async with open_test_manager() as tasks:
        for func in longest:
            info = tasks.find(await tasks.submit_task(func, 0))
            assert info is not None
            assert info.eligible_at is not None
            assert info.created_at <= info.eligible_at
            assert rfc_3339(info.eligible_at) < "9999"


def takes_nothing() -> float:
    return 5.0


@pytest.mark.parametrize(
    ("make", "argument", "value"),
    [
        (Retry, "max_attempts", 0),
        (Retry, "max_attempts", 2.5),
        (Retry, "max_attempts", "3"),
        (Retry, "max_attempts", True),
        (Retry, "on", ("OSError",)),
        (Retry, "on", OSError),
        (Retry, "give_up_on", [OSError]),
        (Retry, "backoff", 0),
        (Retry, "backoff", None),
        (Retry, "backoff", "exponential"),
        (Retry, "backoff", takes_nothing),
        (Retry, "backoff", exponential),
        (exponential, "base_seconds", 0),
        (exponential, "base_seconds", "1"),
        (exponential, "base_seconds", math.nan),
        (exponential, "factor", 0.5),
        (exponential, "factor", "2"),
        (exponential, "max_seconds", math.inf),
        (exponential, "max_seconds", 1e12),
    ],
    ids=lambda value: getattr(value, "__name__", ascii(value)),
)
def test_a_bad_retry_policy_is_refused_by_name(
    make: Callable[..., Any], argument: str, value: object
) -> None:
    with pytest.raises(InvalidTaskError) as caught:
        make(**{argument: value})
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "broken",
    [broken for kind, broken in BROKEN.items() if kind != "raises SystemExit"],
    ids=[kind for kind in BROKEN if kind != "raises SystemExit"],
)
def test_a_backoff_that_gives_no_wait_is_refused_where_it_is_given(broken: Callable[[], Any]) -> None:
    with pytest.raises(
        InvalidTaskError, match=r"backoff: .* it takes the number of the attempt and a random"
    ):
        Retry(backoff=lambda attempt, source: broken())


@virtual_time
async def test_limits_of_made_up_names_do_not_pile_up() -> None:
    def limits() -> int:
        gc.collect()
        return sum(type(found) is DefinitionLimit for found in gc.get_objects())

    before = limits()
    async with open_test_manager(Settings(tasks=TaskSettings(keep_completed_tasks=3))) as tasks:
        for number in range(20):
            await tasks.run(with_options(asyncio.sleep, name=f"name {number}", max_concurrent=1), 0)
        assert limits() - before <= 3
