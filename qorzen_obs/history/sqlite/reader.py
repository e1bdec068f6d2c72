"""Reads the SQLite file: one short transaction for each question, on a connection of its own.

A reader that stays would keep the log from shrinking. All of it blocks for a disk, so it belongs on other threads than
the work loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from qorzen_obs.history.base import Loss, TaskOrder, TaskQuery
from qorzen_obs.history.rows import COLUMNS, info_of
from qorzen_obs.history.sqlite.database import reading, schema_version
from qorzen_obs.history.sqlite.statements import migrations, statement
from qorzen_obs.tasks import TaskCategory, TaskInfo

#: How many of the newest tasks a search for a text looks at.
SEARCHED_FOR_TEXT: Final = 50_000  # as in statements/newest_tasks.sql
_EXPORTED_AT_ONCE: Final = 500
#: So many rows are sorted sooner than as many are found one by one in the order of an index.
_FEW: Final = 2_000
_CONTAINS: Final = (
    "instr(lower(name || char(10) || task_id || char(10) || coalesce(plugin_id, '') || char(10) || "
    "coalesce(error_type, '') || char(10) || coalesce(error, '')), ?)"
)

#: How each order sorts: the expression of base.sort_value, and whether it rises.
_ORDERS: Final[dict[TaskOrder, tuple[str, bool]]] = {
    "newest": ("created_at", False),
    "oldest": ("created_at", True),
    "priority": ("created_at - priority * 1e10", True),
    "ended": ("completed_at", False),
}


class StoredHistory:
    """The tasks in a file, of any process. From any thread; each method blocks for the disk.

    Each raises StorageError where the file cannot be read now, and HistorySchemaError where a newer program has written
    it. Before anything was written there is nothing to find.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, task_id: str) -> TaskInfo | None:
        """Return one stored task, None if it is not stored."""
        row = self._first(statement("find_task", columns=COLUMNS), task_id)
        return None if row is None else info_of(row)

    def select(
        self, query: TaskQuery, *, limit: int, after: tuple[float, str] | None = None
    ) -> list[TaskInfo]:
        """Return up to `limit` tasks behind the position `after` in the order of the query."""
        with _opened(self.path) as connection:
            if connection is None:
                return []
            conditions = _conditions(query, connection)
            if conditions is None:
                return []
            sql, values = _select(query, conditions, after, are_few=_are_few(query, conditions, connection))
            return [info_of(row) for row in connection.execute(sql, [*values, limit])]

    def logs(self, task_id: str) -> Sequence[dict[str, Any]]:
        """Return the stored log lines of an ended task, the oldest first."""
        return self._list(statement("task_logs"), task_id)

    def spans(self, trace_id: str) -> Sequence[dict[str, Any]]:
        """Return the stored spans of a trace, as OTLP/JSON has them."""
        return self._list(statement("trace"), trace_id)

    def losses(self) -> list[Loss]:
        """Return what crashes took, the newest first."""
        return [loss_of(row) for row in self._all(statement("losses"))]

    def _first(self, sql: str, *values: Any) -> Any:
        return next(iter(self._all(sql, *values)), None)

    def _list(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        row = self._first(sql, *values)
        return [] if row is None else msgspec.json.decode(row[0], type=list[dict[str, Any]])

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with _opened(self.path) as connection:
            return [] if connection is None else connection.execute(sql, values).fetchall()


class _Condition(NamedTuple):
    """A part of a WHERE, which begins with the column that it is about."""

    sql: str
    values: Sequence[Any]


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the file, for reading; None if nothing was written there yet."""
    if not path.exists() or not path.stat().st_size:
        yield None
        return
    with reading(path) as connection:
        connection.create_function("lower", 1, _lower, deterministic=True)
        yield connection if schema_version(connection, path) else None


def _lower(text: str | None) -> str:
    return (text or "").lower()


def _conditions(query: TaskQuery, connection: sqlite3.Connection) -> list[_Condition] | None:
    """Return what a row must fulfil; None if no row can."""
    found = list[_Condition]()
    one_of: dict[str, Iterable[Any]] = {
        "status": [status.value for status in query.statuses],
        "category": [category.value for category in query.categories],
        "priority": [int(priority) for priority in query.priorities],
        "plugin_id": query.plugin_ids,
        "name": query.names,
        "definition": query.definitions,
        "error_type": query.error_types,
        "parent_id": query.parent_ids,
    }
    if query.instances:
        epochs = _epochs_of(query.instances, connection)
        if not epochs:
            return None
        one_of["epoch"] = epochs
    for column, wanted in one_of.items():
        if values := sorted(wanted):
            found.append(_Condition(f"{column} IN ({_places(values)})", values))
    if query.created_after is not None:
        found.append(_Condition("created_at >= ?", [query.created_after]))
    if query.created_before is not None:
        found.append(_Condition("created_at < ?", [query.created_before]))
    if query.lost_by_crash:
        found.append(_Condition("recovered_by IS NOT NULL", []))
    return found


def _epochs_of(instances: Iterable[str], connection: sqlite3.Connection) -> list[int]:
    names = sorted(instances)
    sql = statement("epochs_of", places=_places(names))
    return [epoch for (epoch,) in connection.execute(sql, names)]


def _are_few(
    query: TaskQuery, conditions: Sequence[_Condition], connection: sqlite3.Connection
) -> bool | None:
    """Return whether so few rows fit that they can be sorted; None where each filter has an index in that order."""
    if not conditions or query.texts or query.order in {"newest", "oldest"}:
        return None
    sql = statement("count_some", conditions=" AND ".join(one.sql for one in conditions))
    (number,) = connection.execute(sql, [*(v for one in conditions for v in one.values), _FEW]).fetchone()
    return bool(number < _FEW)


def _select(
    query: TaskQuery,
    conditions: Sequence[_Condition],
    after: tuple[float, str] | None,
    *,
    are_few: bool | None,
) -> tuple[str, list[Any]]:
    """Return the statement for a query and its values but the last, which is the limit.

    SQLite does not know how much a limit saves. A `+` hides a column from its choice of an index: few rows are found
    by a filter's index and then sorted; of many the first in the index of the order are soon found.
    """
    value, rises = _ORDERS[query.order]
    wanted = [f"+{one.sql}" if are_few is False else one.sql for one in conditions]
    values = [value for one in conditions for value in one.values]
    if query.order == "ended":
        wanted.append("+completed_at IS NOT NULL" if are_few else "completed_at IS NOT NULL")
    if query.texts:
        wanted.append(f"({' OR '.join([_CONTAINS] * len(query.texts))})")
        values += query.texts
    if are_few:
        value = f"+({value})"
    if after is not None:
        wanted.append(f"({value}, task_id) {'>' if rises else '<'} (?, ?)")
        values += after
    direction = "ASC" if rises else "DESC"
    sql = statement(
        "select_tasks",
        columns=COLUMNS,
        tasks=statement("newest_tasks") if query.texts else "tasks",
        conditions=" AND ".join(wanted) or "TRUE",
        order=f"{value} {direction}, task_id {direction}",
    )
    return sql, values


def _places(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def loss_of(row: Sequence[Any]) -> Loss:
    """Return a loss from the columns of statements/losses.sql."""
    instance, started_at, last_seen_at, noticed_at, running, pending, by_category = row
    return Loss(
        instance=instance,
        started_at=started_at,
        last_seen_at=last_seen_at,
        noticed_at=noticed_at,
        running=running,
        pending=pending,
        by_category=msgspec.json.decode(by_category, type=dict[TaskCategory, int]),
    )


def check(path: Path) -> dict[str, Any]:
    """Return what a look at the whole file finds: its integrity, versions, numbers of tasks and owners. Takes long.

    Raises:
        StorageError: it cannot be read.
    """
    with reading(path) as connection:
        problems = [text for (text,) in connection.execute("PRAGMA integrity_check(20)") if text != "ok"]
        version = schema_version(connection, path)
        tasks = dict(connection.execute(statement("count_by_status")).fetchall()) if version else {}
        cursor = connection.execute(statement("all_owners")) if version else None
        names = [column[0] for column in cursor.description] if cursor else []
        owners = [dict(zip(names, row, strict=True)) for row in cursor or ()]
    return {
        "path": str(path),
        "ok": not problems,
        "problems": problems,
        "schema_version": version,
        "known_schema_version": len(migrations()),
        "sqlite_version": sqlite3.sqlite_version,
        "bytes": path.stat().st_size,
        "tasks": tasks,
        "owners": owners,
    }


def export(path: Path) -> Iterator[dict[str, Any]]:
    """Return each stored task as plain data, the oldest first. Reads a page at a time and holds nothing meanwhile.

    Raises:
        StorageError: it cannot be read.
    """
    history, after = StoredHistory(path), (float("-inf"), "")
    query = TaskQuery(order="oldest")
    while page := history.select(query, limit=_EXPORTED_AT_ONCE, after=after):
        for info in page:
            document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(info))
            del document["result"]
            yield document
        after = (page[-1].created_at, page[-1].task_id)
