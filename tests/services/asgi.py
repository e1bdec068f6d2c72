"""An ASGI server's side of one request, in memory; and uvicorn on the loop of a test."""

import asyncio
from collections.abc import AsyncIterator, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from qorzen_obs.hosts.request_trace import AsgiApp
from tests.support import until

Message = MutableMapping[str, Any]


@dataclass
class Asked:
    """A request below a mount, and its answer as it comes."""

    method: str = "GET"
    path: str = "/"
    query: bytes = b""
    headers: Iterable[tuple[bytes, bytes]] = ((b"host", b"127.0.0.1:8000"),)
    body: bytes | None = None
    mounted_at: str = "/ops"
    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""
    complete: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)  #: the client closes its connection
    reads: asyncio.Event = field(default_factory=asyncio.Event)  #: the client reads; clear it to let it stall
    _asked: bool = False

    def __post_init__(self) -> None:
        self.reads.set()

    @property
    def scope(self) -> dict[str, Any]:
        length = [] if self.body is None else [(b"content-length", b"%d" % len(self.body))]
        return {
            "type": "http",
            "http_version": "1.1",
            "method": self.method,
            "path": self.mounted_at + self.path,
            "root_path": self.mounted_at,
            "query_string": self.query,
            "headers": [*self.headers, *length],
            "client": ("127.0.0.1", 5000),
        }

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.body or b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.fields = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.answer += message.get("body", b"")
            self.complete = not message.get("more_body", False)

    async def of(self, app: AsgiApp) -> "Asked":
        """Have `app` answer it."""
        await app(self.scope, self.receive, self.send)
        return self


@asynccontextmanager
async def uvicorn_serves(app: Any) -> AsyncIterator[str]:
    """The address where uvicorn serves an application, until the end of the block."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, lifespan="on", log_config=None, timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started or serving.done())
    assert server.started
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await serving
