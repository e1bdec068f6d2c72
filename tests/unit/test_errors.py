"""Every error of the tree: what it is caught as, what it carries, that it travels, and that it says what to do."""

import copy
import inspect
import pickle
from typing import Any

import pytest

from qorzen_obs import errors
from qorzen_obs.errors import (
    ExecutorRefusedError,
    FarTaskError,
    HistoryError,
    HistoryInUseError,
    HistorySchemaError,
    HistoryUnavailableError,
    IdempotencyConflictError,
    InvalidHealthCheckError,
    InvalidTaskError,
    ManagerError,
    ManagerInitializationError,
    ManagerShutdownError,
    QorzenError,
    RetryLater,
    SettingsError,
    StackUnavailableError,
    TaskCancelled,
    TaskError,
    TaskFailedError,
    TaskLostError,
    TaskManagerClosedError,
    TaskNotCancellableError,
    TaskNotFoundError,
    TaskNotRerunnableError,
    TaskQuarantinedError,
    TaskQueueFullError,
    TaskTimeoutError,
    TaskTransferError,
    TaskWaitTimeoutError,
)

#: An example of each, and words of its message that say what to do or what happened.
EXAMPLES: list[tuple[QorzenError, str]] = [
    (QorzenError("said on purpose"), "said on purpose"),
    (SettingsError("tasks.max_pending", "Expected `int` >= 1"), "setting 'tasks.max_pending': Expected"),
    (InvalidHealthCheckError("name", "two checks are named 'db'; give one another"), "give one another"),
    (ManagerError("config_manager", "has no such thing; make one"), "config_manager: has no such thing"),
    (ManagerInitializationError("task_manager", "is ready already; make a new one"), "make a new one"),
    (HistoryError("/h.sqlite", "the disk is full; free some space"), "history /h.sqlite: the disk is full"),
    (HistoryInUseError("/h.sqlite", "process 7"), "in use by process 7; stop that process, or give"),
    (HistorySchemaError("/h.sqlite", 3, 2), "its schema is version 3, and this program knows up to 2; use"),
    (HistoryUnavailableError("the disk is full"), "the history cannot record the task: the disk is full"),
    (ManagerShutdownError("task_manager", "is starting; await it first"), "await it first"),
    (TaskError("said on purpose"), "said on purpose"),
    (InvalidTaskError("timeout", "0 must be a positive number of seconds"), "timeout: 0 must be"),
    (TaskNotFoundError("ab12"), "use the id that submit_task returned"),
    (TaskNotCancellableError("ab12", "payment"), "wait for it instead"),
    (TaskNotRerunnableError("ab12", "it is running; wait for its end"), "again: it is running; wait for"),
    (IdempotencyConflictError("resize", "k1"), "send the first one again, or use a new key"),
    (
        TaskWaitTimeoutError("ab12", 2.5),
        "did not end within 2.5 s of waiting; it goes on: wait again or cancel",
    ),
    (TaskQueueFullError(10), "submit again later, raise the limit, or set tasks.when_full to 'wait'"),
    (ExecutorRefusedError("no room"), "no room"),
    (TaskManagerClosedError("new"), "await initialize() first"),
    (TaskManagerClosedError("draining"), "is draining and takes no new work; make a new one"),
    (TaskFailedError("ab12", "SystemExit", "1"), "task ab12 failed with SystemExit: 1"),
    (TaskTimeoutError("ab12", "timeout", "took longer"), "failed with timeout: took longer"),
    (RetryLater(2.5, "not there yet"), "asked to be tried again in 2.5 s: not there yet"),
    (TaskCancelled("ab12", "shutdown"), "task ab12 was cancelled (shutdown)"),
    (TaskCancelled("ab12"), "task ab12 was cancelled"),
    (TaskLostError("resize", "its process was killed by SIGKILL"), "was lost: its process was killed"),
    (TaskQuarantinedError("resize", 3, 59.6), "in quarantine for another 60 s; fix it, or submit"),
    (
        StackUnavailableError("ab12", "no answer within 1 s"),
        "cannot be had now: no answer within 1 s; ask again",
    ),
    (TaskTransferError("argument 1 ('lock')", "cannot be sent"), "make locks, files and connections inside"),
    (FarTaskError("SystemExit", "1"), "SystemExit: 1"),
]

ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, BaseException) and kind.__module__ == errors.__name__
]


def test_every_error_of_the_module_has_an_example_here() -> None:
    assert {type(example) for example, _ in EXAMPLES} == set(ALL)


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_a_qorzen_error_and_says_when_it_is_raised(kind: type[QorzenError]) -> None:
    assert issubclass(kind, QorzenError)
    assert kind.__doc__


@pytest.mark.parametrize(("error", "words"), EXAMPLES, ids=[repr(example) for example, _ in EXAMPLES])
def test_a_message_says_what_to_do(error: QorzenError, words: str) -> None:
    assert words in str(error)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", [example for example, _ in EXAMPLES], ids=repr)
def test_every_error_survives_pickling_with_its_fields(error: QorzenError, protocol: int) -> None:
    twin = pickle.loads(pickle.dumps(error, protocol))
    assert type(twin) is type(error)
    assert (str(twin), twin.args, vars(twin)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize("error", [example for example, _ in EXAMPLES], ids=repr)
def test_every_error_survives_copying(error: QorzenError) -> None:
    assert vars(copy.copy(error)) == vars(error)


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (ManagerInitializationError, (ManagerError, QorzenError)),
        (HistoryInUseError, (HistoryError, ManagerInitializationError)),
        (HistorySchemaError, (HistoryError, ManagerInitializationError)),
        (HistoryUnavailableError, (TaskError,)),
        (ManagerShutdownError, (ManagerError, QorzenError)),
        (TaskNotFoundError, (TaskError, LookupError)),
        (TaskNotCancellableError, (TaskError,)),
        (TaskWaitTimeoutError, (TaskError, TimeoutError)),
        (TaskQueueFullError, (TaskError,)),
        (ExecutorRefusedError, (TaskError, RuntimeError)),
        (TaskManagerClosedError, (TaskError,)),
        (TaskTimeoutError, (TaskFailedError, TimeoutError)),
        (TaskCancelled, (TaskError,)),
        (TaskTransferError, (TaskError, TypeError)),
        (InvalidTaskError, (TaskError, ValueError)),
        (SettingsError, (QorzenError, ValueError)),
    ],
)
def test_an_error_is_caught_as_what_it_means(kind: type[Any], bases: tuple[type[Any], ...]) -> None:
    assert all(issubclass(kind, base) for base in bases)


def test_a_cancelled_task_is_no_cancellation_of_the_caller() -> None:
    assert issubclass(TaskCancelled, Exception)
