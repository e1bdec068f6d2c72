"""The trace of a request, continued in the tasks that it submits: by its headers, where no span is current yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from multidict import CIMultiDict, MultiMapping
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context

from qorzen_obs.server.caller import caller_of

Scope = MutableMapping[str, Any]  #: What ASGI says of a connection.
Message = MutableMapping[str, Any]  #: What ASGI sends and receives.
Receive = Callable[[], Awaitable[Message]]  #: Gives the next message of the client.
Send = Callable[[Message], Awaitable[None]]  #: Takes a message to the client.
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]  #: An application of ASGI 3.


@contextmanager
def trace_of(headers: MultiMapping[str]) -> Iterator[None]:
    """Make the span and the baggage that headers name current in the block, unless a span is current already.

    OTEL_PROPAGATORS says which headers are read: the W3C's, where it is not set.
    """
    if trace.get_current_span().get_span_context().is_valid:
        yield
        return
    around = Context({**otel_context.get_current(), **caller_of(headers)})
    token = otel_context.attach(around)
    try:
        yield
    finally:
        otel_context.detach(token)


class ContinueTrace:
    """ASGI middleware: tasks that a request submits belong to the trace that its headers name.

    A span that an outer middleware has made current stays the parent. Use it where you trust your callers, such as
    behind a gateway: a request whose trace is sampled has the traces of its tasks kept.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        with trace_of(headers_of(scope)):
            await self._app(scope, receive, send)


def headers_of(scope: Scope) -> CIMultiDict[str]:
    """Return the headers of an ASGI request."""
    return CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
