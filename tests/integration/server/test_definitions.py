"""GET /api/definitions: how the tasks of each definition do."""

from __future__ import annotations

from dataclasses import dataclass, field

import aiohttp
import pytest

from qorzen_obs import task
from qorzen_obs.server.definitions import EndRates, Quantiles, describe, exact_quantiles
from qorzen_obs.settings import Settings, TelemetrySettings
from qorzen_obs.tasks import COMPLETED, FAILED
from qorzen_obs.telemetry.definitions import DefinitionReading
from qorzen_obs.testing import open_test_manager
from tests.services.ops_plane import SaidManager, get_json, managing, serving
from tests.support import Gate, record

BOUNDS = (1.0, 10.0)


@task(name="import")
async def load(gate: Gate | None = None) -> None:
    if gate is not None:
        await gate()


async def other() -> None: ...


async def test_tasks_are_counted_by_definition_or_function(session: aiohttp.ClientSession) -> None:
    gate = Gate()
    async with managing(max_concurrent_tasks=1) as (manager, _), serving(manager) as plane:
        for number in range(3):
            await manager.wait_for_task(await manager.submit_task(load, name=f"import of {number}"))
        failed = (await manager.start(fail_loading)).task_id
        await manager.wait_for_task(failed)
        await manager.run(other)
        await manager.submit_task(load, gate)
        await gate.holds(1)
        cancelled, _ = [await manager.submit_task(load, gate) for _ in range(2)]
        await manager.cancel_task(cancelled)
        found = await get_json(session, f"{plane.url}/api/definitions")
        by_name = {one["definition"]: one for one in found["items"]}
        gate.open()
    assert found["limit"] == 100
    assert set(by_name) == {"import", "other", "fail_loading"}
    one = by_name["import"]
    counts = {key: one[key] for key in ("count", "completed", "failed", "cancelled", "pending", "running")}
    assert counts == {"count": 4, "completed": 3, "failed": 0, "cancelled": 1, "pending": 1, "running": 1}
    assert one["run"]["of"] == 3, "one never ran"
    assert 0 < one["run"]["p50"] <= one["run"]["p95"] <= one["run"]["p99"]
    assert one["wait"]["of"] == 4, "as many have started"
    assert one["usual_seconds"] == one["run"]["p50"]
    assert one["last_failure"] is None
    assert by_name["fail_loading"]["last_failure"]["task_id"] == failed
    assert by_name["fail_loading"]["last_failure"]["error_type"] == "ValueError"
    assert sum(each["share"] for each in found["items"]) == pytest.approx(1)


async def fail_loading() -> None:
    raise ValueError


async def test_names_past_the_limit_are_counted_together(session: aiohttp.ClientSession) -> None:
    settings = Settings(telemetry=TelemetrySettings(metrics_by_definition=1))
    async with open_test_manager(settings) as manager, serving(manager) as plane:
        for func in (other, load, fail_loading):
            await manager.wait_for_task(await manager.submit_task(func))
        found = await get_json(session, f"{plane.url}/api/definitions")
    assert found["limit"] == 1
    counts = {one["definition"]: (one["count"], one["failed"], one["wait"]["of"]) for one in found["items"]}
    assert counts == {"other": (1, 0, 1), "_other": (2, 1, 2)}


async def test_where_definitions_are_not_counted_none_is_shown(session: aiohttp.ClientSession) -> None:
    settings = Settings(telemetry=TelemetrySettings(metrics_by_definition=0))
    async with open_test_manager(settings) as manager, serving(manager) as plane:
        await manager.run(other)
        found = await get_json(session, f"{plane.url}/api/definitions")
        assert (found["items"], found["limit"]) == ([], 0)
        await get_json(session, f"{plane.url}/api/definitions", 422, limit="1")


def reading(*by_bucket: int, seconds: float, failed: int = 0) -> DefinitionReading:
    ended = {COMPLETED: sum(by_bucket) - failed, FAILED: failed}
    return DefinitionReading(ended, BOUNDS, by_bucket, seconds)


def test_what_is_not_kept_any_more_is_known_from_the_histogram() -> None:
    kept = record(definition_name="a")
    kept.state = kept.state.but(
        status=COMPLETED, duration_seconds=0.7, queue_wait_seconds=0.1, completed_at=1.0
    )
    (one,) = describe({"a": reading(2, 2, 0, seconds=8.0)}, [kept], {"a": 0.5}, 100)
    assert (one.run.p50, one.run.of) == (1.0, 4)
    assert [one.run.p95, one.run.p99] == pytest.approx([9.1, 9.82])
    assert one.wait == Quantiles(p50=0.1, p95=0.1, p99=0.1, of=1)
    assert (one.count, one.rate, one.share) == (4, 0.5, 1.0)
    (whole,) = describe({"a": reading(1, 0, 0, seconds=0.7)}, [kept], {}, 100)
    assert whole.run.p99 == 0.7, "its own time, where all that ended is kept"
    assert whole.rate is None


def test_a_name_of_which_none_has_ended_stands_by_itself_while_there_is_room() -> None:
    waiting = [record(definition_name=name) for name in ("b", "c", "b")]
    known = {"a": reading(1, 0, 0, seconds=1.0)}
    found = {one.definition: one.pending for one in describe(known, waiting, {}, 3)}
    assert found == {"a": 0, "b": 2, "c": 1}
    assert {one.definition: one.pending for one in describe(known, waiting, {}, 2)} == {
        "a": 0,
        "b": 2,
        "_other": 1,
    }


def test_what_took_most_of_the_time_comes_first() -> None:
    readings = {"a": reading(1, 0, 0, seconds=1.0), "b": reading(0, 1, 0, seconds=3.0)}
    assert [(one.definition, one.share) for one in describe(readings, [], {}, 100)] == [
        ("b", 0.75),
        ("a", 0.25),
    ]
    (idle,) = describe({"a": reading(0, 0, 0, seconds=0.0)}, [], {}, 100)
    assert (idle.share, idle.run.p50, idle.usual_seconds) == (None, None, None)


def test_exact_quantiles_are_times_that_were_seen() -> None:
    assert exact_quantiles([float(n) for n in range(1, 101)]) == Quantiles(
        p50=50.0, p95=95.0, p99=99.0, of=100
    )
    assert exact_quantiles([2.0]) == Quantiles(p50=2.0, p95=2.0, p99=2.0, of=1)
    assert exact_quantiles([]) == Quantiles(p50=None, p95=None, p99=None, of=0)


@dataclass
class HandClock:
    """A clock that the test moves."""

    seconds: float = 0.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Counting(SaidManager):
    """A manager that has counted what it is told."""

    counted: dict[str, DefinitionReading] = field(default_factory=dict)

    def definitions(self) -> dict[str, DefinitionReading]:
        return self.counted


def test_a_rate_is_that_of_the_last_minute() -> None:
    clock = HandClock()
    manager = Counting(clock=clock)
    rates = EndRates(manager)
    assert rates.read() == {}, "nothing is known before the first look"
    rates.sample()
    for seconds in range(10, 130, 10):  # one ends each second, and none in the last half minute
        clock.seconds += 10
        manager.counted = {"a": reading(min(seconds, 90), 0, 0, seconds=1.0)}
        rates.sample()
    assert rates.read() == {"a": 0.5}
