"""What a manager has of a durable history: where it records its tasks, and what can be read of it.

Without a recorder nothing here runs for a task.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from qorzen_obs.history.base import Loss, Recorder, StoredTasks
from qorzen_obs.settings import HistorySettings


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
