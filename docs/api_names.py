"""The public names, and the page of docs/reference/ that each stands on.

A name is public under the module that its entry names. Whatever such a name takes or gives is public too, or stands
here as left out: docs/api_pages.py refuses to write a page otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import api_source


@dataclass(frozen=True, slots=True)
class Entry:
    """One public name."""

    module: str  #: where to import it from
    name: str
    #: Members that are for the package's own parts; `__init__` where these make the objects.
    without: tuple[str, ...] = ()
    internal: tuple[str, ...] = ()  #: parameters that are for the package's own parts
    like: str = ""  #: a class of the module whose fields say what those of the same name here mean


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the reference."""

    file: str
    title: str
    intro: str
    entries: tuple[Entry, ...]


def _all_of(module: str) -> tuple[Entry, ...]:
    return tuple(Entry(module, name) for name in api_source.defined_in(module))


#: What stands in annotations of public names, and is not public itself: engines of one's own, and what the routes ask
#: of a TaskManager.
NOT_PUBLIC: Final = frozenset({"EngineOwner", "ServedManager"})

PAGES: Final = (
    Page(
        "task-manager.md",
        "The task manager",
        "Open a task manager, submit tasks, cancel them, wait for them and look at them. "
        "`docs/guide/submitting.md` shows the ways to submit side by side.",
        (
            Entry("qorzen_obs", "open_task_manager"),
            Entry("qorzen_obs", "TaskManager", without=("looks",), internal=("telemetry", "history")),
            Entry("qorzen_obs.options", "SubmitOptions"),
            Entry("qorzen_obs.core.from_thread", "FromThread", without=("__init__",)),
            Entry("qorzen_obs.core.runtime", "ManagerState"),
            Entry("qorzen_obs", "QorzenManager"),
        ),
    ),
    Page(
        "handles.md",
        "Handles, executors and other answers",
        "The objects that the methods of a task manager return.",
        (
            Entry("qorzen_obs", "TaskHandle", without=("__init__",)),
            Entry("qorzen_obs.core.idempotency", "Submission"),
            Entry("qorzen_obs.scheduling.scheduler", "Explanation"),
            Entry("qorzen_obs.core.executor", "TaskExecutor", without=("__init__",)),
            Entry("qorzen_obs.core.executor", "ThreadTaskExecutor", without=("__init__",)),
            Entry(
                "qorzen_obs.core.task_future",
                "TaskFuture",
                without=("__init__", "await_end", "begin", "drop", "end", "fail", "follow"),
            ),
        ),
    ),
    Page(
        "tasks.md",
        "Tasks",
        "The words for what a task is and what happens to it.",
        (
            Entry("qorzen_obs", "TaskInfo"),
            Entry("qorzen_obs", "TaskProgress"),
            Entry("qorzen_obs.tasks", "TaskAttempt"),
            Entry("qorzen_obs", "TaskStatus"),
            Entry("qorzen_obs", "TaskCategory"),
            Entry("qorzen_obs", "TaskPriority"),
            Entry("qorzen_obs.tasks", "EngineKind"),
            Entry("qorzen_obs.tasks", "CancelGuarantee"),
            Entry("qorzen_obs.tasks", "EventKind"),
            Entry("qorzen_obs.record", "TaskEvent", without=("record", "state", "outline")),
            Entry("qorzen_obs.core.announcer", "OnEvent"),
            Entry("qorzen_obs.tasks", "CategoryName"),
            Entry("qorzen_obs.tasks", "PriorityName"),
            Entry("qorzen_obs.tasks", "StatusName"),
            Entry("qorzen_obs.tasks", "EngineName"),
            Entry("qorzen_obs.tasks", "CategoryOrName"),
            Entry("qorzen_obs.tasks", "PriorityOrName"),
            Entry("qorzen_obs.tasks", "StatusOrName"),
            Entry("qorzen_obs.tasks", "EngineOrName"),
        ),
    ),
    Page(
        "definitions.md",
        "Definitions and retries",
        "What a callable is submitted with, unless its submission says otherwise.",
        (
            Entry("qorzen_obs", "task"),
            Entry("qorzen_obs", "with_options"),
            Entry("qorzen_obs.options", "TaskOptions", like="TaskDefinition"),
            Entry("qorzen_obs.definition", "TaskDefinition", without=("starts_later",)),
            Entry("qorzen_obs.definition", "Restart"),
            Entry("qorzen_obs", "Retry"),
            Entry("qorzen_obs", "exponential"),
            Entry("qorzen_obs.retry", "Backoff"),
            Entry("qorzen_obs", "TaskRegistry"),
        ),
    ),
    Page(
        "inside-a-task.md",
        "Inside a task",
        "What the code of a task may ask and report, on each engine.",
        (
            Entry("qorzen_obs", "current_task"),
            Entry("qorzen_obs.core.current_task", "ManagedTask"),
            Entry("qorzen_obs", "track"),
        ),
    ),
    Page(
        "settings.md",
        "Settings of a service",
        "All settings of a service, made in code or read from a file and from variables. A setting such as "
        "`tasks.max_pending` is `max_pending` below `[tasks]` in the file, and `QORZEN_TASKS__MAX_PENDING` in the "
        "environment.",
        (
            Entry("qorzen_obs", "load_settings"),
            Entry("qorzen_obs", "Settings"),
            Entry("qorzen_obs", "TaskSettings"),
            Entry("qorzen_obs", "EngineSettings"),
            Entry("qorzen_obs", "ServerSettings"),
            Entry("qorzen_obs", "HealthSettings"),
            Entry("qorzen_obs", "TelemetrySettings"),
            Entry("qorzen_obs", "HistorySettings"),
            Entry("qorzen_obs.settings", "Seconds"),
            Entry("qorzen_obs.settings", "Count"),
            Entry("qorzen_obs.settings", "RUN_BUCKETS"),
            Entry("qorzen_obs.settings", "WAIT_BUCKETS"),
        ),
    ),
    Page(
        "hosts.md",
        "Web applications",
        "A task manager in an application of aiohttp, FastAPI, Starlette or another ASGI framework.",
        (
            *(Entry("qorzen_obs.hosts", name) for name in ("TASKS", "cleanup_ctx", "continue_trace")),
            Entry("qorzen_obs.hosts", "AsgiHost"),
            Entry("qorzen_obs.hosts", "ContinueTrace"),
            Entry("qorzen_obs", "create_app", internal=("spans", "redactor")),
            Entry("qorzen_obs.server.app", "OnRequest"),
            Entry("qorzen_obs.hosts.asgi_host", "Lifespan"),
            *(
                Entry("qorzen_obs.hosts.request_trace", name)
                for name in ("AsgiApp", "Scope", "Message", "Receive", "Send")
            ),
        ),
    ),
    Page(
        "health.md",
        "Health checks",
        "Checks of your own, which `/readyz`, `/health` and `qorzen_health_check_passing` show.",
        (
            Entry("qorzen_obs", "health_check"),
            Entry("qorzen_obs.health", "CheckOptions", like="CheckDefinition"),
            Entry("qorzen_obs.health", "CheckDefinition"),
            Entry(
                "qorzen_obs.core.health_checks",
                "HealthChecks",
                without=("__init__", "stopping", "refuse_traffic", "close"),
            ),
        ),
    ),
    Page(
        "logging.md",
        "Logging",
        "For programs that make a `TaskManager` themselves and write lines of their own. `open_task_manager` needs "
        "none of it.",
        (
            Entry("qorzen_obs.telemetry.log_records", "TaskLogHandler", without=("emit",)),
            Entry("qorzen_obs.telemetry.task_lines", "keep_task_line"),
            Entry("qorzen_obs.telemetry.logs", "add_task_context"),
        ),
    ),
    Page(
        "collaborators.md",
        "Collaborators",
        "What a `TaskManager` that you make yourself works with. Any objects with these methods will do; "
        "`open_task_manager` brings its own.",
        (
            Entry("qorzen_obs.core.collaborators", "ConcurrencyManager"),
            Entry("qorzen_obs.core.collaborators", "ThreadRunner"),
            Entry("qorzen_obs.core.collaborators", "EventBusManager"),
            Entry("qorzen_obs.core.collaborators", "LoggerManager"),
            Entry("qorzen_obs.core.collaborators", "ConfigManager"),
            Entry("qorzen_obs.core.collaborators", "OnSetting"),
            Entry("qorzen_obs.core.event_bus_manager", "Event"),
            Entry("qorzen_obs.clock", "Clock"),
        ),
    ),
    Page(
        "errors.md",
        "Errors",
        "One class for each thing that a caller can do differently. Each is picklable, has its facts as attributes, "
        "and says in its message what to do.",
        _all_of("qorzen_obs.errors"),
    ),
    Page(
        "testing.md",
        "Testing",
        "For the tests of programs that submit tasks; `docs/guide/testing.md` shows how. The fixtures come with "
        '`pytest_plugins = ["qorzen_obs.pytest_plugin"]`.',
        (
            Entry("qorzen_obs.testing", "open_test_manager", internal=("telemetry",)),
            *(entry for entry in _all_of("qorzen_obs.testing") if entry.name != "open_test_manager"),
            *_all_of("qorzen_obs.pytest_plugin"),
        ),
    ),
)

#: Names that have two modules: `from qorzen_obs import RetryLater` is as good.
ALSO_IN: Final = {("qorzen_obs.errors", "RetryLater"): "qorzen_obs"}
