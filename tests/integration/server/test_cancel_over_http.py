"""Cancelling from outside: over HTTP, and from another terminal."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import aiohttp

from qorzen_obs.settings import ServerSettings
from qorzen_obs.tasks import TaskStatus
from tests.services.ops_plane import TOKEN, managing, serving

JSON = {"Content-Type": "application/json"}


async def test_a_pending_task_is_cancelled_and_a_running_one_asked_to_stop(
    session: aiohttp.ClientSession,
) -> None:
    async with managing(max_concurrent_tasks=1) as (manager, _), serving(manager) as plane:
        running = await manager.submit_task(asyncio.sleep, 60)
        pending = await manager.submit_task(asyncio.sleep, 60)
        async with session.post(f"{plane.url}/api/tasks/{pending}/cancel", headers=JSON) as response:
            assert (response.status, (await response.json())["status"]) == (200, "cancelled")
        async with session.post(f"{plane.url}/api/tasks/{running}/cancel", headers=JSON) as response:
            assert response.status in (200, 202), "it may have stopped by the time it is looked at"
        info = await manager.wait_for_task(running)
        assert (info.status, info.cancel_reason) == (TaskStatus.CANCELLED, "cancelled over HTTP")
        async with session.post(f"{plane.url}/api/tasks/{running}/cancel", headers=JSON) as response:
            assert response.status == 409
            assert response.content_type == "application/problem+json"


async def test_what_may_not_be_cancelled_or_is_unknown_is_said(session: aiohttp.ClientSession) -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        stubborn = await manager.submit_task(asyncio.sleep, 60, cancellable=False)
        for task_id, status in ((stubborn, 409), ("nobody", 404)):
            async with session.post(f"{plane.url}/api/tasks/{task_id}/cancel", headers=JSON) as response:
                assert response.status == status
        async with session.get(f"{plane.url}/api/tasks/{stubborn}/cancel") as response:
            assert response.status == 405, "nothing changes on GET"


async def test_a_blocked_work_loop_is_said_and_the_command_is_not_run_later(
    session: aiohttp.ClientSession,
) -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        task_id = await manager.submit_task(asyncio.sleep, 60)
        command = f"import urllib.request as u; r = u.Request({plane.url!r} + '/api/tasks/{task_id}/cancel'"
        command += ", b'{}', {'Content-Type': 'application/json'}); u.urlopen(r)"
        asking = subprocess.Popen([sys.executable, "-c", command], stderr=subprocess.PIPE, text=True)  # noqa: ASYNC220
        _, problem = asking.communicate()  # which blocks the loop until the command is answered
        assert "HTTP Error 503" in problem
        for _ in range(10):  # turns in which it might
            await asyncio.sleep(0)
        info = await manager.get_task_info(task_id)
        assert info is not None
        assert info.status is TaskStatus.RUNNING
        assert info.cancel_reason is None


async def _cli(*arguments: str, token: str | None = None) -> tuple[int, str]:
    environment = {"QORZEN_SERVER__TOKEN": token} if token else {}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "qorzen_obs",
        "cancel",
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_from_another_terminal_a_task_is_cancelled_with_the_token() -> None:
    settings = ServerSettings(port=0, token=TOKEN)
    async with managing() as (manager, _), serving(manager, settings=settings) as plane:
        task_id = await manager.submit_task(asyncio.sleep, 60, name="long")
        status, text = await _cli(task_id, "--url", plane.url)
        assert (status, "token" in text) == (1, True)
        status, text = await _cli(task_id, "--url", plane.url, token=TOKEN)
        assert status == 0
        assert text.startswith("long ")
        assert (await manager.wait_for_task(task_id)).status is TaskStatus.CANCELLED
        status, text = await _cli(task_id, "--url", plane.url, token=TOKEN)
        assert (status, text) == (1, "Error: this task has ended\n")


async def test_from_another_terminal_a_wrong_address_is_said() -> None:
    status, text = await _cli("x", "--url", "http://127.0.0.1:9")
    assert status == 1
    assert "http://127.0.0.1:9 does not answer" in text
