"""Writes log lines out of the process. Code that logs never waits for the pipe.

A daemon thread empties a bounded queue into the descriptor. If the reader is slow or gone, lines are lost and counted,
and the work continues.
"""

from __future__ import annotations

import atexit
import errno
import io
import os
import select
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, TextIO

from qorzen_obs import foreign
from qorzen_obs.telemetry.forks import call_in_child

MAX_LINES: Final = 10_000
MAX_CHARACTERS: Final = 8_000_000
FLUSH_SECONDS: Final = 1.0  #: how long `close` and the exit of the interpreter wait for queued lines

_MAX_PIPE_BYTES: Final = 65_536  # the capacity of a pipe
_MAX_WRITE_BYTES: Final = 1_048_576  # the thread has to wait for the interpreter after each write
_POLL_SECONDS: Final = 0.05
_LINGER_SECONDS: Final = 0.01
_IDLE_SECONDS: Final = 1.0
_GONE: Final = frozenset({errno.EPIPE, errno.EBADF, errno.EIO, errno.ECONNRESET, errno.ENXIO})


class LogSink:
    """Writes whole lines to a stream, in order: in UTF-8, like JSON, but to a terminal in the terminal's encoding.

    A stream without a descriptor, such as io.StringIO, is written at once. So is every stream after `close`, and in a
    forked child, which has no thread. When lines were lost, `say_lost(number)` makes a line that says so and takes
    their place. Without a stream, all lines are lost: sys.stderr is None in a process that was started with it closed.
    """

    def __init__(self, stream: TextIO | None, say_lost: Callable[[int], str]) -> None:
        self._stream: TextIO = stream or io.StringIO()
        self._missing = stream is None
        self._say_lost = say_lost
        self._descriptor = _descriptor_of(self._stream)
        self._encoding = "utf-8"
        if self.isatty():
            self._encoding = foreign.attribute(stream, "encoding") or "utf-8"
        self._waits = self._descriptor is not None and _waits_for_a_reader(self._descriptor)
        self.counted: Counter[str] = Counter()  #: lines written, by level, including lost ones
        self.lost = 0  #: lines that were not written, since the start
        self._reset()
        if self._descriptor is not None:
            call_in_child(self._become_child)

    def _reset(self) -> None:
        # Re-entrant: a signal handler or the garbage collector may write a line while its thread holds it.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._lines: list[str] = []
        self._characters = 0
        self._unwritten = memoryview(b"")  # the thread's
        self._unsaid = 0  # lost lines that no line has reported yet
        self._thread: threading.Thread | None = None
        self._idle = False  # the thread waits for lines
        self._direct = self._descriptor is None
        self._broken = self._missing
        self._closing = False

    def _become_child(self) -> None:
        self._reset()
        self._direct = True

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        try:
            return self._stream.isatty()
        except ValueError:  # it is closed
            return False

    def write(self, line: str, level: str | None = None) -> None:
        """Take a line without its line break; never waits for a stream that has a descriptor.

        If it has a level, it is counted under that.
        """
        with self._lock:  # the condition's own lock, without a detour through Python
            if level is not None:
                self.counted[level] += 1
            if self._direct:
                self._write_directly(line)
                return
            if self._broken or len(self._lines) >= MAX_LINES or self._characters >= MAX_CHARACTERS:
                self.lost += 1
                self._unsaid += 1
                return
            if self._unsaid:
                self._append(self._note())
            self._append(line)
            self._call_thread()

    def write_all(self, lines: Sequence[str], level: str) -> None:
        """Take lines of one level, each as `write` does."""
        characters = sum(map(len, lines))
        with self._lock:
            if (
                self._direct
                or self._broken
                or self._unsaid
                or len(self._lines) + len(lines) > MAX_LINES
                or self._characters + characters > MAX_CHARACTERS
            ):
                for line in lines:
                    self.write(line, level)
                return
            self.counted[level] += len(lines)
            self._lines += lines
            self._characters += characters
            self._call_thread()

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Write queued lines for at most this time; the rest is lost and counted. May be called again.

        Later lines are written directly if that does not block.
        """
        thread = self._thread
        if thread is None:
            self._direct = True
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
        thread.join(seconds)
        with self._changed:
            self.lost += len(self._lines)
            self._lines.clear()
            self._characters = 0
            self._lose_unwritten()  # a reader that does not read may block the thread in the middle of a line
            self._direct = True
            self._thread = None
        atexit.unregister(self.close)

    def _call_thread(self) -> None:
        if self._idle:
            self._idle = False  # one wake-up is enough
            self._changed.notify()
        elif self._thread is None:
            self._start()

    def _append(self, line: str) -> None:
        self._lines.append(line)
        self._characters += len(line)

    def _note(self) -> str:
        lost, self._unsaid = self._unsaid, 0
        return self._say_lost(lost)

    def _start(self) -> None:
        self._stream.flush()  # keep the order with earlier prints
        self._thread = threading.Thread(target=self._run, name="qorzen-log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread available, or the interpreter exits
            self._thread, self._direct = None, True
            while self._lines:
                self._write_directly(self._lines.pop(0))
            return
        atexit.register(self.close)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._unsaid and not self._closing:
                    self._idle = True
                    # With a timeout: a line that the garbage collector writes in this thread, right here, wakes nobody.
                    self._changed.wait(_IDLE_SECONDS)
                    self._idle = False
                    if not self._closing:  # so that the next lines do not each wake it again
                        self._changed.wait(_LINGER_SECONDS)
                lines = self._take()
                if not lines and self._unsaid and not self._broken:
                    lines.append(self._note())
                if not lines:
                    if self._closing:
                        return
                    self._unsaid = 0  # the stream is gone, and nobody is left to notify
                    continue
            self._unwritten = memoryview(self._encoded(lines))
            self._put()
            with self._lock:
                self._lose_unwritten()

    def _take(self) -> list[str]:
        lines, self._lines = self._lines, []  # code that writes a line meanwhile waits only for this
        self._characters = 0
        return lines

    def _encoded(self, lines: list[str]) -> bytes:
        return ("\n".join(lines) + "\n").encode(self._encoding, "backslashreplace")

    def _put(self) -> None:
        """Write the encoded lines until the rest cannot be written, because the stream is gone or the time is over."""
        while self._unwritten:
            if self._broken or self._stream.closed:
                self._broken = True
                return
            try:
                if self._waits and not self._writable(_POLL_SECONDS):
                    if self._closing and self._direct:  # nobody waits any more
                        return
                    continue
                most = _MAX_PIPE_BYTES if self._waits else _MAX_WRITE_BYTES
                written = os.write(self._number(), self._unwritten[:most])
            except BlockingIOError:  # reported as writable, but is not: somebody else was faster
                time.sleep(_POLL_SECONDS)
            except (OSError, ValueError) as error:
                self._broken = not isinstance(error, OSError) or error.errno in _GONE
                return  # a full disk loses these lines; the next ones are tried
            else:
                self._unwritten = self._unwritten[written:]

    def _lose_unwritten(self) -> None:
        self.lost += bytes(self._unwritten).count(b"\n")
        self._unwritten = memoryview(b"")

    def _number(self) -> int:
        assert self._descriptor is not None, "only streams with a descriptor have a thread"
        return self._descriptor

    def _writable(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._number(), select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def _write_directly(self, line: str) -> None:
        try:
            if not self._broken and not self._stream.closed and self._put_at_once(line):
                return
        except (OSError, ValueError):
            pass
        self.lost += 1

    def _put_at_once(self, line: str) -> bool:
        if self._descriptor is not None:
            return self._writable(0) and os.write(self._descriptor, self._encoded([line])) > 0
        buffer = foreign.attribute(self._stream, "buffer")
        if buffer is None:
            self._stream.write(line + "\n")
        else:  # its encoding may lack characters that JSON has
            self._stream.flush()
            buffer.write(self._encoded([line]))
        self._stream.flush()
        return True


def _waits_for_a_reader(descriptor: int) -> bool:
    """Return whether a write may have to wait: to a pipe, a socket or a terminal, not to a file or /dev/null."""
    mode = os.fstat(descriptor).st_mode
    return not stat.S_ISREG(mode) and not (stat.S_ISCHR(mode) and not os.isatty(descriptor))


def _descriptor_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # io.UnsupportedOperation is both of the last two
        return None
