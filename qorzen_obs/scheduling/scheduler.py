"""The order in which pending tasks start.

A waiting task gains 50 points of priority per `ageing_seconds`. Since all gain alike, the order of two tasks never
changes, and the key is fixed at submission: `eligible_at - priority * ageing_seconds / 50`, then the sequence. One
heap for each (category, engine, priority) keeps its tasks first-in first-out; the scheduler compares their heads,
so a category or an engine that is full holds up nobody else.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Generic, Protocol, TypeVar

from qorzen_obs.scheduling.limits import Limits
from qorzen_obs.scheduling.queue import RemovableHeap
from qorzen_obs.tasks import EngineKind, TaskCategory, TaskPriority

AGEING_POINTS: Final = 50.0


class Schedulable(Protocol):
    """What the scheduler must know of a task."""

    category: TaskCategory
    engine: EngineKind
    priority: TaskPriority
    eligible_at: float  #: monotonic seconds
    sequence: int  #: unique, in order of acceptance
    queue_entry: list[object] | None  #: the scheduler's own, while the task is pending


S = TypeVar("S", bound=Schedulable)
_Group = tuple[TaskCategory, EngineKind, TaskPriority]


class Scheduler(Generic[S]):
    """Pending tasks, and who holds which slots.

    A task's way: `push`, then `start_next` takes it with a slot (or `remove` takes it out), `lend` and `take_back`
    while it waits for others, `finish` when it ends.
    """

    def __init__(self, limits: Limits, *, ageing_seconds: float) -> None:
        self.limits = limits
        self.ageing_seconds = ageing_seconds
        self.lent: Counter[EngineKind] = Counter()
        self._queues: dict[_Group, RemovableHeap[S]] = {}
        self._returning: dict[
            int, S
        ] = {}  # lenders that want their slot back, in the order in which they asked
        self._lenders: set[int] = set()
        self._depth = 0

    def __len__(self) -> int:
        """Return how many tasks are pending."""
        return self._depth

    def push(self, task: S) -> None:
        """Let `task` wait for a slot. O(log n)."""
        group = (task.category, task.engine, task.priority)
        queue = self._queues.get(group)
        if queue is None:
            queue = self._queues[group] = RemovableHeap()
        task.queue_entry = queue.push(task.eligible_at, task.sequence, task)
        self._depth += 1

    def remove(self, task: S) -> bool:
        """Take a pending task out; return False when it is not pending here. O(log n) amortised."""
        entry, group = task.queue_entry, (task.category, task.engine, task.priority)
        queue = self._queues.get(group)
        if entry is None or queue is None or not queue.remove(entry):
            return False
        self._left(task, group, queue)
        return True

    def start_next(self) -> S | None:
        """Give a slot to the pending task whose turn it is and return it; None when no pending task may start."""
        if self.limits.full or not self._depth:
            return None
        best = best_key = None
        seconds_per_point = self.ageing_seconds / AGEING_POINTS
        for group, queue in self._queues.items():
            category, engine, priority = group
            if not self.limits.admits(category, engine):
                continue
            head = queue.peek()
            assert head is not None, "empty queues are dropped"
            rank = 0 if seconds_per_point else -priority
            key = (rank, head.eligible_at - priority * seconds_per_point, head.sequence)
            if best_key is None or key < best_key:
                best, best_key = group, key
        if best is None:
            return None
        queue = self._queues[best]
        task = queue.pop()
        self._left(task, best, queue)
        self.limits.take(task.category, task.engine)
        return task

    def finish(self, task: S) -> None:
        """Free the slot of a task that ended or is tried again later; a lender has none to free."""
        if task.sequence in self._lenders:
            self._lenders.remove(task.sequence)
            self._returning.pop(task.sequence, None)
            self.lent[task.engine] -= 1
        else:
            self.limits.give_back(task.category, task.engine)

    def lend(self, task: S) -> None:
        """Free the slot of a running task that waits for others; it may have done so already."""
        if task.sequence in self._lenders:
            return
        self._lenders.add(task.sequence)
        self.lent[task.engine] += 1
        self.limits.give_back(task.category, task.engine)

    def take_back(self, task: S) -> None:
        """Let a lender wait for a slot, ahead of every pending task."""
        self._returning[task.sequence] = task

    def resume_next(self) -> S | None:
        """Give a slot to the first returning lender that may have one and return it; else None."""
        if self._returning and not self.limits.full:
            for task in self._returning.values():
                if self.limits.admits(task.category, task.engine):
                    del self._returning[task.sequence]
                    self._lenders.remove(task.sequence)
                    self.lent[task.engine] -= 1
                    self.limits.take(task.category, task.engine)
                    return task
        return None

    def cancel_return(self, task: S) -> None:
        """Stop wanting the slot back; the task stays a lender."""
        self._returning.pop(task.sequence, None)

    def oldest(self) -> dict[tuple[TaskCategory, TaskPriority], float]:
        """Return since when the oldest pending task of each kind has been eligible; from any thread."""
        oldest: dict[tuple[TaskCategory, TaskPriority], float] = {}
        for (category, _, priority), queue in list(self._queues.items()):
            eligible_at = queue.first_key
            if eligible_at is not None:
                cell = (category, priority)
                oldest[cell] = min(eligible_at, oldest.get(cell, eligible_at))
        return oldest

    def _left(self, task: S, group: _Group, queue: RemovableHeap[S]) -> None:
        task.queue_entry = None
        self._depth -= 1
        if not queue:
            del self._queues[group]
