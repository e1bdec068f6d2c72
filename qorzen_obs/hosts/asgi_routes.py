"""Serves an aiohttp application to an ASGI server.

Each request is a connection of aiohttp's server of its own, in memory: what ASGI says of the request goes in as
HTTP/1.0, whose answers are a head and a body up to the end of the connection, and these come out as ASGI messages. So
aiohttp's own server handles the request, and nothing private of it is used (docs/decisions/0084).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Iterable
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

from aiohttp import hdrs, web

from qorzen_obs.hosts.request_trace import Receive, Scope, Send
from qorzen_obs.server.address import MOUNTED_AT, PUBLIC_URL
from qorzen_obs.server.body import BODY_SECONDS, MAX_BODY_BYTES
from qorzen_obs.server.door import SHUTDOWN_SECONDS, ProblemHandler
from qorzen_obs.server.problems import ProblemError, problem_response
from qorzen_obs.server.security import add_security_headers

#: Bytes of an answer that wait for the ASGI server, above which aiohttp waits too.
_HIGH_BYTES: Final = 64 * 1024

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(rb"[^\x00\r\n]*")
_QUERY: Final = re.compile(rb"[!-~]*")
#: Of the connection between client and server, which is the server's matter. What it may have waited for has arrived.
_NOT_PASSED_IN: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
#: As above; an ASGI server says of itself what it is, and when.
_NOT_PASSED_OUT: Final = frozenset({b"connection", b"date", b"keep-alive", b"server", b"transfer-encoding"})


class AsgiRoutes:
    """An aiohttp application as an ASGI one, between entering and leaving it as a context."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_SECONDS)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            raise ValueError(
                f"{scope['type']!r} is not served here; mount this below a path of an application"
            )
        server = self._runner.server
        if server is None:
            await send_problem(send, HTTPStatus.SERVICE_UNAVAILABLE, "the application is stopping")
            return
        mounted_at, path = _split(scope)
        if not path:
            location = f"{self._runner.app[PUBLIC_URL] or mounted_at}/"
            await send_problem(send, HTTPStatus.PERMANENT_REDIRECT, None, {hdrs.LOCATION: location})
            return
        try:
            head = _head(scope, path)
            body = await _read_body(scope, receive)
        except ProblemError as problem:
            await send_problem(send, problem.status, problem.detail)
            return
        if body is None:  # the client has gone
            return
        transport = _Transport({"peername": scope.get("client"), MOUNTED_AT: mounted_at})
        await _exchange(ProblemHandler(server), transport, head + body, receive, send)


async def send_problem(
    send: Send, status: HTTPStatus, detail: str | None, headers: dict[str, str] | None = None
) -> None:
    """Answer a request with a problem document."""
    response = problem_response(status, detail, headers=headers)
    add_security_headers(response)
    body = response.body
    assert isinstance(body, bytes), "a problem document is one"
    fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.headers.items()]
    await send(
        {"type": "http.response.start", "status": status.value, "headers": _passed(fields, _NOT_PASSED_OUT)}
    )
    await send({"type": "http.response.body", "body": body})


def _split(scope: Scope) -> tuple[str, str]:
    """Return below which path the application is mounted and the path in it, as they stand in an address."""
    root, path = scope.get("root_path", "").rstrip("/"), scope["path"]
    if root and (path == root or path.startswith(f"{root}/")):  # as ASGI has it; some leave it out
        path = path.removeprefix(root)
    elif not root:
        path = path or "/"
    return quote(root), quote(path)


def _head(scope: Scope, path: str) -> bytes:
    """Return the head of a request, up to the length of its body.

    Raises:
        ProblemError: something in it does not belong into a head.
    """
    method, query = scope["method"].encode("latin-1", "replace"), scope.get("query_string", b"")
    fields = _passed(scope["headers"], _NOT_PASSED_IN)
    if not (
        _TOKEN.fullmatch(method)
        and _QUERY.fullmatch(query)
        and all(_TOKEN.fullmatch(name) and _VALUE.fullmatch(value) for name, value in fields)
    ):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "the request is not valid HTTP")
    target = path.encode("ascii") + (b"?" + query if query else b"")
    return b"%b %b HTTP/1.0\r\n%b" % (
        method,
        target,
        b"".join(b"%b: %b\r\n" % (name, value) for name, value in fields),
    )


def _passed(fields: Iterable[tuple[bytes, bytes]], without: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in fields if name.lower() not in without]


async def _read_body(scope: Scope, receive: Receive) -> bytes | None:
    """Return the end of a head and the body of a request; of a body that is too long, enough to see that it is.

    None if the client left before the end of the body: part of a command must not be carried out.

    Raises:
        ProblemError: it is late.
    """
    names = {name.lower() for name, _ in scope["headers"]}
    if names.isdisjoint({b"content-length", b"transfer-encoding"}) and scope.get("http_version", "1.1") < "2":
        return b"\r\n"
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more and len(body) <= MAX_BODY_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                more = message.get("more_body", False)
    except TimeoutError:
        detail = f"the body did not come within {BODY_SECONDS:g} s"
        raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, detail) from None
    length = b"content-length: %d\r\n\r\n" % len(body) if body or b"content-length" in names else b"\r\n"
    return length + bytes(body)


async def _exchange(
    protocol: web.RequestHandler, transport: _Transport, request: bytes, receive: Receive, send: Send
) -> None:
    """Have a request answered, until the answer has ended or the client has gone."""
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    protocol.data_received(request)
    answering = asyncio.ensure_future(_answer(transport, send))
    leaving = asyncio.ensure_future(_leave(receive))
    try:
        await asyncio.wait({answering, leaving, transport.aborted}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        transport.close()
        protocol.connection_lost(None)
        answering.cancel()
        leaving.cancel()
        outcome, _ = await asyncio.gather(answering, leaving, return_exceptions=True)
    if isinstance(outcome, Exception) and not isinstance(outcome, OSError):  # that is a client that has gone
        raise outcome


async def _leave(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(transport: _Transport, send: Send) -> None:
    """Pass an answer on, as fast as the server takes it."""
    head = bytearray()
    while b"\r\n\r\n" not in head:
        piece = await transport.read()
        if not piece:  # aborted
            return
        head += piece
    lines, _, body = bytes(head).partition(b"\r\n\r\n")
    status, *fields = lines.split(b"\r\n")
    pairs = (field.split(b": ", 1) for field in fields)
    headers = _passed(((name.lower(), value) for name, value in pairs), _NOT_PASSED_OUT)
    await send({"type": "http.response.start", "status": int(status.split(b" ", 2)[1]), "headers": headers})
    body = body or await transport.read()
    while body:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        body = await transport.read()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Transport(asyncio.Transport):
    """The connection of one request: keeps what aiohttp writes until it is read, and has it wait beyond that."""

    def __init__(self, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self.aborted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._protocol: asyncio.BaseProtocol | None = None
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._is_paused = False
        self._closing = False
        self._changed = asyncio.Event()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None, "it is set before anything is written"
        return self._protocol

    async def read(self) -> bytes:
        """Return what was written meanwhile; nothing when it is closed."""
        while not (self._pieces or self._closing):
            self._changed.clear()
            await self._changed.wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._is_paused:
            self._is_paused = False
            self.get_protocol().resume_writing()
        return data

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        self._pieces.append(bytes(data))
        self._size += len(data)
        self._changed.set()
        if self._size > _HIGH_BYTES and not self._is_paused:
            self._is_paused = True
            self.get_protocol().pause_writing()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True
        self._changed.set()

    def abort(self) -> None:
        self.close()
        self._pieces.clear()
        if not self.aborted.done():
            self.aborted.set_result(None)

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._size

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Its limit is fixed."""

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        """The whole request is there already."""

    def resume_reading(self) -> None:
        """As above."""
