"""The frames that the service and a worker process exchange over one private socket.

A frame is a kind, a body and any number of buffers, each received into memory of its exact size, so that a
large array is copied once and never joined. Knows only bytes, not their meaning. Each worker imports this, so it
must stay cheap.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

Buffer = bytes | bytearray | memoryview

# From the service to the worker.
SETUP: Final = 1  #: where to import from and where to report; once at the start, again when it changes
CALL: Final = 2  #: run this
CANCEL: Final = 3  #: the running call was asked to stop; the body is the reason in UTF-8
# From the worker to the service.
READY: Final = 4  #: the worker takes calls; the body is its process id in ASCII
STARTED: Final = 5  #: from here on the callable may have had effects
EVENTS: Final = 6  #: progress, log lines and spans of the running call
USAGE: Final = 7  #: the time that the ended call used; comes right before its outcome
RESULT: Final = 8  #: the callable returned
FAILURE: Final = 9  #: it raised, or its result cannot be sent

#: The body of USAGE: seconds of the call, and of processors.
USED: Final = struct.Struct("<dd")
_PREFIX: Final = struct.Struct("<BxxxIQ")  # kind, number of buffers, bytes of the body
_MAX_PARTS: Final = 512  # buffers of one sendmsg; Linux takes 1,024


class Frame(NamedTuple):
    """One received frame."""

    kind: int
    body: bytearray
    buffers: Sequence[bytearray]


def frame_parts(kind: int, body: Iterable[Buffer] = (), buffers: Iterable[Buffer] = ()) -> list[memoryview]:
    """Return a frame as the pieces to send in order; nothing is copied."""
    flat_body, flat_buffers = [_flat(part) for part in body], [_flat(part) for part in buffers]
    prefix = _PREFIX.pack(kind, len(flat_buffers), sum(map(len, flat_body)))
    sizes = struct.pack(f"<{len(flat_buffers)}Q", *map(len, flat_buffers))
    return [part for part in (memoryview(prefix + sizes), *flat_body, *flat_buffers) if len(part)]


def send_some(sock: socket.socket, parts: list[memoryview]) -> None:
    """Send as much of `parts` as the socket takes now and remove it from them.

    Raises:
        BlockingIOError: the socket takes nothing now.
    """
    sent = sock.sendmsg(parts[:_MAX_PARTS])
    whole = 0
    while whole < len(parts) and sent >= len(parts[whole]):
        sent -= len(parts[whole])
        whole += 1
    del parts[:whole]
    if sent:
        parts[0] = parts[0][sent:]


def send_all(sock: socket.socket, parts: list[memoryview]) -> None:
    """Send all of `parts` over a blocking socket."""
    while parts:
        send_some(sock, parts)


class FrameReader:
    """Takes frames off a socket, piece by piece if the socket does not block."""

    def __init__(self, sock: socket.socket, *, large_bytes: int | None = None) -> None:
        self._sock = sock
        self._large_bytes = large_bytes
        self._expect_prefix()

    def _expect_prefix(self) -> None:
        self._kind = -1
        self._pieces: list[bytearray] = []
        self._body_size = 0
        self._wanted: list[int] = []  # sizes of the parts that have not begun to arrive
        self.large = False  #: a frame of more than `large_bytes` is next: `read_large` takes it
        self._sizes = False
        self._expect(bytearray(_PREFIX.size))

    def _expect(self, target: bytearray) -> None:
        self._target = target
        self._room = memoryview(target)

    def read(self) -> Frame | None:
        """Return the next frame. None: no more is there now, or a `large` one is next.

        Raises:
            EOFError: the other side is gone, perhaps in the middle of a frame.
            OSError: the socket is closed or unusable.
            ValueError: what arrives is not a frame.
            MemoryError: the memory does not suffice for the frame.
        """
        while not self.large:
            while len(self._room):
                try:
                    received = self._sock.recv_into(self._room)
                except BlockingIOError:
                    return None
                except ConnectionResetError:
                    received = 0
                if not received:
                    raise EOFError("the other side is gone")
                self._room = self._room[received:]
            frame = self._advance()
            if frame is not None:
                return frame
        return None

    @staticmethod
    def peek(waiting: bytes) -> Frame | None:
        """Return the frame without buffers that begins `waiting`, or None if it is incomplete."""
        if len(waiting) < _PREFIX.size:
            return None
        kind, count, size = _PREFIX.unpack_from(waiting)
        body = bytearray(waiting[_PREFIX.size : _PREFIX.size + size])
        return Frame(kind, body, ()) if len(body) == size and not count else None

    def read_large(self) -> Frame:
        """Return the large frame that is next, waiting for all of it; raises as `read`. For a thread."""
        self._large_bytes, limit = None, self._large_bytes
        self.large = False
        self._allocate()
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        try:
            while (frame := self.read()) is None:
                poll.poll()
        finally:
            self._large_bytes = limit
        return frame

    def _advance(self) -> Frame | None:
        """Continue after a piece has arrived; return the frame if that was its last piece."""
        if self._kind < 0:
            self._kind, count, self._body_size = _PREFIX.unpack(self._target)
            if not SETUP <= self._kind <= FAILURE:
                raise ValueError(f"{self._kind} is not a kind of frame")
            self._sizes = True
            self._want([8 * count])
        elif self._sizes:
            self._sizes = False
            sizes = struct.unpack(f"<{len(self._target) // 8}Q", self._target)
            self._want([self._body_size, *sizes])
        else:
            self._pieces.append(self._target)
            if not self._wanted:
                frame = Frame(self._kind, self._pieces[0], self._pieces[1:])
                self._expect_prefix()
                return frame
            self._allocate()
        return None

    def _want(self, sizes: list[int]) -> None:
        if max(sizes) > sys.maxsize:
            raise ValueError("a frame announces more bytes than there can be")
        self._wanted = sizes
        self.large = self._large_bytes is not None and sum(sizes) > self._large_bytes
        if not self.large:
            self._allocate()

    def _allocate(self) -> None:
        self._expect(bytearray(self._wanted.pop(0)))


def _flat(part: Buffer) -> memoryview:
    view = memoryview(part)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")
