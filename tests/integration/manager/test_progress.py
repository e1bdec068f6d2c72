"""Progress: clamped, monotone, coalesced, from anywhere inside a task, and its last value is never lost."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from qorzen_obs import TaskStatus, current_task, track
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.tasks import CategoryName
from qorzen_obs.testing import CapturedEvents, open_test_manager
from tests.support import Gate, until, virtual_time


def percents(events: CapturedEvents) -> list[float]:
    return [
        event.payload["progress"]["percent"] for event in events.events if event.event_type == "task/progress"
    ]


async def final_progress(tasks: TaskManager, func: Callable[..., Any], *args: Any, **options: Any) -> Any:
    info = await tasks.wait_for_task(await tasks.submit_task(func, *args, **options))
    assert info.error is None, info.traceback
    return info.progress.percent, info.progress.message


@virtual_time
async def test_progress_is_seen_while_the_task_runs() -> None:
    gate = Gate()

    async def work() -> None:
        current_task().progress(40, "reading")
        await gate()

    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(work)
        await gate.holds(1)
        info = await tasks.get_task_info(task_id)
        assert info is not None
        assert (info.progress.percent, info.progress.message) == (40, "reading")
        assert info.progress.updated_at == pytest.approx(tasks.loop.time() + 1.7e9)  # type: ignore[union-attr]  # it is initialized
        gate.open()
        await tasks.wait_for_task(task_id)


async def test_a_task_without_reports_has_no_progress() -> None:
    async with open_test_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(asyncio.sleep, 0))
        assert (info.progress.percent, info.progress.message, info.progress.updated_at) == (0, "", None)


@virtual_time
async def test_progress_never_falls_and_stays_between_0_and_100() -> None:
    async def work() -> None:
        for percent in (-5, 30, 20, 60.5, 10**400, -(10**400), 70):
            current_task().progress(percent)
            await asyncio.sleep(1)

    events = CapturedEvents()
    async with open_test_manager(events=events) as tasks:
        assert await final_progress(tasks, work) == (100, "")
    assert percents(events) == [0, 30, 30, 60.5, 100, 100, 100]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, True, "50", None, 1j])
async def test_what_is_no_number_is_refused_where_it_is_reported(bad: Any) -> None:
    async def work() -> None:
        current_task().progress(10, "before")
        current_task().progress(bad, "after")

    async with open_test_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(work))
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "qorzen_obs.errors.InvalidTaskError")
        assert (info.progress.percent, info.progress.message) == (10, "before")


async def test_a_message_that_cannot_be_shown_fails_the_report_and_the_task_ends_all_the_same() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    async def work() -> None:
        current_task().progress(10, Broken())  # type: ignore[arg-type]  # on purpose

    async with open_test_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(work))
        assert (info.status, info.error) == (TaskStatus.FAILED, "no text")


async def test_a_message_is_made_text_and_cut() -> None:
    async def work() -> None:
        current_task().progress(10, 12 * "ten chars ")
        current_task().progress(20, ValueError("x" * 1000))  # type: ignore[arg-type]  # on purpose

    async with open_test_manager() as tasks:
        assert await final_progress(tasks, work) == (20, "x" * 500)


@virtual_time
async def test_at_most_ten_reports_a_second_are_announced_and_the_last_one_always() -> None:
    async def work() -> None:
        for step in range(2_000):
            current_task().progress(step / 20, f"step {step}")
            await asyncio.sleep(0.001)

    events = CapturedEvents()
    async with open_test_manager(events=events) as tasks:
        assert await final_progress(tasks, work) == (99.95, "step 1999")
        await tasks.shutdown()
    seen = percents(events)
    assert 15 <= len(seen) <= 2 * 10 + 2
    assert seen == sorted(seen)
    assert seen[-1] == 99.95


@pytest.mark.parametrize(("category", "reports"), [("core", 1_000_000), ("ui", 100_000)])
async def test_a_million_reports_are_no_flood(category: CategoryName, reports: int) -> None:
    def work() -> None:
        report = current_task().progress
        for step in range(reports):
            report(100 * step / reports, "working")

    events = CapturedEvents()
    async with open_test_manager(events=events) as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(work, category=category))
        last = 100 * (reports - 1) / reports
        assert info.progress.percent == last
        await tasks.shutdown()
        assert info.duration_seconds is not None
        assert len(percents(events)) <= 10 * info.duration_seconds + 2
    assert percents(events)[-1] == last


async def test_an_event_carries_the_progress_as_it_was_then() -> None:
    blocked = asyncio.Event()

    class SlowEvents(CapturedEvents):
        async def publish(self, **event: Any) -> None:
            await blocked.wait()
            await super().publish(**event)

    async def work() -> None:
        current_task().progress(50)

    events = SlowEvents()
    async with open_test_manager(events=events) as tasks:
        await tasks.wait_for_task(await tasks.submit_task(work))
        blocked.set()
        await tasks.shutdown()
    told = [(event.event_type, event.payload["progress"]["percent"]) for event in events.events]
    assert told == [("task/submitted", 0), ("task/started", 0), ("task/progress", 50), ("task/completed", 50)]


async def test_no_progress_is_announced_after_the_end() -> None:
    kept: list[Any] = []

    async def work() -> None:
        kept.append(current_task())
        current_task().progress(10)

    events = CapturedEvents()
    async with open_test_manager(events=events) as tasks:
        assert await final_progress(tasks, work) == (10, "")
        kept[0].progress(90, "too late")
        await tasks.shutdown()
        assert (await tasks.get_tasks())[0].progress.percent == 10
    assert percents(events) == [10]


@pytest.mark.parametrize("category", ["core", "io", "ui"])
async def test_a_progress_reporter_is_injected_where_the_signature_asks_for_one(category: str) -> None:
    def work(start: int, progress_reporter: Callable[..., None]) -> str:
        progress_reporter(start + 5, "halfway")
        return threading.current_thread().name

    async def work_async(start: int, *, progress_reporter: Callable[..., None]) -> None:
        progress_reporter(start + 5, message="halfway")

    async with open_test_manager() as tasks:
        assert await final_progress(tasks, work, 45, category=category) == (50, "halfway")
        assert await final_progress(tasks, work_async, 45, category=category) == (50, "halfway")


@virtual_time
async def test_track_reports_the_share_of_what_has_a_length() -> None:
    async def work() -> list[str]:
        seen = []
        for letter in track("abcd"):
            seen.append(letter)
            await asyncio.sleep(1)
        return seen

    events = CapturedEvents()
    async with open_test_manager(events=events) as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(work))
        assert info.result == list("abcd")
        assert (info.progress.percent, info.progress.message) == (100, "4/4")
        await tasks.shutdown()
    assert percents(events) == [0, 25, 50, 75, 100]


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


def generated(count: int) -> Iterator[int]:
    yield from range(count)


async def test_track_takes_generators_async_iterables_totals_and_messages() -> None:
    async def sync_items(**options: Any) -> None:
        for _ in track(generated(3), **options):
            await asyncio.sleep(0)

    async def async_items(**options: Any) -> None:
        assert [item async for item in track(numbers(3), **options)] == [0, 1, 2]

    async with open_test_manager() as tasks:
        for work in (sync_items, async_items):
            assert await final_progress(tasks, work) == (0, "3")
            assert await final_progress(tasks, work, total=3) == (100, "3/3")
            assert await final_progress(tasks, work, total=6, message="files") == (50, "files")


async def test_track_that_is_left_early_stays_where_it_was() -> None:
    async def work() -> None:
        for number in track(range(10)):
            if number == 5:
                break

    async with open_test_manager() as tasks:
        assert await final_progress(tasks, work) == (50, "5/10")


async def test_progress_from_a_thread_of_the_task_reaches_its_record() -> None:
    gate = Gate()

    async def work() -> None:
        await asyncio.to_thread(current_task().progress, 70, "from elsewhere")
        await gate()

    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(work)
        await until(lambda: tasks.find(task_id).progress.percent == 70)  # type: ignore[union-attr]  # it is known
        gate.open()
        await tasks.wait_for_task(task_id)


@virtual_time
async def test_of_reports_that_are_coalesced_the_highest_counts() -> None:
    async def reports() -> None:
        for percent in (10, 80, 30):
            current_task().progress(percent, f"{percent} is the newest")

    async with open_test_manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(reports))
        assert (info.progress.percent, info.progress.message) == (80, "30 is the newest")
