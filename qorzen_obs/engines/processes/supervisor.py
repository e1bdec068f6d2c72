"""One worker process as the service sees it: what it is sent, what it reports, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final, Protocol

from qorzen_obs import foreign
from qorzen_obs.engines.processes import channel
from qorzen_obs.engines.processes.channel import Buffer, Frame, FrameReader, frame_parts, send_some
from qorzen_obs.engines.processes.codec import LARGE_BYTES, Encoded, decode_plain, encode
from qorzen_obs.engines.processes.keepers import Death, GuardedKeeper, PlainKeeper
from qorzen_obs.engines.processes.output import OutputReader
from qorzen_obs.engines.processes.reports import DROPPED
from qorzen_obs.engines.processes.side_threads import SideThreads
from qorzen_obs.engines.processes.stack_reader import StackReader
from qorzen_obs.engines.processes.worker import EXIT_NO_MEMORY
from qorzen_obs.stacks import Frames

#: How long the reason of a worker's death may take to arrive after its channel broke, on a busy machine too.
_DYING_SECONDS: Final = 0.5
#: How long a worker may take to end by itself: its exit handlers run then, and temporary files are removed.
LEAVE_SECONDS: Final = 1.0

_OUTCOMES: Final = (channel.RESULT, channel.FAILURE)
_CLOSED: Final = "its process closed the channel to the service"
_UNREADABLE: Final = "its process sent what the service cannot read"


class Owner(Protocol):
    """The receiver of a worker's reports; all calls on the work loop."""

    def on_ready(self, worker: WorkerProcess) -> None: ...
    def on_started(self, worker: WorkerProcess) -> None: ...
    def on_events(self, worker: WorkerProcess, events: list[tuple[str, Any]]) -> None: ...
    def on_usage(self, worker: WorkerProcess, seconds: float, cpu_seconds: float) -> None: ...
    def on_outcome(self, worker: WorkerProcess, frame: Frame) -> None: ...
    def on_no_room(self, worker: WorkerProcess) -> None: ...
    def on_dead(self, worker: WorkerProcess, reason: str) -> None: ...


class WorkerProcess:
    """Spawns the process when it is made, which takes 0.3 ms. Belongs to the work loop.

    Raises:
        OSError: the system has no more processes or descriptors.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, owner: Owner, threads: SideThreads, *, guarded: bool
    ) -> None:
        self._loop = loop
        self._threads = threads
        self._owner = owner
        self.pid: int | None = None  #: the worker's own, once it is ready
        self.calls = 0  #: that it was given
        self.killed = False  #: by us, or it was asked to leave
        self._leaves: asyncio.TimerHandle | None = None  # it was asked to leave; this timer kills it
        self._broken: str | None = None  # why the channel has become unusable
        self._was_cut_off = False
        self._dead = False
        self._death: Death | None = None
        self._set_up: object = None
        self._outbox: list[memoryview] = []
        self._receiving: threading.Event | None = None  # a thread takes a large frame; set when it has
        self._channel, theirs = socket.socketpair()
        self._stacks = StackReader()
        try:
            keeper = GuardedKeeper if guarded else PlainKeeper
            self._keeper = keeper(loop, theirs, self._stacks.far_end, self._on_death)
        except BaseException:
            self._channel.close()
            theirs.close()
            self._stacks.close()
            raise
        self._channel.setblocking(False)
        self._reader = FrameReader(self._channel, large_bytes=LARGE_BYTES)
        loop.add_reader(self._channel, self._receive)
        self._outputs = [self._watch_output("stdout"), self._watch_output("stderr")]

    def _watch_output(self, stream: str) -> OutputReader:
        def on_line(text: str) -> None:
            self._owner.on_events(self, [("output", (stream, text))])

        def on_dropped(lines: int) -> None:
            self._owner.on_events(self, [(DROPPED, lines)])

        pipe = getattr(self._keeper.process, stream)
        return OutputReader(self._loop, pipe.fileno(), on_line, on_dropped)

    # ------------------------------------------------------------------ what it is sent

    def call(self, encoded: Encoded, set_up: object) -> None:
        """Send it a call, after `set_up` if that has changed."""
        if set_up != self._set_up:
            self._set_up = set_up
            self._send(channel.SETUP, *encode(set_up))
        self.calls += 1
        self._send(channel.CALL, *encoded)

    def cancel(self, reason: str) -> None:
        """Notify it that the call was asked to stop."""
        self._send(channel.CANCEL, [reason.encode()[:1_000]])

    def terminate(self) -> None:
        """Send it SIGTERM, which interrupts system calls and does nothing else."""
        self._keeper.terminate()

    def stack(self) -> Frames | None:
        """Return where its main thread is; None when it does not answer. Blocks for a second at most."""
        return self._stacks.read(self._keeper.write_stack)

    def leave(self) -> None:
        """Let it end by itself, like a program that is done. For a worker without a call."""
        self.killed = True
        with suppress(OSError):  # it is dead or dying
            self._channel.shutdown(socket.SHUT_WR)

    def retire(self) -> None:
        """As `leave`, then kill it if it has not ended in time; `on_dead` follows."""
        self.leave()
        self._leaves = self._loop.call_later(LEAVE_SECONDS, self._keeper.kill)

    def kill(self) -> None:
        """Kill it with all that it has started; `on_dead` follows. Idempotent."""
        self.killed = True
        self._keeper.kill()

    def _send(self, kind: int, body: list[Buffer], buffers: list[Buffer] | None = None) -> None:
        idle = not self._outbox
        self._outbox += frame_parts(kind, body, buffers or [])
        if idle:
            self._flush()

    def _flush(self) -> None:
        """Send until the socket is full; the rest goes when the worker has read."""
        try:
            while self._outbox:
                send_some(self._channel, self._outbox)
        except BlockingIOError:
            self._loop.add_writer(self._channel, self._flush_more)
        except OSError:  # it is dead or has closed the channel: the reading side finds out
            self._outbox.clear()

    def _flush_more(self) -> None:
        """Send one piece, so that a large call does not keep the loop from its other work."""
        try:
            send_some(self._channel, self._outbox)
        except BlockingIOError:
            return
        except OSError:
            self._outbox.clear()
        if not self._outbox:
            self._loop.remove_writer(self._channel)

    # ------------------------------------------------------------------ what it reports

    def _receive(self) -> None:
        while (tell := self._read()) is not None:
            tell()

    def _read(self) -> Callable[[], None] | None:
        """Take one frame; return a callable that reports it to the owner. None: no frame yet, or a thread takes it."""
        try:
            frame = self._reader.read()
            if frame is not None:
                return self._meaning(frame)
        except Exception as error:  # noqa: BLE001 - user code may write to a channel that it has found
            self._channel_broke_by(error)
            return None
        if self._reader.large:
            self._loop.remove_reader(self._channel)
            self._receiving = threading.Event()
            try:
                self._threads.run(self._receive_large)
            except Exception as error:  # noqa: BLE001 - no thread available
                self._receiving = None
                self._owner.on_no_room(self)
                self._channel_broke_by(error)
        return None

    def _meaning(self, frame: Frame) -> Callable[[], None]:
        """Return a callable that reports a frame to the owner; from any thread.

        Raises:
            Exception: of any kind, if something else than our worker has sent this.
        """
        if frame.kind in _OUTCOMES:
            return partial(self._told_outcome, frame)
        if frame.kind == channel.STARTED:
            return partial(self._owner.on_started, self)
        if frame.kind == channel.EVENTS:
            return partial(self._owner.on_events, self, _events_in(frame))
        if frame.kind == channel.USAGE:
            seconds, cpu_seconds = channel.USED.unpack(frame.body)
            if 0.0 <= seconds < inf and 0.0 <= cpu_seconds < inf:
                return partial(self._owner.on_usage, self, seconds, cpu_seconds)
        elif frame.kind == channel.READY and self.pid is None:
            return partial(self._told_ready, int(frame.body))
        raise ValueError(f"a frame of kind {frame.kind} has no place here")

    def _told_ready(self, pid: int) -> None:
        self.pid = pid
        self._owner.on_ready(self)

    def _told_outcome(self, frame: Frame) -> None:
        self._drain_outputs()  # the worker has flushed: what the call wrote is in the pipes
        self._owner.on_outcome(self, frame)

    def _drain_outputs(self) -> None:
        for output in self._outputs:
            output.drain()

    def _receive_large(self) -> Callable[[], None]:
        try:
            tell = self._meaning(self._reader.read_large())
        except BaseException as error:  # noqa: BLE001 - a thread's top
            return partial(self._large_received, None, error)
        finally:
            assert self._receiving is not None, "it is set while this runs"
            self._receiving.set()
        return partial(self._large_received, tell, None)

    def _large_received(self, tell: Callable[[], None] | None, error: BaseException | None) -> None:
        self._receiving = None
        if self._dead:  # it was released meanwhile, and `bury` closes the channel on another thread
            return
        try:
            if tell is not None:
                tell()
            elif isinstance(error, MemoryError):
                self._owner.on_no_room(self)
        finally:
            if error is not None:
                self._channel_broke_by(error)
            elif self._death is not None:
                self._on_death(self._death)
            elif self._channel.fileno() >= 0:
                self._loop.add_reader(self._channel, self._receive)

    # ------------------------------------------------------------------ how it ends

    def _channel_broke_by(self, error: BaseException) -> None:
        """Handle a broken channel: the worker is dead or dying, or user code has used or closed the channel."""
        closed = isinstance(error, (EOFError, OSError))
        self._broken = _CLOSED if closed else f"{_UNREADABLE}: {foreign.described(error)}"
        self._stop_listening()
        if self._death is not None:
            self._on_death(self._death)
        elif not self.killed:  # a dying worker may report why
            for times in (1, 2):  # the first call may be interrupted before its first line
                self._loop.call_later(times * _DYING_SECONDS, self._cut_off)

    def _cut_off(self) -> None:
        if not self._dead and self._death is None and not self.killed:
            self._was_cut_off = True
            self._keeper.kill()

    def _on_death(self, death: Death) -> None:
        """Handle the death of the whole worker. What it sent before still counts."""
        self._death = death
        try:
            if self._broken is None and self._receiving is None:
                self._receive()
        finally:
            # Unless the thread is done meanwhile; if not, it calls this again when it is.
            if not self._dead and self._receiving is None:
                self._dead = True
                self._drain_outputs()
                self._let_go()
                self._owner.on_dead(self, self._reason(death))

    def _let_go(self) -> None:
        if self._leaves is not None:
            self._leaves.cancel()
        self._stop_listening()
        for output in self._outputs:
            output.stop()
        self._close()

    def _stop_listening(self) -> None:
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel)
            self._loop.remove_writer(self._channel)

    def _close(self) -> None:
        self._channel.close()
        self._stacks.close()
        for pipe in (self._keeper.process.stdout, self._keeper.process.stderr):
            assert pipe is not None, "both were asked for"
            pipe.close()

    def _reason(self, death: Death) -> str:
        # Without a status, the guardian took too long for the kill and was killed as well.
        if self._was_cut_off and self._broken is not None and death.status in (None, signal.SIGKILL):
            return self._broken
        return describe(death)

    def release(self) -> None:
        """Stop listening, so that `bury` can do the rest."""
        self._keeper.release()
        if self._leaves is not None:
            self._leaves.cancel()
        if not self._dead:
            self._dead = True
            self._stop_listening()
            for output in self._outputs:
                output.stop()

    def bury(self, patience_seconds: float) -> None:
        """Wait until it is dead and close what is open. Blocks: call it on a thread, after `release`.

        What is still alive after the patience is killed.
        """
        self._keeper.bury(patience_seconds)
        receiving = self._receiving  # the loop may set it to None between two looks
        if receiving is not None:
            receiving.wait()
        self._close()


def describe(death: Death) -> str:
    """Describe how a process died."""
    if death.status is None:
        return "its process was killed together with its guardian"
    number = death.status & 0x7F
    if number == signal.SIGKILL and death.oom_kills:
        return "its process was killed because its memory cgroup is out of memory"
    if number:
        return f"its process was killed by {_signal_name(number)}"
    code = death.status >> 8
    if code == EXIT_NO_MEMORY:
        return "its process ran out of memory"
    return f"its process ended with exit code {code} before the task did"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _events_in(frame: Frame) -> list[tuple[str, Any]]:
    try:
        return list(decode_plain(frame))
    except Exception:  # noqa: BLE001 - user code may write to a channel that it has found
        return [(DROPPED, 1)]
