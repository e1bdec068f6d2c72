"""One list of the tasks in memory and of those that are only stored, by keys that both sides have.

Each task stands in it once: what memory says of it is newer. Pure but for the store, which blocks for a disk.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

from qorzen_obs.history.base import StoredTasks, TaskOrder, TaskQuery, sort_value
from qorzen_obs.tasks import TaskInfo

#: Where a task stands in an order: what the order sorts by, then its id.
Position = tuple[float, str]

#: The orders in which positions rise.
RISING: Final[frozenset[TaskOrder]] = frozenset({"oldest", "priority"})


class Listed(NamedTuple):
    """One task of a list."""

    info: TaskInfo
    stored: bool  #: only the store has it whole


def position_of(info: TaskInfo, order: TaskOrder) -> Position:
    """Return where a task stands in an order."""
    return sort_value(info, order), info.task_id


def is_after(position: Position, after: Position | None, order: TaskOrder) -> bool:
    """Return whether a position comes behind another in an order."""
    if after is None:
        return True
    return position > after if order in RISING else position < after


def page_of_both(
    in_memory: Mapping[Position, TaskInfo],
    known: Collection[str],
    stored: Iterator[TaskInfo],
    order: TaskOrder,
    limit: int,
) -> tuple[list[Listed], Position | None]:
    """Return at most `limit` tasks in order, and the position to go on from, None at the end.

    Args:
        in_memory: the first `limit` + 1 tasks in memory that are asked for, in any order.
        known: the ids of all tasks in memory, also of those that are not asked for.
        stored: the stored tasks that are asked for, in order.
    """
    falls = order not in RISING
    memory = ((place, Listed(in_memory[place], False)) for place in sorted(in_memory, reverse=falls))
    disk = ((position_of(info, order), Listed(info, True)) for info in stored)
    # Merged first, and thinned out then: so the store is read only as far as the page goes.
    merged = heapq.merge(memory, disk, key=lambda entry: entry[0], reverse=falls)
    each_once = (entry for entry in merged if not (entry[1].stored and entry[1].info.task_id in known))
    page = list(itertools.islice(each_once, limit + 1))
    following = page[limit - 1][0] if len(page) > limit else None
    return [listed for _, listed in page[:limit]], following


def read_stored(
    stored: StoredTasks, query: TaskQuery, after: Position | None, batch: int
) -> Iterator[TaskInfo]:
    """Yield the stored tasks of a query behind a position, reading `batch` of them at a time."""
    while page := stored.select(query, limit=batch, after=after):
        yield from page
        if len(page) < batch:
            return
        after = position_of(page[-1], query.order)
