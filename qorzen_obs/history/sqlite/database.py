"""One connection to the file of the history: how it is opened, and what its errors mean.

A thread has its own connections. The process has one that writes: with several, SQLite before 3.51.3 may corrupt the
file when one of them resets the log.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from qorzen_obs.errors import HistoryError, HistorySchemaError
from qorzen_obs.history.forks import keep_for_ever
from qorzen_obs.history.sqlite.statements import migrations, statement
from qorzen_obs.history.storage import CorruptedError, StorageError

APPLICATION_ID: Final = 0x716F_627A  #: in the file's header: it is ours
BUSY_SECONDS: Final = 0.25  #: how long a statement waits for a lock of another connection
_JOURNAL_BYTES: Final = 16 * 2**20  # that the log keeps on disk after a checkpoint
_CACHE_KIB: Final = 8_192
#: With this version SQLite resets the log safely among several connections.
_SAFE_RESET: Final = (3, 51, 3)

_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",
    f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}",
    f"PRAGMA cache_size = -{_CACHE_KIB}",
    "PRAGMA mmap_size = 0",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA temp_store = MEMORY",
)

_MEANINGS: Final = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "the file or its folder is read-only; make both writable",
    sqlite3.SQLITE_IOERR: "the disk reports an input/output error; check the disk",
    sqlite3.SQLITE_BUSY: "another program locks the database; end it",
    sqlite3.SQLITE_LOCKED: "another program locks the database; end it",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check its folder and its permissions",
    sqlite3.SQLITE_PERM: "the file may not be opened; check its permissions",
    sqlite3.SQLITE_CORRUPT: "the file is corrupted",
    sqlite3.SQLITE_NOTADB: "the file is not a database",
}
#: Maximum number of rows in one statement, a power of two, so that few different statements are prepared. With fewer,
#: the writer waits more often for a busy work loop, up to 5 ms each time; with more, it holds the loop up.
_ROWS_AT_ONCE: Final = 256
_CORRUPTED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

Values = Sequence[Any] | Mapping[str, Any]


def meaning_of(error: sqlite3.Error) -> StorageError:
    """Return an error of SQLite as one of this package, with what to do about it."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind = CorruptedError if code in _CORRUPTED else StorageError
    return kind(_MEANINGS.get(code, str(error)), is_busy=code in _BUSY)


@contextmanager
def translated() -> Iterator[None]:
    """Raise what SQLite raises inside as StorageError or CorruptedError."""
    try:
        yield
    except sqlite3.Error as error:
        raise meaning_of(error) from error
    except OSError as error:
        raise StorageError(f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")) from error


def warning_of(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> str | None:
    """Return what to know about this version of SQLite, None if there is nothing."""
    if version >= _SAFE_RESET:
        return None
    return (
        f"SQLite {'.'.join(map(str, version))} may corrupt the file if another program writes to it while this one "
        "runs; only read it, or use SQLite 3.51.3 or newer"
    )


class Database:
    """The connection that writes. Makes the file with mode 0600, which SQLite gives its log too.

    Raises:
        StorageError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with translated():
            _create(path)
            self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                (mode,) = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
                for pragma in _PRAGMAS:
                    self._connection.execute(pragma)
                self._is_empty = schema_version(self._connection, path) == 0
                self._file = _identity_of(path)
            except BaseException:
                self._connection.close()
                raise
        self._most_values = self._connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        if mode != "wal":
            self._connection.close()
            raise StorageError(
                "its file system has no shared memory, which SQLite's log needs; use a local disk"
            )

    def check_file(self) -> None:
        """Check that the path still leads to this file, and that it has a schema.

        Raises:
            CorruptedError: somebody has removed or replaced it: what is written to it is lost.
        """
        if self._is_empty or _identity_of(self.path) != self._file:
            raise CorruptedError("the file was removed or replaced")

    def execute(self, sql: str, values: Values = ()) -> sqlite3.Cursor:
        """Execute one statement."""
        return self._connection.execute(sql, values)

    def run(self, name: str, values: Values = ()) -> sqlite3.Cursor:
        """Execute the statement of this name."""
        return self._connection.execute(statement(name), values)

    def put(self, name: str, rows: Iterable[Sequence[Any]]) -> int:
        """Execute the statement of this name, which has a place for several rows, with all of them; return how many.

        Takes them from the iterator while it writes: Python gives the GIL away with each statement.
        """
        source, number = iter(rows), 0
        while made := list(islice(source, _ROWS_AT_ONCE)):
            number += len(made)
            columns = len(made[0])
            size = min(_ROWS_AT_ONCE, 1 << (self._most_values // columns).bit_length() - 1)
            while made:
                while size > len(made):
                    size //= 2
                sql = _for_rows(name, size, columns)
                self._connection.execute(sql, tuple(chain.from_iterable(made[:size])))
                del made[:size]
        return number

    def define(self, name: str, places: int, function: Any) -> None:
        """Let statements call a function."""
        self._connection.create_function(name, places, function, deterministic=True)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done inside, or nothing of it where it raises.

        Raises:
            StorageError: it could not be committed.
        """
        with translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite itself has rolled back after some errors
                    self._connection.execute("ROLLBACK")
                raise

    def migrate(self) -> None:
        """Bring the schema to the newest version; inside of a transaction."""
        version = schema_version(self._connection, self.path)
        for number, script in enumerate(migrations(), start=1):
            if number > version:
                for one in script:
                    self._connection.execute(one)
                self._connection.execute(f"PRAGMA user_version = {number}")
        self._is_empty = False
        if version == 0:
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def keep_open(self) -> None:
        """Never close the connection: for a forked child, which must not touch it."""
        keep_for_ever(self._connection)

    def close(self) -> None:
        """Close the connection; an error on the way changes nothing, since all that was committed is on disk."""
        with suppress(sqlite3.Error):
            self._connection.close()


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file for reading only, for a short time.

    Raises:
        StorageError: it cannot be opened or read.
        HistorySchemaError: a newer program has written it.
    """
    with translated():
        uri = f"{path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        with closing(connection):
            connection.execute("PRAGMA query_only = ON")
            schema_version(connection, path)
            yield connection


def schema_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the schema, 0 of an empty file.

    Raises:
        HistorySchemaError: it is newer than this program.
        HistoryError: it is the database of another program.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    if owner != APPLICATION_ID:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if owner or version or tables:
            raise HistoryError(
                str(path), "it is the database of another program; give history.url another path"
            )
        return 0
    if version > len(migrations()):
        raise HistorySchemaError(str(path), version, len(migrations()))
    return int(version)


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@cache
def _for_rows(name: str, rows: int, columns: int) -> str:
    """Return a statement with places for so many rows."""
    return statement(name, rows=", ".join([f"({', '.join('?' * columns)})"] * rows))


def _create(path: Path) -> None:
    """Make an empty file that only its owner may read. Never opens one that exists: closing it would drop locks."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
