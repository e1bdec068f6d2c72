"""Reads small text files named by settings and options. Refuses anything else, so that no read hangs or is huge."""

from __future__ import annotations

import os
import select
import stat
import time
from pathlib import Path
from typing import Final, NamedTuple

PIPE_SECONDS: Final = 5.0  #: how long the writer of a pipe may take
_CHUNK: Final = 65_536
_KINDS: Final = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnusableFileError(Exception):
    """A file cannot be read as a small text; show the message after the file's name."""


class SmallFile(NamedTuple):
    """The content of a file."""

    text: str
    mode: int  #: permissions and type, as in `stat`


def read_small_file(file: Path, max_bytes: int, *, pipes: bool = False) -> SmallFile:
    """Read a file of UTF-8 text. With `pipes` it may be a pipe, such as a shell's `<(command)`.

    Raises:
        UnusableFileError: it cannot be opened, is not a file, is longer than `max_bytes`, is not UTF-8, or the pipe
            was not written and closed within PIPE_SECONDS.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | _flags("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"))
        try:
            mode = os.fstat(descriptor).st_mode
            content = _read(descriptor, mode, max_bytes, pipes=pipes)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnusableFileError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a path that contains a null character
        raise UnusableFileError(f"cannot be read: {error}") from error
    if len(content) > max_bytes:
        raise UnusableFileError(f"is longer than {max_bytes} bytes")
    try:
        return SmallFile(content.decode("utf-8-sig"), mode)
    except UnicodeDecodeError as error:
        raise UnusableFileError("is not UTF-8 text") from error


def _flags(*names: str) -> int:
    """Return those flags of `os.open` that this system has."""
    return sum(getattr(os, name, 0) for name in names)


def _read(descriptor: int, mode: int, max_bytes: int, *, pipes: bool) -> bytes:
    """Return the content, but at most one byte too many."""
    is_pipe = stat.S_ISFIFO(mode)
    if not stat.S_ISREG(mode) and not (is_pipe and pipes):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "something else")
        raise UnusableFileError(f"is {kind}; it must be a regular file")
    until = time.monotonic() + PIPE_SECONDS
    content = b""
    while len(content) <= max_bytes:
        if is_pipe and not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            raise UnusableFileError(f"is a pipe that nobody wrote to and closed within {PIPE_SECONDS:g} s")
        chunk = os.read(descriptor, min(_CHUNK, max_bytes + 1 - len(content)))
        if not chunk:
            break
        content += chunk
    return content
