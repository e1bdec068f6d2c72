"""Values as bytes and back: pickle 5, large buffers beside the stream.

Functions and classes travel by name, those of `__main__`, lambdas and closures by value, since the other
side cannot import them: that is cloudpickle's work, five times dearer, and asked for only where it is
needed.
"""

from __future__ import annotations

import pickle
from typing import Any, Final

from qorzen_obs.engines.processes.channel import Buffer, Frame

#: What is larger is encoded and decoded in a thread: a megabyte takes about a millisecond.
LARGE_BYTES: Final = 1_000_000
_BESIDE_BYTES: Final = 4_096  # smaller buffers are cheaper inside the stream
_PROTOCOL: Final = 5

Encoded = tuple[list[Buffer], list[Buffer]]


class TooLargeError(Exception):
    """The value takes more bytes than this thread should spend time on."""


def encode(value: object, *, limit: int | None = None) -> Encoded:
    """Return `value` as the body and the buffers of a frame. Buffers are shared with the value, not copied.

    Raises:
        TooLargeError: the body exceeds `limit` bytes.
        Exception: whatever the value raises on being pickled.
    """
    try:
        body, buffers = _dump(pickle.Pickler, value, limit)
    except (pickle.PicklingError, AttributeError, TypeError):
        pass
    else:
        if not _mentions_main(body):
            return body, buffers
    import cloudpickle  # noqa: PLC0415  # 25 ms that most workers never spend

    return _dump(cloudpickle.Pickler, value, limit)


def decode(frame: Frame) -> Any:
    """Return the value of a frame; raises whatever it raises on being unpickled."""
    return pickle.loads(frame.body, buffers=frame.buffers)


def decode_encoded(encoded: Encoded) -> Any:
    """Return what the other side would make of it."""
    body, buffers = encoded
    return pickle.loads(b"".join(body), buffers=buffers)


def _mentions_main(body: list[Buffer]) -> bool:
    """Return whether the stream may name something of `__main__`. A large piece is data, not instructions."""
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
