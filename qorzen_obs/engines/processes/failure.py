"""How an exception crosses between processes: as itself if it arrives unchanged, else by name and message."""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from qorzen_obs import foreign
from qorzen_obs.engines.processes.channel import FAILURE, Buffer, Frame, frame_parts
from qorzen_obs.engines.processes.codec import LARGE_BYTES, decode_encoded, decode_plain, encode, encode_plain
from qorzen_obs.engines.processes.far_script import FAR_MAIN, MAIN
from qorzen_obs.errors import FarTaskError, TaskTransferError

_MAX_TEXT: Final = 100_000  #: far above what the service keeps, since it redacts before it cuts
_HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that is not one of the interpreter's own

#: A class, its first base that is the interpreter's own, its `args`, its `__dict__`, its other attributes.
_Parts = tuple[type[BaseException], type[BaseException], tuple[Any, ...], dict[str, Any], dict[str, Any]]


class FarTraceback(Exception):
    """The cause of an exception that was raised in a worker process: its traceback there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.far_traceback = text

    def __str__(self) -> str:
        return f"\n{self.far_traceback}"


class Failure(NamedTuple):
    """What a FAILURE frame says: plain data."""

    name: str  #: the exception's qualified name, without the module for builtins
    message: str
    traceback: str
    #: Encoded; None if it would not arrive unchanged.
    exception: tuple[list[bytes], list[bytes]] | None


def untransferable(what: str, how: str, error: BaseException) -> TaskTransferError:
    """Return the error that `what` cannot be pickled or unpickled, as `how` says."""
    return TaskTransferError(what, f"cannot be {how}: {foreign.described(error)}"[:1_000])


# ---------------------------------------------------------------------- in the worker


def failure_of(error: BaseException) -> list[memoryview]:
    """Return the frame that carries `error`. There is always one, whatever the exception's own code raises.

    Only an Exception or CancelledError that survives pickling with its message travels as itself. All others,
    including SystemExit, become a FarTaskError, which is harmless to raise.
    """
    name, message = foreign.full_name(type(error)), foreign.text(error)
    if name.startswith(f"{FAR_MAIN}."):
        name = MAIN + name.removeprefix(FAR_MAIN)
    failure = (name, message[:_MAX_TEXT], _traceback_of(error), _exception(error, message))
    return frame_parts(FAILURE, encode_plain(failure))


def _exception(error: BaseException, message: str) -> tuple[list[bytes], list[bytes]] | None:
    asyncio: Any = sys.modules.get("asyncio")
    if not foreign.is_a(error, Exception) and not (asyncio and foreign.is_a(error, asyncio.CancelledError)):
        return None
    return _tried(error, message, _taken_apart) or _tried(error, message, _as_it_is)


def _tried(
    error: BaseException, message: str, form: Callable[[BaseException], object]
) -> tuple[list[bytes], list[bytes]] | None:
    """Return the error encoded in this form, if decoding gives an equal error."""
    try:
        encoded = encode(form(error), limit=LARGE_BYTES, answer=True)
        if _is_faithful(_put_together(decode_encoded(encoded)), error, message):
            return _as_bytes(encoded[0]), _as_bytes(encoded[1])
    except BaseException:  # noqa: BLE001  # whatever its __reduce__, __init__ or __str__ raises
        pass
    return None


def _as_it_is(error: BaseException) -> object:
    return error


def _is_faithful(back: BaseException, error: BaseException, message: str) -> bool:
    return (
        type(back) is type(error)
        and str(back) == message
        and len(back.args) == len(error.args)
        and vars(back).keys() == vars(error).keys()
    )


def _taken_apart(error: BaseException) -> _Parts:
    """Return the parts of the error, since its __init__ need not take its `args`.

    Raises:
        TypeError: it defines its own pickling.
    """
    kind = type(error)
    base = next(each for each in kind.__mro__ if not each.__flags__ & _HEAP_TYPE)
    own = (
        "__reduce__",
        "__reduce_ex__",
        "__getstate__",
        "__setstate__",
        "__getnewargs__",
        "__getnewargs_ex__",
    )
    if any(getattr(kind, name, None) is not getattr(base, name, None) for name in own):
        raise TypeError
    reduce: Any = base.__reduce__
    reduced = reduce(error)
    args, state = reduced[1], reduced[2] if len(reduced) > 2 else {}
    if base is BaseExceptionGroup:
        args = (args[0], [_member(each) for each in args[1]])
    attributes = dict(vars(error))
    others = {name: value for name, value in state.items() if name not in attributes}
    for slot in copyreg._slotnames(kind):  # type: ignore[attr-defined]  # as copyreg itself
        if hasattr(error, slot):
            others[slot] = getattr(error, slot)
    return kind, base, args, attributes, others


def _member(error: BaseException) -> object:
    try:
        return _taken_apart(error)
    except TypeError:
        return error


def _as_bytes(parts: list[Buffer]) -> list[bytes]:
    return [bytes(part) for part in parts]


def _traceback_of(error: BaseException) -> str:
    """Format the traceback without local variables, from the callable on."""
    trace = foreign.traceback_of(error)
    while trace is not None and _is_ours(foreign.module_of(trace.tb_frame)):
        trace = trace.tb_next
    text = foreign.formatted(error, trace).replace(f"{FAR_MAIN}.", "")  # as the script's own tracebacks are
    return text[-_MAX_TEXT:]


def _is_ours(module: str) -> bool:
    return module.startswith("qorzen_obs.") or module in {
        "contextlib",
        "asyncio.runners",
        "asyncio.base_events",
    }


# ---------------------------------------------------------------------- in the service


def failure_in(frame: Frame) -> Failure:
    """Return the content of a FAILURE frame; runs no user code."""
    return Failure(*decode_plain(frame))


def error_of(failure: Failure) -> BaseException:
    """Return the exception. If there is one to decode, this runs user code, which may take any time."""
    error: BaseException | None = None
    if failure.exception is not None:
        try:
            error = _put_together(decode_encoded(failure.exception))  # type: ignore[arg-type]  # bytes are buffers
        except BaseException:  # noqa: BLE001  # it worked in the worker: something it needs is missing here
            error = None
    if error is None or not foreign.is_a(error, BaseException):
        error = FarTaskError(failure.name, failure.message)
    foreign.set_cause(error, FarTraceback(failure.traceback))
    return error


# ---------------------------------------------------------------------- in both


def _put_together(parts: Any) -> BaseException:
    """Rebuild an exception from these parts; its own __init__ is not called."""
    if not isinstance(parts, tuple):
        error: BaseException = parts
        return error
    kind, base, args, attributes, others = parts
    if base is BaseExceptionGroup:
        args = (args[0], [_put_together(each) for each in args[1]])
    made: BaseException = base.__new__(kind, *args)
    base.__init__(made, *args)
    vars(made).update(attributes)
    for name, value in others.items():
        object.__setattr__(made, name, value)
    return made
