"""A manager's side of a durable history: what it has of one, and how a task is recorded before it is accepted.

Without a recorder nothing here runs for a task.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from qorzen_obs.core.admission import Admission
from qorzen_obs.core.announcer import Announcer
from qorzen_obs.core.waiting import Waiting
from qorzen_obs.engines.base import Engine, ForeignProcessEngine
from qorzen_obs.errors import HistoryUnavailableError
from qorzen_obs.history.base import Loss, Recorder, StoredTasks
from qorzen_obs.record import Attempt, TaskRecord, TaskState
from qorzen_obs.settings import HistorySettings
from qorzen_obs.tasks import EventKind, TaskAttempt, TaskCategory

T = TypeVar("T")

#: The events that a recorder gets one by one. It gets all ends of a turn of the loop at once, retries among them.
_RECORDED: Final = (EventKind.SUBMITTED, EventKind.STARTED, EventKind.RETRYING, EventKind.PROGRESS)


def new_instance() -> str:
    """Return an id for a manager, which distinguishes it from all others."""
    return secrets.token_hex(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryParts:
    """The history of one manager. Without a recorder its tasks are only in memory."""

    recorder: Recorder | None = None
    stored: StoredTasks | None = None  #: reads what is stored; None without a recorder
    losses: tuple[Loss, ...] = ()  #: what this start found that crashes had taken, the newest first
    instance: str = field(default_factory=new_instance)  #: the manager's id
    settings: HistorySettings = field(default_factory=HistorySettings)  #: those in force
    trouble: str | None = None  #: why the tasks are only in memory, if they should have been stored

    def status(self) -> dict[str, Any]:
        """Return the history's part of `status()`; from any thread."""
        if self.recorder is not None:
            return self.recorder.status()
        return {"kind": "memory", "trouble": self.trouble} if self.trouble else {"kind": "memory"}

    def lost_by_category(self) -> dict[TaskCategory, int]:
        """Return how many tasks this start found that crashes had taken, by category."""
        lost: Counter[TaskCategory] = Counter()
        for loss in self.losses:
            lost.update(loss.by_category)
        return dict(lost)


def record_through(recorder: Recorder, announcer: Announcer) -> None:
    """Give a recorder what happens to the tasks, after spans, metrics and log have had it."""
    announcer.collect("history", recorder.on_event, _RECORDED)
    announcer.ends.observe("history", recorder.on_ends)


class Recording:
    """Accepts the tasks of one manager once their records are on disk; for its work loop.

    Only where `history.accept` is `committed`. What threads submit through an executor is accepted at once, and
    recorded soon after.
    """

    def __init__(self, recorder: Recorder, admission: Admission, waiting: Waiting) -> None:
        self._recorder = recorder
        self._admission = admission
        self._waiting = waiting

    async def then(self, records: Sequence[TaskRecord], accept: Callable[[], T]) -> T:
        """Store checked records, for which there is room now, and return what `accept()` returns in the same step.

        If this raises or is cancelled, nothing was accepted, and what was stored is deleted again.

        Raises:
            HistoryUnavailableError: a record cannot be stored.
            TaskManagerClosedError: meanwhile the manager has stopped taking work, or work from this caller.
        """
        waiting, offers = self._waiting, list[asyncio.Future[None]]()
        waiting.promise(len(records))
        try:
            try:
                offers += map(self._recorder.offer, records)
                await _stored(offers)
            except HistoryUnavailableError as refusal:
                self._admission.count_refusal([record.cell for record in records], refusal)
                raise
            finally:
                waiting.promise(-len(records))
            self._admission.refuse_if_closed([record.cell for record in records])
            return accept()
        except BaseException:
            for record in records[: len(offers)]:
                self._recorder.withdraw(record)
            for offer in offers:
                offer.cancel()
                if not offer.cancelled():
                    offer.exception()  # asyncio complains about one that nobody has looked at
            waiting.pass_on_room()
            raise


async def _stored(offers: Sequence[asyncio.Future[None]]) -> None:
    """Wait until all records are on disk; raise why one of them is not."""
    if len(offers) > 1:
        await asyncio.wait(offers)
    for offer in offers:
        await offer


def failed_attempt(
    engines: Mapping[str, Engine], attempt: Attempt, state: TaskState, ended_at: float
) -> TaskAttempt:
    """Return what a task keeps of an attempt that failed and is followed by another."""
    engine: object = engines.get(attempt.record.engine.kind)  # of a foreign manager, perhaps
    return TaskAttempt(
        number=attempt.number,
        engine=attempt.record.engine.kind,
        worker=engine.pid(attempt) if isinstance(engine, ForeignProcessEngine) else None,
        started_at=attempt.started_wall,
        ended_at=ended_at,
        error_type=state.error_type,
    )
