"""Reads the SQLite file: one short transaction for each question, on a connection of its own.

A reader that stays would keep the log from shrinking. All of it blocks for a disk, so it belongs on other threads than
the work loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from qorzen_obs.history.base import Loss, TaskOrder, TaskQuery
from qorzen_obs.history.rows import COLUMNS, info_of
from qorzen_obs.history.sqlite.database import reading, schema_version
from qorzen_obs.history.sqlite.statements import migrations, statement
from qorzen_obs.tasks import TaskCategory, TaskInfo

#: How many of the newest tasks a search for a text looks at.
SEARCHED_FOR_TEXT: Final = 50_000
_EXPORTED_AT_ONCE: Final = 500

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
        sql, values = _select(query, limit, after)
        return [info_of(row) for row in self._all(sql, *values)]

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


def _select(query: TaskQuery, limit: int, after: tuple[float, str] | None) -> tuple[str, list[Any]]:
    """Return the statement for a query and its values."""
    conditions, values = list[str](), list[Any]()
    one_of: tuple[tuple[str, Iterable[Any]], ...] = (
        ("status", [status.value for status in query.statuses]),
        ("category", [category.value for category in query.categories]),
        ("priority", [int(priority) for priority in query.priorities]),
        ("plugin_id", query.plugin_ids),
        ("name", query.names),
        ("definition", query.definitions),
        ("error_type", query.error_types),
        ("parent_id", query.parent_ids),
    )
    for column, wanted in one_of:
        found = sorted(wanted)
        if found:
            conditions.append(f"{column} IN ({', '.join('?' * len(found))})")
            values += found
    if query.instances:
        places = ", ".join("?" * len(query.instances))
        conditions.append(f"epoch IN (SELECT epoch FROM owners WHERE instance IN ({places}))")
        values += sorted(query.instances)
    for comparison, at in (
        ("created_at >= ?", query.created_after),
        ("created_at < ?", query.created_before),
    ):
        if at is not None:
            conditions.append(comparison)
            values.append(at)
    if query.lost_by_crash:
        conditions.append("recovered_by IS NOT NULL")
    if query.order == "ended":
        conditions.append("completed_at IS NOT NULL")
    if query.texts:
        contains = (
            "instr(lower(name || char(10) || task_id || char(10) || coalesce(plugin_id, '') || char(10) || "
        )
        contains += "coalesce(error_type, '') || char(10) || coalesce(error, '')), ?)"
        conditions.append(f"({' OR '.join([contains] * len(query.texts))})")
        values += query.texts
    value, rises = _ORDERS[query.order]
    if after is not None:
        conditions.append(f"({value}, task_id) {'>' if rises else '<'} (?, ?)")
        values += after
    direction = "ASC" if rises else "DESC"
    sql = statement(
        "select_tasks",
        columns=COLUMNS,
        tasks=statement("newest_tasks") if query.texts else "tasks",
        conditions=" AND ".join(conditions) or "TRUE",
        order=f"{value} {direction}, task_id {direction}",
    )
    return sql, [*values, limit]


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
            document: dict[str, Any] = msgspec.to_builtins(info)
            del document["result"]
            yield document
        after = (page[-1].created_at, page[-1].task_id)
