"""The order in which pending tasks start.

A waiting task gains 50 points of priority per `ageing_seconds`. Since all gain alike, the order of two tasks never
changes, and the key is fixed at submission: `eligible_at - priority * ageing_seconds / 50`, then the sequence. Tasks
with the same category, engine and definition's limit form a group, since they start or wait together. Each group has
a heap for each priority. The scheduler compares the groups' heads, so a full limit delays no other group. Tasks whose
time has not come wait in a heap of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from qorzen_obs.definition_limit import DefinitionLimit
from qorzen_obs.engines.traits import EngineTraits
from qorzen_obs.scheduling.limits import Limits
from qorzen_obs.scheduling.queue import RemovableHeap
from qorzen_obs.tasks import TaskCategory, TaskPriority

AGEING_POINTS: Final = 50.0


class Schedulable(Protocol):
    """What the scheduler must know about a task."""

    category: TaskCategory
    engine: EngineTraits
    priority: TaskPriority
    eligible_at: float  #: monotonic seconds
    sequence: int  #: unique, in order of acceptance
    limit: DefinitionLimit | None
    queue_entry: list[object] | None  #: the scheduler's own, while the task is pending


S = TypeVar("S", bound=Schedulable)
_Kind = tuple[TaskCategory, str, DefinitionLimit | None]
_Order = tuple[int, float, int]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task is pending."""

    held_by: str | None  #: the full limit, a pause, or `eligible_at`; None when only other tasks are ahead
    ahead: int  #: pending tasks that would start before it if there were no limits and no pauses
    eligible_in_seconds: float  #: 0 when its time has come


class _Group(Generic[S]):
    """The tasks that the same limits apply to: first-in first-out by priority, and the first of them."""

    __slots__ = ("head", "kind", "order", "queues")

    def __init__(self, kind: _Kind) -> None:
        self.kind = kind
        self.queues: dict[TaskPriority, RemovableHeap[S]] = {}  # none of them empty
        self.head: S | None = None
        self.order: _Order = (0, 0.0, 0)  #: of the head


class Scheduler(Generic[S]):
    """Pending tasks, and which tasks hold slots.

    The life of a task here: `push`; `start_next` gives it a slot (or `remove` takes it out); `lend` and `take_back`
    while it waits for others; `finish` when it ends.
    """

    def __init__(self, limits: Limits, *, ageing_seconds: float) -> None:
        self.limits = limits
        self.paused: frozenset[TaskCategory] = frozenset()  #: no task of these starts; replaced whole
        self._ageing_seconds = ageing_seconds
        self.lent: Counter[str] = Counter()
        self._groups: dict[_Kind, _Group[S]] = {}  # none of them empty
        self._returning: dict[int, S] = {}  # lenders that want their slot back, first asked first
        self._lenders: set[int] = set()
        #: No task starts, since more of a batch will follow; only within one step of the loop.
        self.holds = False
        self.waiting = 0  #: number of tasks that wait for a slot or for their time
        self._depth = 0  # those that wait for a slot
        self._scheduled: RemovableHeap[S] = RemovableHeap()  # not yet eligible
        self._scheduled_ids: set[int] = set()

    @property
    def ageing_seconds(self) -> float:
        """How long a wait is worth 50 points of priority; 0 means strict priority. May be changed at any time."""
        return self._ageing_seconds

    @ageing_seconds.setter
    def ageing_seconds(self, seconds: float) -> None:
        self._ageing_seconds = seconds
        for group in self._groups.values():
            self._find_head(group)

    def __len__(self) -> int:
        """Return how many tasks wait, for a slot or for their time."""
        return self.waiting

    def wants_slots(self) -> bool:
        """Whether anything waits; if not, `start_next` and `resume_next` return None."""
        return bool(self.waiting or self._returning)

    @property
    def depth(self) -> int:
        """How many tasks wait for a slot."""
        return self._depth

    @property
    def scheduled(self) -> int:
        """How many tasks wait for their time."""
        return len(self._scheduled)

    @property
    def next_eligible_at(self) -> float | None:
        """When the next task's time comes; None when none waits for it."""
        return self._scheduled.first_key

    def start_or_push(self, task: S, now: float) -> bool:
        """Give a new task a slot if nothing waits for one and the limits admit it, else `push` it.

        Return whether it got a slot. Equivalent to `push` and `start_next`, without the detour through the queue.
        """
        if (
            not self._depth
            and not self._returning
            and not self.holds
            and task.eligible_at <= now
            and task.category not in self.paused
            and not (self._scheduled_ids and self._is_due(now))
            and self.limits.try_take(task.category, task.engine.kind, task.limit)
        ):
            return True
        self.push(task, now)
        return False

    def push(self, task: S, now: float) -> None:
        """Let `task` wait for a slot, or first for its time if `eligible_at` is after `now`. O(log n)."""
        self.waiting += 1
        if task.eligible_at > now:
            task.queue_entry = self._scheduled.push(task.eligible_at, task.sequence, task)
            self._scheduled_ids.add(task.sequence)
        else:
            self._enqueue(task)

    def is_held(self, task: S) -> bool:
        """Return whether a limit or a pause keeps a waiting `task` from starting, so that nothing can start yet."""
        return self.holds or not self._may_start(_kind(task))

    def remove(self, task: S) -> bool:
        """Take a waiting task out; return False when it does not wait here. O(log n) amortised."""
        entry = task.queue_entry
        if entry is None:
            return False
        if task.sequence in self._scheduled_ids:
            self._scheduled_ids.remove(task.sequence)
            self.waiting -= 1
            task.queue_entry = None
            return self._scheduled.remove(entry)
        group = self._groups[_kind(task)]
        if not group.queues[task.priority].remove(entry):
            return False
        self._left(task, group)
        return True

    def start_next(self, now: float) -> S | None:
        """Give a slot to the task whose turn it is and return it; None when no task may start.

        O(log n), and linear in the number of waiting groups, not of tasks.
        """
        if self._scheduled_ids:
            self._promote(now)
        if not self._depth or self.holds or self.limits.full:
            return None
        best: _Group[S] | None = None
        for group in self._groups.values():
            if (
                (best is None or group.order < best.order)
                and group.kind[0] not in self.paused
                and self.limits.admits(*group.kind)
            ):
                best = group
        if best is None:
            return None
        assert best.head is not None, "empty groups are dropped"
        task = best.queues[best.head.priority].pop()
        self._left(task, best)
        self.limits.take(*best.kind)
        return task

    def explain(self, task: S, now: float) -> Explanation:
        """Return why a waiting `task` waits. O(n)."""
        if task.sequence in self._scheduled_ids:
            return Explanation("eligible_at", 0, max(0.0, task.eligible_at - now))
        order = self._order(task)
        ahead = sum(self._order(other) < order for queue in self._all_queues() for other in queue)
        if task.category in self.paused:
            return Explanation(f"the pause of category {task.category.value}", ahead, 0.0)
        return Explanation(self.limits.blocking(task.category, task.engine.kind, task.limit), ahead, 0.0)

    def _order(self, task: S) -> _Order:
        """Return the fixed key: aged priority, or strict priority if ageing is off; first-in first-out among equals."""
        seconds_per_point = self._ageing_seconds / AGEING_POINTS
        strict = 0 if seconds_per_point else -task.priority
        return (strict, task.eligible_at - task.priority * seconds_per_point, task.sequence)

    def _is_due(self, now: float) -> bool:
        """Return whether a task is still among the scheduled ones although its time has come."""
        eligible_at = self._scheduled.first_key
        return eligible_at is not None and eligible_at <= now

    def _promote(self, now: float) -> None:
        while self._is_due(now):
            task = self._scheduled.pop()
            self._scheduled_ids.remove(task.sequence)
            self._enqueue(task)

    def _enqueue(self, task: S) -> None:
        kind = _kind(task)
        group = self._groups.get(kind)
        if group is None:
            group = self._groups[kind] = _Group(kind)
        queue = group.queues.get(task.priority)
        if queue is None:
            queue = group.queues[task.priority] = RemovableHeap()
        task.queue_entry = queue.push(task.eligible_at, task.sequence, task)
        self._depth += 1
        order = self._order(task)
        if group.head is None or order < group.order:
            group.head, group.order = task, order

    def _left(self, task: S, group: _Group[S]) -> None:
        """Update the counts for a task that has left its queue."""
        task.queue_entry = None
        self.waiting -= 1
        self._depth -= 1
        if not group.queues[task.priority]:
            del group.queues[task.priority]
        if not group.queues:
            del self._groups[group.kind]
        elif group.head is task:
            self._find_head(group)

    def _find_head(self, group: _Group[S]) -> None:
        heads = [head for queue in group.queues.values() if (head := queue.peek()) is not None]
        group.head = heads[0] if len(heads) == 1 else min(heads, key=self._order)
        group.order = self._order(group.head)

    def _all_queues(self) -> Iterator[RemovableHeap[S]]:
        for group in self._groups.values():
            yield from group.queues.values()

    def finish(self, task: S) -> None:
        """Free the slot of a task that ended or will be retried; a lender has none to free."""
        if task.sequence in self._lenders:
            self._lenders.remove(task.sequence)
            self._returning.pop(task.sequence, None)
            self.lent[task.engine.kind] -= 1
        else:
            self.limits.give_back(task.category, task.engine.kind, task.limit)

    def lend(self, task: S) -> None:
        """Free the slot of a running task that waits for others; it may have done so already."""
        if task.sequence in self._lenders:
            return
        self._lenders.add(task.sequence)
        self.lent[task.engine.kind] += 1
        self.limits.give_back(task.category, task.engine.kind, task.limit)

    def take_back(self, task: S) -> None:
        """Let a lender wait for a slot, ahead of every pending task."""
        self._returning[task.sequence] = task

    def resume_next(self) -> S | None:
        """Give a slot to the first returning lender that may have one and return it; else None."""
        if self._returning and not self.limits.full:
            for task in self._returning.values():
                if self.limits.admits(task.category, task.engine.kind, task.limit):
                    del self._returning[task.sequence]
                    self._lenders.remove(task.sequence)
                    self.lent[task.engine.kind] -= 1
                    self.limits.take(task.category, task.engine.kind, task.limit)
                    return task
        return None

    def cancel_return(self, task: S) -> None:
        """Stop wanting the slot back; the task stays a lender."""
        self._returning.pop(task.sequence, None)

    def rebuild(
        self, pending: Iterable[S], holders: Iterable[S], own: Iterable[DefinitionLimit], now: float
    ) -> None:
        """Rebuild queues and slots from the waiting and the running tasks, whatever they were before.

        Those of `holders` that had lent their slot still have none. `own` are the limits of definitions. O(n log n).
        """
        holders = list(holders)
        self._lenders &= {task.sequence for task in holders}
        self._returning = {key: task for key, task in self._returning.items() if key in self._lenders}
        self.lent = Counter(task.engine.kind for task in holders if task.sequence in self._lenders)
        self.limits.release_all(own)
        for task in holders:
            task.queue_entry = None
            if task.sequence not in self._lenders:
                self.limits.take(task.category, task.engine.kind, task.limit)
        self.waiting = self._depth = 0
        self._groups, self._scheduled, self._scheduled_ids = {}, RemovableHeap(), set()
        for task in pending:
            self.push(task, now)

    def keeps_lent(self, task: S) -> bool:
        """Return whether a running task has lent its slot and does not have it back."""
        return task.sequence in self._lenders

    def reclaim(self, task: S) -> None:
        """Forget that a task has lent its slot, for the next `rebuild`."""
        self._lenders.discard(task.sequence)
        self._returning.pop(task.sequence, None)

    def startable(self, now: float) -> Hashable | None:
        """Return None when no waiting task could start, else a value that the next start changes; from any thread.

        Between two steps of the loop it is None. If the value stays the same for longer, the scheduler is stalled.
        """
        due = self._scheduled.first_key
        is_due = due is not None and due <= now
        if is_due or any(self._may_start(group.kind) for group in list(self._groups.values())):
            return (self.limits.taken, due)
        return None

    def _may_start(self, kind: _Kind) -> bool:
        return kind[0] not in self.paused and self.limits.admits(*kind)

    def oldest(self) -> dict[tuple[TaskCategory, TaskPriority], float]:
        """Return since when the oldest pending task of each kind has been eligible; from any thread."""
        oldest: dict[tuple[TaskCategory, TaskPriority], float] = {}
        for group in list(self._groups.values()):
            for priority, queue in list(group.queues.items()):
                eligible_at = queue.first_key
                if eligible_at is not None:
                    cell = (group.kind[0], priority)
                    oldest[cell] = min(eligible_at, oldest.get(cell, eligible_at))
        return oldest


def _kind(task: Schedulable) -> _Kind:
    return (task.category, task.engine.kind, task.limit)
