"""Making tasks over HTTP: submitting registered ones, running ended ones again, pausing a category."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import aiohttp
import pytest
from msgspec import Meta
from opentelemetry import baggage

from qorzen_obs import task
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.server import body as body_reading
from qorzen_obs.server.app import OpsPlane
from qorzen_obs.settings import ServerSettings, Settings
from qorzen_obs.tasks import TaskCategory, TaskPriority, TaskStatus
from tests.services.ops_plane import SaidManager, exchange, managing, serving
from tests.services.whole_service import url_of, whole_service

CANARY = "canary-5d0b"
ALLOWED = ServerSettings(port=0, allow_submit=True)


@task(name="double", category="io", priority="high")
def double(value: Annotated[int, Meta(le=1000)], *, times: int = 1, name: str = "") -> int:
    """Double a number.

    More than once where asked for.
    """
    return value << times


@task(name="wait", timeout=60)
async def wait(seconds: float = 60) -> None:
    await asyncio.sleep(seconds)


@task(name="who calls")
async def who_calls() -> dict[str, object]:
    return dict(baggage.get_all())


@task(name="fail")
async def fail() -> None:
    raise ValueError("as it always does")


@task(name="log in")
async def log_in(password: str, more: dict[str, str], salt: str = CANARY) -> str:
    return password


@task(name="not over HTTP")
def call_back(callback: asyncio.Event) -> None: ...


@pytest.fixture
def registry() -> TaskRegistry:
    registry = TaskRegistry()
    for func in (double, wait, who_calls, fail, log_in, call_back):
        registry.add(func)
    return registry


@pytest.fixture
async def manager() -> AsyncIterator[TaskManager]:
    async with managing(max_concurrent_tasks=2, max_pending=2) as (manager, _):
        yield manager


@pytest.fixture
async def plane(manager: TaskManager, registry: TaskRegistry) -> AsyncIterator[OpsPlane]:
    async with serving(manager, tasks=registry, settings=ALLOWED) as plane:
        yield plane


async def post(
    session: aiohttp.ClientSession, url: str, body: object = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Status, document and headers of the answer to a POST of JSON."""
    data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    headers = {"Content-Type": "application/json", **headers}
    async with session.post(url, data=data, headers=headers) as response:
        return response.status, json.loads(await response.read()), dict(response.headers)


# ---------------------------------------------------------------------------- submitting


async def test_t3_submitting_is_off_unless_switched_on(
    session: aiohttp.ClientSession, manager: TaskManager, registry: TaskRegistry
) -> None:
    async with serving(manager, tasks=registry) as plane:
        for body in ({"task": "double", "args": [1]}, {"task": "unknown"}, b"{"):
            status, problem, _ = await post(session, f"{plane.url}/api/tasks", body)
            assert status == 403
            assert problem["detail"].endswith("server.allow_submit switches it on")
    assert manager.status()["tasks"]["total"] == 0


async def test_a_registered_task_is_accepted_and_its_place_is_told(
    session: aiohttp.ClientSession, manager: TaskManager, plane: OpsPlane
) -> None:
    status, document, headers = await post(
        session,
        f"{plane.url}/api/tasks",
        {"task": "double", "args": [5], "kwargs": {"times": 3, "name": "x"}},
    )
    assert status == 202
    assert headers["Location"] == f"/api/tasks/{document['task_id']}"
    info = await manager.wait_for_task(document["task_id"])
    assert (info.name, info.result) == ("double", 40)
    assert (info.category, info.priority) == (TaskCategory.IO, TaskPriority.HIGH)
    async with session.get(plane.url + headers["Location"]) as response:
        assert (await response.json())["status"] == "completed"


async def test_what_a_submission_says_goes_before_the_definition(
    session: aiohttp.ClientSession, manager: TaskManager, plane: OpsPlane
) -> None:
    options = {"category": "core", "priority": 50, "timeout": "inf", "metadata": {"for": "Ada"}}
    for priority in ("normal", 50):
        body = {"task": "double", "args": [1], **options, "priority": priority}
        _, document, _ = await post(session, f"{plane.url}/api/tasks", body)
        info = await manager.wait_for_task(document["task_id"])
        assert (info.category, info.priority) == (TaskCategory.CORE, TaskPriority.NORMAL)
        assert (info.timeout_seconds, info.metadata) == (None, {"for": "Ada"})


@task(name="names")
def names_of_ours(
    self: str,
    func: str,
    name: str,
    category: str,
    plugin_id: str,
    priority: str,
    metadata: str,
    timeout: str,
    *,
    cancellable: str,
    **more: str,
) -> set[str]:
    given = {self, func, name, category, plugin_id, priority, metadata, timeout, cancellable}
    assert {*more.values()} == given
    return given


@pytest.mark.parametrize(
    "options", [{}, {"priority": "high", "timeout": 5, "metadata": {"a": 1}, "category": "io"}]
)
async def test_arguments_in_kwargs_are_the_tasks_whatever_their_names(
    session: aiohttp.ClientSession, manager: TaskManager, registry: TaskRegistry, options: dict[str, Any]
) -> None:
    registry.add(names_of_ours)
    own = ("args", "kwargs", "call", "task", "context", "submit", "key", "digest", "loop", "engine", "delay")
    parameters = [*inspect.signature(names_of_ours).parameters][:-1]
    kwargs = {**dict.fromkeys(parameters, "own"), **dict.fromkeys(own, "own")}
    async with serving(manager, tasks=registry, settings=ALLOWED) as plane:
        body = {"task": "names", "kwargs": kwargs, **options}
        status, document, _ = await post(session, f"{plane.url}/api/tasks", body)
    assert status == 202
    info = await manager.wait_for_task(document["task_id"])
    assert (info.result, info.name, info.plugin_id, info.cancellable) == ({"own"}, "names", None, True)
    assert info.metadata == options.get("metadata", {})
    assert info.timeout_seconds == options.get("timeout", 300)
    assert info.priority.label == options.get("priority", "normal")
    assert info.category.value == options.get("category", "core")


@task(name="reports")
def reporter_before_the_rest(progress_reporter: Any, *values: int) -> None: ...


async def test_no_argument_over_http_is_taken_for_the_progress_reporter(
    session: aiohttp.ClientSession, manager: TaskManager, registry: TaskRegistry
) -> None:
    registry.add(reporter_before_the_rest)
    async with serving(manager, tasks=registry, settings=ALLOWED) as plane:
        status, problem, _ = await post(session, f"{plane.url}/api/tasks", {"task": "reports", "args": [1]})
    assert (status, "make it keyword-only" in problem["detail"]) == (422, True)


@pytest.mark.parametrize(
    "name",
    ["", "os.system", "builtins.exec", "tests.integration:double", "Double", "double ", "\0", "../double"],
)
async def test_t3_a_name_is_looked_up_in_the_registry_and_nowhere_else(
    session: aiohttp.ClientSession, plane: OpsPlane, manager: TaskManager, name: str
) -> None:
    status, _, _ = await post(session, f"{plane.url}/api/tasks", {"task": name, "args": ["id"]})
    assert status == 404
    assert manager.status()["tasks"]["total"] == 0


@pytest.mark.parametrize(
    ("body", "status", "place"),
    [
        ({}, 422, "the body"),
        ([], 422, "the body"),
        ({"task": 5}, 422, "task"),
        ({"task": "not over HTTP", "args": [1]}, 422, "task"),
        ({"task": "double", "<b>": 1}, 422, "the body"),
        ({"task": "double"}, 422, "args and kwargs"),
        ({"task": "double", "args": ["<b>"]}, 422, "value"),
        ({"task": "double", "args": [1001]}, 422, "value"),
        ({"task": "double", "args": [1], "kwargs": {"<b>": 1}}, 422, "args and kwargs"),
        ({"task": "double", "args": {"<b>": 1}}, 422, "args"),
        ({"task": "double", "args": [1], "category": "<b>"}, 422, "category"),
        ({"task": "double", "args": [1], "priority": "<b>"}, 422, "priority"),
        ({"task": "double", "args": [1], "priority": 51}, 422, "priority"),
        ({"task": "double", "args": [1], "timeout": 0}, 422, "timeout"),
        ({"task": "double", "args": [1], "timeout": "<b>"}, 422, "timeout"),
        ({"task": "double", "args": [1], "metadata": ["<b>"]}, 422, "metadata"),
        ({"task": "double", "args": [1], "metadata": {"a": "b" * 17_000}}, 422, "metadata"),
        ({"task": "double", "args": [1], "idempotency_key": ""}, 422, "idempotency_key"),
        ({"task": "double", "args": [1], "idempotency_key": "<b>" * 50}, 422, "idempotency_key"),
        ({"task": "double", "args": [1], "idempotency_key": "<b>\n"}, 422, "idempotency_key"),
        (b"", 400, None),
        (b"{<b>}", 400, None),
        (b'{"task": "\xff<b>"}', 400, None),
        (b"[" * 60_000, 422, "the body"),
        (b'{"task": "double", "args": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", 400, None),
        (b'"' + b"<b>" * 30_000 + b'"', 413, None),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_t3_t6_what_does_not_fit_is_refused_by_its_place_and_not_repeated(
    session: aiohttp.ClientSession,
    plane: OpsPlane,
    manager: TaskManager,
    body: object,
    status: int,
    place: str | None,
) -> None:
    answered, problem, headers = await post(session, f"{plane.url}/api/tasks", body)
    assert (answered, problem.get("parameter")) == (status, place)
    assert headers["Content-Type"] == "application/problem+json"
    assert "<b>" not in json.dumps(problem)
    assert manager.status()["tasks"]["total"] == 0


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "the body: Object missing required field `task`"),
        (
            {"task": "double", "<b>": 1},
            "the body: has an unknown field; known are task, args, kwargs, category",
        ),
        (
            {"task": "double", "priority": "<b>"},
            "priority: takes one of 0, 50, 100, 200, critical, high, low, normal",
        ),
        (
            {"task": "double", "category": "<b>"},
            "category: takes one of core, plugin, ui, io, background, user",
        ),
        (
            {"task": "double"},
            "args and kwargs: they do not fit; the task takes value, times, name; missing: value",
        ),
        (b'"' + b"<b>" * 30_000 + b'"', "the body has more than 65536 bytes"),
    ],
    ids=["no name", "unknown field", "priority", "category", "no argument", "too large"],
)
async def test_a_refusal_says_what_would_be_right(
    session: aiohttp.ClientSession, plane: OpsPlane, body: object, detail: str
) -> None:
    _, problem, _ = await post(session, f"{plane.url}/api/tasks", body)
    assert problem["detail"].startswith(detail)
    assert "<b>" not in problem["detail"]


async def test_t9_a_compressed_body_is_not_taken(session: aiohttp.ClientSession, plane: OpsPlane) -> None:
    body = gzip.compress(b" " * 50_000_000 + b'{"task": "double", "args": [1]}')
    status, _, _ = await post(session, f"{plane.url}/api/tasks", body, **{"Content-Encoding": "gzip"})
    assert status == 415


async def test_t9_a_body_that_does_not_come_is_not_waited_for_long(
    plane: OpsPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_reading, "BODY_SECONDS", 0.05)
    head = b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
    writer.write(head + b"Content-Length: 20\r\n\r\n{")
    answer = await reader.read()  # to the end of the connection
    assert answer.startswith(b"HTTP/1.1 408 ")
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_waits_for_it_is_asked_for_its_body(plane: OpsPlane) -> None:
    body = b'{"task": "double", "args": [1]}'
    head = b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\nExpect: %s\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
    writer.write(head % (len(body), b"100-continue"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
    writer.close()
    await writer.wait_closed()
    status, _, _ = await exchange(plane, head % (len(body), b"<b>") + body)
    assert status == 202


async def test_the_trace_and_the_baggage_of_the_caller_go_on_in_the_task(
    session: aiohttp.ClientSession, manager: TaskManager, plane: OpsPlane
) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {
        "traceparent": f"00-{trace_id}-b7ad6b7169203331-01",
        "tracestate": "vendor=value",
        "baggage": "customer=42",
    }
    _, document, _ = await post(session, f"{plane.url}/api/tasks", {"task": "who calls"}, **headers)
    info = await manager.wait_for_task(document["task_id"])
    assert (info.trace_id, info.result) == (trace_id, {"customer": "42"})
    assert manager.looks.traces is not None
    submitted, run = sorted(manager.looks.traces.trace(trace_id), key=lambda span: span.name, reverse=True)
    assert [submitted.name, run.name] == ["submit who calls", "run who calls"]
    assert submitted.parent is not None
    assert f"{submitted.parent.span_id:016x}" == "b7ad6b7169203331"
    assert submitted.context.trace_state.to_header() == "vendor=value"
    assert run.parent == submitted.context


@pytest.mark.parametrize("traceparent", ["", "00-0-0-01", "<script>", f"00-{'0' * 32}-{'0' * 16}-01"])
async def test_a_malformed_traceparent_is_none(
    session: aiohttp.ClientSession, manager: TaskManager, plane: OpsPlane, traceparent: str
) -> None:
    body = {"task": "who calls"}
    status, document, _ = await post(
        session, f"{plane.url}/api/tasks", body, traceparent=traceparent, baggage="===,;"
    )
    assert status == 202
    assert (await manager.wait_for_task(document["task_id"])).trace_id is not None


async def test_a_repeat_with_its_key_is_answered_with_the_first_id(
    session: aiohttp.ClientSession, manager: TaskManager, plane: OpsPlane
) -> None:
    url = f"{plane.url}/api/tasks"
    first = {"task": "double", "args": [1], "idempotency_key": "k"}
    status, document, _ = await post(session, url, first)
    assert status == 202
    del first["idempotency_key"]
    for repeat, headers in (
        ({**first, "idempotency_key": "k"}, {}),
        ({"args": [1], "task": "double"}, {"Idempotency-Key": "k"}),
        ({**first, "idempotency_key": "k"}, {"Idempotency-Key": "k"}),
    ):
        status, again, answer = await post(session, url, repeat, **headers)
        assert (status, again) == (200, document)
        assert answer["Location"].endswith(document["task_id"])
    for other, headers in (
        ({"task": "double", "args": [2]}, {"Idempotency-Key": "k"}),
        ({**first, "idempotency_key": "k"}, {"Idempotency-Key": "another"}),
    ):
        status, problem, _ = await post(session, url, other, **headers)
        assert (status, problem["parameter"]) == (422, "idempotency_key")
    status, _, _ = await post(session, url, {"task": "wait"}, **{"Idempotency-Key": "k"})
    assert status == 202, "a key belongs to a task's name"
    assert manager.status()["tasks"]["total"] == 2


async def test_a_full_queue_and_a_stopping_service_say_when_to_come_again(
    session: aiohttp.ClientSession, manager: TaskManager, plane: OpsPlane
) -> None:
    for _ in range(4):
        status, _, _ = await post(session, f"{plane.url}/api/tasks", {"task": "wait"})
        assert status == 202
    status, problem, headers = await post(session, f"{plane.url}/api/tasks", {"task": "wait"})
    assert (status, headers["Retry-After"]) == (503, "1")
    assert problem["detail"] == "the queue is full; try again later"
    stopping = asyncio.create_task(manager.shutdown(grace_seconds=60))
    await asyncio.sleep(0)
    status, problem, headers = await post(session, f"{plane.url}/api/tasks", {"task": "wait"})
    assert (status, headers["Retry-After"]) == (503, "10")
    assert "takes no new tasks" in problem["detail"]
    await manager.shutdown(grace_seconds=0)
    await stopping


async def test_a_service_without_its_work_loop_says_so(
    session: aiohttp.ClientSession, registry: TaskRegistry
) -> None:
    async with serving(SaidManager(), tasks=registry, settings=ALLOWED) as plane:
        for path, body in (
            ("/api/tasks", {"task": "wait"}),
            ("/api/tasks/x/rerun", None),
            ("/api/categories/io/pause", None),
        ):
            status, _, headers = await post(session, plane.url + path, body)
            assert (status, headers["Retry-After"]) == (503, "1"), path


async def test_t7_what_a_task_was_submitted_with_is_shown_nowhere(
    session: aiohttp.ClientSession, manager: TaskManager, plane: OpsPlane
) -> None:
    body = {
        "task": "log in",
        "args": [CANARY],
        "kwargs": {"more": {CANARY: CANARY}},
        "metadata": {"password": CANARY},
        "idempotency_key": CANARY,
    }
    status, document, _ = await post(session, f"{plane.url}/api/tasks", body)
    assert status == 202
    assert (await manager.wait_for_task(document["task_id"])).result == CANARY
    task = f"/api/tasks/{document['task_id']}"
    shown = ["/api/tasks", task, f"{task}/logs", f"{task}/why", f"{task}/trace", "/api/registry"]
    for path in (*shown, "/api/traces", "/status", "/metrics", "/openapi.json"):
        async with session.get(plane.url + path) as response:
            assert response.status == 200, path
            assert CANARY not in (await response.text()), path


# ---------------------------------------------------------------------------- what can be submitted


async def test_the_registry_tells_what_each_task_takes(
    session: aiohttp.ClientSession, plane: OpsPlane
) -> None:
    async with session.get(f"{plane.url}/api/registry") as response:
        document = await response.json()
    assert document["allow_submit"] is True
    assert [item["name"] for item in document["items"]] == [
        "double",
        "fail",
        "log in",
        "not over HTTP",
        "wait",
        "who calls",
    ]
    double, _, _, closed, wait, _ = document["items"]
    assert double["description"] == "Double a number."
    assert (double["category"], double["priority"], double["engine"]) == ("io", "high", None)
    assert double["positional"] == ["value"]
    assert double["arguments"]["properties"]["value"] == {"type": "integer", "maximum": 1000}
    assert double["arguments"]["required"] == ["value"]
    assert (wait["timeout_seconds"], wait["description"]) == (60, None)
    assert (closed["arguments"], closed["positional"]) == (None, [])
    assert closed["problem"] == "the type hint of its parameter callback has no JSON Schema"


async def test_a_service_lets_the_tasks_that_it_knows_be_submitted(
    session: aiohttp.ClientSession, registry: TaskRegistry
) -> None:
    async with whole_service(Settings(server=ALLOWED), known=registry) as service:
        body = {"task": "double", "args": [1]}
        status, document, _ = await post(session, f"{url_of(service)}/api/tasks", body)
        assert status == 202
        assert (await service.tasks.wait_for_task(document["task_id"])).result == 2


# ---------------------------------------------------------------------------- again, and later


async def test_a_failed_task_is_run_again_as_a_new_one(
    session: aiohttp.ClientSession, manager: TaskManager, plane: OpsPlane
) -> None:
    failed = await manager.submit_task(fail)
    await manager.wait_for_task(failed)
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    status, document, answer = await post(session, f"{plane.url}/api/tasks/{failed}/rerun", **headers)
    assert (status, answer["Location"]) == (202, f"/api/tasks/{document['task_id']}")
    info = await manager.wait_for_task(document["task_id"])
    assert (info.rerun_of, info.status, info.trace_id) == (failed, TaskStatus.FAILED, trace_id)
    async with session.get(plane.url + answer["Location"]) as response:
        assert (await response.json())["rerun_of"] == failed


async def test_commands_work_without_a_body(
    session: aiohttp.ClientSession, manager: TaskManager, plane: OpsPlane
) -> None:
    failed, running = await manager.submit_task(fail), await manager.submit_task(wait)
    await manager.wait_for_task(failed)
    for path in (
        f"/api/tasks/{failed}/rerun",
        f"/api/tasks/{running}/cancel",
        "/api/categories/io/pause",
        "/api/categories/io/resume",
    ):
        async with session.post(plane.url + path) as response:
            assert response.ok, path
    await manager.wait_for_task(running)


async def test_what_cannot_be_run_again_says_why(
    session: aiohttp.ClientSession, manager: TaskManager, plane: OpsPlane
) -> None:
    completed = await manager.submit_task(double, 1)
    await manager.wait_for_task(completed)
    running = await manager.submit_task(wait)
    for task_id, status, reason in (
        (completed, 409, "it completed"),
        (running, 409, "cancel it first"),
        ("x", 404, ""),
    ):
        answered, problem, _ = await post(session, f"{plane.url}/api/tasks/{task_id}/rerun")
        assert answered == status
        assert reason in problem["detail"]


async def test_a_paused_category_waits_until_it_is_resumed(
    session: aiohttp.ClientSession, manager: TaskManager, plane: OpsPlane
) -> None:
    status, document, _ = await post(session, f"{plane.url}/api/categories/io/pause")
    assert (status, document) == (200, {"category": "io", "paused": True})
    assert manager.paused == {TaskCategory.IO}
    task_id = await manager.submit_task(double, 1)
    async with session.get(f"{plane.url}/api/tasks/{task_id}/why") as response:
        assert (await response.json())["held_by"] == "the pause of category io"
    async with session.get(f"{plane.url}/status") as response:
        assert (await response.json())["queue"]["paused"] == ["io"]
    status, document, _ = await post(session, f"{plane.url}/api/categories/io/resume")
    assert (status, document) == (200, {"category": "io", "paused": False})
    assert (await manager.wait_for_task(task_id)).result == 2
    status, problem, _ = await post(session, f"{plane.url}/api/categories/<b>/pause")
    assert status == 404
    assert "core, plugin" in problem["detail"]
    assert "<b>" not in problem["detail"]
