"""GET /api/events: a snapshot and then every event, or an explicit reset; filters, resuming, and the end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from qorzen_obs import current_task
from qorzen_obs.app import Service
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.options import task
from qorzen_obs.retry import Retry
from qorzen_obs.server import stream
from qorzen_obs.server.app import create_app
from qorzen_obs.server.documents import Task
from qorzen_obs.settings import ServerSettings, Settings, TelemetrySettings
from qorzen_obs.tasks import TaskInfo
from tests.event_stream import Follower, following
from tests.services.ops_plane import TOKEN, SaidManager, State, managing, serving
from tests.support import PATIENCE_SECONDS, Gate, until


async def nothing() -> None:
    pass


async def failing(message: str = "no such host") -> None:
    raise ValueError(message)


async def reporting() -> None:
    current_task().progress(50, "half")
    await asyncio.sleep(0)


@task(retry=Retry(max_attempts=3, backoff=lambda *_: 0.0))
async def stubborn() -> None:
    raise OSError("once more")


def at_rest(manager: TaskManager) -> Counter[str]:
    return Counter(manager.status()["tasks"]["by_status"])


async def agrees(follower: Follower, manager: TaskManager) -> None:
    await follower.reaches(manager.looks.event_ring.last)
    assert +follower.counts == +at_rest(manager)


# ---------------------------------------------------------------------------- what it tells


async def test_it_begins_with_a_snapshot_and_goes_on_with_events() -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        gate = Gate()
        await manager.submit_task(gate, name="held", priority="high")
        await gate.holds(1)
        ended = await manager.submit_task(failing, name="ended")
        await manager.wait_for_task(ended)
        async with following(plane.url) as follower:
            snapshot = (await follower.has("snapshot")).data
            assert snapshot["state"] == "ready"
            assert snapshot["counts"]["by_status"] == manager.status()["tasks"]["by_status"]
            assert snapshot["counts"]["by_priority"] == manager.status()["tasks"]["by_priority"]
            assert [one["name"] for one in snapshot["running"]] == ["held"]
            assert [(one["name"], one["error"]) for one in snapshot["newest"]] == [("ended", "no such host")]
            gate.open()
            completed = await follower.has("task/completed")
            assert (completed.data["kind"], completed.data["previous"]) == ("task/completed", "running")
            shown = completed.data["task"]
            assert (shown["name"], shown["priority"], shown["status"]) == ("held", "high", "completed")
            assert shown["completed_at"].endswith("Z")
            assert completed.id == f"{manager.looks.event_ring.instance}-{manager.looks.event_ring.last}"
            await agrees(follower, manager)


async def test_an_event_shows_a_task_as_the_api_does_when_it_has_ended() -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        async with following(plane.url) as follower, aiohttp.ClientSession() as session:
            await follower.has("snapshot")
            await manager.wait_for_task(await manager.submit_task(failing, metadata={"key": "value"}))
            event = await follower.has("task/failed")
            async with session.get(f"{plane.url}/api/tasks") as response:
                (line,) = (await response.json())["items"]
        assert event.data["task"] == line


async def test_every_kind_of_event_is_told_in_order() -> None:
    async with managing() as (manager, _), serving(manager) as plane, following(plane.url) as follower:
        await follower.has("snapshot")
        await manager.wait_for_task(await manager.submit_task(reporting, name="r"))
        await manager.wait_for_task(await manager.submit_task(stubborn, name="s"))
        gate = Gate()
        cancelled = await manager.submit_task(gate, name="c")
        await gate.holds(1)
        await manager.cancel_task(cancelled)
        await manager.wait_for_task(cancelled)
        await agrees(follower, manager)
        kinds = {
            name: [kind.removeprefix("task/") for kind, other in follower.events if other == name]
            for name in "rsc"
        }
        assert kinds["r"] == ["submitted", "started", "progress", "completed"]
        assert kinds["s"] == ["submitted", *["started", "retrying"] * 2, "started", "failed"]
        assert kinds["c"] == ["submitted", "started", "cancelled"]


async def test_texts_of_users_stay_within_their_event() -> None:
    async with managing() as (manager, _), serving(manager) as plane, following(plane.url) as follower:
        await follower.has("snapshot")
        text = "a\n\ndata: {}\n\nevent: reset\udcff"
        await manager.wait_for_task(await manager.submit_task(failing, text))
        await agrees(follower, manager)
        assert [event for event, _ in follower.events] == ["task/submitted", "task/started", "task/failed"]
        assert "event: reset" in follower.of("task/failed")[0].data["task"]["error"]
        assert not follower.of("reset")


async def test_a_snapshot_is_bounded_however_many_tasks_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_RUNNING", 3)
    monkeypatch.setattr(stream, "NEWEST", 5)
    async with managing(max_concurrent_tasks=10) as (manager, _), serving(manager) as plane:
        gate = Gate()
        for number in range(20):
            await manager.submit_task(gate, name=str(number))
        async with following(plane.url) as follower:
            snapshot = (await follower.has("snapshot")).data
            assert [one["name"] for one in snapshot["running"]] == ["9", "8", "7"]
            assert [one["name"] for one in snapshot["newest"]] == ["19", "18", "17", "16", "15"]
            assert snapshot["counts"]["by_status"]["running"] == 10
        gate.open()


async def test_a_snapshot_has_what_ended_and_failed_last_however_much_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "NEWEST", 5)
    monkeypatch.setattr(stream, "LAST_ENDED", 2)
    async with managing(max_concurrent_tasks=1) as (manager, _), serving(manager) as plane:
        for number in range(4):
            await manager.wait_for_task(await manager.submit_task(failing, name=f"failed.{number}"))
        for number in range(3):
            await manager.run(nothing, name=f"completed.{number}", category="io")
        gate = Gate()
        for _ in range(10):
            await manager.submit_task(gate)
        async with following(plane.url) as follower:
            snapshot = (await follower.has("snapshot")).data
            assert [one["name"] for one in snapshot["ended"]] == [
                "completed.2",
                "completed.1",
                "failed.3",
                "failed.2",
            ]
        async with following(plane.url, query="?category=io", gapless=False) as follower:
            snapshot = (await follower.has("snapshot")).data
            # The newest five of that category, as it has no more than three, are told as such.
            assert [one["name"] for one in snapshot["newest"]] == [
                "completed.2",
                "completed.1",
                "completed.0",
            ]
            assert snapshot["ended"] == []
        gate.open()


def nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {key: n for key, n in counts.items() if n}


async def test_a_snapshot_counts_what_is_pending_and_running_by_priority_and_category() -> None:
    async with managing(max_concurrent_tasks=1) as (manager, _), serving(manager) as plane:
        gate = Gate()
        await manager.submit_task(gate, priority="low")
        await gate.holds(1)
        await manager.submit_task(gate, priority="low")
        for _ in range(2):
            await manager.submit_task(gate, priority="critical", category="io")
        async with following(plane.url) as follower:
            counts = (await follower.has("snapshot")).data["counts"]
            assert counts["pending_by_priority"] == {"low": 1, "normal": 0, "high": 0, "critical": 2}
            assert nonzero(counts["pending_by_category"]) == {"core": 1, "io": 2}
            assert nonzero(counts["running_by_category"]) == {"core": 1}
        async with following(plane.url, query="?category=io", gapless=False) as follower:
            counts = (await follower.has("snapshot")).data["counts"]
            assert counts["pending_by_priority"] == {"low": 0, "normal": 0, "high": 0, "critical": 2}
            assert nonzero(counts["pending_by_category"]) == {"io": 2}
            assert nonzero(counts["running_by_category"]) == {}
        gate.open()


# ---------------------------------------------------------------------------- it adds up


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_client_adds_up_to_status_whenever_it_comes(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BATCH_SECONDS", 0.005)
    choose = random.Random(seed)
    jobs = [nothing, failing, reporting, stubborn]
    async with (
        managing(max_concurrent_tasks=3) as (manager, _),
        serving(manager) as plane,
        AsyncExitStack() as streams,
    ):
        followers = [await streams.enter_async_context(following(plane.url))]
        for _ in range(12):
            for _ in range(choose.randrange(1, 30)):
                await manager.submit_task(choose.choice(jobs))
            if choose.random() < 0.6:
                followers.append(await streams.enter_async_context(following(plane.url)))
            for _ in range(choose.randrange(20)):
                await asyncio.sleep(0)
        await until(lambda: not at_rest(manager)["pending"] and not at_rest(manager)["running"])
        for follower in followers:
            await agrees(follower, manager)
            assert not {"pending", "running"} & set(follower.statuses.values())


async def test_a_client_that_fell_behind_the_ring_is_told_and_starts_over() -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        manager.looks.event_ring.capacity = 64
        async with following(plane.url) as follower:
            await follower.has("snapshot")
            for _ in range(100):  # more than the ring holds, before its next batch
                await manager.submit_task(nothing)
            await manager.wait_for_task(await manager.submit_task(nothing))
            assert (await follower.has("reset")).data == {"reason": "lost"}
            await follower.has("snapshot", 2)
            await agrees(follower, manager)


# ---------------------------------------------------------------------------- resuming


async def test_a_client_goes_on_where_it_was_cut_off() -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        async with following(plane.url) as before:
            await before.has("snapshot")
            await manager.wait_for_task(await manager.submit_task(nothing, name="before"))
            await agrees(before, manager)
        await manager.wait_for_task(await manager.submit_task(nothing, name="between"))
        async with following(plane.url, last_event_id=before.last_id) as after:
            after.last, after.counts = before.last, before.counts
            await manager.wait_for_task(await manager.submit_task(nothing, name="after"))
            await agrees(after, manager)
            assert [message.data["state"] for message in after.of("state")] == ["ready"]
            assert not after.of("snapshot")
            assert [name for _, name in after.events] == ["between"] * 3 + ["after"] * 3


async def test_a_client_resumes_from_its_snapshot_too() -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        async with following(plane.url) as before:
            await before.has("snapshot")
        await manager.wait_for_task(await manager.submit_task(nothing, name="between"))
        async with following(plane.url, last_event_id=before.last_id) as after:
            after.last, after.counts = before.last, before.counts
            await agrees(after, manager)
            assert not after.of("snapshot")


@pytest.mark.parametrize(
    "last_event_id",
    [
        "another-3",
        "3",
        "-3",
        "-",
        "x" * 5_000,
        "{instance}-",
        "{instance}-99999",
        "{instance}-²",
        "{instance}--1",
    ],
)
async def test_an_id_that_this_manager_has_not_given_out_is_answered_with_a_reset(last_event_id: str) -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        given = last_event_id.format(instance=manager.looks.event_ring.instance)
        async with following(plane.url, last_event_id=given) as follower:
            assert (await follower.has("reset")).data == {"reason": "unknown"}
            await follower.has("snapshot")
            await manager.run(nothing)
            await agrees(follower, manager)


async def test_an_id_that_the_ring_has_left_behind_is_answered_with_a_reset() -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        manager.looks.event_ring.capacity = 64
        async with following(plane.url) as first:
            await first.has("snapshot")
        for _ in range(30):
            await manager.run(nothing)
        async with following(plane.url, last_event_id=first.of("snapshot")[0].id) as late:
            assert (await late.has("reset")).data == {"reason": "lost"}
            await late.has("snapshot")
            await agrees(late, manager)


async def test_events_are_kept_no_longer_when_nobody_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LINGER_SECONDS", 0.0)
    async with managing() as (manager, _), serving(manager) as plane:
        ring = manager.looks.event_ring
        async with following(plane.url) as follower:
            await follower.has("snapshot")
            await manager.run(nothing)
            assert ring.since(ring.last - 1, 1)
        await until(lambda: not ring.streams)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while ring.since(ring.last - 1, 1):
                await manager.run(nothing)
        async with following(plane.url, last_event_id=follower.last_id) as late:
            assert (await late.has("reset")).data == {"reason": "lost"}
            await late.has("snapshot")
            await manager.run(nothing)
            await agrees(late, manager)


# ---------------------------------------------------------------------------- filters


async def test_a_category_is_followed_alone() -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        await manager.run(nothing, category="io")
        await manager.run(nothing, category="user")
        query = "?category=io,background"
        async with following(plane.url, query=query, gapless=False) as follower:
            snapshot = (await follower.has("snapshot")).data
            assert [one["category"] for one in snapshot["newest"]] == ["io"]
            assert snapshot["counts"]["total"] == 1
            for category in ("user", "io", "core", "background"):
                await manager.run(nothing, name=category, category=category)
            await follower.reaches(manager.looks.event_ring.last)
            assert [name for _, name in follower.events] == ["io"] * 3 + ["background"] * 3
            assert follower.counts["completed"] == 3


async def test_a_task_is_followed_alone() -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        gate = Gate()
        followed = await manager.submit_task(gate, name="followed")
        await manager.submit_task(gate, name="other")
        await gate.holds(2)
        async with following(plane.url, query=f"?task_id={followed}", gapless=False) as follower:
            snapshot = (await follower.has("snapshot")).data
            assert snapshot["counts"] is None
            assert [one["name"] for one in snapshot["running"]] == ["followed"]
            gate.open()
            await follower.has("task/completed")
            assert follower.events == [("task/completed", "followed")]


async def test_a_client_that_is_told_little_learns_its_place_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.01)
    async with managing() as (manager, _), serving(manager) as plane:
        async with following(plane.url, query="?category=ui", gapless=False) as follower:
            await follower.has("snapshot")
            await manager.run(nothing)
            place = f"{manager.looks.event_ring.instance}-{manager.looks.event_ring.last}"
            await until(lambda: follower.last_id == place)
        assert not follower.events


@pytest.mark.parametrize("query", ["category=none", "task=1", "category=io&x=y"])
async def test_a_filter_that_cannot_be_read_is_refused(query: str) -> None:
    async with (
        serving(SaidManager()) as plane,
        aiohttp.ClientSession() as session,
        session.get(f"{plane.url}/api/events?{query}") as response,
    ):
        assert response.status == 422
        assert response.content_type == "application/problem+json"


# ---------------------------------------------------------------------------- the connection


async def test_its_headers_keep_proxies_from_holding_it_back() -> None:
    async with serving(SaidManager()) as plane, aiohttp.ClientSession() as session:
        async with session.get(f"{plane.url}/api/events") as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            assert response.headers["X-Accel-Buffering"] == "no"
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
        async with session.head(f"{plane.url}/api/events") as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/event-stream"
            assert await response.read() == b""


async def test_it_is_for_those_who_may_read() -> None:
    token = TOKEN.replace(" ", "-")
    settings = ServerSettings(port=0, token=token)
    async with serving(SaidManager(), settings=settings) as plane:
        async with aiohttp.ClientSession() as session, session.get(f"{plane.url}/api/events") as response:
            assert response.status == 401
        async with following(plane.url, token=token) as follower:
            await follower.has("snapshot")


async def test_a_quiet_stream_is_written_to_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.01)
    async with serving(SaidManager()) as plane, following(plane.url) as follower:
        await until(lambda: sum(message.lines[0].startswith(":") for message in follower.messages) >= 2)


async def test_a_request_counts_as_answered_when_its_stream_begins() -> None:
    answered = []

    def note(method: str, route: str, code: int, seconds: float) -> None:
        answered.append((method, route, code, seconds))

    async with serving(SaidManager(), on_request=note) as plane:
        started = asyncio.get_running_loop().time()
        async with following(plane.url) as follower:
            await follower.has("snapshot")
            began = asyncio.get_running_loop().time() - started
            await until(lambda: asyncio.get_running_loop().time() - started > 2 * began)
        await until(lambda: answered)
    ((method, route, code, seconds),) = answered
    assert (method, route, code) == ("GET", "/api/events", 200)
    assert seconds <= began


# ---------------------------------------------------------------------------- the end


async def test_it_tells_that_the_manager_drains() -> None:
    manager = SaidManager()
    async with serving(manager) as plane, following(plane.url) as follower:
        assert (await follower.has("snapshot")).data["state"] == "ready"
        manager.state = State.DRAINING
        assert (await follower.has("state")).data["state"] == "draining"
        manager.state = State.STOPPED
        assert (await follower.has("state", 2)).data["state"] == "stopped"


async def test_it_ends_in_order_after_the_last_event_when_the_server_stops() -> None:
    async with managing() as (manager, _), serving(manager) as plane, AsyncExitStack() as streams:
        followers = [await streams.enter_async_context(following(plane.url)) for _ in range(5)]
        for follower in followers:
            await follower.has("snapshot")
        await manager.run(nothing)
        await plane.stop()
        for follower in followers:
            await follower.at_its_end()
            await agrees(follower, manager)


async def test_a_service_tells_how_it_stops_and_ends_the_stream_last() -> None:
    settings = Settings(server=ServerSettings(port=0), telemetry=TelemetrySettings(log_level="off"))
    service = Service(settings, http=True, environment={})
    await service.start()
    assert service.ops is not None
    async with following(service.ops.url) as follower:
        await follower.has("snapshot")
        gate = Gate()
        await service.tasks.submit_task(gate)
        await gate.holds(1)
        stopping = asyncio.create_task(service.stop(grace_seconds=30))
        assert (await follower.has("state")).data["state"] == "draining"
        gate.open()
        await stopping
        await follower.at_its_end()
        assert [message.data["state"] for message in follower.of("state")] == ["draining", "stopped"]
        await agrees(follower, service.tasks)


async def test_a_stream_that_fails_is_cut_off_and_says_so_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(info: TaskInfo) -> Task:
        raise RuntimeError("cannot be shown")

    async with managing() as (manager, _), serving(manager) as plane:
        with caplog.at_level(logging.ERROR, logger=stream.__name__):
            async with following(plane.url) as follower:
                await follower.has("snapshot")
                monkeypatch.setattr(stream, "task_line", fail)
                await manager.run(nothing)
                await until(lambda: follower.cut_off)
                await until(lambda: not manager.looks.event_ring.streams)
    assert caplog.records[0].getMessage() == "a stream of events failed and is cut off"


async def test_it_is_served_where_the_application_is_mounted() -> None:
    async with managing() as (manager, _):
        own = web.Application()
        own.add_subapp("/ops/", create_app(manager))
        async with TestServer(own) as server, following(str(server.make_url("/ops"))) as follower:
            await follower.has("snapshot")
            await manager.run(nothing)
            await agrees(follower, manager)
            closing = asyncio.create_task(server.close())
            await follower.at_its_end()
            await closing
