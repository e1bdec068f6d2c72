"""GET /api/tasks/{id}/trace: a task and everything below it, whatever is kept of its trace, or why nothing is there."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from qorzen_obs import Retry, TaskManager, current_task, task
from qorzen_obs.settings import ServerSettings, Settings, TaskSettings, TelemetrySettings
from tests.services.ops_plane import get_json, managing, serving
from tests.services.whole_service import url_of, whole_service


async def leaf() -> None:
    pass


class Gate:
    """What a task passes on its way, and where it waits then."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def wait(self) -> None:
        """Say that it is reached, and wait until it is opened."""
        self.reached.set()
        await self.opened.wait()


async def middle(gate: Gate | None = None) -> None:
    await current_task().manager.run(leaf, name="leaf")
    if gate is not None:
        await gate.wait()


async def top(ids: list[str], gate: Gate | None = None) -> None:
    tasks = current_task().manager
    ids += [await tasks.submit_task(leaf, name="other"), await tasks.submit_task(middle, gate, name="middle")]
    for task_id in ids:
        await tasks.wait_for_task(task_id)


async def rows(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    found = await get_json(session, url)
    scopes = [scope for resource in found["resourceSpans"] for scope in resource["scopeSpans"]]
    return [span for scope in scopes for span in scope["spans"]]


def of(span: dict[str, Any], key: str) -> Any:
    """What an attribute of a span says."""
    found = {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}
    return found.get(f"qorzen.{key}")


def tasks_of(spans: list[dict[str, Any]]) -> list[str]:
    """The names of the tasks of which there is a run, sorted."""
    return sorted(of(span, "task.name") for span in spans if span["name"].startswith("run "))


async def test_a_task_shows_itself_and_what_lies_below_it_and_the_whole_trace_where_asked(
    session: aiohttp.ClientSession,
) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        ids: list[str] = []
        root = await manager.submit_task(top, ids, name="top")
        await manager.wait_for_task(root)
        for task_id, below in ((root, ["leaf", "middle", "other", "top"]), (ids[1], ["leaf", "middle"])):
            found = await rows(session, f"{plane.url}/api/tasks/{task_id}/trace")
            assert tasks_of(found) == below
            assert not any(of(span, "trace.partial") for span in found)
            whole = await rows(session, f"{plane.url}/api/tasks/{task_id}/trace?whole=true")
            assert tasks_of(whole) == ["leaf", "middle", "other", "top"]
        assert tasks_of(await rows(session, f"{plane.url}/api/tasks/{ids[0]}/trace")) == ["other"]
        problem = await get_json(session, f"{plane.url}/api/tasks/{root}/trace?whole=perhaps", 422)
        assert problem["parameter"] == "whole"


async def test_what_lies_below_is_found_through_a_task_that_still_runs(
    session: aiohttp.ClientSession,
) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        ids: list[str] = []
        gate = Gate()
        root = await manager.submit_task(top, ids, gate, name="top")
        await gate.reached.wait()
        assert tasks_of(await rows(session, f"{plane.url}/api/tasks/{root}/trace")) == ["leaf", "other"]
        gate.opened.set()
        await manager.wait_for_task(root)


async def test_tasks_are_seen_by_their_records_where_their_trace_is_not_kept(
    session: aiohttp.ClientSession,
) -> None:
    settings = Settings(server=ServerSettings(port=0), telemetry=TelemetrySettings(traces_per_second=0))
    async with whole_service(settings) as service:
        ids: list[str] = []
        root = await service.tasks.submit_task(top, ids, name="top")
        await service.tasks.wait_for_task(root)
        found = await rows(session, f"{url_of(service)}/api/tasks/{root}/trace")
        assert sorted(of(span, "task.name") for span in found) == ["leaf", "middle", "other", "top"]
        assert all(of(span, "trace.partial") for span in found)
        assert {of(span, "task.status") for span in found} == {"completed"}


@task(retry=Retry(max_attempts=3, backoff=lambda attempt, source: 0.01))
async def never_there(manager: TaskManager) -> None:
    await manager.run(leaf, name=f"leaf {current_task().number}")
    raise ConnectionError("no such host")


async def test_all_attempts_are_shown_with_what_lies_below_each(session: aiohttp.ClientSession) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        task_id = await manager.submit_task(never_there, manager, name="mail.send")
        await manager.wait_for_task(task_id)
        found = await rows(session, f"{plane.url}/api/tasks/{task_id}/trace")
        assert len({span["traceId"] for span in found}) == 3, "each has a trace of its own"
        assert tasks_of(found) == ["leaf 1", "leaf 2", "leaf 3", "mail.send", "mail.send", "mail.send"]


async def test_what_is_missing_is_said_to_be_too_early_or_too_late(session: aiohttp.ClientSession) -> None:
    settings = Settings(
        server=ServerSettings(port=0),
        tasks=TaskSettings(keep_completed_tasks=0, max_concurrent_tasks=1),
        telemetry=TelemetrySettings(traces_per_second=0),
    )
    async with whole_service(settings) as service:
        gate = Gate()
        running = await service.tasks.submit_task(gate.wait)
        pending = await service.tasks.submit_task(leaf)
        never_started = await service.tasks.submit_task(leaf)
        await service.tasks.cancel_task(never_started)

        async def missing(task_id: str) -> tuple[str | None, str]:
            problem = await get_json(session, f"{url_of(service)}/api/tasks/{task_id}/trace", 404)
            return problem.get("missing"), problem["detail"]

        await gate.reached.wait()
        assert (await missing(pending))[0] == (await missing(running))[0] == "early"
        gate.opened.set()
        await service.tasks.wait_for_task(pending)
        await asyncio.sleep(0)
        early_or_late, words = await missing(running)
        assert early_or_late == "late"
        assert "evicted" in words
