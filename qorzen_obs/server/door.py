"""Who may be connected: up to a number, and while descriptors are left; probes find a place in any case.

A new connection says nothing of itself before it has sent its request, so a full server takes it in and closes the one
that has been silent for longest. Where none is silent it has a place among those that are kept for probes, and anything
else that it asks for is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware

from qorzen_obs.server.body import MAX_BODY_BYTES
from qorzen_obs.server.problems import ProblemError, problem_response
from qorzen_obs.server.routes import Access, Handler, Route, RouteKey, route_of
from qorzen_obs.server.security import add_security_headers
from qorzen_obs.telemetry.log_limit import LogLimit
from qorzen_obs.telemetry.own_log import OwnLog

logger = OwnLog(__name__)

MAX_CONNECTIONS: Final = 512  #: open connections
PROBE_PLACES: Final = 16  #: further ones, which may only ask for probes
IDLE_SECONDS: Final = 15.0  #: how long a connection may be silent, or take to send its headers
#: How long stop waits for requests in flight before it aborts their connections.
SHUTDOWN_SECONDS: Final = 1.0
#: How many connections wait to be accepted at most; the system holds them.
BACKLOG: Final = 128

_OUT_OF_DESCRIPTORS: Final = "socket.accept() out of system resource"  # asyncio's words
_LEFT_FREE: Final = 16  # descriptors that the server leaves to the program, at least
_MOST_LEFT_FREE: Final = 128
_ROOM_SECONDS: Final = 60.0
CONNECTION_OPTIONS: Final[dict[str, Any]] = {
    "access_log": None,
    "keepalive_timeout": IDLE_SECONDS,
    "lingering_time": SHUTDOWN_SECONDS,
    "max_line_size": 8190,
    "max_field_size": 16_384,  # a baggage that is too long loses members, and the request goes on
    "max_headers": 64,
    "read_bufsize": MAX_BODY_BYTES,
    "auto_decompress": False,
}


class Door:
    """Lets connections in, closes the silent ones when it is full, and throws out those that stay too long at the end.

    For the server's own event loop.
    """

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._silent: dict[Connection, None] = {}  # those without a request, the longest silent first
        self._busy: set[Connection] = set()
        self._room = _Room()
        self._limit = LogLimit()
        self._closed = False

    def admit(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return _Refusal() if self._closed else Connection(self, self._server)

    def enter(self, connection: Connection) -> None:
        """Give a new connection a place, or refuse it."""
        connections = len(self._silent) + len(self._busy)
        room = self._room.of(connections, connection.descriptor)
        if connections >= room:
            self._say("the server has no room for more connections; the longest silent ones were closed")
            if not self._close_longest_silent(kept=False):  # which would have left its place
                connection.keep_for_probes()
                has_place = connections < room + PROBE_PLACES and self._room.has_descriptors(
                    connection.descriptor
                )
                if not (has_place or self._close_longest_silent(kept=True)):
                    connection.abort()
                    return
        self._silent[connection] = None

    def heard(self, connection: Connection) -> None:
        """Note that a client has sent something."""
        if connection in self._silent:
            del self._silent[connection]
            self._silent[connection] = None

    def begin(self, connection: Connection) -> None:
        """A request of it is being answered: it will not be closed to make room."""
        if connection in self._silent:
            del self._silent[connection]
            self._busy.add(connection)

    def end(self, connection: Connection) -> None:
        """No request of it is being answered any more."""
        if connection in self._busy:
            self._busy.discard(connection)
            self._silent[connection] = None

    def leave(self, connection: Connection) -> None:
        """A connection has ended."""
        self._silent.pop(connection, None)
        self._busy.discard(connection)

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Make room where the whole process is out of descriptors, and say so once a minute; asyncio tries again."""
        if context.get("message") != _OUT_OF_DESCRIPTORS:
            loop.default_exception_handler(context)
            return
        for _ in range(_LEFT_FREE):
            if not (self._close_longest_silent(kept=False) or self._close_longest_silent(kept=True)):
                break
        self._say(
            "the process has no descriptor left for a connection; raise its limit (ulimit -n) or close files"
        )

    async def close(self, runner: web.AppRunner) -> None:
        """Let requests in flight end, then abort: a client that does not read would stay for ever."""
        self._closed = True
        timer = asyncio.get_running_loop().call_later(SHUTDOWN_SECONDS, self._abort)
        try:
            await runner.cleanup()
        finally:
            timer.cancel()
            self._abort()
            await asyncio.sleep(0)  # the transports close their sockets in the next turn

    def _abort(self) -> None:
        for connection in (*self._silent, *self._busy):
            connection.abort()

    def _close_longest_silent(self, *, kept: bool) -> bool:
        """Close one of those on the places kept for probes, or of the others; return whether there is any."""
        connection = next((one for one in self._silent if one.only_probes is kept), None)
        if connection is None:
            return False
        del self._silent[connection]
        connection.abort()
        return True

    def _say(self, problem: str) -> None:
        suppressed = self._limit.let(time.monotonic())
        if suppressed is not None:
            logger.warning(
                "%s%s", problem, f" ({suppressed} times more since the last line)" if suppressed else ""
            )


class ProblemHandler(web.RequestHandler):
    """aiohttp's side of a connection; what is not HTTP gets a problem document that repeats nothing of it."""

    __slots__ = ()

    def __init__(self, server: web.Server) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **CONNECTION_OPTIONS)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if exc is not None and not isinstance(exc, HttpProcessingError):  # a scanner must not fill the log
            logger.error("a request failed outside its handler", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the response was sent already")
        response = problem_response(HTTPStatus(status))
        add_security_headers(response)
        response.force_close()
        return response


class Connection(ProblemHandler):
    """A connection that has come in by the door."""

    __slots__ = ("_door", "_entered", "only_probes")

    def __init__(self, door: Door, server: web.Server) -> None:
        super().__init__(server)
        self._door = door
        self._entered: asyncio.Transport | None = None
        self.only_probes = False  #: it has a place among those that are kept for probes

    @property
    def descriptor(self) -> int:
        """The number of its socket; -1 where it has none."""
        connection = None if self._entered is None else self._entered.get_extra_info("socket")
        return -1 if connection is None else int(connection.fileno())

    def abort(self) -> None:
        """Close it at once, whatever is under way."""
        if self._entered is not None:
            self._entered.abort()

    def keep_for_probes(self) -> None:
        """Answer nothing but a probe, since its place is kept for them."""
        self.only_probes = True

    def begin(self) -> None:
        """A request is being answered."""
        self._door.begin(self)

    async def finish_response(self, *answered: Any) -> tuple[web.StreamResponse, bool]:
        """Send what is left of a response; only then has the request been answered."""
        try:
            return await super().finish_response(*answered)
        finally:
            self._door.end(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._entered = transport
        super().connection_made(transport)
        self._door.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._door.heard(self)
        super().data_received(data)


class _Refusal(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class _Room:
    """The number of connections there is room for: MAX_CONNECTIONS, or fewer where the process may open fewer files.

    The system gives the lowest number that is free, so a high one says that few are left. It does not say so of a
    connection that takes the place of another, so what was found holds for a while.
    """

    def __init__(self) -> None:
        limit = _descriptor_limit()
        left_free = min(_MOST_LEFT_FREE, max(_LEFT_FREE, limit // 16))
        self._few, self._none = limit - left_free, limit - left_free // 2
        self._found = 0
        self._until = float("-inf")

    def of(self, connections: int, newest: int) -> int:
        """Return how many there is room for, when this many are open and the newest has this descriptor."""
        now = time.monotonic()
        if newest >= self._few:
            self._found, self._until = connections, now + _ROOM_SECONDS
        return self._found if now < self._until else MAX_CONNECTIONS

    def has_descriptors(self, newest: int) -> bool:
        """Return whether enough descriptors are left for the program, when the newest has this number."""
        return newest < self._none


def _descriptor_limit() -> float:
    try:
        import resource  # noqa: PLC0415 - Windows has neither the module nor the limit
    except ImportError:
        return float("inf")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return float("inf") if limit == resource.RLIM_INFINITY else float(limit)


def keep_places(routes: Mapping[RouteKey, Route]) -> Middleware:
    """Return the middleware that answers nothing but probes on the places that are kept for them."""

    @web.middleware
    async def keep(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        if not isinstance(connection, Connection):  # mounted in another application
            return await handler(request)
        connection.begin()
        if connection.only_probes:
            connection.close()  # once this request was answered
            route = route_of(request, routes)
            if route is None or route.access is not Access.PROBE:
                raise ProblemError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "too many connections are open; close some, or try again later",
                    headers={hdrs.RETRY_AFTER: "1"},
                )
        return await handler(request)

    return keep
