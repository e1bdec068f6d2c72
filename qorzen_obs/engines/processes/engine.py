"""The engine of worker processes: assigns attempts to workers, and decides what a worker's death means for each.

If a worker dies before it reports that the call started, another worker gets the call, once. After a reported start
the task is lost and never run again, since it may have had effects. One spare worker is kept warm.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.callables import traits_of
from qorzen_obs.clock import Clock, SystemClock
from qorzen_obs.engines.base import Ended, call_surely
from qorzen_obs.engines.processes.channel import FAILURE, Frame
from qorzen_obs.engines.processes.codec import LARGE_BYTES, TooLargeError, is_simple
from qorzen_obs.engines.processes.failure import failure_in
from qorzen_obs.engines.processes.job import Job, pack, rebuild
from qorzen_obs.engines.processes.quarantine import DEATHS, Quarantine
from qorzen_obs.engines.processes.reports import DROPPED, KEEP_TRACE, PROGRESS
from qorzen_obs.engines.processes.script import find_script
from qorzen_obs.engines.processes.side_threads import SideThreads
from qorzen_obs.engines.processes.supervisor import LEAVE_SECONDS, WorkerProcess
from qorzen_obs.engines.processes.system import missing_for_guardians, missing_for_workers
from qorzen_obs.engines.processes.worker import SetUp
from qorzen_obs.engines.traits import PROCESS
from qorzen_obs.errors import (
    StackUnavailableError,
    TaskCancelled,
    TaskLostError,
    TaskQuarantinedError,
)
from qorzen_obs.record import Attempt, FarSide
from qorzen_obs.stacks import (
    RUNNING,
    STARTING,
    LiveStack,
    is_of_engines,
    places_of,
    shown,
    thread_frame,
    users_frames,
)
from qorzen_obs.tasks import CancelGuarantee

_MAX_UNSTARTED_DEATHS: Final = 2
_BURY_SECONDS: Final = 3.0
_CLOSED: Final = "the process engine was closed"


class ProcessEngine:
    """Runs callables in worker processes, each with a guardian. What ignores a cancel is killed.

    On a system without guardians such a worker is killed too, but not every process that it has started. So the engine
    does not promise a kill there.

    Callables, arguments and results must pickle. Arguments larger than a megabyte are encoded in a thread. Every result
    is rebuilt in a thread, since that runs code of its class.
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
        # The newest attempt's: it also gets reports of a worker without a call.
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
        self._trouble: str | None = None  # why the last worker could not be started
        self._threads = SideThreads(loop)
        self._workers: dict[WorkerProcess, Job | None] = {}  # all living workers
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
        try:
            self._begin(job)
        except BaseException as error:  # noqa: BLE001 - user code is pickled there
            call_surely(self._loop, self._give_up, job, error)

    def _begin(self, job: Job) -> None:
        attempt = job.attempt
        name = attempt.record.name
        seconds = self._quarantine.seconds_left(name, self._clock.monotonic())
        if seconds > 0:
            raise TaskQuarantinedError(name, DEATHS, seconds)
        self._far_side = far_side = attempt.owner.far_side
        surroundings = far_side.surroundings(attempt) if far_side else None
        try:
            job.encoded = pack(attempt, surroundings, _is_async(attempt), limit=LARGE_BYTES)
        except TooLargeError:
            self._pack_in_thread(job, surroundings)
        else:
            self._place(job)

    def _give_up(self, job: Job, error: BaseException) -> None:
        """End a job that could not be given to a worker, for whatever reason."""
        if job in self._waiting:
            self._waiting.remove(job)
        if job.worker is not None:  # the worker may have a part of the call
            self._workers[job.worker] = None
            job.worker.kill()
        job.end(None, error)

    def interrupt(self, attempt: Attempt) -> None:
        job: Job = attempt.driver
        if job.rebuilt_by is not None:  # it has the grace to end
            return
        if job.worker is None:  # no worker has seen it, and none will
            if job in self._waiting:
                self._waiting.remove(job)
            job.end(None, TaskCancelled(attempt.task_id, attempt.reason))
            return
        job.worker.cancel(attempt.reason or "")
        if not job.terminated:
            job.terminated = True
            job.worker.terminate()

    def kill(self, attempt: Attempt) -> bool:
        job: Job = attempt.driver
        if job.worker is not None and not job.killed:
            job.killed = True
            job.worker.kill()
        return job.rebuilt_by is None

    def abandon(self, attempt: Attempt) -> None:
        pass  # its worker could not be killed, or its result is still being rebuilt

    def stack(self, attempt: Attempt) -> LiveStack | None:
        """Return where the worker's main thread is. Blocks for a second at most, so do not call it on the loop."""
        job: Job | None = attempt.driver
        if job is None:
            return None
        worker = job.worker
        if job.rebuilt_by:
            places = places_of(thread_frame(job.rebuilt_by), is_of_engines)
            return None if job.over else LiveStack(RUNNING, shown(places))
        if worker is None or not job.started:
            return None if job.over else LiveStack(STARTING)
        frames = worker.stack()
        if job.over:
            return None
        if frames is None:
            raise StackUnavailableError(attempt.task_id, "its worker process does not answer")
        return LiveStack(RUNNING, users_frames(frames), pid=worker.pid)

    def pid(self, attempt: Attempt) -> int | None:
        """Return the process id of the worker that has an attempt; from any thread."""
        job: Job | None = attempt.driver
        worker = None if job is None else job.worker
        return None if worker is None else worker.pid

    def close(self) -> None:
        """Let idle workers end by themselves, within a second, and kill the others.

        A thread does this; `wait_closed` waits for it.
        """
        if self._closed:
            return
        self._closed = True
        self._threads.close()
        workers, jobs = list(self._workers), [job for job in self._workers.values() if job is not None]
        for worker in workers:
            if worker in self._idle:
                worker.leave()
            elif not worker.killed:
                worker.kill()
            worker.release()
        self._workers.clear()
        self._idle.clear()
        for job in [*jobs, *self._waiting]:
            call_surely(self._loop, job.end, None, TaskLostError(job.attempt.name, _CLOSED))
        if not workers:
            self._buried.set()
            return

        def bury() -> None:
            until = time.monotonic() + LEAVE_SECONDS
            for worker in workers:
                worker.bury(max(0.0, until - time.monotonic()))
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._buried.set)

        threading.Thread(target=bury, name="qorzen-process-burial", daemon=True).start()

    async def wait_closed(self) -> None:
        """Wait after `close` until all workers are gone, 3 s at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_BURY_SECONDS):
                await self._buried.wait()

    def status(self) -> Mapping[str, Any]:
        """Return the present state, in JSON's types; from any thread."""
        now = self._clock.monotonic()
        return {
            "workers": len(self._workers),
            "pids": sorted(worker.pid for worker in list(self._workers) if worker.pid is not None),
            "idle": len(self._idle),
            "degraded": self._degraded or self._trouble,
            "quarantined": {name: round(left, 1) for name, left in self._quarantine.names(now).items()},
        }

    # ------------------------------------------------------------------ from attempt to worker

    def _pack_in_thread(self, job: Job, surroundings: Any) -> None:
        def work() -> Callable[[], None]:
            error = None
            try:
                job.encoded = pack(job.attempt, surroundings, _is_async(job.attempt))
            except BaseException as caught:  # noqa: BLE001  # a thread's top
                error = caught
            return partial(self._packed, job, error)

        self._threads.run(work)

    def _packed(self, job: Job, error: BaseException | None) -> None:
        if error is not None:
            job.end(None, error)
        elif self._closed:
            job.end(None, TaskLostError(job.attempt.name, _CLOSED))
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
        try:
            worker.call(job.encoded, self._set_up(job))
        except BaseException as error:  # noqa: BLE001 - the failure would be the same with every worker
            call_surely(self._loop, self._give_up, job, error)

    @staticmethod
    def _set_up(job: Job) -> SetUp:
        far_side = job.attempt.owner.far_side
        entry = far_side.entry if far_side else ""
        process: Any = sys.modules.get("multiprocessing.process")
        authkey = bytes(process.current_process().authkey) if process else None
        return SetUp(absolute_path(), entry, find_script(), authkey)

    def _keep_warm(self) -> None:
        """Start a worker for each waiting job, and one spare."""
        while not self._closed and len(self._starting) < len(self._waiting) + (not self._idle):
            spare = len(self._starting) >= len(self._waiting)
            if spare and len(self._workers) > (self.slots or 0):
                return
            try:
                worker = WorkerProcess(self._loop, self, self._threads, guarded=self._degraded is None)
            except Exception as error:  # noqa: BLE001 - an error of the system or of the event loop
                self._trouble = f"no worker process can be started: {foreign.text(error)}"
                if not spare:
                    job = self._waiting.popleft()
                    call_surely(self._loop, job.end, None, TaskLostError(job.attempt.name, self._trouble))
                    continue
                return
            self._workers[worker] = None
            self._starting.add(worker)

    # ------------------------------------------------------------------ what a worker says

    def on_ready(self, worker: WorkerProcess) -> None:
        self._trouble = None
        self._starting.discard(worker)
        self._free(worker)

    def _free(self, worker: WorkerProcess) -> None:
        self._workers[worker] = None
        if worker.killed:
            return
        if worker.calls >= self._tasks_per_worker:
            worker.retire()
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
        for event in events:
            try:
                _pass_on(attempt, far_side, *event)
            except Exception:  # noqa: BLE001 - user code may write to a channel that it has found
                if far_side is not None:
                    far_side.on_event(attempt, DROPPED, 1)

    def on_usage(self, worker: WorkerProcess, seconds: float, cpu_seconds: float) -> None:
        job = self._workers.get(worker)
        meter = None if job is None else job.attempt.meter
        if meter is not None:
            meter.call_seconds, meter.use_seconds = seconds, cpu_seconds

    def on_outcome(self, worker: WorkerProcess, frame: Frame) -> None:
        job = self._workers.get(worker)
        if job is None:
            return
        if frame.kind == FAILURE and _is_for_want_of_memory(frame):  # the rest of it cannot be trusted
            worker.kill()
        self._free(worker)
        job.worker = None
        if is_simple(frame):
            job.end(*rebuild(frame))
        else:
            self._rebuild(job, frame)

    def on_no_room(self, worker: WorkerProcess) -> None:
        job = self._workers.get(worker)
        worker.kill()
        if job is not None:
            self._free(worker)
            what = "the system gave no thread or memory for the result of a task in a worker process"
            job.end(None, MemoryError(what))

    def _rebuild(self, job: Job, frame: Frame) -> None:
        """Rebuild on a thread what the callable returned or raised: code of its classes may block for ever, or exit."""
        job.rebuilt_by = 0

        def work() -> Callable[[], None]:
            job.rebuilt_by = threading.get_ident()
            return partial(job.end, *rebuild(frame))

        try:
            self._threads.run(work)
        except Exception as error:  # noqa: BLE001 - no thread available
            job.end(None, error)

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
        """Count the failure against the first waiting job, or workers that cannot start would be retried for ever."""
        self._trouble = f"no worker process could be started: {reason}"
        if self._waiting:
            job = self._waiting.popleft()
            self._again(job, self._trouble)

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
        if job.over:
            return
        job.deaths += 1
        job.worker = None
        if job.deaths < _MAX_UNSTARTED_DEATHS:
            self._waiting.appendleft(job)
        else:
            job.end(None, TaskLostError(job.attempt.name, reason))


def _pass_on(attempt: Attempt | None, far_side: FarSide | None, kind: str, data: Any) -> None:
    if kind == PROGRESS:
        if attempt is not None:
            attempt.progress(*data)
    elif kind == KEEP_TRACE:
        if attempt is not None:
            attempt.keep_trace()
    elif far_side is not None:
        far_side.on_event(attempt, kind, data)


def absolute_path() -> list[str]:
    """Return this process's import paths for another process; '' and relative ones become absolute."""
    try:
        here = os.getcwd()  # noqa: PTH109 - strings are sent
    except OSError:  # it was removed: there is nothing to import in it
        here = ""
    places: list[Any] = list(sys.path)  # skip whatever else somebody has put there
    usable = [place for place in places if isinstance(place, (str, os.PathLike))]
    return [os.path.abspath(place) for place in usable if here or os.path.isabs(place)]  # noqa: PTH100, PTH117


def _is_for_want_of_memory(frame: Frame) -> bool:
    try:
        return failure_in(frame).name == MemoryError.__name__
    except Exception:  # noqa: BLE001 - user code may write to a channel that it has found
        return False


def _is_async(attempt: Attempt) -> bool:
    func = attempt.record.func
    assert func is not None, "a record keeps its callable until it ends"
    return traits_of(func).is_async
