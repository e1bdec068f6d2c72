"""The ops plane over real HTTP: what it answers, whom it answers, and that it answers while the work loop cannot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
from datetime import datetime
from functools import partial
from http import HTTPStatus
from subprocess import PIPE

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from qorzen_obs import current_task
from qorzen_obs.errors import ManagerInitializationError, SettingsError
from qorzen_obs.server import listener
from qorzen_obs.server.app import OpsPlane
from qorzen_obs.settings import HealthSettings, ServerSettings, Settings, TelemetrySettings
from qorzen_obs.telemetry.gathering import Gathering
from tests.integration.server.collectors import HangingCollector, HugeCollector
from tests.services.backends import free_port, program
from tests.services.ops_plane import TOKEN, SaidManager, get_json, managing, serving
from tests.services.whole_service import url_of, whole_service
from tests.support import PATIENCE_SECONDS


async def nothing() -> None:
    pass


async def failing(message: str) -> None:
    raise ValueError(message)


async def blocked_until(event: asyncio.Event) -> None:
    await event.wait()


# ---------------------------------------------------------------------------- what it answers


async def test_status_is_the_managers_own(session: aiohttp.ClientSession) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.run(nothing)
        async with session.get(f"{plane.url}/status") as response:
            assert response.headers["Content-Type"] == "application/json"
            document = json.loads(await response.read())
        expected = json.loads(json.dumps(manager.status()))
        ready_at = datetime.fromisoformat(document.pop("ready_at")).timestamp()  # RFC 3339 in all JSON
        assert ready_at == pytest.approx(expected.pop("ready_at"), rel=0, abs=1e-3)
        assert document == expected
        assert document["tasks"]["by_status"]["completed"] == 1


async def test_a_task_is_found_with_its_trace(session: aiohttp.ClientSession) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        task_id = await manager.submit_task(failing, "no such host", name="mail.send", priority="high")
        await manager.wait_for_task(task_id)

        document = await get_json(session, f"{plane.url}/api/tasks/{task_id}")
        assert (document["name"], document["priority"], document["status"]) == ("mail.send", "high", "failed")
        assert (document["error_type"], document["error"]) == ("ValueError", "no such host")
        assert document["completed_at"].endswith("Z")

        trace = await get_json(session, f"{plane.url}/api/tasks/{task_id}/trace")
        (span,) = trace["resourceSpans"][0]["scopeSpans"][0]["spans"]
        assert span["name"] == "run failing", "one of few names, to group by"
        assert span["traceId"] == document["trace_id"]
        assert await get_json(session, f"{plane.url}/api/traces/{document['trace_id'].upper()}") == trace

        (summary,) = (await get_json(session, f"{plane.url}/api/traces?limit=5"))["items"]
        assert summary["trace_id"] == document["trace_id"]
        assert summary["started_at"].endswith("Z")
        assert (summary["root_name"], summary["spans"], summary["errors"]) == ("run mail.send", 1, 1)

        await manager.run(nothing)
        assert len((await get_json(session, f"{plane.url}/api/traces"))["items"]) == 2
        assert (await get_json(session, f"{plane.url}/api/traces?errors=true"))["items"] == [summary]
        problem = await get_json(session, f"{plane.url}/api/traces?errors=yes", 422)
        assert problem["parameter"] == "errors"


async def child(number: int) -> None:
    if number == 40:
        raise ValueError("the one that failed")


async def with_children(ids: list[str]) -> None:
    tasks = current_task().manager
    ids += [await tasks.submit_task(child, number, name=f"child {number}") for number in range(60)]
    for task_id in ids:
        await tasks.wait_for_task(task_id)


async def test_each_task_finds_its_own_span_however_large_its_trace_is(
    session: aiohttp.ClientSession,
) -> None:
    ids: list[str] = []
    settings = Settings(server=ServerSettings(port=0), telemetry=TelemetrySettings(keep_spans_per_trace=20))
    async with whole_service(settings) as service:
        tasks = service.tasks
        root = await tasks.submit_task(with_children, ids)
        await tasks.wait_for_task(root)
        for task_id in (root, *ids):
            info = tasks.find(task_id)
            assert info is not None
            found = await get_json(session, f"{url_of(service)}/api/tasks/{task_id}/trace")
            groups = [scope for resource in found["resourceSpans"] for scope in resource["scopeSpans"]]
            spans = {span["spanId"]: span for group in groups for span in group["spans"]}
            runs = [span for span in spans.values() if span["name"].startswith("run ")]
            assert len(runs) == (61 if task_id == root else 1), (
                "the root has all below it, a child only itself"
            )
            own = spans[info.span_id]
            said = {one["key"]: one["value"].get("stringValue") for one in own["attributes"]}
            assert (said["qorzen.task.id"], said["qorzen.task.name"]) == (task_id, info.name)
            assert said["qorzen.task.status"] == info.status.value
            assert info.completed_at is not None
            assert abs(int(own["endTimeUnixNano"]) / 1e9 - info.completed_at) < 0.001
        parent = await tasks.wait_for_task(root)
        kept = await get_json(session, f"{url_of(service)}/api/traces/{parent.trace_id}")
        assert "the one that failed" in str(kept), "it has displaced another"


async def test_a_failed_task_finds_its_own_span_after_its_trace_had_to_make_room(
    session: aiohttp.ClientSession,
) -> None:
    settings = Settings(server=ServerSettings(port=0), telemetry=TelemetrySettings(keep_traces=1))
    async with whole_service(settings) as service:
        ids = [await service.tasks.submit_task(failing, f"failure {number}") for number in range(3)]
        for number, task_id in enumerate(ids):
            info = await service.tasks.wait_for_task(task_id)
            found = await get_json(session, f"{url_of(service)}/api/tasks/{task_id}/trace")
            assert str(info.span_id) in str(found)
            assert f"ValueError: failure {number}" in str(found)


async def test_what_is_not_there_is_not_found(session: aiohttp.ClientSession) -> None:
    async with managing(max_concurrent_tasks=1) as (manager, spans), serving(manager, spans=spans) as plane:
        gate = asyncio.Event()
        running = await manager.submit_task(blocked_until, gate)
        pending = await manager.submit_task(nothing)
        for path in (
            "/api/tasks/unknown",
            "/api/tasks/unknown/trace",
            f"/api/tasks/{pending}/trace",
            f"/api/tasks/{running}/trace",  # its span has not ended
            "/api/traces/unknown",
            f"/api/traces/{'0' * 32}",
            f"/api/traces/0x{'1' * 30}",
        ):
            problem = await get_json(session, plane.url + path, 404)
            assert problem["title"] == "Not Found", path
        problem = await get_json(session, f"{plane.url}/api/tasks/{running}/trace", 404)
        assert problem["detail"].startswith("too early: this task still runs")
        assert problem["missing"] == "early"
        gate.set()
        await manager.wait_for_task(pending)


async def test_no_traces_are_kept_without_a_store(session: aiohttp.ClientSession) -> None:
    async with serving(SaidManager()) as plane:
        assert await get_json(session, f"{plane.url}/api/traces") == {"items": []}
        await get_json(session, f"{plane.url}/api/traces/{'1' * 32}", 404)


async def test_pages_of_tasks_fit_together(session: aiohttp.ClientSession) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        ids = [await manager.submit_task(nothing) for _ in range(25)]
        await manager.wait_for_task(ids[-1])
        url = f"{plane.url}/api/tasks?limit=10"
        page = await get_json(session, url)
        seen = [task["task_id"] for task in page["items"]]
        while page["next_cursor"] is not None:
            await manager.run(nothing)  # one more comes between two pages
            page = await get_json(session, f"{url}&cursor={page['next_cursor']}")
            seen += [task["task_id"] for task in page["items"]]
        assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("status=done", "status"),
        ("category=x", "category"),
        ("priority=7", "priority"),
        ("order=x", "order"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e2", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=x", "cursor"),
        ("statsu=failed", None),
    ],
)
async def test_a_bad_query_is_told_what_would_be_right(
    session: aiohttp.ClientSession, query: str, parameter: str | None
) -> None:
    async with serving(SaidManager()) as plane:
        async with session.get(f"{plane.url}/api/tasks?{query}") as response:
            assert response.status == 422
            assert response.headers["Content-Type"] == "application/problem+json"
            problem = json.loads(await response.read())
        assert problem.get("parameter") == parameter
        assert (problem["type"], problem["title"]) == ("about:blank", HTTPStatus.UNPROCESSABLE_ENTITY.phrase)
        assert "takes" in problem["detail"] or "known are" in problem["detail"]


# ---------------------------------------------------------------------------- while the work loop cannot


async def test_f22_everything_answers_while_the_work_loop_is_blocked() -> None:
    """The work loop is held until a thread has asked and has got all its answers."""
    blocked, answered = threading.Event(), threading.Event()

    async def hold_the_loop() -> None:
        blocked.set()
        assert answered.wait(PATIENCE_SECONDS), "nothing answers before the loop is free again"

    async def ask(url: str) -> dict[str, str]:
        answers: dict[str, str] = {}
        async with aiohttp.ClientSession(url) as session:
            while "blocked for" not in answers.get("/livez?verbose", ""):
                async with session.get("/livez?verbose") as response:
                    answers["/livez?verbose"] = await response.text()
                    assert response.status == 200
            for path in (
                "/",
                "/status",
                "/metrics",
                "/health",
                "/readyz",
                "/api/tasks?status=running",
                "/api/traces",
            ):
                async with session.get(path) as response:
                    answers[path] = await response.text()
                    assert response.status == 200, path
        return answers

    def ask_from_a_thread(url: str) -> dict[str, str]:
        assert blocked.wait(PATIENCE_SECONDS)
        try:
            return asyncio.run(ask(url))
        finally:
            answered.set()

    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        asking = asyncio.create_task(asyncio.to_thread(ask_from_a_thread, plane.url))
        await asyncio.sleep(0)  # the thread starts
        await manager.run(hold_the_loop)
        answers = await asking
    assert json.loads(answers["/api/tasks?status=running"])["items"][0]["name"].endswith("hold_the_loop")
    assert json.loads(answers["/status"])["tasks"]["by_status"]["running"] == 1
    assert json.loads(answers["/health"])["status"] == "warn"
    assert 'qorzen_tasks{category="core",priority="normal",status="running"} 1.0' in answers["/metrics"]


CALLERS = 16
REQUESTS = 20
#: In a process of its own: a thread of this one would starve with the server that it asks.
CLIENT = """
import sys, urllib.request
from tests.support import PATIENCE_SECONDS
for _ in range(int(sys.argv[2])):
    urllib.request.urlopen(sys.argv[1] + "/livez").read()
"""


async def test_the_ops_plane_and_the_log_get_their_turns_from_a_loop_that_is_never_idle() -> None:
    assert sys.getswitchinterval() == 0.005, "what a service has that leaves it alone"
    with open(os.devnull, "w") as out:  # noqa: ASYNC230, PTH123 - never waits
        done, answered = 0, False
        async with whole_service(log_stream=out) as service:

            async def call() -> None:
                nonlocal done
                while not answered:
                    await service.tasks.run(nothing)
                    done += 1

            calls = [asyncio.create_task(call()) for _ in range(CALLERS)]
            client = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CLIENT, url_of(service), str(REQUESTS), stderr=PIPE
            )
            _, said = await client.communicate()
            answered = True
            await asyncio.gather(*calls)
            lost = service.parts.loggers.stream.lost()["log_line"]
    assert (client.returncode, said) == (0, b"")
    # Without giving way it was 30,000 tasks a request, and more than half of the lines; with it 700 and none.
    assert done / REQUESTS < 7_000
    assert lost == 0


# ---------------------------------------------------------------------------- start and stop


async def test_a_port_in_use_stops_the_start_and_says_what_to_do() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        plane = OpsPlane(SaidManager(), settings=ServerSettings(port=port), health=HealthSettings())
        with pytest.raises(ManagerInitializationError) as refused:
            await plane.start()
        assert f"127.0.0.1:{port} is in use already; set server.port to a free port" in str(refused.value)
        await plane.stop()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_an_address_that_is_not_ours_stops_the_start(host: str) -> None:
    plane = OpsPlane(
        SaidManager(), settings=ServerSettings(host=host, port=0, token=TOKEN), health=HealthSettings()
    )
    with pytest.raises(ManagerInitializationError, match=f"cannot listen on {host}:0 "):
        await plane.start()


async def test_t1_an_exposed_address_without_a_token_does_not_even_listen() -> None:
    plane = OpsPlane(SaidManager(), settings=ServerSettings(host="0.0.0.0", port=0), health=HealthSettings())
    threads = threading.active_count()
    with pytest.raises(SettingsError, match=r"server\.host"):
        await plane.start()
    assert threading.active_count() == threads


async def test_an_allowed_host_that_is_none_stops_the_start() -> None:
    settings = ServerSettings(port=0, allowed_hosts=("https://tasks.example.org",))
    plane = OpsPlane(SaidManager(), settings=settings, health=HealthSettings())
    with pytest.raises(SettingsError, match=r"server\.allowed_hosts"):
        await plane.start()


async def test_a_port_that_is_taken_refuses_the_start_or_makes_way_for_the_next(
    session: aiohttp.ClientSession,
) -> None:
    async with serving(SaidManager()) as first:
        taken = ServerSettings(port=first.port)
        with pytest.raises(ManagerInitializationError, match=r"server\.when_taken to next"):
            await OpsPlane(SaidManager(), settings=taken, health=HealthSettings()).start()
        beside = ServerSettings(port=first.port, when_taken="next")
        async with (
            serving(SaidManager(), settings=beside) as second,
            serving(SaidManager(), settings=beside) as third,
        ):
            ports = [first.port, second.port, third.port]
            assert ports == sorted(set(ports))
            for plane in (second, third):
                async with session.get(f"{plane.url}/metrics") as response:
                    assert response.status == 200


#: What each worker of a web server does, until it is ended.
WORKER = """
import asyncio
from qorzen_obs import open_task_manager
async def main():
    async with open_task_manager(http=True) as tasks:
        print(tasks.ops_url, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_workers_that_start_together_can_each_be_scraped(session: aiohttp.ClientSession) -> None:
    variables = {"QORZEN_SERVER__PORT": str(free_port()), "QORZEN_SERVER__WHEN_TAKEN": "next"}
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(program(sys.executable, "-c", WORKER, environment=variables))
            for _ in range(4)
        ]
        urls = set()
        for worker in workers:
            assert worker.stdout is not None
            urls.add(worker.stdout.readline().strip())
        assert len(urls) == 4
        for url in urls:
            async with session.get(f"{url}/metrics") as response:
                assert response.status == 200


async def test_the_next_ports_end_at_some_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "NEXT_PORTS", 0)
    async with serving(SaidManager()) as first:
        beside = ServerSettings(port=first.port, when_taken="next")
        with pytest.raises(ManagerInitializationError, match="in use already"):
            await OpsPlane(SaidManager(), settings=beside, health=HealthSettings()).start()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "0.0.0.0", "::", "[::]"])
async def test_the_url_leads_to_the_page(session: aiohttp.ClientSession, host: str) -> None:
    settings = ServerSettings(host=host, port=0, token=TOKEN)
    try:
        async with serving(SaidManager(), settings=settings) as plane, session.get(plane.url) as response:
            assert plane.port != 0
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    except ManagerInitializationError:
        if ":" not in host:
            raise
        pytest.skip("this machine has no IPv6")


async def test_stop_is_safe_before_start_and_when_called_again() -> None:
    plane = OpsPlane(SaidManager(), settings=ServerSettings(port=0), health=HealthSettings())
    await plane.stop()
    await plane.start()
    await asyncio.gather(plane.stop(), plane.stop())
    await plane.stop()
    with pytest.raises(ManagerInitializationError, match="make a new one"):
        await plane.start()


async def test_a_port_is_free_again_after_stop(session: aiohttp.ClientSession) -> None:
    async with serving(SaidManager()) as plane:
        await get_json(session, f"{plane.url}/status")
    async with serving(SaidManager(), settings=ServerSettings(port=plane.port)) as again:
        await get_json(session, f"{again.url}/status")


async def test_a_cancelled_start_leaves_nothing_behind() -> None:
    plane = OpsPlane(SaidManager(), settings=ServerSettings(port=0), health=HealthSettings())
    starting = asyncio.create_task(plane.start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not [
        thread for thread in threading.enumerate() if thread.name == "qorzen-ops" and thread.is_alive()
    ]


async def test_the_work_loop_turns_while_the_plane_stops() -> None:
    """A request hangs, so the stop takes its second: meanwhile the caller's loop must go on."""
    collector = HangingCollector()
    registry = CollectorRegistry()
    registry.register(collector)
    gathering = Gathering(registry, patience_seconds=PATIENCE_SECONDS)
    async with serving(SaidManager(gathering=gathering)) as plane, aiohttp.ClientSession() as session:
        hanging = asyncio.create_task(_fetch(session, f"{plane.url}/metrics"))
        assert await asyncio.to_thread(collector.entered.wait, PATIENCE_SECONDS)
        stopping = asyncio.create_task(plane.stop())
        turns = 0
        while not stopping.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 2, "it turned all the while"
        with pytest.raises(aiohttp.ClientError):
            await hanging
    collector.let_go.set()


async def _fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as response:
        return await response.read()


@pytest.mark.parametrize(
    "sent", [b"", b"GET /status HT", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
async def test_a_stuck_client_does_not_hold_the_stop(sent: bytes) -> None:
    """Silent, in the middle of its request, or not reading its response."""
    registry = CollectorRegistry()
    registry.register(HugeCollector())
    async with serving(
        SaidManager(gathering=Gathering(registry, patience_seconds=PATIENCE_SECONDS))
    ) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port, limit=1000)
        writer.write(sent)
        if b"metrics" in sent:
            await reader.readline()  # from here on it does not read any more
        await plane.stop()
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


# ---------------------------------------------------------------------------- what it does not answer


async def test_t7_arguments_and_results_are_not_served_and_metadata_only_with_the_task_itself(
    session: aiohttp.ClientSession,
) -> None:
    canary, metadata = "canary-3f9a", "canary-of-metadata"

    async def give_back(value: str, *, option: str) -> str:
        return value

    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        task_id = await manager.submit_task(
            partial(give_back, option=canary), canary, metadata={"key": metadata}
        )
        info = await manager.wait_for_task(task_id)
        assert info.result == canary
        for path in (
            f"/api/tasks/{task_id}",
            f"/api/tasks/{task_id}/trace",
            "/api/tasks",
            "/status",
            "/metrics",
        ):
            async with session.get(plane.url + path) as response:
                assert response.status == 200
                text = await response.text()
                assert canary not in text, path
                assert (metadata in text) == (task_id in path), path


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_a_wrong_method_is_told_the_right_ones(session: aiohttp.ClientSession, method: str) -> None:
    async with serving(SaidManager()) as plane, session.request(method, f"{plane.url}/status") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"
        assert json.loads(await response.read())["title"] == "Method Not Allowed"


# ---------------------------------------------------------------------------- around it


async def test_each_request_is_observed_by_its_template(session: aiohttp.ClientSession) -> None:
    seen: list[tuple[str, str, int]] = []

    def on_request(method: str, route: str, code: int, seconds: float) -> None:
        assert 0 <= seconds < PATIENCE_SECONDS
        seen.append((method, route, code))

    async with serving(SaidManager(), on_request=on_request) as plane:
        for method, path in (
            ("GET", "/livez"),
            ("GET", "/api/tasks/1234"),
            ("GET", "/api/tasks?limit=x"),
            ("HEAD", "/status"),
            ("GET", "/secret-path"),
            ("POST", "/status"),
            ("PROPFIND", "/status"),
        ):
            async with session.request(method, plane.url + path):
                pass
    assert seen == [
        ("GET", "/livez", 200),
        ("GET", "/api/tasks/{task_id}", 404),
        ("GET", "/api/tasks", 422),
        ("HEAD", "/status", 200),
        ("GET", "other", 404),
        ("POST", "other", 405),
        ("other", "other", 405),
    ]


async def test_an_observer_that_fails_is_not_asked_again(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    def on_request(method: str, route: str, code: int, seconds: float) -> None:
        raise RuntimeError

    async with serving(SaidManager(), on_request=on_request) as plane:
        for _ in range(3):
            await get_json(session, f"{plane.url}/status")
    assert len(caplog.records) == 1
