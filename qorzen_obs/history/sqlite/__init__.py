"""The durable history in one SQLite file, for one process at a time."""

from qorzen_obs.history.sqlite.reader import StoredHistory, check, export
from qorzen_obs.history.sqlite.storage import SqliteStorage

__all__ = ["SqliteStorage", "StoredHistory", "check", "export"]
