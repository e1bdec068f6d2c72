"""A task manager for asyncio services in which nothing runs unobserved.

    async with open_task_manager(http=True) as tasks:
        value = await tasks.run(callable, argument)

Each public name is imported when it is first used: a worker process that unpickles a task needs few of them, and
importing all of them takes half a second.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from qorzen_obs.app import open_task_manager
    from qorzen_obs.core.base import QorzenManager
    from qorzen_obs.core.current_task import current_task
    from qorzen_obs.core.handle import TaskHandle
    from qorzen_obs.core.task_manager import TaskManager
    from qorzen_obs.current import track
    from qorzen_obs.errors import RetryLater
    from qorzen_obs.health import health_check
    from qorzen_obs.options import task, with_options
    from qorzen_obs.registry import TaskRegistry
    from qorzen_obs.retry import Retry, exponential
    from qorzen_obs.server.app import create_app
    from qorzen_obs.settings import (
        EngineSettings,
        HealthSettings,
        HistorySettings,
        ServerSettings,
        Settings,
        TaskSettings,
        TelemetrySettings,
        load_settings,
    )
    from qorzen_obs.tasks import TaskCategory, TaskInfo, TaskPriority, TaskProgress, TaskStatus

__all__ = [
    "EngineSettings",
    "HealthSettings",
    "HistorySettings",
    "QorzenManager",
    "Retry",
    "RetryLater",
    "ServerSettings",
    "Settings",
    "TaskCategory",
    "TaskHandle",
    "TaskInfo",
    "TaskManager",
    "TaskPriority",
    "TaskProgress",
    "TaskRegistry",
    "TaskSettings",
    "TaskStatus",
    "TelemetrySettings",
    "create_app",
    "current_task",
    "exponential",
    "health_check",
    "load_settings",
    "open_task_manager",
    "task",
    "track",
    "with_options",
]

_HOMES: Final = {
    "EngineSettings": "settings",
    "HealthSettings": "settings",
    "HistorySettings": "settings",
    "QorzenManager": "core.base",
    "Retry": "retry",
    "RetryLater": "errors",
    "ServerSettings": "settings",
    "Settings": "settings",
    "TaskCategory": "tasks",
    "TaskHandle": "core.handle",
    "TaskInfo": "tasks",
    "TaskManager": "core.task_manager",
    "TaskPriority": "tasks",
    "TaskProgress": "tasks",
    "TaskRegistry": "registry",
    "TaskSettings": "settings",
    "TaskStatus": "tasks",
    "TelemetrySettings": "settings",
    "create_app": "server.app",
    "current_task": "core.current_task",
    "exponential": "retry",
    "health_check": "health",
    "load_settings": "settings",
    "open_task_manager": "app",
    "task": "options",
    "track": "current",
    "with_options": "options",
}


# OpenTelemetry reads these while it is imported, and fails if one is unusable.
if any(
    name in os.environ
    for name in (
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS",
        "OTEL_PROPAGATORS",
        "OTEL_PYTHON_CONTEXT",
        "OTEL_RESOURCE_ATTRIBUTES",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    )
):
    from qorzen_obs.otel_variables import import_past_unusable

    import_past_unusable()


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value  # the next look-up finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
