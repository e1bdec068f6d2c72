"""GET /api/health/history: what every check came to since the start, whoever looked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from qorzen_obs.health import BUILT_IN
from qorzen_obs.server import ticker
from qorzen_obs.server.health_history import MAX_CHANGES, HealthChange, HealthHistory
from qorzen_obs.telemetry.metrics import Load
from tests.services.ops_plane import SaidManager, State, serving
from tests.support import PATIENCE_SECONDS, until


async def ask(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(f"{url}/api/health/history") as response:
        assert response.status == 200
        checks = json.loads(await response.read())["checks"]
        return {check["name"]: check for check in checks}


def change(status: Any, second: int = 0, output: str = "") -> HealthChange:
    return HealthChange(at=f"2026-01-01T00:00:{second:02d}.000000Z", status=status, output=output)


def test_only_changes_are_kept_the_last_first() -> None:
    history = HealthHistory()
    for second, status in enumerate(["pass", "pass", "fail", "fail", "pass"]):
        history.note("queue", "health", change(status, second, f"look {second}"))
    (check,) = history.read()
    assert (check.name, check.probe, check.status, check.output) == ("queue", "health", "pass", "look 4")
    assert check.since == check.changes[0].at
    assert [(kept.status, kept.at[17:19], kept.output) for kept in check.changes] == [
        ("pass", "04", "look 4"),
        ("fail", "02", "look 2"),
        ("pass", "00", "look 0"),
    ]


def test_a_check_that_swings_keeps_its_last_changes() -> None:
    history = HealthHistory()
    for step in range(3 * MAX_CHANGES):
        history.note("queue", "health", change("warn" if step % 2 else "pass", output="x" * 10_000))
    (check,) = history.read()
    assert len(check.changes) == MAX_CHANGES
    assert check.changes[0].status == "warn"
    assert len(check.output) == len(check.changes[-1].output) == 500


async def test_every_check_stands_there_under_the_probe_that_fails_with_it(
    session: aiohttp.ClientSession,
) -> None:
    manager = SaidManager()
    manager.health.add(lambda: "fine", name="database", critical=True)
    manager.health.add(lambda: False, name="cache")
    async with serving(manager) as plane:
        found = await ask(session, plane.url)
    assert set(found) == BUILT_IN | {"database", "cache"}
    probes = {name: check["probe"] for name, check in found.items()}
    assert probes == {
        "ops-plane": "livez",
        "work-loop": "livez",
        "initialized": "readyz",
        "accepting": "readyz",
        "scheduler": "readyz",
        "history": "readyz",
        "queue": "health",
        "abandoned": "health",
        "telemetry": "health",
        "database": "readyz",
        "cache": "health",
    }
    assert (found["database"]["status"], found["database"]["output"]) == ("pass", "fine")
    assert (found["cache"]["status"], found["cache"]["output"]) == ("warn", "it returned False")
    for check in found.values():
        assert [kept["status"] for kept in check["changes"]] == [check["status"]]
        assert check["since"] == check["changes"][0]["at"]


@pytest.mark.parametrize("looked_by", ["/readyz", "/readyz/accepting?verbose", "/health"])
async def test_whoever_looks_is_remembered(session: aiohttp.ClientSession, looked_by: str) -> None:
    manager = SaidManager()
    async with serving(manager) as plane:
        await ask(session, plane.url)
        manager.health.stopping = True
        async with session.get(plane.url + looked_by) as response:
            assert response.status == 503
        manager.health.stopping = False
        found = (await ask(session, plane.url))["accepting"]
    assert [kept["status"] for kept in found["changes"]] == ["pass", "fail", "pass"]
    assert "told to stop" in found["changes"][1]["output"]
    assert found["output"] == ""


async def test_a_start_that_nobody_has_watched_is_no_failure(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticker, "STEP_SECONDS", 0.001)
    manager = SaidManager(state=State.STARTING, initialized=False)
    load, ticks = manager.load, list[float]()

    def ticked(since: float) -> Load:
        ticks.append(since)
        return load(since)

    manager.load = ticked  # type: ignore[method-assign]  # says when the ops plane has ticked
    async with serving(manager) as plane:
        await until(lambda: len(ticks) > 3)
        manager.state, manager.initialized = State.READY, True
        found = await ask(session, plane.url)
        assert {check["status"] for check in found.values()} == {"pass"}
        assert {len(check["changes"]) for check in found.values()} == {1}


async def test_nobody_has_to_look_for_a_change_to_be_remembered_and_no_check_is_run_for_it(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticker, "STEP_SECONDS", 0.001)
    runs = list[int]()
    manager, looked = SaidManager(), asyncio.Event()
    loop = asyncio.get_running_loop()
    status = manager.status

    def watched() -> dict[str, Any]:
        loop.call_soon_threadsafe(looked.set)
        return status()

    manager.status = watched  # type: ignore[method-assign]  # says when the ops plane has looked
    manager.health.add(lambda: runs.append(1), name="database")

    async def next_look() -> None:
        for _ in range(8):  # a tick asks three times, and the first answers may be of one that was under way
            looked.clear()
            await asyncio.wait_for(looked.wait(), PATIENCE_SECONDS)

    async with serving(manager) as plane:
        for depth in (0, 95, 0):
            manager.depth = depth
            await next_look()
        assert runs == []
        found = await ask(session, plane.url)
    assert [kept["status"] for kept in found["queue"]["changes"]] == ["pass", "warn", "pass"]
    assert found["queue"]["changes"][1]["output"] == "95 of 100 places are taken"
    assert runs == [1], "the route itself looks at all of them"
