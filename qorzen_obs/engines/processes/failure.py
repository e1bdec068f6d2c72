"""How a task's exception crosses between processes: as itself where it survives, else by name and message."""

from __future__ import annotations

import sys
import traceback
from typing import Any, Final

from qorzen_obs.engines.processes.channel import FAILURE, Buffer, Frame, frame_parts
from qorzen_obs.engines.processes.codec import LARGE_BYTES, decode, decode_encoded, encode
from qorzen_obs.errors import FarTaskError, TaskTransferError

_MAX_TEXT: Final = 100_000  #: far above what the service keeps, which redacts before it cuts


class FarTraceback(Exception):
    """The cause of an exception that was raised in a worker process: its traceback there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.far_traceback = text

    def __str__(self) -> str:
        return f"\n{self.far_traceback}"


def untransferable(what: str, how: str, error: BaseException) -> TaskTransferError:
    """Say that `what` cannot be pickled or unpickled; `how` says on which way."""
    kind = type(error).__name__
    try:
        problem = f"cannot be {how}: {kind}: {error}"
    except Exception:  # noqa: BLE001  # an exception's own __str__ may fail
        problem = f"cannot be {how}: {kind}"
    return TaskTransferError(what, problem[:1_000])


def failure_of(error: BaseException) -> list[memoryview]:
    """Return the frame that carries `error`; in the worker.

    Only exceptions that arrive as what they were travel as themselves: an Exception, or a CancelledError,
    that survives pickling. The rest, SystemExit among them, becomes a FarTaskError, which does no harm
    where it is raised.
    """
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001  # as above
        message = f"<its message cannot be shown: {type(broken).__name__}>"
    text = (name[:500], message[:_MAX_TEXT], _traceback_of(error))
    body, buffers = encode((*text, _survivor(error)))
    return frame_parts(FAILURE, body, buffers)


def error_of(frame: Frame) -> BaseException:
    """Return the exception of a FAILURE frame; in the service."""
    name, message, text, survivor = decode(frame)
    error: BaseException | None = None
    if survivor is not None:
        try:
            error = decode_encoded(survivor)
        except Exception:  # noqa: BLE001  # it survived in the worker: what it needs is not here
            error = None
    if not isinstance(error, BaseException):
        error = FarTaskError(name, message)
    error.__cause__ = FarTraceback(text)
    return error


def _survivor(error: BaseException) -> tuple[list[bytes], list[bytes]] | None:
    asyncio: Any = sys.modules.get("asyncio")
    if not isinstance(error, Exception) and not (asyncio and isinstance(error, asyncio.CancelledError)):
        return None
    try:
        encoded = encode(error, limit=LARGE_BYTES)
        if type(decode_encoded(encoded)).__qualname__ != type(error).__qualname__:
            return None
    except Exception:  # noqa: BLE001  # whatever its __reduce__ or __init__ raises
        return None
    return _as_bytes(encoded[0]), _as_bytes(encoded[1])


def _as_bytes(parts: list[Buffer]) -> list[bytes]:
    return [bytes(part) for part in parts]


def _traceback_of(error: BaseException) -> str:
    """Format it without local variables, from the callable on."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_globals.get("__name__", "")):
        trace = trace.tb_next
    lines = traceback.TracebackException(type(error), error, trace, compact=True).format()
    return "".join(lines)[-_MAX_TEXT:]


def _is_ours(module: str) -> bool:
    return module.startswith("qorzen_obs.") or module in {
        "contextlib",
        "asyncio.runners",
        "asyncio.base_events",
    }
