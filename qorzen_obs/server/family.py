"""Which task submitted which: the children of a task and everything below it, as far as tasks are live or kept.

Computed from records when somebody asks. A parent that is kept as an outline only still leads from its children up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from msgspec import Struct

from qorzen_obs.counts import STATUSES
from qorzen_obs.record import TaskRecord
from qorzen_obs.tasks import TaskInfo, TaskStatus


class FamilyNumbers(Struct, frozen=True, kw_only=True):
    """How many live and kept tasks there are, and by status."""

    total: int
    by_status: dict[TaskStatus, int]


class Family(Struct, frozen=True, kw_only=True):
    """The task that submitted a task, and those that it led to. Those that retention has dropped are not counted."""

    parent_name: str | None = None  #: None if no task submitted it, or if the parent is not remembered
    children: FamilyNumbers  #: that it submitted itself
    below: FamilyNumbers  #: those, what they submitted, and so on


def ids_below(
    records: Iterable[TaskRecord], find: Callable[[str], TaskInfo | None], ancestors: Collection[str]
) -> set[str]:
    """Return the ids of the records that stand below one of `ancestors`, at any depth, without these.

    Args:
        find: finds the snapshot of a parent that is not among the records; it has a `parent_id` too.
    """
    parents = {record.task_id: record.parent_id for record in records}
    known = dict.fromkeys(ancestors, True)  # by id: whether children of this task stand below
    below: set[str] = set()
    for task_id, parent_id in parents.items():
        if parent_id is not None and _leads(parent_id, parents, known, find):
            below.add(task_id)
    return below


def _leads(
    task_id: str,
    parents: Mapping[str, str | None],
    known: dict[str, bool],
    find: Callable[[str], TaskInfo | None],
) -> bool:
    """Return whether a task is an ancestor asked for or stands below one; remember it for all on the way."""
    way: list[str] = []
    current: str | None = task_id
    while current is not None and current not in known:
        way.append(current)
        if current in parents:
            current = parents[current]
        else:
            info = find(current)
            current = None if info is None else info.parent_id
    leads = current is not None and known[current]
    known.update(dict.fromkeys(way, leads))
    return leads


def family_of(
    task: TaskInfo, records: Collection[TaskRecord], find: Callable[[str], TaskInfo | None]
) -> Family:
    """Return the name of a task's parent and the numbers of the tasks that it led to."""
    task_id, parent = task.task_id, None if task.parent_id is None else find(task.parent_id)
    below = ids_below(records, find, [task_id])
    found = [record for record in records if record.task_id in below]
    return Family(
        parent_name=None if parent is None else parent.name,
        children=_numbers(record for record in found if record.parent_id == task_id),
        below=_numbers(found),
    )


def _numbers(records: Iterable[TaskRecord]) -> FamilyNumbers:
    by_status = dict.fromkeys(STATUSES, 0)
    for record in records:
        by_status[record.state.status] += 1
    return FamilyNumbers(total=sum(by_status.values()), by_status=by_status)
