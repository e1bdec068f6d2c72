"""The engine of worker processes: which attempt goes to which, and what a death means for it.

A call whose worker died before it said that it started is given to another one, once; afterwards the task
is lost and never run again, since it may have had effects. One worker more than is busy is kept warm.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.callables import traits_of
from qorzen_obs.clock import Clock, SystemClock
from qorzen_obs.engines.base import Ended
from qorzen_obs.engines.processes.codec import LARGE_BYTES, TooLargeError
from qorzen_obs.engines.processes.job import Job, pack
from qorzen_obs.engines.processes.quarantine import DEATHS, Quarantine
from qorzen_obs.engines.processes.reports import KEEP_TRACE, PROGRESS
from qorzen_obs.engines.processes.supervisor import WorkerProcess
from qorzen_obs.engines.processes.system import missing_for_guardians, missing_for_workers
from qorzen_obs.engines.traits import PROCESS
from qorzen_obs.errors import (
    StackUnavailableError,
    TaskCancelled,
    TaskLostError,
    TaskQuarantinedError,
    TaskTransferError,
)
from qorzen_obs.record import Attempt, FarSide
from qorzen_obs.stacks import RUNNING, STARTING, LiveStack, users_frames
from qorzen_obs.tasks import CancelGuarantee

_MAX_UNSTARTED_DEATHS: Final = 2
_BURY_SECONDS: Final = 3.0


class ProcessEngine:
    """Runs callables in worker processes, each with a guardian. What ignores a cancel is killed.

    Where the system cannot have guardians, such a worker is killed too, but not every process that it has started. So
    the engine does not promise a kill there.

    Callables, arguments and results must pickle. What is larger than a megabyte is encoded and decoded in
    threads.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        slots: int,
        *,
        tasks_per_worker: int = 1_000,
        quarantine_seconds: float = 600.0,
        clock: Clock | None = None,
    ) -> None:
        self.slots: int | None = slots
        # Of the newest attempt: it also hears what a worker says that has no call.
        self._far_side: FarSide | None = None
        self._loop = loop
        self._clock = clock or SystemClock()
        self._tasks_per_worker = tasks_per_worker
        self._quarantine = Quarantine(quarantine_seconds)
        self._unavailable = missing_for_workers()
        self._degraded = self._unavailable or missing_for_guardians()
        self.traits = PROCESS
        if self._degraded is not None:
            self.traits = replace(PROCESS, cancel_guarantee=CancelGuarantee.COOPERATIVE)
        self._workers: dict[WorkerProcess, Job | None] = {}  # all that are not dead
        self._starting: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []
        self._waiting: deque[Job] = deque()  # for a worker
        self._closed = False
        self._buried = asyncio.Event()

    # ------------------------------------------------------------------ what the manager asks

    def start(self, attempt: Attempt, ended: Ended) -> None:
        if self._closed or self._unavailable:
            raise RuntimeError(self._unavailable or "the process engine is closed")
        attempt.driver = job = Job(attempt, ended)
        name = attempt.record.name
        seconds = self._quarantine.seconds_left(name, self._clock.monotonic())
        if seconds > 0:
            self._loop.call_soon(job.end, None, TaskQuarantinedError(name, DEATHS, seconds))
            return
        self._far_side = far_side = attempt.owner.far_side
        surroundings = far_side.surroundings(attempt) if far_side else None
        try:
            job.encoded = pack(attempt, surroundings, _is_async(attempt), limit=LARGE_BYTES)
        except TooLargeError:
            self._pack_in_thread(job, surroundings)
            return
        except TaskTransferError as error:
            self._loop.call_soon(job.end, None, error)
            return
        self._place(job)

    def interrupt(self, attempt: Attempt) -> None:
        job: Job = attempt.driver
        if job.worker is None:  # no worker has seen it, and none will
            if job in self._waiting:
                self._waiting.remove(job)
            job.end(None, TaskCancelled(attempt.task_id, attempt.reason))
            return
        job.worker.cancel(attempt.reason or "")
        if not job.terminated:
            job.terminated = True
            job.worker.terminate()

    def kill(self, attempt: Attempt) -> None:
        job: Job = attempt.driver
        if job.worker is not None and not job.killed:
            job.killed = True
            job.worker.kill()

    def abandon(self, attempt: Attempt) -> None:
        pass  # its worker, which could not be killed, is counted by nobody

    def stack(self, attempt: Attempt) -> LiveStack | None:
        """Return where the worker's main thread is. Blocks, a second at most: for a thread that is not the loop's."""
        job: Job | None = attempt.driver
        if job is None:
            return None
        worker = job.worker
        if worker is None or not job.started:
            return None if job.over else LiveStack(STARTING)
        frames = worker.stack()
        if job.over:
            return None
        if frames is None:
            raise StackUnavailableError(attempt.task_id, "its worker process does not answer")
        return LiveStack(RUNNING, users_frames(frames))

    def close(self) -> None:
        """Kill all workers. Their remains are cleared away by a thread, for which `wait_closed` waits."""
        if self._closed:
            return
        self._closed = True
        workers, jobs = list(self._workers), [job for job in self._workers.values() if job is not None]
        self._workers.clear()
        for worker in workers:
            worker.kill()
            worker.release()
        for job in [*jobs, *self._waiting]:
            self._loop.call_soon(
                job.end, None, TaskLostError(job.attempt.name, "the process engine was closed")
            )
        if not workers:
            self._buried.set()
            return

        def bury() -> None:
            for worker in workers:
                worker.bury()
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._buried.set)

        threading.Thread(target=bury, name="qorzen-process-burial", daemon=True).start()

    async def wait_closed(self) -> None:
        """Wait, for 3 s at most, until nothing is left of the workers after `close`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_BURY_SECONDS):
                await self._buried.wait()

    def status(self) -> Mapping[str, Any]:
        """Return what is worth knowing now, as JSON shows it; from any thread."""
        now = self._clock.monotonic()
        return {
            "workers": len(self._workers),
            "idle": len(self._idle),
            "degraded": self._degraded,
            "quarantined": {name: round(left, 1) for name, left in self._quarantine.names(now).items()},
        }

    # ------------------------------------------------------------------ from attempt to worker

    def _pack_in_thread(self, job: Job, surroundings: Any) -> None:
        def run() -> None:
            error = None
            try:
                job.encoded = pack(job.attempt, surroundings, _is_async(job.attempt))
            except BaseException as caught:  # noqa: BLE001  # a thread's top
                error = caught
            with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                self._loop.call_soon_threadsafe(self._packed, job, error)

        threading.Thread(target=run, name="qorzen-pickle", daemon=True).start()

    def _packed(self, job: Job, error: BaseException | None) -> None:
        if error is not None:
            job.end(None, error)
        elif not job.over:
            self._place(job)

    def _place(self, job: Job) -> None:
        if self._idle:
            self._give(self._idle.pop(), job)
        else:
            self._waiting.append(job)
        self._keep_warm()

    def _give(self, worker: WorkerProcess, job: Job) -> None:
        assert job.encoded is not None, "it is kept until the call has started"
        self._workers[worker] = job
        job.worker = worker
        far_side = job.attempt.owner.far_side
        entry = far_side.entry if far_side else ""
        path = [os.path.abspath(place) for place in sys.path]  # noqa: PTH100  # '' is the present folder
        worker.call(job.encoded, (path, entry))

    def _keep_warm(self) -> None:
        """Have a worker on its way for each job that waits, and one to spare."""
        while not self._closed and len(self._starting) < len(self._waiting) + (not self._idle):
            spare = len(self._starting) >= len(self._waiting)
            if spare and len(self._workers) > (self.slots or 0):
                return
            try:
                worker = WorkerProcess(self._loop, self, guarded=self._degraded is None)
            except OSError as error:
                if not spare:
                    reason = f"no worker process can be started: {error}"
                    job = self._waiting.popleft()
                    self._loop.call_soon(job.end, None, TaskLostError(job.attempt.name, reason))
                    continue
                return
            self._workers[worker] = None
            self._starting.add(worker)

    # ------------------------------------------------------------------ what a worker says

    def on_ready(self, worker: WorkerProcess) -> None:
        self._starting.discard(worker)
        self._free(worker)

    def _free(self, worker: WorkerProcess) -> None:
        self._workers[worker] = None
        if worker.killed:
            return
        if worker.calls >= self._tasks_per_worker:
            worker.kill()
            self._keep_warm()
        elif self._waiting:
            self._give(worker, self._waiting.popleft())
        else:
            self._idle.append(worker)

    def on_started(self, worker: WorkerProcess) -> None:
        job = self._workers.get(worker)
        if job is not None:
            job.started = True
            job.encoded = None
            meter = job.attempt.meter
            if meter is not None:
                meter.call_since = meter.clock()

    def on_events(self, worker: WorkerProcess, events: list[tuple[str, Any]]) -> None:
        job = self._workers.get(worker)
        attempt = None if job is None else job.attempt
        far_side = self._far_side if attempt is None else attempt.owner.far_side
        for kind, data in events:
            if kind == PROGRESS:
                if attempt is not None:
                    attempt.progress(*data)
            elif kind == KEEP_TRACE:
                if attempt is not None:
                    attempt.keep_trace()
            elif far_side is not None:
                far_side.on_event(attempt, kind, data)

    def on_usage(self, worker: WorkerProcess, seconds: float, cpu_seconds: float) -> None:
        job = self._workers.get(worker)
        meter = None if job is None else job.attempt.meter
        if meter is not None:
            meter.call_seconds, meter.use_seconds = seconds, cpu_seconds

    def on_end(self, worker: WorkerProcess, value: object, error: BaseException | None) -> None:
        job = self._workers.get(worker)
        if foreign.is_a(error, MemoryError):  # what is left of its memory is anybody's guess
            worker.kill()
        if job is not None:
            self._free(worker)
            job.end(value, error)

    def on_dead(self, worker: WorkerProcess, reason: str) -> None:
        job = self._workers.pop(worker, None)
        if worker in self._starting:
            self._starting.remove(worker)
            self._start_failed(reason)
        elif worker in self._idle:
            self._idle.remove(worker)
        if job is not None:
            self._died_under(job, reason)
        if self._waiting:
            self._keep_warm()

    def _start_failed(self, reason: str) -> None:
        """Hold it against the first job that waits, or workers that cannot start would be tried for ever."""
        if self._waiting:
            job = self._waiting.popleft()
            self._again(job, f"no worker process could be started: {reason}")

    def _died_under(self, job: Job, reason: str) -> None:
        attempt = job.attempt
        if job.killed or (job.terminated and "SIGTERM" in reason):
            job.end(None, TaskCancelled(attempt.task_id, attempt.reason))
            return
        self._quarantine.record(attempt.name, self._clock.monotonic())
        if job.started:
            job.end(None, TaskLostError(attempt.name, reason))
        elif attempt.asked is not None:
            job.end(None, TaskCancelled(attempt.task_id, attempt.reason))
        else:
            self._again(job, f"{reason}, twice before it had begun")

    def _again(self, job: Job, reason: str) -> None:
        job.deaths += 1
        job.worker = None
        if job.deaths < _MAX_UNSTARTED_DEATHS:
            self._waiting.appendleft(job)
        else:
            job.end(None, TaskLostError(job.attempt.name, reason))


def _is_async(attempt: Attempt) -> bool:
    func = attempt.record.func
    assert func is not None, "a record keeps its callable until it ends"
    return traits_of(func).is_async
