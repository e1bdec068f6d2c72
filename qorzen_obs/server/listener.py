"""Listening for the ops plane: at an address, or on a socket in the file system that only its owner may use."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from typing import Final

from qorzen_obs.endpoint import authority_of, plain_host, socket_path
from qorzen_obs.errors import ManagerInitializationError
from qorzen_obs.server.door import BACKLOG
from qorzen_obs.settings import ServerSettings

#: How many ports `server.when_taken = "next"` tries after `server.port`.
NEXT_PORTS: Final = 99
#: How long a client may leave a response unread, where the system can tell (Linux).
STALLED_SECONDS: Final = 30.0

Admit = Callable[[], asyncio.Protocol]


class Listener:
    """What listens by the settings, until it is closed."""

    def __init__(self, server: asyncio.Server, port: int = 0, path: str | None = None) -> None:
        self.port = port  #: 0 of a socket in the file system
        self._server = server
        self._path = path
        self._inode = None if path is None else os.lstat(path).st_ino

    async def close(self) -> None:
        """Stop listening without losing a connection that was just accepted.

        asyncio drops the socket of one that has no transport yet when its server closes, and neither closes it nor
        says so: so stop accepting first, and let what was accepted reach its protocol.
        """
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError):  # not every event loop of Windows has readers
            for listening in self._server.sockets:
                loop.remove_reader(listening.fileno())
            for _ in range(3):
                await asyncio.sleep(0)
        self._server.close()
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):  # from Python 3.13 on the loop has removed it
                if os.lstat(self._path).st_ino == self._inode:
                    os.unlink(self._path)  # noqa: PTH108 - a text, as in the settings


async def listen(settings: ServerSettings, admit: Admit) -> Listener:
    """Listen where the settings say.

    Raises:
        ManagerInitializationError: that cannot be.
    """
    path = socket_path(settings.host)
    if path is not None:
        return await _listen_in_file_system(path, admit)
    first = last = settings.port
    if first and settings.when_taken == "next":
        last = min(first + NEXT_PORTS, 65_535)
    for port in range(first, last):
        with contextlib.suppress(_PortTakenError):
            return await _listen_on_port(plain_host(settings.host), port, admit)
    return await _listen_on_port(plain_host(settings.host), last, admit)


class _PortTakenError(ManagerInitializationError):
    """Another server listens there."""


async def _listen_on_port(host: str, port: int, admit: Admit) -> Listener:
    # With port 0 each address of a name would get a port of its own.
    family = socket.AF_INET if host == "localhost" and not port else socket.AF_UNSPEC
    try:
        # One at a time, so that the door sees each of them before the next takes a descriptor.
        server = await asyncio.get_running_loop().create_server(admit, host, port, family=family, backlog=1)
    except OSError as error:
        kind = _PortTakenError if error.errno == errno.EADDRINUSE else ManagerInitializationError
        raise kind("ops plane", _explain(error, host, port)) from error
    for listening in server.sockets:
        _deepen(listening)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # the accepted ones inherit it
            milliseconds = int(STALLED_SECONDS * 1000)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return Listener(server, port=server.sockets[0].getsockname()[1])


async def _listen_in_file_system(path: str, admit: Admit) -> Listener:
    if not hasattr(socket, "AF_UNIX"):
        raise ManagerInitializationError(
            "ops plane", "this system has no Unix sockets; set server.host to 127.0.0.1"
        )
    try:
        bound = _bind(path)
        server = await asyncio.get_running_loop().create_unix_server(admit, sock=bound, backlog=1)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        reason = "is in use already" if in_use else f"cannot be made ({error.strerror or error})"
        raise ManagerInitializationError(
            "ops plane", f"the socket {path!r} {reason}; set server.host to another path"
        ) from error
    _deepen(bound)
    return Listener(server, path=path)


def _bind(path: str) -> socket.socket:
    """Return a socket of this path for its owner alone; one that a dead process has left there makes way."""
    bound = socket.socket(socket.AF_UNIX)
    try:
        try:
            bound.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_left_over(path):
                raise
            os.unlink(path)  # noqa: PTH108 - a text, as in the settings
            bound.bind(path)
        os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)  # noqa: PTH101 - as above; nobody can connect yet
    except BaseException:
        bound.close()
        raise
    return bound


def _is_left_over(path: str) -> bool:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _deepen(listening: socket.socket) -> None:
    with listening.dup() as same:
        same.listen(BACKLOG)


def _explain(error: OSError, host: str, port: int) -> str:
    where = authority_of(host, port)
    if error.errno == errno.EADDRINUSE:
        ways = "set server.port to a free port, or to 0 for any, or server.when_taken to next"
        return f"{where} is in use already; {ways}"
    reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
    return f"cannot listen on {where} ({reason}); change server.host or server.port"
