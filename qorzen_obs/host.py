"""A service as a process of its own: the changes to the process that only `serve` and `demo` make.

Signals, logging, faulthandler and the switch interval belong to the program. An embedded task manager does not touch
them.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Any, Final, Self, TextIO

import structlog

from qorzen_obs.app import Service
from qorzen_obs.settings import TaskSettings, TelemetrySettings
from qorzen_obs.stacks import all_stacks
from qorzen_obs.tasks import TaskStatus
from qorzen_obs.telemetry.gil_watch import GilWatch
from qorzen_obs.telemetry.log_records import RecordsAsLines
from qorzen_obs.telemetry.logs import LEVELS, LogStream
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.setup import set_up_log_export

#: How long a thread keeps the interpreter while another waits for it. Python's own 5 ms would show as loop lag.
SWITCH_SECONDS: Final = 0.0005
#: seconds that a stop may take beyond its grace before the watchdog ends the process
STOP_SECONDS: Final = 5.0

_WRITING_SECONDS: Final = 0.5  # seconds of these for writing the stacks
_LOOK_SECONDS: Final = 0.05  # seconds in which a thread that has a processor visibly uses it
_USUAL_REDACTOR: Final = Redactor()
_LONGEST_WATCH_SECONDS: Final = 1e6  # 12 days; threads and timers have their own limits


def set_up_process(telemetry: TelemetrySettings, log_stream: TextIO) -> LogStream:
    """Configure a serving process: logging, tracebacks of crashes, a short switch interval.

    Lines of `logging` and of structlog go to the same stream as our own, unless the program has configured them
    itself. Returns that stream, for the service. It is flushed when the interpreter exits.

    Raises:
        SettingsError: `telemetry.redact_keys`, `telemetry.redact_patterns` or an OTEL_* variable of the log export
            is unusable.
    """
    redactor = Redactor(telemetry.redact_keys, telemetry.redact_patterns)
    logs = LogStream(log_stream, redactor, set_up_log_export(os.environ))
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

    A context manager for the main thread, on a running loop. Each signal calls `when_asked()` in its handler. It also
    arms a watchdog: if the process is still alive when the time is up, the watchdog writes the stacks of all threads
    and asyncio tasks and ends the process with status 1. So these are plain signal handlers: the loop's own would wait
    as long as a task holds the loop.
    """

    def __init__(
        self,
        settings: TaskSettings,
        gil_watch: GilWatch,
        when_asked: Callable[[], object],
        redact: Callable[[str], str] = _USUAL_REDACTOR.text,
    ) -> None:
        self._gil_watch = gil_watch  # its handlers belong to the main thread, like these
        self.asked = asyncio.Event()
        self.asked_again = asyncio.Event()
        self._when_asked = when_asked
        self._patience = [settings.shutdown_grace_seconds, settings.cancel_grace_seconds]
        self._events = [self.asked, self.asked_again]
        self._loop = asyncio.get_running_loop()
        self._end = _EndTimer(self._loop, redact)
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._end.start()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._gil_watch.close()
        self._end.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._events:
            self._end.come_in(self._patience.pop(0) + STOP_SECONDS)
            self._loop.call_soon_threadsafe(self._events.pop(0).set)
            self._when_asked()


class _EndTimer:
    """Ends the process at a set time: a thread writes all stacks; if that hangs, the kernel kills the process.

    The thread waits from the start, since a signal handler must not start one. It gets the time through a queue that a
    handler may fill. faulthandler's own timer reads frames while they are being created, which may crash
    (docs/decisions/0009). A forked child has neither the thread nor the kernel's timers.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        redact: Callable[[str], str] = _USUAL_REDACTOR.text,
    ) -> None:
        self._loop = loop
        self._redact = redact
        self._clock = _MainThreadClock()
        self._at = math.inf  # by that clock
        self._ends: SimpleQueue[float] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="qorzen-end", daemon=True)
        self._has_alarm = False
        self._only_exits = False
        self._lock = threading.Lock()  # the alarm's lock, for the thread and `close`

    def start(self) -> None:
        """Wait for the end time, then end the process."""
        self._thread.start()

    def come_in(self, seconds: float) -> None:
        """End the process in `seconds`; another call moves the end. From a signal handler on the main thread."""
        seconds = min(seconds, _LONGEST_WATCH_SECONDS)
        self._at = self._clock.seconds() + seconds
        self._has_alarm = self._has_alarm or _may_use_timer("SIGALRM")
        self._set_alarm(seconds)
        self._ends.put(self._at - _WRITING_SECONDS)

    def close(self) -> None:
        """Disarm the watchdog. If it was armed, the work is finished and the process must exit soon.

        Threads and exit handlers of user code can block the exit; the watchdog's thread then ends the process. The
        kernel's alarm cannot distinguish such a wait from a busy machine, which must not turn a finished stop into a
        failure. So a timer of processor time replaces it, for code that never lets another thread run Python.
        """
        if self._at == math.inf:
            self._ends.put(math.inf)
            self._thread.join(_WRITING_SECONDS)
            return
        with self._lock:
            self._only_exits = True
            self._set_alarm(0)
        if _may_use_timer("SIGPROF"):
            every_thread = os.cpu_count() or 1  # the timer counts the processor time of all of them together
            signal.setitimer(signal.ITIMER_PROF, STOP_SECONDS * every_thread)
        now = self._clock.seconds()
        self._ends.put(now + min(STOP_SECONDS, max(_WRITING_SECONDS, self._at - now)) - _WRITING_SECONDS)

    def _run(self) -> None:
        end = self._ends.get()
        while end != math.inf:
            left = end - self._clock.seconds()
            if left <= 0:
                if not self._clock.stands_still():
                    self._end_process()
                left = _LOOK_SECONDS
            self._push_alarm_back(left + _WRITING_SECONDS)
            with suppress(Empty):
                end = self._ends.get(timeout=left)

    def _push_alarm_back(self, seconds: float) -> None:
        """Postpone the alarm by the time for which the main thread had to wait for a processor."""
        with self._lock:
            if not self._only_exits:
                self._set_alarm(seconds)

    def _set_alarm(self, seconds: float) -> None:
        """Make the kernel end the process in `seconds`; 0 means never."""
        if self._has_alarm:
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def _end_process(self) -> None:
        try:
            self._set_alarm(_WRITING_SECONDS)
            self._write_stacks()
        finally:
            os._exit(1)

    def _write_stacks(self) -> None:
        if sys.__stderr__ is not None:
            text = "Timeout: it did not stop in time, and is ended. The stacks of all threads and asyncio tasks:\n\n"
            text += self._redact(all_stacks(self._loop))
            os.write(sys.__stderr__.fileno(), text.encode(errors="backslashreplace"))


class _MainThreadClock:
    """Counts the seconds in which the main thread had a processor or did not need one.

    On a busy machine it waits for one most of the time, which does not mean that it hangs. Only Linux reports how long;
    elsewhere all seconds count.
    """

    def __init__(self) -> None:
        self._files: tuple[int, int] | None = None
        thread = f"/proc/self/task/{threading.main_thread().native_id}"
        with suppress(OSError):
            self._files = os.open(f"{thread}/schedstat", os.O_RDONLY), os.open(f"{thread}/stat", os.O_RDONLY)

    def seconds(self) -> float:
        """Return the seconds since some moment. A present wait is subtracted only once it is over."""
        _used, waited, _state = self._read()
        return time.monotonic() - waited

    def stands_still(self) -> bool:
        """Whether the thread waits for a processor right now; the check takes a moment."""
        before, _waited, _state = self._read()
        time.sleep(_LOOK_SECONDS)
        used, _waited, state = self._read()
        return state == b"R" and used == before

    def _read(self) -> tuple[float, float, bytes]:
        """Return the seconds on a processor, the seconds of waiting for one, and the thread's state."""
        if self._files is None:
            return 0.0, 0.0, b""
        used, waited, _times = os.pread(self._files[0], 100, 0).split()
        # The name before the state may contain anything, even brackets.
        state = os.pread(self._files[1], 500, 0).rpartition(b") ")[2][:1]
        return int(used) / 1e9, int(waited) / 1e9, state


def _may_use_timer(name: str) -> bool:
    """Whether a timer's signal of this name would end the process; a program may use it otherwise."""
    number = getattr(signal, name, None)
    return number is not None and signal.getsignal(number) is signal.SIG_DFL


@asynccontextmanager
async def hosted(service: Service, signals: StopSignals) -> AsyncIterator[None]:
    """Start the service, and stop it in order at the end of the block; a second signal hurries the stop.

    If an exception leaves the block, running tasks are cancelled at once.
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
    """Return a text for the person who stops the service: what still runs, for how long, and how to hurry."""
    counts = service.tasks.looks.counts
    unfinished = counts.get(TaskStatus.PENDING) + counts.get(TaskStatus.RUNNING)
    if not unfinished:
        return "Stopping"
    tasks = "1 task has" if unfinished == 1 else f"{unfinished} tasks have"
    grace = service.settings.tasks.shutdown_grace_seconds
    return f"Stopping: {tasks} {grace:g} s to end; a second signal cancels what is left"
