"""Submitting in bulk: the tasks of a batch are accepted in one step of the work loop, all of them or none."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from qorzen_obs import foreign
from qorzen_obs.core.admission import Admission
from qorzen_obs.core.announcer import Announcer
from qorzen_obs.core.lifecycle import Lifecycle
from qorzen_obs.core.recording import Recording
from qorzen_obs.core.runtime import Runtime
from qorzen_obs.core.task_table import TaskTable
from qorzen_obs.counts import TaskCounts
from qorzen_obs.definition import NO_DEFINITION, definition_of
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.record import NO_KWARGS, TaskRecord
from qorzen_obs.scheduling.scheduler import Scheduler
from qorzen_obs.tasks import PENDING

H = TypeVar("H")


class Batches:
    """Accepts many tasks of one manager at once; for its work loop. TaskManager documents it for callers."""

    def __init__(
        self,
        runtime: Runtime,
        table: TaskTable,
        scheduler: Scheduler[TaskRecord],
        admission: Admission,
        lifecycle: Lifecycle,
        announcer: Announcer,
        *,
        counts: TaskCounts,
        recording: Recording | None,
    ) -> None:
        self._runtime = runtime
        self._table = table
        self._scheduler = scheduler
        self._admission = admission
        self._lifecycle = lifecycle
        self._announcer = announcer
        self._counts = counts
        self._recording = recording

    async def accept(
        self, calls: Iterable[Callable[[], Any]], hand_out: Callable[[TaskRecord], H], **options: Any
    ) -> list[H]:
        """Accept a task with these options for each call. Return the results of `hand_out`, in the calls' order."""
        # Stop at one more than may be pending, so that an endless iterator does no harm.
        first = islice(_checked(calls), self._runtime.settings.max_pending + 1)
        records = [self._record(place, call, options) for place, call in enumerate(first)]
        if records:
            await self._admission.wait_for_room_for_all([record.cell for record in records])
        accept = functools.partial(self._accept, records, hand_out)
        if self._recording is None or not records:
            return accept()
        return await self._recording.then(records, accept)

    def _record(self, place: int, call: Callable[[], Any], options: dict[str, Any]) -> TaskRecord:
        func, args, kwargs = _parts_of(place, call)
        try:
            # The call has its arguments, so an option cannot be meant for it, whatever its parameters are called.
            return self._admission.check(func, args, kwargs, again=True, **options)
        except InvalidTaskError as error:
            if error.argument != "func":  # an option, which is just as wrong for every other call
                raise
            raise InvalidTaskError(f"calls[{place}]", error.problem) from error

    def _accept(self, records: Sequence[TaskRecord], hand_out: Callable[[TaskRecord], H]) -> list[H]:
        """Put all of them in the queue, then announce them, then let them start."""
        handed_out = [hand_out(record) for record in records]  # once they are accepted nothing may fail
        scheduler, announcer, lifecycle = self._scheduler, self._announcer, self._lifecycle
        if self._runtime.interruption is not None:
            lifecycle.repairs.repair()
        try:
            scheduler.holds = announcer.holds = True
            for record in records:
                lifecycle.accept(record)
        except BaseException as error:
            self._undo(records)
            self._runtime.interruption = error
            ready = self._runtime.ready
            ready += self._runtime.repairs
            raise
        finally:
            scheduler.holds = announcer.holds = False
        try:
            announcer.announce()
            lifecycle.dispatch()
        except BaseException as error:  # noqa: BLE001 - the tasks are accepted: `Repairs` finishes the step
            self._runtime.interruption = error
            ready = self._runtime.ready
            ready += self._runtime.repairs
        return handed_out

    def _undo(self, records: Sequence[TaskRecord]) -> None:
        """Undo a batch that was not accepted whole. None of its tasks has started or been announced."""
        for record in records:
            if self._table.live.pop(record.task_id, None) is not None:
                self._scheduler.remove(record)
                self._counts.correct(record.cell, PENDING, -1)
                self._table.release_plugin(record)
        self._announcer.forget_last({record.task_id for record in records})


def _checked(calls: Iterable[Callable[[], Any]]) -> Iterator[Callable[[], Any]]:
    try:
        return iter(calls)
    except TypeError as error:
        problem = f"{foreign.shown(calls)} is not iterable; pass a list such as [functools.partial(f, x), …]"
        raise InvalidTaskError("calls", problem) from error


def _parts_of(place: int, call: object) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return a call as `submit_task` takes it. A plain function is inspected once, a partial of it each time."""
    if type(call) is functools.partial and definition_of(call) is NO_DEFINITION:
        return call.func, call.args, call.keywords
    if not callable(call):
        problem = f"{foreign.shown(call)} is not callable; pass functools.partial(function, argument)"
        raise InvalidTaskError(f"calls[{place}]", problem)
    return call, (), NO_KWARGS
