"""Synchronous callables on daemon threads.

The threads are ours and not a ThreadPoolExecutor's, whose exit waits for a stuck call. The scheduler enforces the
limit; the pool has as many threads as attempts ran at once, plus those that abandoned calls still occupy. While the
interpreter exits and allows no new ones, the existing threads run what is left.
Waking a thread costs more than a short call, so few are woken. The first one, before each call, wakes another if more
calls wait, and that one takes them if the call lasts long enough. Results come back in batches: one wake-up of the
loop delivers everything that ended until it runs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import Final

from qorzen_obs.engines.base import Ended, exit_refuses, without_engine
from qorzen_obs.engines.traits import EngineTraits
from qorzen_obs.ledger import Meter
from qorzen_obs.record import Attempt
from qorzen_obs.stacks import RUNNING, STARTING, LiveStack, is_of_engines, places_of, shown, thread_frame

#: Seconds after which an idle thread checks whether the loop has taken what it was woken for.
_LOOK_SECONDS: Final = 0.5


class _Job:
    """One call for a thread."""

    __slots__ = ("abandoned", "attempt", "ended", "error", "thread_id", "value")

    def __init__(self, attempt: Attempt, ended: Ended) -> None:
        self.attempt = attempt
        self.ended = ended
        self.abandoned = False
        self.value: object = None
        self.error: BaseException | None = None
        self.thread_id: int | None = None  #: the thread that it runs on, while it runs

    def run(self) -> None:
        meter = self.attempt.meter
        if meter is None:
            self._call()
        else:
            with _ThreadUse(meter):
                self._call()

    def _call(self) -> None:
        attempt = self.attempt
        record = attempt.record
        self.thread_id = threading.get_ident()
        try:
            self.value = attempt.context.run(record.func, *record.args, **attempt.kwargs)  # type: ignore[arg-type]  # func is set while the attempt runs
        except BaseException as error:  # noqa: BLE001 - a thread's top: a task's exception is data
            self.error = without_engine(error)
        self.thread_id = None


class _ThreadUse:
    """Counts the processor time that this thread uses in the `with` block."""

    __slots__ = ("_began", "_ended", "_lock", "_meter", "_thread")

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.get_ident()
        self._began = time.thread_time()

    def __enter__(self) -> None:
        if hasattr(time, "pthread_getcpuclockid"):
            self._meter.probe = self._so_far

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
            self._meter.use_seconds = time.thread_time() - self._began
        self._meter.probe = None

    def _so_far(self) -> float:
        """Return the seconds up to now; from any thread.

        Never request the clock of a thread that has ended: pthread_getcpuclockid reads freed memory. While the lock is
        held and the block has not ended, the thread is alive, since it needs the lock to end the block.
        """
        with self._lock:
            if not self._ended:
                return time.clock_gettime(time.pthread_getcpuclockid(self._thread)) - self._began
        return self._meter.use_seconds


class ThreadEngine:
    """A pool of daemon threads for one kind of work. Cancelling is cooperative: the call can check a token."""

    def __init__(self, loop: asyncio.AbstractEventLoop, traits: EngineTraits, slots: int) -> None:
        self.traits = traits
        self.slots: int | None = slots
        self._loop = loop
        self._jobs: deque[_Job] = deque()
        self._calls: SimpleQueue[bool] = SimpleQueue()  # True: look at the jobs; False: end
        self._called = False  # a signal is under way, and the thread that gets it will see all present jobs
        self._done: deque[_Job] = deque()
        self._woken = False
        self._delivering = False  # jobs that are added meanwhile are signalled together, afterwards
        self._threads = 0  # threads that will take another job
        self._busy = 0
        self._started = 0

    def start(self, attempt: Attempt, ended: Ended) -> None:
        job = _Job(attempt, ended)
        if self._busy >= self._threads:
            self._add_thread()
        # Nothing called from here on can be interrupted.
        self._busy += 1
        attempt.driver = job
        self._jobs.append(job)
        if not (self._delivering or self._called):  # as `_call`
            self._called = True
            self._calls.put(True)

    def keep_thread(self) -> None:
        if not self._started:
            self._start_thread()  # not counted in `_threads`, which is the loop's: one more than needed does no harm

    def _add_thread(self) -> None:
        try:
            self._start_thread()
        except RuntimeError as error:
            if not (self._started and exit_refuses(error)):
                raise
        else:
            self._threads += 1

    def _start_thread(self) -> None:
        name = f"qorzen-{self.traits.kind}-{self._started + 1}"
        threading.Thread(target=self._work, name=name, daemon=True).start()
        self._started += 1

    def _call(self) -> None:
        """Make a thread look at the jobs; from any thread, after adding one."""
        if not self._called:
            self._called = True
            self._calls.put(True)

    def interrupt(self, attempt: Attempt) -> None:
        pass  # the token is set; the call may check it or not

    def abandon(self, attempt: Attempt) -> None:
        job: _Job = attempt.driver
        if not job.abandoned:
            job.abandoned = True
            self._busy -= 1
            self._threads -= 1

    def close(self) -> None:
        self._calls.put(False)

    def stack(self, attempt: Attempt) -> LiveStack | None:
        """Return where the call is."""
        job: _Job | None = attempt.driver
        if job is None:
            return None
        thread_id = job.thread_id
        if thread_id is None:
            return None if attempt.ended or job in self._done else LiveStack(STARTING)
        places = places_of(thread_frame(thread_id), is_of_engines)
        if job.thread_id is None:  # it has ended, and these may be another call's
            return None
        return LiveStack(RUNNING, shown(places))

    def _work(self) -> None:
        while True:
            try:
                self._serve()
            except BaseException:  # noqa: BLE001 - thrown into this thread from outside, too late for its call
                self._called = False
                if self._jobs:
                    self._call()
            else:
                return

    def _serve(self) -> None:
        while self._next_call():
            self._called = False  # before looking: code that adds a job from now on signals again
            if self._jobs and self._done:  # another thread must take care of what this one has waited for
                self._call()
            if not self._take_jobs():
                return
        self._calls.put(False)  # for the next thread

    def _next_call(self) -> bool:
        """Wait for one. Meanwhile wake the loop again when it has not taken what has ended.

        Its callback may have been interrupted before its first line, and nobody else would learn of that.
        """
        seconds = _LOOK_SECONDS
        while self._done:
            try:
                return self._calls.get(timeout=seconds)
            except Empty:
                if self._done and not self._wake():
                    return False
            seconds *= 2  # a loop that does not turn must not collect callbacks without end
        return self._calls.get()

    def _wake(self) -> bool:
        """Wake the loop to take what has ended; return False if it is closed and nobody is left to notify."""
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except BaseException:  # noqa: BLE001 - such as MemoryError: `_next_call` tries again
            self._woken = False
            return not self._loop.is_closed()
        return True

    def _take_jobs(self) -> bool:
        """Run waiting jobs; return whether this thread should stay."""
        while self._jobs:
            try:
                job = self._jobs.popleft()
            except IndexError:  # another thread was quicker
                return True
            try:
                if self._jobs:
                    self._call()
                job.run()
            except BaseException as error:  # noqa: BLE001 - as in _work, or the time could not be measured
                job.error = without_engine(error)
            self._done.append(job)
            leave = job.abandoned
            del job  # or the thread would hold the last result while it is idle
            if not self._woken and not self._wake():
                return False
            if leave:  # another thread has taken this one's place
                return False
        return True

    def _deliver(self) -> None:
        self._woken = False  # before reading: what ends from now on wakes the loop again
        self._delivering = True
        try:
            while self._done:
                job = self._done.popleft()
                if not job.abandoned:
                    self._busy -= 1
                value, error, job.value, job.error = job.value, job.error, None, None
                job.ended(job.attempt, value, error)
                # The exception's frames lead to the job, which would keep the exception alive.
                del value, error, job
        finally:
            self._delivering = False
            if self._jobs:
                self._call()
            if self._done:  # an end could not be reported: the others must not be lost with it
                self._loop.call_soon(self._deliver)
