"""What the live page reads, all of it together: while the work loop is wedged, and mounted."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from typing import Any

import aiohttp
import pytest

from qorzen_obs import Settings, create_app, open_task_manager
from qorzen_obs.server import ticker
from qorzen_obs.settings import ServerSettings
from tests.services.ops_plane import hosted
from tests.services.whole_service import url_of, whole_service
from tests.support import PATIENCE_SECONDS, Gate

ROUTES = (
    "/api/page",
    "/api/settings",
    "/api/series",
    "/api/running",
    "/api/pending",
    "/api/definitions",
    "/api/failures",
    "/api/loop",
    "/api/health/history",
    "/api/tasks?order=ended",
    "/api/traces?sort=slowest",
)


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
        return json.load(response)


async def test_f22_all_of_it_answers_while_the_work_loop_is_wedged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "STEP_SECONDS", 0.05)
    release, answers = threading.Event(), dict[str, Any]()
    gate = Gate()

    async def hold_the_loop() -> None:
        assert release.wait(PATIENCE_SECONDS)

    async with whole_service() as service:
        url = url_of(service)

        def watch() -> None:
            deadline = time.monotonic() + PATIENCE_SECONDS
            try:
                while ask(f"{url}/api/loop")["culprit"] is None:
                    assert time.monotonic() < deadline
                while not _blocked_point(ask(f"{url}/api/series")):
                    assert time.monotonic() < deadline
                answers.update((route, ask(url + route)) for route in ROUTES)
            finally:
                release.set()

        waiting = await service.tasks.submit_task(gate, name="waits")
        await gate.holds(1)
        watching = threading.Thread(target=watch)
        culprit = await service.tasks.submit_task(hold_the_loop, name="holds")
        watching.start()
        await service.tasks.wait_for_task(culprit)
        watching.join(PATIENCE_SECONDS)
        gate.open()

    assert set(answers) == set(ROUTES)
    assert answers["/api/loop"]["culprit"]["task_id"] == culprit
    running = {item["task_id"]: item for item in answers["/api/running"]["items"]}
    assert set(running) == {waiting, culprit}
    assert running[culprit]["busy_share"] > 0.5 > running[waiting]["busy_share"]
    assert (running[culprit]["awaiting"], running[waiting]["awaiting"]) == (None, "asyncio.Event.wait")
    (work_loop,) = (
        check for check in answers["/api/health/history"]["checks"] if check["name"] == "work-loop"
    )
    assert work_loop["status"] == "warn"
    assert culprit in work_loop["output"]


def _blocked_point(series: Any) -> bool:
    """Whether the last stretch shows that no beat came, and for how long the loop is late."""
    lags, worst = series["loop_lag_p95"], series["loop_lag_max"]
    return bool(lags) and lags[-1] is None and worst[-1] >= 0.1


async def test_mounted_all_of_it_answers_below_its_prefix() -> None:
    gate = Gate()
    async with (
        open_task_manager(Settings()) as tasks,
        hosted(create_app(tasks, settings=ServerSettings(grafana_url="http://localhost:3000"))) as url,
        aiohttp.ClientSession() as session,
    ):
        running = await tasks.submit_task(gate)
        await gate.holds(1)
        answers = {}
        for route in ROUTES:
            async with session.get(url + route) as response:
                assert response.status == 200, route
                answers[route] = await response.json()
        gate.open()
    assert [item["task_id"] for item in answers["/api/running"]["items"]] == [running]
    assert answers["/api/page"]["links"]["grafana"] == "http://localhost:3000"
    assert set(answers["/api/settings"]["sections"]) == set(Settings.__struct_fields__)
    assert answers["/api/loop"]["state"] == "running"
    assert {check["status"] for check in answers["/api/health/history"]["checks"]} == {"pass"}
