"""The routes in an application of the user's own: one argument, the same answers, on the host's loop."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from qorzen_obs import Settings, TaskRegistry, create_app, open_task_manager, task
from qorzen_obs.errors import SettingsError
from qorzen_obs.server.app import ROUTES
from qorzen_obs.settings import ServerSettings
from tests.services.ops_plane import TOKEN, SaidManager, hosted

JSON = {"Content-Type": "application/json"}


@task(name="add")
def add(a: int, b: int) -> int:
    return a + b


async def failing() -> None:
    raise ValueError("no such host")


async def get(session: aiohttp.ClientSession, url: str, status: int = 200) -> Any:
    async with session.get(url) as response:
        assert response.status == status, url
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        return json.loads(await response.read())


async def post(session: aiohttp.ClientSession, url: str, body: object = None) -> tuple[int, Any, str]:
    async with session.post(url, data=json.dumps(body or {}), headers=JSON) as response:
        return response.status, json.loads(await response.read()), response.headers.get("Location", "")


async def test_with_one_argument_it_answers_from_the_managers_own_parts(
    session: aiohttp.ClientSession,
) -> None:
    async with open_task_manager(Settings()) as tasks, hosted(create_app(tasks)) as url:
        task_id = await tasks.submit_task(failing, name="mail.send")
        info = await tasks.wait_for_task(task_id)
        tasks.looks.task_lines.add(task_id, "info", "said", {})

        assert (await get(session, f"{url}/api/tasks/{task_id}"))["error"] == "no such host"
        assert (await get(session, f"{url}/api/traces"))["items"][0]["trace_id"] == info.trace_id
        assert (await get(session, f"{url}/api/tasks/{task_id}/logs"))["items"][0]["event"] == "said"
        assert (await get(session, f"{url}/status"))["tasks"]["total"] == 1
        assert (await get(session, f"{url}/openapi.json"))["servers"] == [{"url": "/ops"}]
        assert await get(session, f"{url}/api/registry") == {"items": [], "allow_submit": False}
        async with session.get(f"{url}/metrics") as response:
            assert 'qorzen_tasks{category="core",priority="normal",status="failed"} 1.0' in (
                await response.text()
            )
        for path in ("/", "/static/js/main.js", "/livez?verbose", "/health"):
            async with session.get(url + path) as response:
                assert response.status == 200, path
        await get(session, f"{url}/nothing", 404)


async def test_commands_run_on_the_loop_that_they_come_in_on(session: aiohttp.ClientSession) -> None:
    async with open_task_manager(Settings()) as tasks, hosted(create_app(tasks), "/api/ops") as url:
        running = await tasks.submit_task(asyncio.sleep, 60)
        status, _, _ = await post(session, f"{url}/api/tasks/{running}/cancel")
        assert status in (200, 202)
        await tasks.wait_for_task(running)
        status, document, location = await post(session, f"{url}/api/tasks/{running}/rerun")
        assert (status, location) == (202, f"/api/ops/api/tasks/{document['task_id']}")
        await get(session, f"{url}/api/tasks/{document['task_id']}")
        assert (await post(session, f"{url}/api/categories/core/pause"))[:2] == (
            200,
            {"category": "core", "paused": True},
        )
        await tasks.cancel_task(document["task_id"])


async def test_the_tasks_that_it_is_given_can_be_submitted(session: aiohttp.ClientSession) -> None:
    registry = TaskRegistry()
    async with open_task_manager(Settings()) as tasks:
        app = create_app(tasks, tasks=registry, settings=ServerSettings(allow_submit=True))
        registry.add(add)  # later is in time
        async with hosted(app) as url:
            status, document, location = await post(
                session, f"{url}/api/tasks", {"task": "add", "args": [1, 2]}
            )
            assert (status, location) == (202, f"/ops/api/tasks/{document['task_id']}")
            assert (await tasks.wait_for_task(document["task_id"])).result == 3
            status, _, _ = await post(session, f"{url}/api/tasks", {"task": "x" * 70_000})
            assert status == 413, "the limit is its own, and not its host's"


async def test_t2_a_token_holds_below_the_prefix_and_nowhere_else(session: aiohttp.ClientSession) -> None:
    app = create_app(SaidManager(), settings=ServerSettings(token=TOKEN))
    async with hosted(app) as url:
        for route in ROUTES:
            path = route.path.format(check="work-loop", task_id="1", trace_id="1", category="io")
            async with session.request(route.method, url + path, headers=JSON) as response:
                assert (response.status == 401) == (route.access.value in ("read", "control")), path
        await get(session, f"{url}/nothing", 401)
        async with session.get(url.removesuffix("/ops") + "/else") as response:
            assert response.status == 404
        async with session.get(f"{url}/status", headers={"Authorization": f"Bearer {TOKEN}"}) as response:
            assert response.status == 200


def test_a_bad_setting_stops_it_before_it_is_mounted() -> None:
    with pytest.raises(SettingsError, match=r"server\.allowed_hosts"):
        create_app(SaidManager(), settings=ServerSettings(allowed_hosts=("https://tasks.example.org",)))
