"""`qorzen-obs top` in a real terminal: what is on it, what keys do, and that it is given back as it was."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from qorzen_obs.core.current_task import current_task
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.server.app import OpsPlane
from qorzen_obs.settings import ServerSettings
from qorzen_obs.tasks import TaskStatus
from tests.services.ops_plane import TOKEN, SaidManager, managing, serving
from tests.services.program import environment
from tests.support import PATIENCE_SECONDS

pytestmark = pytest.mark.slow  # programs of their own, which no version of Python makes another

ALTERNATE_SCREEN, NORMAL_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
CURSOR_HIDDEN, CURSOR_SHOWN = "\x1b[?25l", "\x1b[?25h"


class TopInATerminal:
    """The command in a terminal of 100 columns and 30 lines; asking it blocks, so from a thread."""

    def __init__(self, url: str, **variables: str) -> None:
        self._ours, self._theirs = pty.openpty()
        self.resize(100, 30)
        self.attributes_before = termios.tcgetattr(self._theirs)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qorzen_obs", "top", "--url", url, "--interval", "0.2"],
            env=environment({"TERM": "xterm-256color", **variables}),
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            start_new_session=True,
        )
        self.output = ""

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def shows(self, *texts: str) -> str:
        """Wait until a screen that is drawn from now on has all the texts, and return it."""
        seen = len(self.output)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self._read(0.2)
            # A screen begins where the cursor goes home; the last one may be half drawn.
            for screen in re.split(r"\x1b\[H", self.output[seen:])[1:]:
                plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
                if all(text in plain for text in texts):
                    return plain
            assert time.monotonic() < deadline, f"{texts} not in {self.output[-3000:]!r}"
            assert self._process.poll() is None, self.output[-3000:]

    def ends(self) -> int:
        """Wait for the end; return the exit status."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._process.poll() is None:
            self._read(0.1)
            assert time.monotonic() < deadline
        self._read(0.1)
        return self._process.returncode

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def _read(self, seconds: float) -> None:
        while select.select([self._ours], [], [], seconds)[0]:
            self.output += os.read(self._ours, 65536).decode(errors="replace")
            seconds = 0


@pytest.fixture
def terminals() -> Iterator[list[TopInATerminal]]:
    opened: list[TopInATerminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


@pytest.fixture
async def manager() -> AsyncIterator[TaskManager]:
    async with managing() as (manager, _):
        yield manager


@pytest.fixture
async def plane(manager: TaskManager) -> AsyncIterator[OpsPlane]:
    async with serving(manager) as plane:
        yield plane


async def work(event: asyncio.Event) -> None:
    current_task().progress(40, "[red]x[/red] \x1b]0;owned\x07")
    await event.wait()


async def test_tasks_are_watched_opened_filtered_and_cancelled_by_keys(
    manager: TaskManager, plane: OpsPlane, terminals: list[TopInATerminal]
) -> None:
    long = await manager.submit_task(work, asyncio.Event(), name="long [red]work[/red]")
    await manager.submit_task(work, asyncio.Event(), name="another")

    def play() -> None:
        top = TopInATerminal(plane.url)
        terminals.append(top)
        screen = top.shows("ready", "health pass", "running 2", "long [red]work[/red]", "asyncio.Event.wait")
        assert re.search(r"long \[red\]work\[/red\] +core +norm +loop +40% +\S+ m?s +0% ", screen)
        assert top.attributes() != top.attributes_before

        top.press("/LONG\r")
        assert "another" not in top.shows("running 1 with 'LONG'", "long [red]")
        top.press("\r")
        top.shows("1 task", long, "[red]x[/red] \\u001b]0;owned\\u0007")
        top.press("2")
        top.shows("Stack: waiting", "await event.wait()")
        top.press("\x1b")
        top.shows("enter open")
        top.press("c")
        top.shows("Cancel long [red]work[/red]?  y: yes")
        top.press("y")
        top.shows("no such task is running")
        top.resize(80, 24)
        top.signal(signal.SIGWINCH)
        top.press("\x1b")
        assert max(map(len, top.shows("another", "running 1").split("\r\n"))) <= 80
        top.press("q")
        assert top.ends() == 0
        assert_given_back(top)
        assert "\x1b]0;" not in top.output
        assert "Traceback" not in top.output

    await asyncio.to_thread(play)
    assert (await manager.wait_for_task(long)).status is TaskStatus.CANCELLED


def assert_given_back(top: TopInATerminal) -> None:
    assert top.attributes() == top.attributes_before
    assert top.output.rindex(NORMAL_SCREEN) > top.output.rindex(ALTERNATE_SCREEN)
    assert top.output.rindex(CURSOR_SHOWN) > top.output.rindex(CURSOR_HIDDEN)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
async def test_however_it_ends_the_terminal_is_as_before(
    plane: OpsPlane, terminals: list[TopInATerminal], number: signal.Signals, status: int
) -> None:
    def play() -> None:
        top = TopInATerminal(plane.url)
        terminals.append(top)
        top.shows("no task is running")
        top.signal(number)
        assert top.ends() == status
        assert_given_back(top)

    await asyncio.to_thread(play)


async def test_it_outlives_a_restart_of_the_service(terminals: list[TopInATerminal]) -> None:
    async with managing() as (first, _), serving(first) as plane:
        port = plane.port
        await first.submit_task(work, asyncio.Event(), name="before")
        top = await asyncio.to_thread(TopInATerminal, plane.url)
        terminals.append(top)
        await asyncio.to_thread(top.shows, "before")
    await asyncio.to_thread(top.shows, "no answer for", f"retrying ... http://127.0.0.1:{port}", "before")
    async with managing() as (second, _), serving(second, settings=ServerSettings(port=port)):
        await second.submit_task(work, asyncio.Event(), name="after")
        screen = await asyncio.to_thread(top.shows, "after")
        assert "no answer" not in screen
        assert "before" not in screen
        top.press("q")
        assert await asyncio.to_thread(top.ends) == 0


async def test_a_service_that_refuses_is_told_in_one_line(terminals: list[TopInATerminal]) -> None:
    async with (
        managing() as (manager, _),
        serving(manager, settings=ServerSettings(port=0, token=TOKEN)) as plane,
    ):
        top = await asyncio.to_thread(TopInATerminal, plane.url)
        terminals.append(top)
        assert await asyncio.to_thread(top.ends) == 1
    assert "Error: " in top.output
    assert "token" in top.output.rpartition(NORMAL_SCREEN)[2]


async def test_a_service_that_never_answered_is_status_1(terminals: list[TopInATerminal]) -> None:
    async with serving(SaidManager()) as plane:
        url = plane.url

    def play() -> None:
        top = TopInATerminal(url)
        terminals.append(top)
        assert top.ends() == 1
        assert f"Error: {url} does not answer" in top.output
        assert_given_back(top)

    await asyncio.to_thread(play)


async def test_no_color_is_honoured(plane: OpsPlane, terminals: list[TopInATerminal]) -> None:
    def play() -> None:
        plain, coloured = TopInATerminal(plane.url, NO_COLOR="1"), TopInATerminal(plane.url)
        terminals.extend((plain, coloured))
        colour = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|4[0-7])(?:;\d+)*m")
        for top in (plain, coloured):
            top.shows("no task is running")
            top.press("q")
            assert top.ends() == 0
        assert colour.search(coloured.output)
        assert not colour.search(plain.output)

    await asyncio.to_thread(play)
