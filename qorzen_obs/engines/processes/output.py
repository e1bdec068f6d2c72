"""The standard output of worker processes, line by line: always drained, so that no print blocks a task."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

MAX_LINE_BYTES: Final = 65_536  #: a longer line is split, at a space near here if there is one
COUNTED_BYTES: Final = 8_192  #: this many bytes of a line count as one
MAX_LINES_PER_SECOND: Final = 200  #: of one stream; what exceeds it is counted and not shown

_READ_BYTES: Final = 65_536
_READS_OF_A_FULL_PIPE: Final = 16  #: a megabyte: Linux lets no ordinary user have a larger pipe


class OutputReader:
    """Reads one pipe on the loop. `on_line` gets text, `on_dropped` how many lines are not shown."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        on_line: Callable[[str], None],
        on_dropped: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._on_line = on_line
        self._on_dropped = on_dropped
        self._rest = b""
        self._second = 0
        self._shown = 0
        self._dropped = 0
        self._open = True
        os.set_blocking(descriptor, False)
        loop.add_reader(descriptor, self._read)

    def drain(self) -> None:
        """Show everything written so far, including an unfinished line and the count of dropped ones.

        What a child of the task writes meanwhile may be shown now or later: nothing waits until it is silent.
        """
        for _ in range(_READS_OF_A_FULL_PIPE):
            if not self._read():
                break
        if self._rest:
            self._show(self._rest)
            self._rest = b""
        if self._dropped:
            self._on_dropped(self._dropped)
            self._dropped = 0

    def stop(self) -> None:
        """Stop reading; the owner closes the descriptor."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._descriptor)

    def _read(self) -> bool:
        """Take what is there, within bounds; return whether there may be more."""
        if not self._open:
            return False
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.stop()
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._show(line)
        while len(self._rest) > MAX_LINE_BYTES:
            cut = _place_to_cut(self._rest)
            self._show(self._rest[:cut])
            self._rest = self._rest[cut:]
        return True

    def _show(self, line: bytes) -> None:
        while len(line) > MAX_LINE_BYTES:
            cut = _place_to_cut(line)
            self._show(line[:cut])
            line = line[cut:]
        # A line stays whole, or secrets in it could not be recognised; it is cut where it is shown.
        if all(self._admits() for _ in range(0, max(1, len(line)), COUNTED_BYTES)):
            self._on_line(line.decode("utf-8", "backslashreplace").rstrip("\r"))
        else:
            self._dropped += 1

    def _admits(self) -> bool:
        second = int(self._loop.time())
        if second != self._second:
            self._second, self._shown = second, 0
            if self._dropped:
                self._on_dropped(self._dropped)
                self._dropped = 0
        self._shown += 1
        return self._shown <= MAX_LINES_PER_SECOND


def _place_to_cut(line: bytes) -> int:
    """Return where to cut a line that is too long: at a space, so that no word is split."""
    space = line.rfind(b" ", MAX_LINE_BYTES // 2, MAX_LINE_BYTES)
    return MAX_LINE_BYTES if space < 0 else space
