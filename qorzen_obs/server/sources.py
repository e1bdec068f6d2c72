"""What the server reads from: the manager, by the few methods that it calls, and the kept traces.

All of them answer from any thread and without the work loop, but for those that say so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum
from typing import Any, Final, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry

from qorzen_obs.core.health_checks import HealthChecks
from qorzen_obs.record import TaskRecord
from qorzen_obs.scheduling.scheduler import Explanation
from qorzen_obs.settings import HealthSettings
from qorzen_obs.stacks import LiveStack
from qorzen_obs.tasks import TaskInfo
from qorzen_obs.telemetry.loop_monitor import Block
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.span_store import SpanStore
from qorzen_obs.telemetry.task_lines import KeptLines


class ManagerSource(Protocol):
    """The manager, as the server sees it."""

    @property
    def state(self) -> Enum:
        """Where the manager stands: new, starting, ready, draining or stopped."""
        ...

    @property
    def initialized(self) -> bool: ...

    @property
    def registry(self) -> CollectorRegistry: ...

    @property
    def health(self) -> HealthChecks:
        """The checks of the program's own."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The work loop, where commands run; None before it is known."""
        ...

    def status(self) -> dict[str, Any]: ...

    async def cancel_task(self, task_id: str, *, reason: str = ...) -> bool:
        """Cancel a task; for the work loop."""
        ...

    def find(self, task_id: str) -> TaskInfo | None: ...

    def records(self) -> Sequence[TaskRecord]:
        """Return every live and kept task, the newest first."""
        ...

    def blocked_seconds(self) -> float:
        """Return for how long the work loop has not turned; 0.0 when it does."""
        ...

    def stalled_seconds(self) -> float:
        """Return for how long a task has waited that nothing keeps from starting; 0.0 when none does."""
        ...

    def loop_block(self) -> Block | None:
        """Return what holds the work loop right now, once it was noticed."""
        ...

    def stack_of(self, task_id: str) -> LiveStack | None:
        """Return where a task is; None when no code of it runs. For a process task it may take a second."""
        ...

    def log_of(self, task_id: str) -> KeptLines:
        """Return the kept log lines of a task."""
        ...

    def why_pending(self, task_id: str) -> Explanation | None:
        """Return why a task is pending, None when it is not; for the work loop."""
        ...


MANAGER: Final = web.AppKey("manager", ManagerSource)
SPANS: Final = web.AppKey("spans", SpanStore)  #: missing where no traces are kept
REDACTOR: Final = web.AppKey("redactor", Redactor)  #: for kept spans, which user code has filled
HEALTH: Final = web.AppKey("health", HealthSettings)
