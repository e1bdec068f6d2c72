"""The probes and /health, in every state that a manager can be in."""

from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from qorzen_obs.health import BUILT_IN
from qorzen_obs.server.health import HEALTH_CHECKS, HealthCollector
from qorzen_obs.settings import HealthSettings
from qorzen_obs.stacks import Place
from qorzen_obs.telemetry.culprit import Culprit
from qorzen_obs.telemetry.loop_monitor import Block
from tests.services.ops_plane import SaidManager, State, serving
from tests.support import attempt, record

Answer = tuple[int, str]


async def ask(manager: SaidManager, *paths: str) -> list[Answer]:
    async with (
        serving(manager, health=HealthSettings(loop_blocked_seconds=30)) as plane,
        aiohttp.ClientSession(plane.url) as session,
    ):
        answers = []
        for path in paths:
            async with session.get(path) as response:
                assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
                answers.append((response.status, await response.text()))
        return answers


@pytest.mark.parametrize(
    ("state", "initialized", "live", "ready", "started"),
    [
        (State.NEW, False, 200, 503, 503),
        (State.STARTING, False, 200, 503, 503),
        (State.READY, True, 200, 200, 200),
        (State.DRAINING, True, 200, 503, 200),
        (State.STOPPED, False, 200, 503, 200),
    ],
)
async def test_each_state_has_its_probes(
    state: State, initialized: bool, live: int, ready: int, started: int
) -> None:
    manager = SaidManager(state=state, initialized=initialized)
    answers = await ask(manager, "/livez", "/healthz", "/readyz", "/startupz")
    assert [status for status, _ in answers] == [live, live, ready, started]
    assert all((text == "ok") == (status == 200) for status, text in answers)


@pytest.mark.parametrize(
    ("seconds", "status", "line"),
    [
        (0.0, 200, "[+]work-loop ok"),
        (0.09, 200, "[+]work-loop ok"),
        (0.25, 200, "[+]work-loop ok: blocked for 0.2 s"),
        (30.0, 200, "[+]work-loop ok: blocked for 30.0 s"),
        (30.1, 503, "[-]work-loop failed: blocked for 30.1 s"),
    ],
)
async def test_a_blocked_loop_shows_at_once_and_fails_past_the_limit(
    seconds: float, status: int, line: str
) -> None:
    plain, verbose, ready, readiness, started = await ask(
        SaidManager(blocked=seconds), "/livez", "/livez?verbose", "/readyz", "/readyz?verbose", "/startupz"
    )
    assert plain == ready == (status, "ok" if status == 200 else "failed: work-loop")
    assert verbose == (status, f"[+]ops-plane ok\n{line}\n")
    assert readiness[0] == status
    assert line in readiness[1].splitlines()
    assert started == (200, "ok")


async def test_a_check_can_be_asked_alone_and_left_out() -> None:
    assert await ask(
        SaidManager(blocked=31),
        "/livez/ops-plane",
        "/livez/work-loop",
        "/healthz/work-loop?verbose",
        "/livez?exclude=work-loop",
        "/livez?exclude=work-loop&exclude=ops-plane&verbose",
        "/livez?exclude=a-typing-error",
        "/readyz/accepting",
    ) == [
        (200, "ok"),
        (503, "failed: work-loop"),
        (503, "[-]work-loop failed: blocked for 31.0 s\n"),
        (200, "ok"),
        (200, ""),
        (503, "failed: work-loop"),
        (200, "ok"),
    ]


async def test_a_check_that_is_none_is_not_found() -> None:
    async with (
        serving(SaidManager()) as plane,
        aiohttp.ClientSession(plane.url) as session,
        session.get("/livez/accepting") as response,  # it belongs to /readyz
    ):
        assert response.status == 404
        problem = await response.json(content_type="application/problem+json")
    assert problem["detail"] == "this probe has no such check; it has ops-plane, work-loop"


@pytest.mark.parametrize(
    ("said", "status", "overall", "not_passing"),
    [
        ({}, 200, "pass", {}),
        ({"depth": 60, "scheduled": 29}, 200, "pass", {}),
        ({"depth": 60, "scheduled": 30}, 200, "warn", {"queue:saturation": "warn"}),
        ({"abandoned": 2}, 200, "warn", {"tasks:abandoned": "warn"}),
        ({"trouble": ["export otlp: refused"]}, 200, "warn", {"telemetry:export": "warn"}),
        ({"blocked": 0.5}, 200, "warn", {"work-loop:blocked": "warn"}),
        ({"stalled": 9.9}, 200, "pass", {}),
        ({"stalled": 10.0}, 503, "fail", {"scheduler:stalled": "fail"}),
        ({"blocked": 31}, 503, "fail", {"work-loop:blocked": "fail"}),
        (
            {"state": State.DRAINING, "abandoned": 1},
            503,
            "fail",
            {"manager:state": "fail", "tasks:abandoned": "warn"},
        ),
    ],
)
async def test_health_tells_failures_from_warnings(
    said: dict[str, Any], status: int, overall: str, not_passing: dict[str, str]
) -> None:
    async with (
        serving(SaidManager(**said)) as plane,
        aiohttp.ClientSession(plane.url) as session,
        session.get("/health") as response,
    ):
        document = await response.json(content_type="application/health+json")
        assert response.status == status
    assert document["status"] == overall
    found = {name: checks[0]["status"] for name, checks in document["checks"].items()}
    assert {name: outcome for name, outcome in found.items() if outcome != "pass"} == not_passing
    for name, (check,) in document["checks"].items():
        assert check["time"].endswith("Z")
        assert ("output" in check) == (name in not_passing)


async def test_a_scheduler_that_starts_nothing_is_not_ready_and_is_alive() -> None:
    assert await ask(SaidManager(stalled=12.34), "/readyz", "/readyz/scheduler?verbose", "/livez") == [
        (503, "failed: scheduler"),
        (503, "[-]scheduler failed: a task has waited for 12.3 s although nothing keeps it from starting\n"),
        (200, "ok"),
    ]


def test_the_names_of_the_service_s_own_checks_are_reserved() -> None:
    assert {check.name for check in HEALTH_CHECKS} == BUILT_IN


async def test_who_blocks_the_loop_is_named_by_task_and_line_and_never_by_a_line_break() -> None:
    def shout() -> None: ...

    made = attempt(record(shout, task_id="ab12", name="shout\n[+]forged ok"))
    block = Block(
        Culprit(made.name, made, [Place(shout.__code__, shout.__code__.co_firstlineno)]), "code", 0.0
    )
    ((_, text),) = await ask(SaidManager(blocked=0.25, block=block), "/livez?verbose")
    line = text.splitlines()[1]
    assert line.startswith("[+]work-loop ok: blocked for 0.2 s by task shout [+]forged ok (ab12), at ")
    assert line.endswith("shout: def shout() -> None: ...")
    foreign = Block(Culprit("asyncio task x of f", None, []), "code", 0.0)
    ((_, text),) = await ask(SaidManager(blocked=0.25, block=foreign), "/livez?verbose")
    assert text.splitlines()[1] == "[+]work-loop ok: blocked for 0.2 s by asyncio task x of f"


def test_each_check_of_each_probe_is_a_metric() -> None:
    registry = CollectorRegistry()
    manager = SaidManager(state=State.DRAINING, blocked=31, stalled=9, abandoned=1)
    registry.register(HealthCollector(manager, HealthSettings()))
    found = {
        (sample.labels["probe"], sample.labels["check"]): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    assert found == {
        ("livez", "ops-plane"): 1,
        ("livez", "work-loop"): 0,
        ("readyz", "initialized"): 1,
        ("readyz", "accepting"): 0,
        ("readyz", "work-loop"): 0,
        ("readyz", "scheduler"): 1,
        ("readyz", "history"): 1,
        ("startupz", "initialized"): 1,
        ("health", "queue"): 1,
        ("health", "abandoned"): 0,
        ("health", "telemetry"): 1,
    }
