"""Turns values into bytes and back: pickle 5, with large buffers outside the stream.

Functions and classes travel by name. What the other side cannot look up goes by value, and so may contents of
`__main__`: by_value.py does that, which costs five times as much, so it is used only where needed.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.engines.processes.channel import Buffer, Frame

#: Larger values are encoded and decoded in a thread: a megabyte takes about a millisecond.
LARGE_BYTES: Final = 1_000_000
_BESIDE_BYTES: Final = 4_096  # smaller buffers are cheaper inside the stream
_PROTOCOL: Final = 5

Encoded = tuple[list[Buffer], list[Buffer]]


class TooLargeError(Exception):
    """The value takes more bytes than this thread should spend time on."""


def encode(value: object, *, limit: int | None = None, answer: bool = False) -> Encoded:
    """Return `value` as the body and the buffers of a frame. Buffers are shared with the value, not copied.

    An `answer` goes from a worker to the service.

    Raises:
        TooLargeError: the body exceeds `limit` bytes.
        Exception: whatever pickling the value raises.
    """
    try:
        body, buffers = _dump(pickle.Pickler, value, limit)
    except (pickle.PicklingError, AttributeError, TypeError):
        pass
    else:
        if not _mentions_main(body):
            return body, buffers
    from qorzen_obs.engines.processes.by_value import Answer, ByValue  # noqa: PLC0415  # most workers need none

    return _dump(Answer if answer else ByValue, value, limit)


def decode(frame: Frame) -> Any:
    """Return the value of a frame. This may run user code, which may raise anything and take any time."""
    return pickle.loads(frame.body, buffers=frame.buffers)


def decode_encoded(encoded: Encoded) -> Any:
    """Return what the other side would decode; as `decode`."""
    body, buffers = encoded
    return pickle.loads(b"".join(body), buffers=buffers)


def encode_plain(value: object) -> list[Buffer]:
    """Return `value` as the body of a frame for `decode_plain`; a value that is not plain becomes its type's name."""
    body = _Body(None)
    _PlainPickler(body, protocol=_PROTOCOL).dump(value)
    return body.parts


def decode_plain(frame: Frame) -> Any:
    """Return the value of a frame that consists of numbers, text, lists and the like; runs no user code.

    Raises:
        pickle.UnpicklingError: it names something else.
    """
    return _PlainUnpickler(io.BytesIO(frame.body)).load()


class _PlainPickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Convert a value of a subtype, such as a member of an IntEnum, to the plain type."""
        kind = type(value)
        for plain, exact in _EXACT.items():
            if value is plain:
                return NotImplemented
            if issubclass(kind, plain):
                return plain, (exact(value),)
        return str, (f"<{foreign.kind_name(kind)}>",)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        for plain in _EXACT:
            if module == "builtins" and name == plain.__name__:
                return plain
        raise pickle.UnpicklingError(f"{module}.{name} has no place here")


_EXACT: Final[dict[type, Callable[[Any], Any]]] = {
    str: str.__str__,
    int: int.__pos__,
    float: float.__pos__,
    bytes: lambda value: bytes.__add__(value, b""),
}


def is_simple(frame: Frame) -> bool:
    """Return whether the frame holds None, a bool or a number, which are safe to decode anywhere."""
    return not frame.buffers and _SIMPLE.match(frame.body) is not None


#: Protocol, then one instruction: none, true, false, an integer of one, two or four bytes, a float.
_SIMPLE: Final = re.compile(rb"\x80\x05(?:\x95.{8})?(?:[N\x88\x89]|K.|M..|J.{4}|G.{8})\.\Z", re.DOTALL)


def names_something(encoded: Encoded) -> bool:
    """Return whether decoding it may run code, because it names a class or a function."""
    return any(
        isinstance(part, bytes) and len(part) <= LARGE_BYTES and _BY_NAME in part for part in encoded[0]
    )


_BY_NAME: Final = b"\x93"  # the instruction to look up a name, in protocol 5


def _mentions_main(body: list[Buffer]) -> bool:
    """Return whether the stream may name something in `__main__`. A large piece is data, not instructions."""
    return any(isinstance(part, bytes) and len(part) <= LARGE_BYTES and b"__main__" in part for part in body)


class _Body:
    """A file for the pickler that keeps the pieces: large bytes objects are passed on, not copied."""

    __slots__ = ("limit", "parts", "size")

    def __init__(self, limit: int | None) -> None:
        self.parts: list[Buffer] = []
        self.size = 0
        self.limit = limit

    def write(self, data: Buffer) -> int:
        self.parts.append(data)
        self.size += len(data)
        if self.limit is not None and self.size > self.limit:
            raise TooLargeError
        return len(data)


def _dump(pickler: Any, value: object, limit: int | None) -> Encoded:
    body, buffers = _Body(limit), list[Buffer]()

    def beside(buffer: pickle.PickleBuffer) -> bool:
        """Return whether the buffer goes into the stream."""
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes >= _BESIDE_BYTES:
            buffers.append(raw)
            return False
        return True

    pickler(body, protocol=_PROTOCOL, buffer_callback=beside).dump(value)
    return body.parts, buffers
