"""Starts and ends worker processes for the service: through a guardian, or without one if the system cannot
have any. A keeper starts the process, passes on signals, kills, and reports once that all of it is dead.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from qorzen_obs.engines.processes.guardian import (
    REPORT,
    STACK_SIGNAL,
    STACK_SIGNAL_AT_ONCE,
    TERMINATE,
    WRITE_STACK,
    WRITE_STACK_AT_ONCE,
)

GUARDIAN: Final = str(Path(__file__).with_name("guardian.py"))  #: the script that is started
_LOOK_SECONDS: Final = 0.05
#: seconds after which a kill by the lifeline is followed by one of the process group: the guardian has stopped. On a
#: busy machine a guardian that still runs takes some of them, and without it nobody cleans up after the worker.
KILL_GROUP_SECONDS: Final = 5.0


class Death(NamedTuple):
    """How a worker died. `status` is its wait status, None if nobody saw it."""

    status: int | None
    oom_kills: int = 0


class Keeper(Protocol):
    """Holds one worker process. Belongs to the work loop."""

    process: subprocess.Popen[bytes]

    def terminate(self) -> None:
        """Send SIGTERM to the worker."""
        ...

    def write_stack(self, *, at_once: bool) -> None:
        """Make the worker write its stack, once it is ready; see StackReader. From any thread."""
        ...

    def kill(self) -> None:
        """Kill the worker and what it started; its death is reported like any other."""
        ...

    def release(self) -> None:
        """Stop watching, so that `bury` can do the rest."""
        ...

    def bury(self, patience_seconds: float) -> None:
        """Wait until all of it is dead, after `release`; kill what is still alive after the patience.

        Blocks for a moment longer: for a thread.
        """
        ...


class GuardedKeeper:
    """With a guardian: whatever happens to the service or the worker, no process of it is left."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: socket.socket,
        stacks: socket.socket,
        on_dead: Callable[[Death], None],
    ) -> None:
        self._loop = loop
        self._on_dead = on_dead
        self._fallback: asyncio.TimerHandle | None = None
        self._lifeline, theirs = socket.socketpair()
        try:
            with _above_stdio(theirs) as far_end:
                self.process = _spawn(
                    channel, stacks, [str(far_end.fileno()), str(os.getpid())], far_end.fileno()
                )
        except BaseException:
            self._lifeline.close()
            raise
        try:
            self._guardian_fd = os.pidfd_open(self.process.pid)
        except BaseException:
            self._lifeline.close()
            _put_down(self.process)
            raise
        loop.add_reader(self._guardian_fd, self._guardian_ended)

    def terminate(self) -> None:
        with suppress(OSError):  # it is dead or dying
            self._lifeline.send(TERMINATE)

    def write_stack(self, *, at_once: bool) -> None:
        with suppress(OSError):  # as above
            self._lifeline.send(WRITE_STACK_AT_ONCE if at_once else WRITE_STACK)

    def kill(self) -> None:
        if self._fallback is None:
            self._cut()
            self._fallback = self._loop.call_later(KILL_GROUP_SECONDS, _kill_group, self.process)

    def _cut(self) -> None:
        with suppress(OSError):  # not close(): a process that user code has forked may hold the socket too
            self._lifeline.shutdown(socket.SHUT_WR)

    def _guardian_ended(self) -> None:
        """Handle the guardian's end: it ends last and has reported the worker's death, unless both were killed."""
        death = self._read_report()
        if death.status is None:
            _kill_group(self.process)  # before the reaping frees the group's number
        self.process.wait()
        self.release()
        self._close()
        self._on_dead(death)

    def _read_report(self) -> Death:
        try:
            report = self._lifeline.recv(REPORT.size, socket.MSG_DONTWAIT)
        except OSError:
            report = b""
        return Death(*REPORT.unpack(report)) if len(report) == REPORT.size else Death(None)

    def release(self) -> None:
        if self._fallback is not None:
            self._fallback.cancel()
        if self._guardian_fd >= 0:
            self._loop.remove_reader(self._guardian_fd)

    def _close(self) -> None:
        if self._guardian_fd >= 0:
            os.close(self._guardian_fd)
            self._guardian_fd = -1
            self._lifeline.close()

    def bury(self, patience_seconds: float) -> None:
        if not self._ended_within(patience_seconds):
            self._cut()
            if not self._ended_within(KILL_GROUP_SECONDS):
                _kill_group(self.process)
        self.process.wait()
        self._close()

    def _ended_within(self, seconds: float) -> bool:
        if self._guardian_fd < 0:
            return True
        poll = select.poll()
        poll.register(self._guardian_fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


class PlainKeeper:
    """Without a guardian: the worker is our own child, checked every 50 ms."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: socket.socket,
        stacks: socket.socket,
        on_dead: Callable[[Death], None],
    ) -> None:
        self._loop = loop
        self._on_dead = on_dead
        self.process = _spawn(channel, stacks, [])
        self._look_again()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)  # checks first whether it has ended

    def write_stack(self, *, at_once: bool) -> None:
        self.process.send_signal(STACK_SIGNAL_AT_ONCE if at_once else STACK_SIGNAL)

    def kill(self) -> None:
        _kill_group(self.process)

    def _look_again(self) -> None:
        """Check twice, unless the first check cancels the second: it may be interrupted before its first line."""
        self._looks = [self._loop.call_later(times * _LOOK_SECONDS, self._look) for times in (1, 2)]

    def _look(self) -> None:
        self.release()
        self._look_again()
        code = self.process.poll()
        if code is not None:
            self.release()
            self._on_dead(Death(-code if code < 0 else code << 8))

    def release(self) -> None:
        for look in self._looks:
            look.cancel()

    def bury(self, patience_seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_seconds)
        _kill_group(self.process)
        self.process.wait()


def _spawn(
    channel: socket.socket, stacks: socket.socket, arguments: list[str], *descriptors: int
) -> subprocess.Popen[bytes]:
    """Start the script in a session of its own. Without a preexec_fn this is a vfork and takes 0.3 ms."""
    with _above_stdio(channel) as far_end, _above_stdio(stacks) as far_stacks:
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
        return subprocess.Popen(
            [
                sys.executable,
                *flags,
                "-P",
                GUARDIAN,
                str(far_end.fileno()),
                str(far_stacks.fileno()),
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=(far_end.fileno(), far_stacks.fileno(), *descriptors),
            start_new_session=True,
        )


def _above_stdio(sock: socket.socket) -> socket.socket:
    """Return `sock` with a descriptor above those of standard input and output, which are replaced."""
    lower = []
    while sock.fileno() < 3:
        lower.append(sock)
        sock = sock.dup()
    for each in lower:
        each.close()
    return sock


def _put_down(process: subprocess.Popen[bytes]) -> None:
    """Undo `_spawn`."""
    _kill_group(process)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None, "both were asked for"
        pipe.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the session's process group, unless its leader has been reaped."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
