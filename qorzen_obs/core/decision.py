"""Decides how an attempt ended, from what it was asked to do and what its code did. Pure."""

from __future__ import annotations

import contextlib
import dis
import inspect
from asyncio import CancelledError
from collections.abc import Coroutine
from types import AsyncGeneratorType, FrameType, GeneratorType, TracebackType
from typing import Final

import msgspec

from qorzen_obs import foreign
from qorzen_obs.engines.processes.failure import FarTraceback
from qorzen_obs.errors import FarTaskError, TaskCancelled, TaskLostError
from qorzen_obs.record import Ask, Attempt, Decision
from qorzen_obs.tasks import (
    COMPLETED,
    TIMEOUT,
    TaskStatus,
)
from qorzen_obs.telemetry.redaction import Redactor

#: The reason for a request to stop that comes from the deadline of the whole task, not of one attempt.
TASK_DEADLINE: Final = "deadline"
LOST: Final = "lost"
_MAX_MESSAGE: Final = 4_000
_MAX_TRACEBACK: Final = 20_000
_GENERATORS: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
#: What most tasks return; these types need no inspection.
_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes, list, dict, tuple, set})
_USUAL_REDACTOR: Final = Redactor()
_NOTHING_RETURNED: Final = Decision(COMPLETED)
_DEADLINE: Final = Ask.DEADLINE  # reading a member of an enum class runs Python code
_YIELD: Final = dis.opmap["YIELD_VALUE"]


def decide(
    attempt: Attempt, value: object, error: BaseException | None, redactor: Redactor = _USUAL_REDACTOR
) -> Decision:
    """Return how an attempt ended whose code returned `value` or raised `error`.

    An attempt that its deadline asked to stop has timed out, whatever it did. One that a cancel asked to stop is
    cancelled only if it gave in; otherwise what it returned or raised counts. A CancelledError that nobody asked for
    is a failure. The error's class, message and traceback are redacted; the exception is the one that was raised.

    Value and error are the user's, and only qorzen_obs/foreign.py inspects them.
    """
    if attempt.asked is _DEADLINE:
        return _timed_out(attempt)
    if error is None:
        if value is None:
            return _NOTHING_RETURNED
        kind = type(value)
        # a user's type might run code of its own to compute its hash
        if type(kind) is type and kind in _PLAIN:
            return Decision(COMPLETED, value)
        if kind is GeneratorType or kind is AsyncGeneratorType:
            return _failed(_never_run(attempt, "generator"), redactor)
        if foreign.is_a(value, Coroutine):
            with contextlib.suppress(BaseException):
                value.close()
            return _failed(_never_run(attempt, "coroutine"), redactor)
        return Decision(COMPLETED, value)
    if attempt.asked is Ask.CANCEL and foreign.is_a(error, (CancelledError, TaskCancelled)):
        return Decision(TaskStatus.CANCELLED, cancel_reason=attempt.reason)
    return _failed(error, redactor)


def decide_abandoned(attempt: Attempt) -> Decision:
    """Return the outcome of an attempt whose code did not stop within the grace."""
    if attempt.asked is Ask.DEADLINE:
        return msgspec.structs.replace(_timed_out(attempt), abandoned=True)
    return Decision(TaskStatus.CANCELLED, cancel_reason=attempt.reason, abandoned=True)


def decide_undescribed(
    error: BaseException | None, broken: BaseException, redactor: Redactor = _USUAL_REDACTOR
) -> Decision:
    """Return the outcome of an attempt for which `decide` raised `broken`; its code raised `error`, or returned."""
    failure = broken if error is None else error
    return Decision(
        TaskStatus.FAILED,
        error=f"<its end cannot be described: {redactor.text(foreign.kind_name(type(broken)))}>",
        error_type=redactor.text(foreign.full_name(type(failure))),
        exception=failure,
    )


def error_type_of(error: BaseException) -> str:
    """Return the exception's qualified name, without the module for a builtin; `lost` for a lost process."""
    if type(error) is TaskLostError:
        return LOST
    if type(error) is FarTaskError:
        return foreign.text(error.error_type)
    return foreign.full_name(type(error))


def shown_text(text: str, limit: int) -> str:
    """Return the first `limit` characters; escape lone surrogates, which file names bring and UTF-8 cannot carry."""
    return text[:limit].encode(errors="backslashreplace").decode()


def _timed_out(attempt: Attempt) -> Decision:
    record = attempt.record
    if attempt.reason == TASK_DEADLINE:
        message = f"the task had not ended {record.definition.deadline:g} s after it was accepted"
    else:
        message = f"the attempt took longer than its timeout of {record.timeout:g} s"
    return Decision(TaskStatus.FAILED, error=message, error_type=TIMEOUT)


def _failed(error: BaseException, redactor: Redactor) -> Decision:
    message = foreign.text(error.error if type(error) is FarTaskError else error)
    cause = foreign.cause_of(error)
    far = cause.far_traceback if type(cause) is FarTraceback else None  # where a worker process raised it
    text = far or foreign.formatted(error, foreign.traceback_of(error))
    _drop_locals(error)
    return Decision(
        TaskStatus.FAILED,
        error=shown_text(redactor.head(message, _MAX_MESSAGE), _MAX_MESSAGE),
        error_type=redactor.name(error_type_of(error)),
        traceback=shown_text(redactor.tail(text, _MAX_TRACEBACK), _MAX_TRACEBACK),
        exception=error,
    )


def _drop_locals(error: BaseException) -> None:
    """Clear the local variables of the exception's frames, so that a kept failure keeps no data alive."""
    for one in foreign.related(error):
        _clear_frames(foreign.traceback_of(one))


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


def _never_run(attempt: Attempt, what: str) -> TypeError:
    name = attempt.record.name
    if what == "coroutine":
        return TypeError(f"{name} returned a coroutine that nobody awaits; submit an async function itself")
    return TypeError(f"{name} returned a generator, which has not run; return a list or consume it")
