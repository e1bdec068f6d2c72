"""How an attempt ends: one decision from what was asked of it and what its code did. Pure."""

from __future__ import annotations

import contextlib
import dis
import inspect
import traceback
from asyncio import CancelledError
from collections.abc import Coroutine
from types import FrameType, TracebackType
from typing import Final

import msgspec

from qorzen_obs.errors import FarTaskError, TaskCancelled, TaskLostError
from qorzen_obs.record import Ask, Attempt, Decision
from qorzen_obs.tasks import (
    COMPLETED,
    TIMEOUT,
    TaskStatus,
)
from qorzen_obs.telemetry.redaction import Redactor

#: The reason of an ask by the deadline of the whole task, not of one attempt.
TASK_DEADLINE: Final = "deadline"
LOST: Final = "lost"
_MAX_MESSAGE: Final = 4_000
_MAX_TRACEBACK: Final = 20_000
_GENERATORS: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_USUAL_REDACTOR: Final = Redactor()
_YIELD: Final = dis.opmap["YIELD_VALUE"]


def decide(
    attempt: Attempt, value: object, error: BaseException | None, redactor: Redactor = _USUAL_REDACTOR
) -> Decision:
    """Return how an attempt ended whose code returned `value` or raised `error`.

    Asked by its deadline it has timed out, whatever it did. Asked by a cancel it is cancelled only when it gave in:
    what it returned or raised otherwise stands. A CancelledError that nobody asked for is a failure. Message and
    traceback come out redacted; the exception is the one that was raised.
    """
    if attempt.asked is Ask.DEADLINE:
        return _timed_out(attempt)
    if error is None:
        if value is not None and isinstance(value, Coroutine):  # an ABC takes a while to say no
            value.close()
            return _failed(_missing_await(attempt), redactor)
        return Decision(COMPLETED, value)
    if attempt.asked is Ask.CANCEL and isinstance(error, (CancelledError, TaskCancelled)):
        return Decision(TaskStatus.CANCELLED, cancel_reason=attempt.reason)
    return _failed(error, redactor)


def decide_abandoned(attempt: Attempt) -> Decision:
    """Return how an attempt ended whose code would not stop within the grace."""
    if attempt.asked is Ask.DEADLINE:
        return msgspec.structs.replace(_timed_out(attempt), abandoned=True)
    return Decision(TaskStatus.CANCELLED, cancel_reason=attempt.reason, abandoned=True)


def error_type_of(error: BaseException) -> str:
    """Return the exception's qualified name, without the module for builtins; `lost` for a lost process."""
    if isinstance(error, TaskLostError):
        return LOST
    if isinstance(error, FarTaskError):
        return error.error_type
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def shown_text(text: str, limit: int) -> str:
    """Return the first `limit` characters, with what UTF-8 cannot carry escaped: file names bring lone surrogates."""
    return text[:limit].encode(errors="backslashreplace").decode()


def _timed_out(attempt: Attempt) -> Decision:
    record = attempt.record
    if attempt.reason == TASK_DEADLINE:
        message = f"the task had not ended {record.definition.deadline:g} s after it was accepted"
    else:
        message = f"the attempt took longer than its timeout of {record.timeout:g} s"
    return Decision(TaskStatus.FAILED, error=message, error_type=TIMEOUT)


def _failed(error: BaseException, redactor: Redactor) -> Decision:
    try:
        message = error.error if isinstance(error, FarTaskError) else str(error)
    except Exception as broken:  # noqa: BLE001 - an exception's own __str__ may fail, and must not take the manager along
        message = f"<its message cannot be shown: {type(broken).__name__}>"
    far = getattr(error.__cause__, "far_traceback", None)  # where it was raised in a worker process
    text = far or "".join(traceback.TracebackException.from_exception(error, compact=True).format())
    _drop_locals(error)
    return Decision(
        TaskStatus.FAILED,
        error=shown_text(redactor.head(message, _MAX_MESSAGE), _MAX_MESSAGE),
        error_type=error_type_of(error),
        traceback=shown_text(redactor.tail(text, _MAX_TRACEBACK), _MAX_TRACEBACK),
        exception=error,
    )


def _drop_locals(error: BaseException) -> None:
    """Drop the local variables that the exception's frames hold, so that a kept failure keeps no data alive."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            _clear_frames(one.__traceback__)
            pending += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                pending += one.exceptions


def _clear_frames(tb: TracebackType | None) -> None:
    while tb is not None:
        if not _may_be_suspended(tb.tb_frame):
            with contextlib.suppress(RuntimeError):  # it is being executed
                tb.tb_frame.clear()
        tb = tb.tb_next


def _may_be_suspended(frame: FrameType) -> bool:
    """A coroutine that handled the exception and lives on; before Python 3.13 clearing its frame would close it."""
    code = frame.f_code
    return bool(code.co_flags & _GENERATORS) and code.co_code[frame.f_lasti] == _YIELD


def _missing_await(attempt: Attempt) -> TypeError:
    name = attempt.record.name
    return TypeError(f"{name} returned a coroutine that nobody awaits; submit an async function itself")
