"""Real answers of every route, good and bad, held against the OpenAPI document that the service itself serves."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

import aiohttp

from qorzen_obs import task
from qorzen_obs.record import TaskRecord
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.server.app import OpsPlane
from qorzen_obs.settings import ServerSettings
from qorzen_obs.tasks import TaskStatus
from tests.openapi import Document
from tests.services.ops_plane import SaidManager, State, managing, serving
from tests.services.stored_tasks import BrokenStore
from tests.support import record

#: Documented answers that take more than a request: with each why it is not asked for here.
NOT_PROVOKED = {
    ("GET", "/metrics", 503): "a collector must hang for 10 s",
    ("GET", "/api/tasks/{task_id}/stack", 504): "a worker process must not answer",
    ("POST", "/api/tasks", 408): "a body must not come",
    ("GET", "/api/events", 503): "the test of the stream fills it",
}
#: Added to every route, and shown for all of them by the tests of the server's security.
BY_ACCESS = {400, 401, 403, 415, 421}
JSON = {"Content-Type": "application/json"}


@task(name="add", category="io")
def add(a: int, b: int = 1) -> int:
    return a + b


async def failing() -> None:
    raise ValueError("as it always does")


async def waiting(ready: asyncio.Event, released: asyncio.Event) -> None:
    helper = asyncio.create_task(asyncio.sleep(60), name="helper")
    ready.set()
    try:
        await helper
    finally:
        helper.cancel()
        await released.wait()  # so that it is asked to stop, and has not stopped yet


async def ask(
    session: aiohttp.ClientSession,
    plane: OpsPlane,
    document: Document,
    method: str,
    target: str,
    status: int,
    body: object = None,
) -> bytes:
    """Ask, and hold the answer against the document; of a stream its beginning."""
    data = json.dumps({} if body is None else body) if method == "POST" else None
    url = plane.url + target
    async with session.request(method, url, data=data, headers=JSON if data else None) as response:
        streamed = response.content_type == "text/event-stream"
        answer = await response.content.readline() if streamed else await response.read()
        assert response.status == status, (target, answer)
        document.check(method, target.partition("?")[0], response.status, response.headers, answer)
        return answer


class Forgotten(SaidManager):
    """A manager with a pending and a failed task, and without a work loop."""

    def records(self) -> list[TaskRecord]:
        failed = record(task_id="2", sequence=2)
        failed.state = failed.state.but(status=TaskStatus.FAILED, completed_at=1.0)
        return [failed, record(task_id="1")]


async def served_document(session: aiohttp.ClientSession, plane: OpsPlane) -> Document:
    async with session.get(f"{plane.url}/openapi.json") as response:
        assert response.content_type == "application/json"
        return Document(await response.json())


async def test_every_route_answers_as_the_document_says(session: aiohttp.ClientSession) -> None:
    registry = TaskRegistry()
    registry.add(add)
    settings = ServerSettings(port=0, allow_submit=True)
    async with (
        managing(max_concurrent_tasks=2, max_pending=2) as (manager, _),
        serving(manager, tasks=registry, settings=settings) as plane,
    ):
        document = await served_document(session, plane)

        async def get(target: str, status: int = 200) -> bytes:
            return await ask(session, plane, document, "GET", target, status)

        async def post(target: str, status: int, body: object = None) -> bytes:
            return await ask(session, plane, document, "POST", target, status, body)

        ended = [await manager.submit_task(failing, name="fail", plugin_id="p", metadata={"a": 1})]
        ended += [await manager.submit_task(add, 1)]
        for task_id in ended:
            await manager.wait_for_task(task_id)
        failed, completed = ended
        manager.looks.task_lines.add(failed, "info", "said", {"more": [1]})
        ready = asyncio.Event()
        released = asyncio.Event()
        running = await manager.submit_task(waiting, ready, released)
        stubborn = await manager.submit_task(asyncio.sleep, 60, cancellable=False)
        await ready.wait()
        pending = await manager.submit_task(add, 2)

        for path, operations in document.paths.items():
            if "get" in operations and "{" not in path:
                await get(path)
        for probe in ("livez", "healthz", "readyz", "startupz"):
            check = "work-loop" if probe in ("livez", "healthz") else "initialized"
            await get(f"/{probe}/{check}?verbose")
            await get(f"/{probe}/no-such-check", 404)
        await get("/metrics")
        for task_id in (failed, completed, running, pending):
            for below in ("", "/logs", "/why"):
                await get(f"/api/tasks/{task_id}{below}")
        for query in ("status=failed", "order=ended&limit=1", "q=fail&category=core&priority=50,low"):
            await get(f"/api/tasks?{query}")
        info = manager.find(failed)
        assert info is not None
        await get(f"/api/tasks/{failed}/trace")
        await get(f"/api/tasks/{failed}/trace?whole=perhaps", 422)
        await get(f"/api/traces/{info.trace_id}")
        await get("/api/traces?errors=true&limit=5")
        for sort in ("newest", "slowest", "failed"):
            await get(f"/api/traces?sort={sort}&q=Fail")
        await get("/api/tasks?created_after=2026-01-31T12:00:00Z&created_before=9999-12-31T23:59:59Z")
        await get(f"/api/tasks/{running}/stack")
        await get(f"/api/tasks/{pending}/stack", 409)
        await get("/api/tasks?limit=0", 422)
        await get("/api/traces?limit=0", 422)
        await get("/api/running?limit=0", 422)
        await get("/api/failures?category=core&definition=failing&limit=1")
        await get("/api/failures?limit=0", 422)
        await get("/api/series?after=2026-01-31T12:00:00Z")
        await get("/api/series?after=yesterday", 422)
        await get("/api/events?category=x", 422)
        await get("/api/traces/x", 404)
        for below in ("", "/trace", "/logs", "/stack", "/why"):
            await get(f"/api/tasks/x{below}", 404)

        await post(f"/api/tasks/{failed}/cancel", 409)
        await post(f"/api/tasks/{stubborn}/cancel", 409)
        await post(f"/api/tasks/{pending}/cancel", 200)
        await post("/api/tasks/x/cancel", 404)
        await post(f"/api/tasks/{completed}/rerun", 409)
        await post("/api/tasks/x/rerun", 404)
        for command in ("cancel", "rerun"):
            await post(f"/api/bulk/{command}?name=nobody&below={running}&dry_run=true", 200)
            await post(f"/api/bulk/{command}", 422)
        await post("/api/bulk/rerun?status=failed&dry_run=true", 200)
        for below in ("pause", "resume"):
            await post(f"/api/categories/io/{below}", 200)
            await post(f"/api/categories/x/{below}", 404)
        body = {"task": "add", "args": [1], "idempotency_key": "k"}
        await post("/api/tasks", 202, body)
        await post("/api/tasks", 200, body)
        await post("/api/tasks", 404, {"task": "x"})
        await post("/api/tasks", 413, "x" * 70_000)
        await post("/api/tasks", 422, {"task": "add"})
        await post(f"/api/tasks/{failed}/rerun", 202)
        await post(f"/api/tasks/{failed}/rerun", 503)  # the queue is full
        await post("/api/tasks", 503, {"task": "add", "args": [1]})
        await post(f"/api/tasks/{running}/cancel", HTTPStatus.ACCEPTED)
        released.set()

        async with serving(SaidManager(state=State.DRAINING, initialized=False, blocked=60)) as sick:
            for target in ("/livez", "/healthz?verbose", "/readyz", "/startupz", "/health"):
                # What has started once, has: a manager that drains passes the probe of the start.
                status = 200 if target == "/startupz" else 503
                await ask(session, sick, document, "GET", target, status)
            for probe, check in (("livez", "work-loop"), ("healthz", "work-loop"), ("readyz", "accepting")):
                await ask(session, sick, document, "GET", f"/{probe}/{check}", 503)
            await ask(session, sick, document, "GET", "/api/tasks/x/why", 503)
            for target in ("/api/tasks/x/cancel", "/api/categories/io/pause", "/api/categories/io/resume"):
                await ask(session, sick, document, "POST", target, 503)
        async with serving(SaidManager(stored=BrokenStore())) as storeless:
            for target in ("/api/lost", "/api/tasks/x", "/api/tasks/x/logs", "/api/tasks/x/trace"):
                await ask(session, storeless, document, "GET", target, 503)
            await ask(session, storeless, document, "GET", f"/api/traces/{'0e' * 16}", 503)
        async with serving(Forgotten()) as unreachable:
            for target in ("/api/bulk/cancel?status=pending", "/api/bulk/rerun?status=failed"):
                await ask(session, unreachable, document, "POST", target, 503)
        async with serving(SaidManager(state=State.STARTING, initialized=False)) as starting:
            for target in ("/startupz", "/startupz/initialized"):
                await ask(session, starting, document, "GET", target, 503)

    documented = {
        (method.upper(), path, int(status))
        for path, operations in document.paths.items()
        for method, operation in operations.items()
        for status in operation["responses"]
    }
    missing = {each for each in documented if each[2] not in BY_ACCESS} - document.seen - set(NOT_PROVOKED)
    assert not missing, "no answer was seen of these"
