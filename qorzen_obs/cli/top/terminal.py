"""The terminal as `top` needs it: each key as it is pressed, and everything as it was before in the end. POSIX only."""

from __future__ import annotations

import codecs
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self

#: How long the rest of an escape sequence may take: a terminal sends it at once, over a slow line too.
ESCAPE_SECONDS: Final = 0.05
_MAX_READ: Final = 1024

_SEQUENCES: Final[Mapping[str, str]] = {
    "A": "up",
    "B": "down",
    "C": "right",
    "D": "left",
    "H": "home",
    "F": "end",
    "Z": "backtab",
    "1~": "home",
    "4~": "end",
    "5~": "pageup",
    "6~": "pagedown",
    "7~": "home",
    "8~": "end",
}
_CONTROLS: Final[Mapping[str, str]] = {
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x7f": "backspace",
    "\x08": "backspace",
}
#: ECMA-48, 5.4: parameters, intermediates, and the final byte; SS3 is followed by one character.
_SEQUENCE: Final = re.compile("\x1b(?:\\[([0-?]*[ -/]*[@-~])|O(.))", re.DOTALL)
_BEGUN: Final = re.compile("\x1b(?:\\[[0-?]*[ -/]*|O)?$")


def decode(text: str) -> tuple[list[str], str]:
    """Return the keys in what a terminal sent, and the beginning of a sequence that may go on.

    Printable characters are themselves; what has no name here is left out.

    >>> decode("j\\x1b[B\\x1b[99~q\\x1b[")
    (['j', 'down', 'q'], '\\x1b[')
    """
    keys: list[str] = []
    at = 0
    while at < len(text):
        if text[at] != "\x1b":
            key = _CONTROLS.get(text[at], text[at])
            at += 1
            if len(key) > 1 or key.isprintable():
                keys.append(key)
        elif (found := _SEQUENCE.match(text, at)) is not None:
            at = found.end()
            if (name := _SEQUENCES.get(found[1] or found[2])) is not None:
                keys.append(name)
        elif _BEGUN.match(text, at):
            return keys, text[at:]
        else:  # a lone escape, and then something else
            keys.append("escape")
            at += 1
    return keys, ""


class Terminal:
    """Standard input, a key at a time, without echo. A context manager that restores what it has changed.

    Ctrl-Z is a key like any other, for a stopped program would leave the terminal as it is now; Ctrl-C interrupts as
    always. SIGTERM and SIGHUP raise SystemExit, so that they too leave the terminal as it was.
    """

    def __init__(self) -> None:
        self._in = sys.stdin.fileno()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._wake_read, self._wake_write = -1, -1
        self._attributes: list[Any] = []
        self._handlers: dict[signal.Signals, Any] = {}
        self._ended_by: BaseException | None = None

    def __enter__(self) -> Self:
        self._attributes = termios.tcgetattr(self._in)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        for number, handler in (
            (signal.SIGINT, self._end),
            (signal.SIGTERM, self._end),
            (signal.SIGHUP, self._end),
            (signal.SIGWINCH, lambda *_: self.wake()),
        ):
            self._handlers[number] = signal.signal(number, handler)
        tty.setcbreak(self._in)
        changed = termios.tcgetattr(self._in)
        changed[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(self._in, termios.TCSADRAIN, changed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(termios.error):  # it is gone, and nothing is left to restore
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._attributes)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        read, write = self._wake_read, self._wake_write
        self._wake_read = self._wake_write = -1
        os.close(read)
        os.close(write)

    def wake(self) -> None:
        """Have `keys` return; from any thread, and after the end of no effect."""
        with suppress(OSError):  # awake already, or closed
            os.write(self._wake_write, b"\0")

    def keys(self, timeout_seconds: float) -> list[str] | None:
        """Return the keys pressed, after a wait for the first, `wake` or the timeout; None at the end of input."""
        ready, _, _ = select.select([self._in, self._wake_read], [], [], timeout_seconds)
        if self._wake_read in ready:
            os.read(self._wake_read, _MAX_READ)
        if self._ended_by is not None:
            raise self._ended_by
        if self._in not in ready:
            return []
        keys = self._read()
        if self._rest and keys is not None:
            more, _, _ = select.select([self._in], [], [], ESCAPE_SECONDS)
            if more:
                further = self._read()
                return None if further is None else keys + further
            # Nobody goes on: it was the escape key, or half of something unknown.
            keys += ["escape"] if self._rest == "\x1b" else []
            self._rest = ""
        return keys

    def _end(self, number: int, _: FrameType | None) -> NoReturn:
        """Raise what ends the program, which `keys` raises again: what is raised in a destructor is lost."""
        self._ended_by = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        self.wake()
        raise self._ended_by

    def _read(self) -> list[str] | None:
        try:
            data = os.read(self._in, _MAX_READ)
        except OSError:  # Linux says so when the other end is closed
            data = b""
        if not data:
            return None
        keys, self._rest = decode(self._rest + self._decoder.decode(data))
        return keys
