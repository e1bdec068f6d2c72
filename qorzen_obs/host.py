"""A service as a process of its own: what `serve` and `demo`, and nobody else, do to the process.

Signals, logging, faulthandler and the switch interval belong to the program. An embedded task manager leaves them
alone.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self, TextIO

import structlog

from qorzen_obs.app import Service
from qorzen_obs.settings import TaskSettings, TelemetrySettings
from qorzen_obs.tasks import TaskStatus
from qorzen_obs.telemetry.gil_watch import GilWatch
from qorzen_obs.telemetry.log_records import RecordsAsLines
from qorzen_obs.telemetry.logs import LEVELS, LogStream
from qorzen_obs.telemetry.redaction import Redactor

SWITCH_SECONDS: Final = 0.0005
"""How long a thread keeps the interpreter while another waits for it; Python's own 5 ms would be seen as loop lag."""
STOP_SECONDS: Final = 5.0
"""What a stop may take past its grace before the watchdog ends the process."""

_LONGEST_WATCH_SECONDS: Final = 1e9  # faulthandler's limit is somewhat higher


def set_up_process(telemetry: TelemetrySettings, log_stream: TextIO) -> LogStream:
    """Set what a serving process needs: logging, tracebacks of crashes, a short switch interval.

    Lines of `logging` and of structlog go the way of our own, unless the program has configured them itself. Returns
    the log's stream, for the service; the exit of the interpreter flushes it.

    Raises:
        SettingsError: `telemetry.redact_keys` or `telemetry.redact_patterns` cannot be followed.
    """
    logs = LogStream(log_stream, Redactor(telemetry.redact_keys, telemetry.redact_patterns))
    sys.setswitchinterval(SWITCH_SECONDS)
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)
    if not structlog.is_configured():
        logs.configure_structlog(telemetry.log_level)
    handler = RecordsAsLines(logs.logger("logging", telemetry.log_level))
    logging.basicConfig(level=LEVELS[telemetry.log_level], handlers=[handler])
    return logs


class StopSignals:
    """SIGINT and SIGTERM as events: the first asks to stop, the second to stop at once.

    A context manager for the main thread, on a running loop. Each signal also sets a watchdog in C, which writes
    the stacks of all threads and ends the process with status 1 when it has not stopped by then. So these are plain
    signal handlers: the loop's own would wait as long as a task holds the loop.
    """

    def __init__(self, settings: TaskSettings, gil_watch: GilWatch) -> None:
        self._gil_watch = gil_watch  # whose handlers belong to the main thread, as these do
        self._end = _EndTimer()
        self.asked = asyncio.Event()
        self.asked_again = asyncio.Event()
        self._patience = [settings.shutdown_grace_seconds, settings.cancel_grace_seconds]
        self._events = [self.asked, self.asked_again]
        self._loop = asyncio.get_running_loop()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._gil_watch.close()
        self._end.call_off()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._events:
            self._watch(self._patience.pop(0) + STOP_SECONDS)
            self._loop.call_soon_threadsafe(self._events.pop(0).set)

    def _watch(self, seconds: float) -> None:
        if sys.__stderr__ is not None:
            self._end.come_in(min(seconds, _LONGEST_WATCH_SECONDS), sys.__stderr__)


class _EndTimer:
    """faulthandler's timer, a thread in C: it writes all stacks and ends the process with status 1.

    It is called off for the moment of a fork: a child that inherits it armed, without its thread, hangs at its exit.
    """

    def __init__(self) -> None:
        self._end: tuple[float, TextIO] | None = None  # when, monotonic, and where to
        self._forking = False
        self._lock = threading.RLock()  # reentrant, since a signal's handler may interrupt another, or a fork
        if hasattr(os, "register_at_fork"):
            # Weak references, for what is registered stays for good.
            before = weakref.WeakMethod(self._before_fork)
            in_parent = weakref.WeakMethod(self._after_fork_in_parent)
            in_child = weakref.WeakMethod(self._after_fork_in_child)
            os.register_at_fork(
                before=lambda: (method := before()) and method(),
                after_in_parent=lambda: (method := in_parent()) and method(),
                after_in_child=lambda: (method := in_child()) and method(),
            )

    def come_in(self, seconds: float, file: TextIO) -> None:
        """End the process in `seconds`; another call moves the end. From any thread or signal handler."""
        with self._lock:
            self._end = (time.monotonic() + seconds, file)
            if not self._forking:
                self._set()

    def call_off(self) -> None:
        """Let the process live."""
        with self._lock:
            if self._end is not None:
                faulthandler.cancel_dump_traceback_later()
            self._end = None

    def _set(self) -> None:
        if self._end is not None:
            at, file = self._end
            faulthandler.dump_traceback_later(max(at - time.monotonic(), 0.001), exit=True, file=file)

    def _before_fork(self) -> None:
        self._lock.acquire()
        self._forking = True
        if self._end is not None:
            faulthandler.cancel_dump_traceback_later()

    def _after_fork_in_parent(self) -> None:
        if self._forking:  # or it was made while another thread was about to fork
            self._forking = False
            self._set()
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        self._end, self._forking, self._lock = None, False, threading.RLock()


@asynccontextmanager
async def hosted(service: Service, signals: StopSignals) -> AsyncIterator[None]:
    """Start the service, and at the end of the block stop it in order, hurried by a second signal.

    When the block is left by an exception, what still runs is cancelled at once.
    """
    await service.start()
    grace: float | None = 0.0
    try:
        yield
        grace = None
    finally:
        await _stop(service, signals, grace)


async def _stop(service: Service, signals: StopSignals, grace_seconds: float | None) -> None:
    stopping = asyncio.create_task(service.stop(grace_seconds=grace_seconds))
    hurry = asyncio.create_task(signals.asked_again.wait())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await service.tasks.shutdown(grace_seconds=0)
    hurry.cancel()
    await stopping


def stop_message(service: Service) -> str:
    """Return what whoever stops the service should know: what is left, for how long, and how to hurry."""
    counts = service.tasks.counts
    unfinished = counts.get(TaskStatus.PENDING) + counts.get(TaskStatus.RUNNING)
    if not unfinished:
        return "Stopping"
    tasks = "1 task has" if unfinished == 1 else f"{unfinished} tasks have"
    grace = service.settings.tasks.shutdown_grace_seconds
    return f"Stopping: {tasks} {grace:g} s to end; a second signal cancels what is left"
