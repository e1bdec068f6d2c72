"""macOS and Windows, as far as Linux can show them: what they lack is taken away before anything is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from tests.other_systems import LACKING, missing_on
from tests.services.program import environment
from tests.support import PATIENCE_SECONDS

pytestmark = pytest.mark.slow  # a program of its own for each test

#: These read keys of a POSIX terminal; `top` says so where they cannot be imported.
POSIX_ONLY = {"qorzen_obs.cli.top.terminal", "qorzen_obs.cli.top.screen"}
lacking = cache(missing_on)

RUN = """
import asyncio, os, selectors, urllib.request
from qorzen_obs import Settings, open_task_manager, with_options
from qorzen_obs.settings import ServerSettings

selectors.DefaultSelector = selectors.PollSelector  # asyncio's would be epoll, which is gone

async def main():
    async with open_task_manager(Settings(server=ServerSettings(port=0)), http=True) as tasks:
        values = [await tasks.run(asyncio.sleep, 0, 1), await tasks.run(int, "2")]
        values.append(await tasks.run(int, "3", category="io"))
        in_process = await tasks.run(with_options(os.getpid, engine="process")) != os.getpid()
        live = await tasks.run(lambda: urllib.request.urlopen(f"{tasks.ops_url.rstrip('/')}/livez").status)
    return [*values, in_process, live]

print(json.dumps([failed, asyncio.run(main())]))
"""
NO_UNIX_SOCKET = """
import asyncio
from qorzen_obs.client import Client
from qorzen_obs.server.listener import listen
from qorzen_obs.settings import ServerSettings

refusals = []
for attempt in (
    lambda: listen(ServerSettings(host="unix:/nowhere/socket"), lambda: None).send(None),
    Client("unix:/nowhere/socket", None).status,
):
    try:
        attempt()
    except Exception as error:
        refusals.append(f"{type(error).__name__}: {error}")
print(json.dumps([failed, refusals]))
"""


def run_on(platform: str, program: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", LACKING, platform, json.dumps(lacking(platform)), program],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_stubs_know_what_other_systems_lack() -> None:
    windows, mac = lacking("win32"), lacking("darwin")
    assert {name for name, gone in windows.items() if gone is None} >= {"fcntl", "pwd", "resource", "termios"}
    assert {name for name, gone in mac.items() if gone is None} <= {"ossaudiodev", "spwd"}
    assert {"fork", "getuid", "killpg", "pidfd_open"} <= set(windows["os"] or ())
    assert {"SIGKILL", "SIGUSR1", "setitimer"} <= set(windows["signal"] or ())
    assert "pidfd_open" in (mac["os"] or ())
    assert "fork" not in (mac["os"] or ())
    assert "epoll" in (mac["select"] or ())


def test_every_module_is_imported_and_tasks_run_without_what_macos_lacks() -> None:
    failed, values = run_on("darwin", RUN)
    assert failed == {}
    assert values == [1, 2, 3, True, 200]


def test_every_module_is_imported_without_what_windows_lacks_and_a_unix_socket_is_refused() -> None:
    failed, refusals = run_on("win32", NO_UNIX_SOCKET)
    assert failed.keys() == POSIX_ONLY, failed
    assert refusals == [
        "ManagerInitializationError: ops plane: this system has no Unix sockets; set server.host to 127.0.0.1",
        (
            "ClientError: unix:/nowhere/socket does not answer (this system has no Unix sockets; give an address that "
            "starts with http://); is it the service's --url?"
        ),
    ]
