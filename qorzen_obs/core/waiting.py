"""Waiting: for the end of a task, and for room in the queue. A running task that waits lends its slot meanwhile.

Belongs to the work loop. The scheduler decides when a lender gets a slot back; `dispatch` asks it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from qorzen_obs.core.runtime import Timers
from qorzen_obs.current import CURRENT
from qorzen_obs.errors import InvalidTaskError, TaskWaitTimeoutError
from qorzen_obs.record import Attempt, TaskRecord, TaskState, Wait
from qorzen_obs.scheduling.scheduler import Scheduler

_ROOM: Final = "room in the queue"  #: shown in place of a task's id


class Waiting:
    """All waits in one manager, and what each waits for.

    Args:
        owner: runs the manager's attempts; another owner's attempts have no slot to lend here.
        timers: the work loop's.
        running: the running attempts by the id of their task.
        dispatch: starts and resumes whatever may run now.
    """

    def __init__(
        self,
        owner: object,
        timers: Timers,
        scheduler: Scheduler[TaskRecord],
        running: Mapping[str, Attempt],
        dispatch: Callable[[], None],
    ) -> None:
        self.owner = owner
        self._timers = timers
        self._scheduler = scheduler
        self._running = running
        self._dispatch = dispatch
        self.resumes: dict[int, asyncio.Future[None]] = {}  #: lenders that wait for a slot, by sequence
        # the futures, with the tasks that await them
        self._unwoken: deque[tuple[asyncio.Future[Any], Any]] = deque()
        #: waits for room in the queue, oldest first
        self.submitters: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self.reserved = 0  #: places in the queue that a batch has taken while it waits for more
        self.promised = 0  #: places of tasks that will be accepted once their records are on disk

    async def for_end(self, record: TaskRecord, timeout: float | None) -> TaskState:
        """Return the final state of the task when it has ended. Cancelling the wait leaves the task alone.

        Raises:
            TaskWaitTimeoutError: `timeout` seconds passed.
            InvalidTaskError: the task waits, directly or through others, for its own end.
        """
        if record.state.status.final:
            return record.state
        self._refuse_cycle(record)
        if record.waiters is None:
            record.waiters = []
        wait = self._begin(record.task_id)
        waiter: tuple[asyncio.Future[TaskState], Wait | None] = (asyncio.Future(), wait)
        record.waiters.append(waiter)
        timer = None
        try:
            if timeout is not None and timeout != float("inf"):
                timer = self._timers.call_later(timeout, _give_up, waiter[0], record.task_id, timeout)
            return await waiter[0]
        finally:
            if timer is not None:
                timer.cancel()
            if record.waiters is not None:
                record.waiters.remove(waiter)
            if wait is not None:
                await self._end(wait)

    def end_of(self, record: TaskRecord) -> asyncio.Future[TaskState]:
        """Return an object that gets the final state of an accepted task, for a handle to keep."""
        end: asyncio.Future[TaskState] = self._timers.create_future()
        if record.state.status.final:
            end.set_result(record.state)
        else:
            record.waiters = [*(record.waiters or ()), (end, None)]
        return end

    async def for_room(self, *, first: bool = False) -> None:
        """Wait until there may be room for one more pending task; `first` goes ahead of all others."""
        room: asyncio.Future[None] = asyncio.Future()
        wait = self._begin(_ROOM)
        self.submitters[room] = None
        if first:
            self.submitters.move_to_end(room, last=False)
        try:
            try:
                await room
            finally:
                if wait is not None:
                    await self._end(wait)
        except BaseException:
            self.submitters.pop(room, None)
            if not room.cancelled():  # it was let in, and leaves its place to the next
                self._dispatch()
            raise

    def ended(self, record: TaskRecord) -> None:
        """Wake all waiters for the end of this task, with its final state."""
        for waiter, wait in record.waiters or ():
            self._wake(waiter, record.state)
            if wait is not None and not waiter.cancelled():
                self._is_over(wait)
        record.waiters = None

    def promise(self, places: int) -> None:
        """Keep places for tasks whose records are not on disk yet; give them back if the number is negative."""
        self.promised += places

    def let_all_in(self) -> None:
        """Let all waiters for room look again, since the manager takes no more work."""
        self.let_in(len(self.submitters))

    def pass_on_room(self) -> None:
        """Let the next submitter look in place of one that was let in and then refused."""
        if self.submitters:
            self._dispatch()

    def let_in(self, free: int) -> None:
        """Let as many waiting submitters look again as there is room for."""
        free -= self.reserved + self.promised
        while self.submitters and free > 0:
            room = next(iter(self.submitters))
            free -= self._wake(room)
            del self.submitters[room]  # not before, or an interruption would lose it

    def resume(self, lender: TaskRecord) -> None:
        """Let a task continue that has its slot back."""
        self._wake(self.resumes[lender.sequence])
        del self.resumes[lender.sequence]

    def give_up_return(self, record: TaskRecord) -> None:
        """Let a task that waits for its slot back continue without it."""
        resumed = self.resumes.get(record.sequence)
        if resumed is not None:
            self._scheduler.cancel_return(record)
            self._wake(resumed)
            self.resumes.pop(record.sequence, None)

    def wake_again(self) -> None:
        """Wake the waiters that an interruption kept from waking."""
        while self._unwoken:
            future, callbacks = self._unwoken[0]
            for callback, context in callbacks or ():
                asyncio.get_running_loop().call_soon(callback, future, context=context)
            self._unwoken.popleft()

    def _wake(self, future: asyncio.Future[Any], value: object = None) -> bool:
        """Wake the waiter of `future` with a value; return False if it was cancelled or is awake already."""
        if future.done():
            return False
        callbacks = future._callbacks
        try:
            future.set_result(value)
        except BaseException:  # asyncio has set it done, but lost the wake-up of its waiter
            self._unwoken.append((future, callbacks))
            raise
        return True

    def _refuse_cycle(self, target: TaskRecord) -> None:
        attempt = CURRENT.get()
        if attempt is None:
            return
        ids, pending = {attempt.task_id}, [target.task_id]
        seen: set[str] = set()
        while pending:
            task_id = pending.pop()
            if task_id in ids:
                raise InvalidTaskError("task_id", f"{target.task_id!r} would wait for its own end")
            waiting = self._running.get(task_id)
            if waiting is not None and task_id not in seen:
                seen.add(task_id)
                pending += waiting.waits_for

    def _begin(self, waits_for: str) -> Wait | None:
        """Lend the slot of the running task that calls this; None if the caller is not in a task of this manager."""
        attempt = CURRENT.get()
        if not isinstance(attempt, Attempt) or attempt.owner is not self.owner or attempt.settled:
            return None
        # Another branch of the task may want the slot back: it continues without it.
        self.give_up_return(attempt.record)
        wait = Wait(attempt, waits_for)
        try:
            self._scheduler.lend(attempt.record)
            self._dispatch()
        except BaseException:
            wait.end()
            raise
        return wait

    def _is_over(self, wait: Wait) -> None:
        """Queue for a slot at once: from here on no pending task gets one first."""
        if wait.end() and wait.attempt.wants_slot:
            record = wait.attempt.record
            wait.resumed = self.resumes[record.sequence] = self._timers.create_future()
            self._scheduler.take_back(record)

    async def _end(self, wait: Wait) -> None:
        """Continue with a slot. A task that is asked to stop meanwhile ends without one."""
        self._is_over(wait)
        record, resumed = wait.attempt.record, wait.resumed
        if resumed is None:  # it waits for another one too, or should stop
            return
        self._dispatch()
        try:
            if wait.attempt.asked is None:
                await resumed
        finally:  # if only this wait was given up, the task continues and gets a slot as soon as one is free
            if wait.attempt.asked is not None and self.resumes.get(record.sequence) is resumed:
                del self.resumes[record.sequence]
                self._scheduler.cancel_return(record)


def _give_up(waiter: asyncio.Future[TaskState], task_id: str, timeout: float) -> None:
    if not waiter.done():
        waiter.set_exception(TaskWaitTimeoutError(task_id, timeout))
