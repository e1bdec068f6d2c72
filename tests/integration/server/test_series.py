"""GET /api/series: the last hour, made of the counters and histograms that the metrics show."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from qorzen_obs import create_app
from qorzen_obs.counts import CELL_OF, TaskCounts
from qorzen_obs.server import ticker
from qorzen_obs.server.series import MAX_POINTS, Series
from qorzen_obs.server.ticker import Ticker
from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.metrics import Load
from tests.services.ops_plane import SaidManager, get_json, hosted, managing, serving
from tests.support import PATIENCE_SECONDS, Gate, until, virtual_time


@dataclass
class Moved:
    """A clock that stands where it is put."""

    at: float = 0.0
    jumped: float = 0.0  #: of the wall clock

    def now(self) -> float:
        return 1_700_000_000.0 + self.at + self.jumped

    def monotonic(self) -> float:
        return self.at


@dataclass
class Worked(SaidManager):
    """A manager that has done what it is told."""

    clock: Moved = field(default_factory=Moved)
    counts: TaskCounts = field(default_factory=TaskCounts)
    asked_since: list[float] = field(default_factory=list)
    longest: dict[TaskPriority, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waits = super().load(0.0).queue_waits
        self.lags = super().load(0.0).loop_lags

    def load(self, since: float) -> Load:
        self.asked_since.append(since)
        waits = {priority: list(counts) for priority, counts in self.waits.items()}
        return Load(self.clock.at, self.counts.read(), waits, list(self.lags), self.blocked, self.longest)

    def accept(self, number: int) -> None:
        for _ in range(number):
            self.counts.accept(CELL)

    def move(self, number: int, before: TaskStatus, after: TaskStatus) -> None:
        for _ in range(number):
            self.counts.move(CELL, before, after)


CELL = CELL_OF[TaskCategory.IO, TaskPriority.HIGH]
PENDING, RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING


def test_a_point_is_what_came_between_two_readings() -> None:
    manager = Worked()
    series = Series(manager)
    manager.accept(7)  # before the first reading: nobody knows when
    series.sample()
    assert series.after(None) == []

    manager.clock.at = 10.0
    manager.accept(40)
    manager.move(30, PENDING, RUNNING)
    manager.move(20, RUNNING, TaskStatus.COMPLETED)
    manager.move(5, RUNNING, TaskStatus.FAILED)
    manager.move(2, PENDING, TaskStatus.CANCELLED)
    manager.waits[TaskPriority.HIGH][names.QUEUE_WAIT.buckets.index(0.5)] += 10
    manager.lags[names.LOOP_LAG.buckets.index(0.01)] += 100
    manager.blocked = 0.75
    series.sample()
    (point,) = series.after(None)
    assert (point.submitted, point.completed, point.failed, point.cancelled) == (4.0, 2.0, 0.5, 0.2)
    assert (point.running, point.pending) == (5, 15)
    assert point.queue_wait_p95 == {
        TaskPriority.LOW: None,
        TaskPriority.NORMAL: None,
        TaskPriority.HIGH: pytest.approx(0.25 + 0.95 * 0.25),
        TaskPriority.CRITICAL: None,
    }
    assert point.loop_lag_p95 == pytest.approx(0.005 + 0.95 * 0.005)
    assert point.loop_lag_max == 0.75
    assert manager.asked_since == [float("-inf"), 0.0]

    manager.clock.at = 30.0  # a tick could not be in time
    manager.accept(40)
    series.sample()
    later = series.after(point.at)[0]
    assert (later.submitted, later.completed, later.loop_lag_p95) == (2.0, 0.0, None)


def test_no_quantile_is_more_than_the_longest_wait_of_its_stretch() -> None:
    manager = Worked()
    series = Series(manager)
    series.sample()
    manager.clock.at = 10.0
    manager.waits[TaskPriority.HIGH][names.QUEUE_WAIT.buckets.index(60)] += 10
    manager.waits[TaskPriority.LOW][-1] += 10
    manager.longest = {TaskPriority.HIGH: 27.0, TaskPriority.LOW: 1_600.0}
    series.sample()
    (point,) = series.after(None)
    assert point.queue_wait_p95[TaskPriority.HIGH] == pytest.approx(25 + 0.95 * 2)
    assert point.queue_wait_p95[TaskPriority.LOW] == pytest.approx(1_500 + 0.95 * 100)


def test_an_hour_is_kept_and_no_more() -> None:
    manager = Worked()
    series = Series(manager)
    for step in range(MAX_POINTS + 10):
        manager.clock.at = 10.0 * step
        series.sample()
    points = series.after(None)
    assert len(points) == MAX_POINTS
    assert points[-1].at - points[0].at == 10.0 * (MAX_POINTS - 1)


def test_a_client_goes_on_after_the_point_that_it_has_seen() -> None:
    manager = Worked()
    series = Series(manager)
    for step in range(6):
        manager.clock.at = 10.0 * step
        # Back, so that the moment of the second point comes again.
        manager.clock.jumped = -20.0 if step >= 4 else 0.0
        series.sample()
    points = series.after(None)
    assert [round(point.at - 1_700_000_000) for point in points] == [10, 20, 30, 20, 30]
    assert series.after(points[0].at) == points[1:]
    assert series.after(points[3].at) == points[4:], "the second of that moment is the one that was seen last"
    assert series.after(points[0].at - 5) == points, "one that is not kept any more"
    assert series.after(points[-1].at + 50) == []


async def test_the_columns_are_of_equal_length_and_show_what_the_manager_did(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticker, "STEP_SECONDS", 0.05)
    gate, answers = Gate(), list[Any]()
    async with managing() as (manager, _), serving(manager) as plane:
        url = f"{plane.url}/api/series"

        async def last() -> Any:
            answers.append(await get_json(session, url))
            return answers[-1]

        for _ in range(3):
            await manager.submit_task(gate)
        await gate.holds(3)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while 3 not in (await last())["running"]:
                pass
        gate.open()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not any((await last())["completed"]):
                pass
        document = answers[-1]
        assert document["step_seconds"] == 0.05
        columns = {name: column for name, column in document.items() if isinstance(column, list)}
        columns |= document["queue_wait_p95"]
        assert {len(column) for column in columns.values()} == {len(document["at"])}
        assert set(document["queue_wait_p95"]) == {"low", "normal", "high", "critical"}
        assert any(wait is not None for wait in document["queue_wait_p95"]["normal"])
        assert any(lag is not None for lag in document["loop_lag_p95"])
        assert max(document["loop_lag_max"]) > 0
        assert document["at"] == sorted(document["at"])

        seen = document["at"][-2]
        later = await get_json(session, url, after=seen)
        assert later["at"][0] == document["at"][-1]
        await get_json(session, url, 422, after="yesterday")
        await get_json(session, url, 422, after="2026-01-31T12:00:00")
        await get_json(session, url, 422, before=seen)


@virtual_time
async def test_it_ticks_at_once_then_every_step_and_leaves_out_what_it_missed() -> None:
    loop = asyncio.get_running_loop()
    ticks = list[float]()
    ticking = Ticker(10.0)

    def tick() -> None:
        ticks.append(round(loop.time(), 6))
        if len(ticks) == 3:
            loop.jump(25.0)  # type: ignore[attr-defined]  # the loop was held

    ticking.add(tick)
    task = asyncio.create_task(ticking.run())
    await asyncio.sleep(65)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert ticks == [0.0, 10.0, 20.0, 50.0, 60.0]


def test_what_fails_is_logged_once_and_keeps_nothing_else_from_its_tick(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ticks = list[str]()
    ticking = Ticker(10.0)

    def fail() -> None:
        ticks.append("failed")
        raise ValueError("no such thing")

    ticking.add(fail)
    ticking.add(lambda: ticks.append("noted"))
    with caplog.at_level(logging.ERROR):
        ticking.tick()
        ticking.tick()
    assert ticks == ["failed", "noted"] * 2
    assert len(caplog.records) == 1


async def test_mounted_it_ticks_on_its_hosts_loop_until_that_one_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ticker, "STEP_SECONDS", 0.001)
    manager = Worked()
    async with hosted(create_app(manager)):
        await until(lambda: len(manager.asked_since) > 3)
        assert "qorzen ticker" in {task.get_name() for task in asyncio.all_tasks()}
    assert "qorzen ticker" not in {task.get_name() for task in asyncio.all_tasks()}
