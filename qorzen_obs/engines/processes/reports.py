"""Sends the reports of a running call out of a worker process: progress, log lines, spans.

An occasional report is sent at once. In a burst the rest waits for a tenth of a second and is sent together; a
thread lives for just as long. Only the last value of progress is kept; of other reports at most MAX_WAITING
wait, and the excess is counted. Sending waits a moment for a slow service and then gives up: a report may be
lost, but the work continues.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Final

from qorzen_obs.engines.processes import channel
from qorzen_obs.engines.processes.codec import encode_plain

PROGRESS: Final = "progress"  #: (percent, message)
LOG: Final = "log"  #: (level name, event, fields)
SPAN: Final = "span"  #: an encoded span
KEEP_TRACE: Final = "keep_trace"  #: None
DROPPED: Final = "dropped"  #: how many log lines and spans were lost

MAX_WAITING: Final = 500
_BURST: Final = 50.0
_PER_SECOND: Final = 200.0
_TOGETHER_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 0.1
_MAX_FRAME_BYTES: Final = 50_000  # what a writable socket takes without blocking


class Reports:
    """The reports of one worker. `add` and `progress` may be called from any thread and signal handler."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._budget = _BURST
        self._budget_at = time.monotonic()
        self._patient = True
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, Any]] = []
        self._progress: tuple[float, str] | None = None
        self._keep_trace = False
        self._dropped = 0
        self._flusher: threading.Thread | None = None
        self._muted = False

    def mute(self) -> None:
        """Send nothing more: this is a forked process, which has the lock in an unknown state."""
        self._reset()
        self._muted = True

    def progress(self, percent: float, message: str) -> None:
        """Report progress; of several within a tenth of a second, only the last may be sent."""
        self._progress = (percent, message)
        self._soon()

    def keep_trace(self) -> None:
        """Report that the call's trace must be kept; never dropped with the others."""
        self._keep_trace = True
        self._soon()

    def add(self, kind: str, data: Any) -> None:
        """Report something else."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
        else:
            self._waiting.append((kind, data))
            self._soon()

    def send(self, parts: list[memoryview]) -> None:
        """Send a whole frame of the worker's own, without reports in between."""
        with self._lock:
            channel.send_all(self._sock, parts)

    def flush(self) -> None:
        """Send all waiting reports, before the call's end is sent."""
        if not self._muted:
            self._flush()

    def _soon(self) -> None:
        if self._muted or self._flusher is not None:
            return
        now = time.monotonic()
        self._budget = min(_BURST, self._budget + (now - self._budget_at) * _PER_SECOND)
        self._budget_at = now
        if self._budget >= 1.0:
            self._budget -= 1.0
            self._flush()
        else:
            self._flusher = threading.Thread(target=self._flush_later, name="qorzen-reports", daemon=True)
            self._flusher.start()

    def _flush_later(self) -> None:
        time.sleep(_TOGETHER_SECONDS)
        self._flusher = None  # before reading: another thread sends what is added from now on
        with suppress(OSError, ValueError):  # the channel is gone, and with it the reader
            self._flush()

    def _flush(self) -> None:
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            return  # held by the code that this signal handler interrupted: the report goes with the next one
        try:
            events, self._waiting = self._waiting, []
            progress, self._progress = self._progress, None
            dropped, self._dropped = self._dropped, 0
            keep_trace, self._keep_trace = self._keep_trace, False
            if keep_trace:
                events.insert(0, (KEEP_TRACE, None))
            if progress is not None:
                events.append((PROGRESS, progress))
            if dropped:
                events.append((DROPPED, dropped))
            if events:
                self._send(events)
        finally:
            self._lock.release()

    def _send(self, events: list[tuple[str, Any]]) -> None:
        body = encode_plain(events)
        size = sum(map(len, body))
        if size > _MAX_FRAME_BYTES and len(events) > 1:
            half = len(events) // 2
            self._send(events[:half])
            self._send(events[half:])
        elif size > _MAX_FRAME_BYTES or not self._writable():
            self._dropped += len(events)
        else:
            channel.send_all(self._sock, channel.frame_parts(channel.EVENTS, body))

    def _writable(self) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        self._patient = bool(poll.poll(_PATIENCE_SECONDS * 1000 if self._patient else 0))
        return self._patient
