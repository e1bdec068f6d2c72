"""One attempt in a worker process, and how its callable is packed for that process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from qorzen_obs import foreign
from qorzen_obs.engines.base import Ended
from qorzen_obs.engines.processes.channel import FAILURE, Frame
from qorzen_obs.engines.processes.codec import Encoded, TooLargeError, decode, encode
from qorzen_obs.engines.processes.failure import error_of, failure_in, untransferable
from qorzen_obs.engines.processes.supervisor import WorkerProcess
from qorzen_obs.errors import TaskTransferError
from qorzen_obs.record import Attempt


class Job:
    """One attempt, from its start to its one end."""

    __slots__ = (
        "_ended",
        "attempt",
        "deaths",
        "encoded",
        "killed",
        "over",
        "rebuilt_by",
        "started",
        "terminated",
        "worker",
    )

    def __init__(self, attempt: Attempt, ended: Ended) -> None:
        self.attempt = attempt
        self._ended = ended
        self.encoded: Encoded | None = None  #: kept until it has started, for a second try
        self.worker: WorkerProcess | None = None  #: from the moment a worker got it
        self.started = False  #: its callable may have had effects
        self.deaths = 0  #: deaths of workers that had not started it
        self.terminated = False  #: its worker was sent SIGTERM
        self.killed = False  #: its worker was killed because of it
        #: The worker is done with it, and this thread rebuilds its result; 0 until the thread begins.
        self.rebuilt_by: int | None = None
        self.over = False

    def end(self, value: object, error: BaseException | None) -> None:
        """Report its end, once."""
        if not self.over:
            self.over = True
            self.encoded = self.worker = None
            self._ended(self.attempt, value, error)


def pack(attempt: Attempt, surroundings: Any, is_async: bool, *, limit: int | None = None) -> Encoded:
    """Encode what a worker needs to run the attempt's callable.

    Raises:
        TooLargeError: it takes more than `limit` bytes.
        TaskTransferError: names what does not pickle.
    """
    record = attempt.record
    assert record.func is not None, "a record keeps its callable until it ends"
    about = {
        "task_id": record.task_id,
        "name": record.name,
        "category": record.category.value,
        "priority": record.priority.value,
        "number": attempt.number,
    }
    call = (record.func, record.args, record.kwargs, is_async, record.wants_progress, about, surroundings)
    try:
        return encode(call, limit=limit)
    except TooLargeError:
        raise
    except BaseException as error:  # SystemExit too: user code runs here
        raise _blame(record.func, record.args, record.kwargs, error) from error


def rebuild(frame: Frame) -> tuple[object, BaseException | None]:
    """Return what the callable returned, or its exception. This may run user code, which may take any time."""
    try:
        if frame.kind == FAILURE:
            return None, error_of(failure_in(frame))
        return decode(frame), None
    except BaseException as error:  # noqa: BLE001  # unpickling may run any code of the result's class
        return None, untransferable("the result", "read in the service's process", error)


def _blame(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], error: BaseException
) -> TaskTransferError:
    for what, value in [
        *_variables(func, args),
        ("the callable", func),
        *_named(func, args),
        *_quoted(kwargs),
    ]:
        if (cause := _obstacle(value)) is not None:
            return untransferable(what, "sent to a worker process", cause)
    return untransferable("the call", "sent to a worker process", error)


def _obstacle(value: object) -> BaseException | None:
    """Return what pickling `value` raises."""
    try:
        encode(value)
    except BaseException as error:  # noqa: BLE001  # whatever its code raises
        return error
    return None


def _variables(func: object, args: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of variables that travel by value, of the callable and its arguments' classes."""
    waiting, seen = [_code_of(func), *map(type, args)], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen or _obstacle(one) is None:
            continue
        seen.add(id(one))
        if type(one) is type:
            waiting += map(_code_of, vars(one).values())
        if type(one) is not FunctionType:
            continue
        try:
            found = inspect.getclosurevars(one)
        except (TypeError, ValueError):  # a cell of it is empty
            continue
        for name, value in {**found.globals, **found.nonlocals}.items():
            if type(value) in (FunctionType, type):
                waiting.append(value)
            else:
                yield f"the variable {name!r} that {one.__qualname__} uses", value


def _code_of(value: object) -> object:
    """Return the function inside a partial, a method or the like."""
    inner = foreign.inside_partial(value)
    return foreign.attribute(inner, "__func__", inner)


def _named(func: Callable[..., Any], args: tuple[Any, ...]) -> list[tuple[str, Any]]:
    try:
        names = list(inspect.signature(func).parameters)[: len(args)]
    except BaseException:  # noqa: BLE001  # some builtins have none, and others are code
        names = []
    shown = [f" ({name!r})" for name in names] + [""] * (len(args) - len(names))
    return [
        (f"argument {place}{name}", arg) for place, (name, arg) in enumerate(zip(shown, args, strict=True), 1)
    ]


def _quoted(kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(f"argument {name!r}", value) for name, value in kwargs.items()]
