"""Stores for a server to read: one that answers from a list, and one that fails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.history.base import Loss, StoredTasks, TaskQuery, sort_value
from qorzen_obs.history.storage import StorageError
from qorzen_obs.tasks import TaskInfo


class ListedStore:
    """Stored tasks from a list, chosen as the query says by status, order and position."""

    def __init__(
        self, infos: Iterable[TaskInfo] = (), *, losses: Sequence[Loss] = (), lost: Iterable[str] = ()
    ) -> None:
        self.infos = {info.task_id: info for info in infos}
        self.lines: dict[str, list[dict[str, Any]]] = {}
        self.traces: dict[str, list[dict[str, Any]]] = {}
        self.asked = 0  #: how often a part of a list was read
        self._losses = [*losses]
        self._lost = {*lost}

    def find(self, task_id: str) -> TaskInfo | None:
        return self.infos.get(task_id)

    def select(
        self, query: TaskQuery, *, limit: int, after: tuple[float, str] | None = None
    ) -> list[TaskInfo]:
        self.asked += 1
        rises = query.order in ("oldest", "priority")
        found = [
            ((sort_value(info, query.order), info.task_id), info)
            for info in self.infos.values()
            if (not query.statuses or info.status in query.statuses)
            and (not query.lost_by_crash or info.task_id in self._lost)
            and (not query.error_types or info.error_type in query.error_types)
            and (query.order != "ended" or info.completed_at is not None)
        ]
        found.sort(key=lambda entry: entry[0], reverse=not rises)
        behind = [
            info
            for position, info in found
            if after is None or (position > after if rises else position < after)
        ]
        return behind[:limit]

    def logs(self, task_id: str) -> Sequence[dict[str, Any]]:
        return self.lines.get(task_id, [])

    def spans(self, trace_id: str) -> Sequence[dict[str, Any]]:
        return self.traces.get(trace_id, [])

    def losses(self) -> list[Loss]:
        return self._losses


class BrokenStore:
    """A store that cannot be read."""

    def find(self, task_id: str) -> NoReturn:
        raise StorageError("the file cannot be read")

    def select(self, query: TaskQuery, *, limit: int, after: tuple[float, str] | None = None) -> NoReturn:
        raise StorageError("the file cannot be read")

    def logs(self, task_id: str) -> NoReturn:
        raise StorageError("the file cannot be read")

    def spans(self, trace_id: str) -> NoReturn:
        raise StorageError("the file cannot be read")

    def losses(self) -> NoReturn:
        raise StorageError("the file cannot be read")


class StoringLooks:
    """What is read of a manager, with other stored tasks and losses than its own."""

    def __init__(self, manager: TaskManager, stored: StoredTasks | None, losses: Sequence[Loss] = ()) -> None:
        self._manager = manager
        self.stored = stored
        self.losses = tuple(losses)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager.looks, name)


class StoringManager:
    """A manager that is read through StoringLooks."""

    def __init__(self, manager: TaskManager, stored: StoredTasks | None, losses: Sequence[Loss] = ()) -> None:
        self._manager = manager
        self.looks = StoringLooks(manager, stored, losses)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)
