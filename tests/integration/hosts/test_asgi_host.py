"""A task manager in an ASGI application: its lifespan, and its routes below a path of the application."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from qorzen_obs import Settings, TaskRegistry, TaskStatus, task
from qorzen_obs.errors import ManagerError, ManagerInitializationError, TaskManagerClosedError
from qorzen_obs.hosts import AsgiHost
from qorzen_obs.server.body import BODY_SECONDS, MAX_BODY_BYTES
from qorzen_obs.settings import ServerSettings
from tests.event_stream import parse
from tests.services.asgi import Asked, uvicorn_serves
from tests.services.ops_plane import TOKEN
from tests.support import Gate, until, virtual_time

JSON = (b"content-type", b"application/json")
HOST = (b"host", b"localhost:8000")


@task(name="add")
def add(a: int, b: int) -> int:
    return a + b


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[AsgiHost]:
    """A host whose application runs."""
    host = AsgiHost(options.pop("settings", Settings()), **options)
    async with host.lifespan(None):
        yield host


# ---------------------------------------------------------------------- the lifespan


async def test_the_manager_is_there_while_the_application_runs_and_again_when_it_runs_again() -> None:
    host = AsgiHost(Settings())
    for _ in range(2):
        with pytest.raises(ManagerError, match=r"pass host\.lifespan to the application"):
            host.tasks  # noqa: B018 - what it raises
        assert (await Asked().of(host.ops)).status == 503
        async with host.lifespan(None):
            assert await host.tasks.run(add, 1, 2) == 3
            assert (await Asked(path="/status").of(host.ops)).status == 200
            with pytest.raises(ManagerInitializationError, match="make one for each"):
                async with host.lifespan(None):
                    pass


async def test_the_applications_own_lifespan_runs_inside() -> None:
    seen: list[Any] = []

    @asynccontextmanager
    async def own(app: object) -> AsyncIterator[dict[str, int]]:
        seen.append((app, await host.tasks.run(add, 1, 2)))
        yield {"answer": 42}
        seen.append(await host.tasks.run(add, 3, 4))

    host = AsgiHost(Settings(), lifespan=own)
    app = Starlette(routes=[Mount("/ops", app=host.ops)], lifespan=host.lifespan)
    async with host.lifespan(app) as state:
        assert (seen, state) == ([(app, 3)], {"answer": 42})
        manager = host.tasks
    assert seen == [(app, 3), 7]
    with pytest.raises(TaskManagerClosedError):
        await manager.run(add, 1, 2)


async def test_a_lifespan_that_fails_leaves_nothing_running() -> None:
    @asynccontextmanager
    async def broken(app: object) -> AsyncIterator[None]:
        if app is None:
            raise OSError("no database")
        yield

    host = AsgiHost(Settings(), lifespan=broken)
    with pytest.raises(OSError, match="no database"):
        async with host.lifespan(None):
            pass
    with pytest.raises(ManagerError):
        host.tasks  # noqa: B018 - what it raises


def test_it_needs_no_framework() -> None:
    code = "import sys, qorzen_obs.hosts; print([n for n in ('fastapi', 'starlette', 'uvicorn') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------------- the routes


async def test_the_routes_answer_below_the_mount() -> None:
    async with running() as host:
        task_id = await host.tasks.submit_task(add, 1, 2)
        await host.tasks.wait_for_task(task_id)
        for path, kind in {
            "/": "text/html",
            "/static/js/main.js": "text/javascript",
            "/metrics": "text/plain",
            "/livez": "text/plain",
            "/readyz": "text/plain",
            f"/api/tasks/{task_id}": "application/json",
            "/health": "application/health+json",
        }.items():
            asked = await Asked(path=path).of(host.ops)
            assert (asked.status, asked.complete) == (200, True), path
            assert asked.fields["content-type"].startswith(kind), path
            assert asked.fields["x-content-type-options"] == "nosniff"
            assert {"server", "date", "connection"}.isdisjoint(asked.fields)
            head = await Asked("HEAD", path).of(host.ops)
            assert (head.status, head.answer, head.complete) == (200, b"", True), path
        tasks = await Asked(path="/api/tasks", query=b"status=completed&limit=1").of(host.ops)
        assert json.loads(tasks.answer)["items"][0]["task_id"] == task_id
        missing = await Asked(path="/nothing/at%20all").of(host.ops)
        assert (missing.status, missing.fields["content-type"]) == (404, "application/problem+json")
        openapi = json.loads((await Asked(path="/openapi.json").of(host.ops)).answer)
        assert openapi["servers"] == [{"url": "/ops"}]
        bare = await Asked(path="").of(host.ops)
        assert (bare.status, bare.fields["location"]) == (308, "/ops/")
        packed = Asked(path="/metrics", headers=[HOST, (b"accept-encoding", b"gzip")])
        assert (await packed.of(host.ops)).answer.startswith(b"\x1f\x8b")
        counted = (await Asked(path="/metrics").of(host.ops)).answer.decode()
        assert (
            'qorzen_http_request_duration_seconds_count{code="200",method="GET",route="/livez"} 1.0'
            in counted
        )


async def test_commands_and_their_bodies_arrive() -> None:
    registry = TaskRegistry()
    registry.add(add)
    settings = Settings(server=ServerSettings(allow_submit=True))
    async with running(settings=settings, registry=registry) as host:
        body = json.dumps({"task": "add", "args": [1, 2]}).encode()
        asked = await Asked("POST", "/api/tasks", headers=[HOST, JSON], body=body).of(host.ops)
        task_id = json.loads(asked.answer)["task_id"]
        assert (asked.status, asked.fields["location"]) == (202, f"/ops/api/tasks/{task_id}")
        assert (await host.tasks.wait_for_task(task_id)).result == 3
        for size, status in ((MAX_BODY_BYTES, 400), (MAX_BODY_BYTES + 1, 413), (10 * MAX_BODY_BYTES, 413)):
            large = await Asked("POST", "/api/tasks", headers=[HOST, JSON], body=b"x" * size).of(host.ops)
            assert large.status == status
        gate = await host.tasks.submit_task(Gate())
        cancelled = await Asked("POST", f"/api/tasks/{gate}/cancel", headers=[HOST]).of(host.ops)
        assert cancelled.status in (200, 202)


@virtual_time
async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async with running() as host:
        asked = Asked("POST", "/api/tasks", headers=[HOST, JSON], body=b"")
        asked._asked = True
        began = asyncio.get_running_loop().time()
        assert (await asked.of(host.ops)).status == 408
        assert asyncio.get_running_loop().time() - began == pytest.approx(BODY_SECONDS)


async def test_a_command_whose_body_breaks_off_is_not_carried_out() -> None:
    messages = iter([{"type": "http.request", "body": b"", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async with running() as host:
        gate = Gate()
        task_id = await host.tasks.submit_task(gate)
        await gate.holds(1)
        asked = Asked("POST", f"/api/tasks/{task_id}/cancel", headers=[HOST, JSON], body=b"{}")
        await host.ops(asked.scope, receive, asked.send)
        assert (asked.status, asked.complete) == (0, False)
        info = host.tasks.find(task_id)
        assert info is not None
        assert info.status is TaskStatus.RUNNING
        gate.open()


async def test_the_bare_path_leads_to_the_public_address() -> None:
    public = "https://example.org/api/ops"
    async with running(settings=Settings(server=ServerSettings(public_url=public))) as host:
        bare = await Asked(path="").of(host.ops)
        assert (bare.status, bare.fields["location"]) == (308, f"{public}/")


async def test_t2_what_may_not_be_asked_is_refused_below_the_mount_too() -> None:
    async with running(settings=Settings(server=ServerSettings(token=TOKEN))) as host:
        assert (await Asked(path="/status").of(host.ops)).status == 401
        token = [HOST, (b"authorization", f"Bearer {TOKEN}".encode())]
        assert (await Asked(path="/status", headers=token).of(host.ops)).status == 200
        for hosts in ([(b"host", b"evil.example")], []):
            assert (await Asked(path="/status", headers=hosts).of(host.ops)).status == 421
        for header in ((b"x", b"a\r\nauthorization: Bearer " + TOKEN.encode()), (b"x y", b""), (b"x:y", b"")):
            assert (await Asked(path="/status", headers=[HOST, header]).of(host.ops)).status == 400
        twice = await Asked(path="/status", headers=[HOST, HOST, *token[1:]]).of(host.ops)
        assert (twice.status, twice.fields["content-type"]) == (400, "application/problem+json")
        for query in (b"a b", b"a\r\n"):
            assert (await Asked(path="/status", query=query, headers=token).of(host.ops)).status == 400
        split = await Asked(path="/status HTTP/1.0\r\nx: y", headers=token).of(host.ops)
        assert split.status == 404
        assert (await Asked("G T", "/status", headers=token).of(host.ops)).status == 400


async def test_a_web_socket_is_refused() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async with running() as host:
        await host.ops({"type": "websocket", "path": "/ops/", "headers": []}, Asked().receive, send)
        with pytest.raises(ValueError, match="mount this below a path"):
            await host.ops({"type": "lifespan"}, Asked().receive, send)
    assert sent == ["websocket.close"]


# ---------------------------------------------------------------------- streams


@pytest.mark.parametrize("end", ["client leaves", "server cancels", "client stalls", "application stops"])
async def test_a_stream_ends_with_its_client(end: str) -> None:
    async with running() as host:
        ring, asked = host.tasks.looks.event_ring, Asked(path="/api/events")
        following = asyncio.create_task(asked.of(host.ops))
        await until(lambda: b"event: snapshot" in asked.answer)
        assert (asked.status, asked.fields["content-type"], ring.streams) == (200, "text/event-stream", 1)
        task_id = await host.tasks.submit_task(add, 1, 2)
        await until(lambda: b"event: task/completed" in asked.answer)
        assert task_id.encode() in asked.answer
        if end == "client leaves":
            asked.gone.set()
        elif end == "server cancels":
            following.cancel()
        elif end == "client stalls":
            asked.reads.clear()
            while not following.done():
                for number in range(50):
                    await host.tasks.run(add, number, 2)
            assert ring.evicted == 1
        if end != "application stops":
            await asyncio.wait([following])
            await until(lambda: ring.streams == 0)
            assert not asked.complete
    if end == "application stops":
        await following
        assert asked.complete
        assert ring.streams == 0


@pytest.mark.parametrize("framework", ["fastapi", "starlette"])
async def test_uvicorn_serves_the_routes_and_a_stream(framework: str) -> None:
    host = AsgiHost(Settings())
    app: Any
    if framework == "fastapi":
        app = FastAPI(lifespan=host.lifespan)
        app.mount("/{tenant}/ops", host.ops)
    else:
        app = Starlette(lifespan=host.lifespan, routes=[Mount("/{tenant}/ops", app=host.ops)])
    async with uvicorn_serves(app) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/a/ops") as response:
            assert (response.status, response.url.path) == (200, "/a/ops/")
        async with session.get(f"{url}/a/ops/openapi.json") as response:
            assert (await response.json())["servers"] == [{"url": "/a/ops"}]
        async with session.get(f"{url}/a/ops/api/events") as stream:
            block = (await stream.content.readuntil(b"\n\n")) + await stream.content.readuntil(b"\n\n")
            assert parse(block.decode().split("\n\n")[1]).event == "snapshot"
            task_id = await host.tasks.submit_task(add, 1, 2)
            message = parse((await stream.content.readuntil(b"\n\n")).decode().removesuffix("\n\n"))
            assert (message.event, message.data["task"]["task_id"]) == ("task/submitted", task_id)
            ring = host.tasks.looks.event_ring
            assert ring.streams == 1
        await until(lambda: ring.streams == 0)
