"""A program's own health checks: what the probes make of them, and that no check and no probe overloads the service."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from qorzen_obs import TaskManager, health_check
from qorzen_obs.core.health_checks import MAX_CHECKS, HealthChecks
from qorzen_obs.errors import InvalidHealthCheckError
from qorzen_obs.server.app import OpsPlane
from qorzen_obs.server.health import HealthCollector
from qorzen_obs.settings import HealthSettings
from qorzen_obs.telemetry import names
from qorzen_obs.testing import CapturedLogs, open_test_manager
from tests.services.ops_plane import SaidManager, managing, serving
from tests.services.program import Running, write_files
from tests.support import PATIENCE_SECONDS, ThreadGate, metric, until

Answer = tuple[int, str]


class Probed:
    """A real manager behind its ops plane."""

    def __init__(self, tasks: TaskManager, plane: OpsPlane, session: aiohttp.ClientSession) -> None:
        self.tasks = tasks
        self.url = plane.url
        self._session = session

    async def ask(self, path: str) -> Answer:
        async with self._session.get(path) as response:
            return response.status, await response.text()

    async def health(self) -> dict[str, Any]:
        async with self._session.get("/health") as response:
            document: dict[str, Any] = await response.json(content_type=None)
        return document

    async def output(self, check: str) -> str:
        found: str = (await self.health())["checks"][check][0].get("output", "")
        return found


@pytest.fixture
async def probed() -> AsyncIterator[Probed]:
    async with (
        managing() as (tasks, _),
        serving(tasks) as plane,
        aiohttp.ClientSession(plane.url) as session,
    ):
        yield Probed(tasks, plane, session)
        await tasks.health.close()


def fine() -> None:
    pass


def broken() -> None:
    raise ConnectionError("no such host")


async def test_a_critical_check_that_fails_makes_the_service_not_ready_and_leaves_it_alive(
    probed: Probed,
) -> None:
    probed.tasks.health.add(broken, name="database", critical=True)
    probed.tasks.health.add(fine, name="cache", critical=True)
    assert await probed.ask("/readyz") == (503, "failed: database")
    assert await probed.ask("/readyz/database?verbose") == (
        503,
        "[-]database failed: ConnectionError: no such host\n",
    )
    assert await probed.ask("/readyz/cache") == (200, "ok")
    assert await probed.ask("/readyz?exclude=database") == (200, "ok")
    assert (await probed.ask("/readyz?verbose"))[1].endswith("[+]cache ok\n")
    for path in ("/livez", "/startupz"):
        assert await probed.ask(path) == (200, "ok")
    document = await probed.health()
    assert document["status"] == document["checks"]["database"][0]["status"] == "fail"
    assert document["checks"]["database"][0]["time"].endswith("Z")


async def test_another_check_that_fails_only_warns(probed: Probed) -> None:
    probed.tasks.health.add(broken, name="cache")
    assert await probed.ask("/readyz") == (200, "ok")
    assert (await probed.ask("/readyz/cache"))[0] == 404
    document = await probed.health()
    assert document["status"] == document["checks"]["cache"][0]["status"] == "warn"


async def test_an_async_check_runs_on_the_work_loop_and_a_plain_one_in_a_thread_of_its_own(
    probed: Probed,
) -> None:
    seen: list[object] = []

    async def pool() -> None:
        seen.append(asyncio.get_running_loop())

    def disk() -> None:
        seen.append(threading.current_thread().name)

    probed.tasks.health.add(pool)
    probed.tasks.health.add(disk)
    assert (await probed.health())["status"] == "pass"
    assert set(seen) == {asyncio.get_running_loop(), "qorzen-check-disk"}


async def test_a_flood_of_probes_runs_a_check_no_more_often(probed: Probed) -> None:
    runs: list[int] = []

    async def counted() -> None:
        runs.append(1)
        await asyncio.sleep(0)

    probed.tasks.health.add(counted, critical=True, max_age=3600, timeout=PATIENCE_SECONDS)
    answers = await asyncio.gather(*(probed.ask("/readyz") for _ in range(100)))
    assert set(answers) == {(200, "ok")}
    assert runs == [1]


async def test_a_result_that_is_too_old_is_not_used_again(probed: Probed) -> None:
    passes = iter([True, False])
    probed.tasks.health.add(lambda: next(passes, None), name="flips", critical=True, max_age=0.1)
    assert await probed.ask("/readyz/flips") == (200, "ok")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await probed.ask("/readyz/flips"))[0] == 200:
            pass


async def test_a_check_that_hangs_fails_after_its_timeout_and_is_not_begun_again_before_it_ends(
    probed: Probed,
) -> None:
    with ThreadGate() as gate:
        probed.tasks.health.add(gate, name="stuck", critical=True, timeout=0.05, max_age=0.1)
        for _ in range(20):
            status, text = await probed.ask("/readyz?verbose")
            assert status == 503
            assert "[-]stuck failed: did not end within 0.05 s and still runs, after " in text
        assert len(gate.arrived) == 1
        gate.open()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await probed.ask("/readyz"))[0] != 200:
                pass
    assert len(gate.arrived) > 1


async def test_an_async_check_that_hangs_is_cancelled_at_its_timeout(probed: Probed) -> None:
    cancelled = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    probed.tasks.health.add(hangs, critical=True, timeout=0.05, max_age=3600)
    assert (await probed.ask("/readyz"))[0] == 503
    await asyncio.wait_for(cancelled.wait(), PATIENCE_SECONDS)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await probed.ask("/readyz?verbose"))[1].splitlines()[-1] != (
            "[-]hangs failed: did not end within 0.05 s"
        ):
            pass


async def test_a_wedged_work_loop_fails_its_checks_and_keeps_no_probe_back(probed: Probed) -> None:
    async def pool() -> None:
        pass

    probed.tasks.health.add(pool, critical=True, timeout=0.1, max_age=0.1)
    probed.tasks.health.add(fine, name="disk", critical=True, max_age=0.1)
    answers: list[str] = []
    looked = threading.Event()

    def look() -> None:
        wedged.wait()
        for path in ("/livez", "/readyz?verbose", "/readyz/disk", "/health"):
            try:
                with urllib.request.urlopen(probed.url + path, timeout=PATIENCE_SECONDS) as response:
                    answers.append(response.read().decode())
            except urllib.error.HTTPError as error:
                with error:
                    answers.append(error.read().decode())
        looked.set()

    wedged = threading.Event()
    thread = threading.Thread(target=look)
    thread.start()
    wedged.set()
    looked.wait(PATIENCE_SECONDS)  # this wedges the loop
    await asyncio.to_thread(thread.join)
    live, ready, disk, health = answers
    assert (live, disk) == ("ok", "ok")
    assert "[-]pool failed: did not end within 0.1 s and still runs" in ready
    assert '"pool":[{"status":"fail"' in health


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
@pytest.mark.parametrize("in_thread", [True, False])
async def test_nothing_that_a_check_raises_goes_further(
    probed: Probed, error: BaseException, in_thread: bool
) -> None:
    def plain() -> None:
        raise error

    async def on_loop() -> None:
        raise error

    probed.tasks.health.add(plain if in_thread else on_loop, name="rude", critical=True)
    assert await probed.ask("/readyz") == (503, "failed: rude")
    await probed.tasks.run(fine)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError


def unspeakable() -> None:
    raise Unspeakable


async def later() -> None: ...


def forgotten() -> object:
    return later()


@pytest.mark.parametrize(
    ("check", "status", "output"),
    [
        (lambda: 0, "pass", ""),
        (lambda: "7 replicas\n[-]forged failed", "pass", "7 replicas [-]forged failed"),
        (lambda: False, "warn", "it returned False"),
        (forgotten, "warn", "it returned an awaitable; make it a coroutine function, with async def"),
        (unspeakable, "warn", "Unspeakable: <its message cannot be shown: ValueError>"),
        (lambda: "password=hunter2", "pass", "password=[redacted]"),
    ],
)
async def test_what_a_check_says_is_one_line_without_secrets(
    probed: Probed, check: Callable[[], object], status: str, output: str
) -> None:
    probed.tasks.health.add(check, name="checked")
    (found,) = (await probed.health())["checks"]["checked"]
    assert (found["status"], found.get("output", "")) == (status, output)


def test_its_last_result_is_a_metric_of_readyz_where_it_is_critical_and_else_of_health() -> None:
    manager, registry = SaidManager(), CollectorRegistry()
    manager.health.add(broken, name="database", critical=True)
    manager.health.add(fine, name="cache")
    registry.register(HealthCollector(manager, HealthSettings()))

    def found() -> dict[tuple[str, str], float]:
        return {
            (sample.labels["probe"], sample.labels["check"]): sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.labels["check"] in ("database", "cache")
        }

    found()  # which begins a run of each
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(found()) < 2:
        assert time.monotonic() < deadline
    assert found() == {("readyz", "database"): 0, ("health", "cache"): 1}


async def test_an_async_check_fails_where_no_work_loop_runs() -> None:
    manager = SaidManager()
    manager.health.add(later, critical=True)
    async with (
        serving(manager) as plane,
        aiohttp.ClientSession(plane.url) as session,
        session.get("/readyz?verbose") as response,
    ):
        assert "[-]later failed: the work loop does not run\n" in await response.text()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"name": "work-loop"}, "is a check of the service itself"),
        ({"name": "a b"}, "must have 1 to 63 letters"),
        ({"name": "x" * 64}, "must have 1 to 63 letters"),
        ({"name": "a/b"}, "must have 1 to 63 letters"),
        ({"name": "taken"}, "two checks are named 'taken'"),
        ({"timeout": 0}, "timeout: 0 must be a positive number"),
        ({"timeout": float("inf")}, "timeout: inf must be"),
        ({"timeout": float("nan")}, "timeout: nan must be"),
        ({"max_age": 0.01}, "at least 0.1"),
        (
            {"interval": 1},
            "interval: is not an option of a check; use one of critical, max_age, name, timeout",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(options: Any, problem: str) -> None:
    checks = HealthChecks()
    checks.add(fine, name="taken")
    with pytest.raises(InvalidHealthCheckError) as caught:
        checks.add(fine, **options)
    assert problem in str(caught.value)
    assert [check.name for check in checks] == ["taken"]


def test_a_lambda_needs_a_name_and_what_cannot_be_called_is_no_check() -> None:
    with pytest.raises(InvalidHealthCheckError, match="give it with name="):
        HealthChecks().add(lambda: None)
    with pytest.raises(InvalidHealthCheckError, match="is not callable"):
        HealthChecks().add(7)  # type: ignore[arg-type]  # as a user may


def test_there_is_a_bound_to_them() -> None:
    checks = HealthChecks()
    for number in range(MAX_CHECKS):
        checks.add(fine, name=f"check-{number}")
    with pytest.raises(InvalidHealthCheckError, match="there are 50 already"):
        checks.add(fine)


def test_the_options_of_the_call_go_before_those_of_the_decorator() -> None:
    @health_check(critical=True, timeout=2.0)
    def database() -> None: ...

    checks = HealthChecks()
    checks.add(database, timeout=3.0)
    (check,) = checks
    assert (check.name, check.critical, check.timeout) == ("database", True, 3.0)


SHOP = """
from qorzen_obs import health_check, task

@task
def sell(): ...

@health_check(critical=True)
async def database():
    raise ConnectionError("no such host")

also_named = database
"""
CHECKS = """
from qorzen_obs import health_check
from shop import database

@health_check
def disk():
    return "enough"
"""


def test_serve_finds_the_checks_of_its_modules(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"shop.py": SHOP, "checks.py": CHECKS})
    with Running("serve", "shop", "checks", cwd=folder) as service:
        url = service.line("serves").split()[-1]
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{url}readyz?verbose", timeout=PATIENCE_SECONDS)
        with caught.value as answer:
            text = answer.read().decode()
        assert text.splitlines()[-1] == "[-]database failed: ConnectionError: no such host"
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"{url}health", timeout=PATIENCE_SECONDS)


def test_a_name_that_is_taken_is_told_before_anything_starts(tmp_path: Path) -> None:
    other = CHECKS.replace("def disk", "def database").replace("from shop import database\n", "")
    folder = write_files(tmp_path, {"shop.py": SHOP, "checks.py": other})
    with Running("serve", "shop", "checks", cwd=folder) as service:
        assert service.wait() == 2
        assert (
            "Error: module 'checks' cannot be hosted: health check, name: two checks are named 'database'"
            in (service.errors())
        )


async def test_a_check_that_begins_to_fail_and_one_that_passes_again_is_a_log_line_and_no_other_is() -> None:
    logs, failing = CapturedLogs(), False

    def flips() -> None:
        if failing:
            raise ConnectionError("no such host")

    async with (
        open_test_manager(logs=logs) as tasks,
        serving(tasks) as plane,
        aiohttp.ClientSession(plane.url) as session,
    ):
        tasks.health.add(flips, critical=True, max_age=0.1, timeout=PATIENCE_SECONDS)
        for failing in (False, True, False):
            async with asyncio.timeout(PATIENCE_SECONDS):
                for _ in range(2):
                    while (await session.get("/readyz")).ok is failing:
                        pass
        await until(lambda: len(logs.of(names.LOG_HEALTH_CHECK)) == 2)
    failed, passed = logs.of(names.LOG_HEALTH_CHECK)
    assert (failed["level"], failed["check"], failed["output"]) == (
        "warning",
        "flips",
        "ConnectionError: no such host",
    )
    assert (passed["level"], passed["passed"]) == ("info", True)


async def test_a_check_that_hangs_is_a_log_line_while_it_does() -> None:
    logs = CapturedLogs()
    async with open_test_manager(logs=logs) as tasks, serving(tasks) as plane:
        with ThreadGate() as gate:
            tasks.health.add(gate, name="stuck", timeout=0.05)
            async with aiohttp.ClientSession(plane.url) as session, session.get("/health"):
                pass
            (line,) = logs.of(names.LOG_HEALTH_CHECK)
            assert line["output"].startswith("did not end within 0.05 s and still runs")
            gate.open()


async def test_a_slow_task_is_no_unhealthy_service(probed: Probed) -> None:
    with ThreadGate() as gate:
        for _ in range(50):
            await probed.tasks.submit_task(gate)
        await until(lambda: probed.tasks.status()["queue"]["depth"] > 0)  # every thread is taken
        for _ in range(3):
            assert await probed.ask("/readyz") == (200, "ok")
        assert (await probed.health())["status"] == "pass"
        assert probed.tasks.looks.stalled_seconds() == 0.0
        gate.open()


async def test_a_service_under_way_shows_the_metric_of_its_checks(probed: Probed) -> None:
    registry = CollectorRegistry()
    registry.register(HealthCollector(probed.tasks.looks, HealthSettings()))
    assert metric(registry, names.HEALTH_CHECK.name, probe="readyz", check="scheduler") == 1
