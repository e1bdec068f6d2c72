"""The error tree: one class for each thing a caller can do differently.

Every error carries its facts as attributes, says in its message what to do, and survives pickling, because its
positional arguments are those facts.
"""

from __future__ import annotations


class QorzenError(Exception):
    """Base of every error that this package raises on purpose."""


class SettingsError(QorzenError, ValueError):
    """A setting is unknown or its value is out of bounds; nothing was changed."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(key, problem)
        self.key = key
        self.problem = problem

    def __str__(self) -> str:
        return f"setting {self.key!r}: {self.problem}"


class InvalidHealthCheckError(QorzenError, ValueError):
    """One of the program's own health checks is unusable; nothing was added."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(argument, problem)
        self.argument = argument
        self.problem = problem

    def __str__(self) -> str:
        return f"health check, {self.argument}: {self.problem}"


class ManagerError(QorzenError):
    """A manager could not start, stop or be used in its present state."""

    def __init__(self, manager: str, problem: str) -> None:
        super().__init__(manager, problem)
        self.manager = manager
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.manager}: {self.problem}"


class ManagerInitializationError(ManagerError):
    """A manager did not start: already started, a bad collaborator, a port in use."""


class HistoryError(ManagerInitializationError):
    """The file of the durable history cannot be used; the history did not start."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__("history", problem)
        self.args = (path, problem)
        self.path = path

    def __str__(self) -> str:
        return f"history {self.path}: {self.problem}"


class HistoryInUseError(HistoryError):
    """Another process owns the file of the durable history, or locks its database."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(path, f"in use by {holder}; stop that process, or give this one another history.url")
        self.args = (path, holder)
        self.holder = holder


class HistorySchemaError(HistoryError):
    """A newer version of this program has written the file of the durable history; it was left as it is."""

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(
            path,
            f"its schema is version {found}, and this program knows up to {known}; "
            "use the newer program, or give this one another history.url",
        )
        self.args = (path, found, known)
        self.found = found
        self.known = known


class ManagerShutdownError(ManagerError):
    """A manager could not stop cleanly."""


class TaskError(QorzenError):
    """Base of every error about a task."""


class InvalidTaskError(TaskError, ValueError):
    """An argument of a submission or a query is unusable; nothing was accepted."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(argument, problem)
        self.argument = argument
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.argument}: {self.problem}"


class TaskNotFoundError(TaskError, LookupError):
    """No live, kept or remembered task has this id."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        return f"no task has the id {self.task_id!r}; use the id that submit_task returned"


class TaskNotCancellableError(TaskError):
    """The task was submitted with cancellable=False."""

    def __init__(self, task_id: str, name: str) -> None:
        super().__init__(task_id, name)
        self.task_id = task_id
        self.name = name

    def __str__(self) -> str:
        return (
            f"task {self.name!r} ({self.task_id}) was submitted with cancellable=False; wait for it instead"
        )


class TaskNotRerunnableError(TaskError):
    """A task cannot be run again: it neither failed nor was cancelled, or its call is not kept any more."""

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(task_id, reason)
        self.task_id = task_id
        self.reason = reason

    def __str__(self) -> str:
        return f"task {self.task_id} cannot be run again: {self.reason}"


class IdempotencyConflictError(TaskError):
    """An idempotency key was used for the same task with another body; nothing was accepted."""

    def __init__(self, name: str, key: str) -> None:
        super().__init__(name, key)
        self.name = name
        self.key = key

    def __str__(self) -> str:
        return (
            f"the idempotency key {self.key!r} was used for task {self.name!r} with another body; "
            "send the first one again, or use a new key"
        )


class TaskWaitTimeoutError(TaskError, TimeoutError):
    """The wait ended before the task did; the task continues."""

    def __init__(self, task_id: str, timeout_seconds: float) -> None:
        super().__init__(task_id, timeout_seconds)
        self.task_id = task_id
        self.timeout_seconds = timeout_seconds

    def __str__(self) -> str:
        return (
            f"task {self.task_id} did not end within {self.timeout_seconds:g} s of waiting; "
            "it goes on: wait again or cancel it"
        )


class TaskQueueFullError(TaskError):
    """`tasks.max_pending` tasks are waiting already; nothing was accepted."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.limit} tasks are pending, which is tasks.max_pending; submit again later, raise the limit, "
            "or set tasks.when_full to 'wait'"
        )


class HistoryUnavailableError(TaskError):
    """The durable history cannot record a task now, so nothing was accepted; `history.when_broken` says refuse."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the history cannot record the task: {self.reason}"


class TaskManagerClosedError(TaskError):
    """The manager does not take this work: it is not initialized, has stopped, or drains.

    While it drains, only its running tasks may submit, and only if nobody has asked them to stop.
    """

    def __init__(self, state: str) -> None:
        super().__init__(state)
        self.state = state

    def __str__(self) -> str:
        if self.state == "new":
            return "the task manager is not initialized; await initialize() first"
        return f"the task manager is {self.state} and takes no new work; make a new one"


class ExecutorRefusedError(TaskError, RuntimeError):
    """An executor of the manager does not take this call. A RuntimeError, as users of executors expect."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class TaskFailedError(TaskError):
    """`run` waited for a task that raised something other than an Exception, such as SystemExit or KeyboardInterrupt.

    The original is its `__cause__`. Any other exception is raised as itself.
    """

    def __init__(self, task_id: str, error_type: str, error: str) -> None:
        super().__init__(task_id, error_type, error)
        self.task_id = task_id
        self.error_type = error_type
        self.error = error

    def __str__(self) -> str:
        return f"task {self.task_id} failed with {self.error_type}: {self.error}"


class TaskTimeoutError(TaskFailedError, TimeoutError):
    """`run` waited for a task whose attempt passed its timeout."""


class RetryLater(TaskError):
    """A task raises this to be tried again after `seconds`, whatever its retry policy says about other exceptions.

    It counts as an attempt: if the definition has a `retry`, its `max_attempts` applies.
    """

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(seconds, reason)
        self.seconds = seconds
        self.reason = reason

    def __str__(self) -> str:
        because = f": {self.reason}" if self.reason else ""
        return f"asked to be tried again in {self.seconds:g} s{because}"


class TaskCancelled(TaskError):
    """Raised in a thread by `current_task().raise_if_cancelled()`, and by `run` for a cancelled task."""

    def __init__(self, task_id: str, reason: str | None = None) -> None:
        super().__init__(task_id, reason)
        self.task_id = task_id
        self.reason = reason

    def __str__(self) -> str:
        because = f" ({self.reason})" if self.reason else ""
        return f"task {self.task_id} was cancelled{because}"


class TaskLostError(TaskError):
    """The process that ran the task died. The task may have done part of its work.

    It runs again only if the `retry` of its definition covers this error, as `Retry` does by default.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"task {self.name!r} was lost: {self.reason}"


class TaskQuarantinedError(TaskError):
    """Tasks of this name have killed their worker process too often; for a while none of them runs."""

    def __init__(self, name: str, deaths: int, seconds: float) -> None:
        super().__init__(name, deaths, seconds)
        self.name = name
        self.deaths = deaths
        self.seconds = seconds  #: seconds until the next one may run

    def __str__(self) -> str:
        return (
            f"task {self.name!r} has killed its worker process {self.deaths} times and is in quarantine for "
            f"another {self.seconds:.0f} s; fix it, or submit the fixed one under another name"
        )


class StackUnavailableError(TaskError):
    """The stack of a running task was requested, but the worker process that runs it does not answer."""

    def __init__(self, task_id: str, problem: str) -> None:
        super().__init__(task_id, problem)
        self.task_id = task_id
        self.problem = problem

    def __str__(self) -> str:
        return f"the stack of task {self.task_id} cannot be had now: {self.problem}; ask again"


class TaskTransferError(TaskError, TypeError):
    """The callable, an argument or the result cannot pass between the service and a worker process."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(what, problem)
        self.what = what
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"{self.what} {self.problem}; pass plain data or something that pickles, and make locks, "
            "files and connections inside the task"
        )


class FarTaskError(TaskError):
    """Replaces an exception from a worker process that cannot be raised here, such as SystemExit."""

    def __init__(self, error_type: str, error: str) -> None:
        super().__init__(error_type, error)
        self.error_type = error_type
        self.error = error

    def __str__(self) -> str:
        return f"{self.error_type}: {self.error}" if self.error else self.error_type
