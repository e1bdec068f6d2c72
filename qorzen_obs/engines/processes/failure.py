"""How a task's exception crosses between processes: as itself where it survives, else by name and message."""

from __future__ import annotations

import sys
from typing import Any, Final

from qorzen_obs import foreign
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
    return TaskTransferError(what, f"cannot be {how}: {foreign.described(error)}"[:1_000])


def failure_of(error: BaseException) -> list[memoryview]:
    """Return the frame that carries `error`; in the worker.

    Only exceptions that arrive as what they were travel as themselves: an Exception, or a CancelledError,
    that survives pickling. The rest, SystemExit among them, becomes a FarTaskError, which does no harm
    where it is raised.
    """
    message = foreign.text(error)
    text = (foreign.full_name(type(error)), message[:_MAX_TEXT], _traceback_of(error))
    body, buffers = encode((*text, _survivor(error)))
    return frame_parts(FAILURE, body, buffers)


def error_of(frame: Frame) -> BaseException:
    """Return the exception of a FAILURE frame; in the service."""
    name, message, text, survivor = decode(frame)
    error: BaseException | None = None
    if survivor is not None:
        try:
            error = decode_encoded(survivor)
        except BaseException:  # noqa: BLE001  # it survived in the worker: what it needs is not here
            error = None
    if error is None or not foreign.is_a(error, BaseException):
        error = FarTaskError(name, message)
    foreign.set_cause(error, FarTraceback(text))
    return error


def _survivor(error: BaseException) -> tuple[list[bytes], list[bytes]] | None:
    asyncio: Any = sys.modules.get("asyncio")
    if not foreign.is_a(error, Exception) and not (asyncio and foreign.is_a(error, asyncio.CancelledError)):
        return None
    try:
        encoded = encode(error, limit=LARGE_BYTES)
        if foreign.kind_name(type(decode_encoded(encoded))) != foreign.kind_name(type(error)):
            return None
    except BaseException:  # noqa: BLE001  # whatever its __reduce__ or __init__ raises
        return None
    return _as_bytes(encoded[0]), _as_bytes(encoded[1])


def _as_bytes(parts: list[Buffer]) -> list[bytes]:
    return [bytes(part) for part in parts]


def _traceback_of(error: BaseException) -> str:
    """Format it without local variables, from the callable on."""
    trace = foreign.traceback_of(error)
    while trace is not None and _is_ours(foreign.module_of(trace.tb_frame)):
        trace = trace.tb_next
    return foreign.formatted(error, trace)[-_MAX_TEXT:]


def _is_ours(module: str) -> bool:
    return module.startswith("qorzen_obs.") or module in {
        "contextlib",
        "asyncio.runners",
        "asyncio.base_events",
    }
