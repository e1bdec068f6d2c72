"""A small HTTP server in a thread, for what the project talks to: another service, a webhook, a collector."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def http_server(answer: Callable[[BaseHTTPRequestHandler, bytes], None]) -> Iterator[str]:
    """Listen on a free port of 127.0.0.1 and let `answer` have each request and its body; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A connection that is closed before its body was read is reset, and its answer lost with it.
            answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        do_POST = do_GET  # noqa: N815 - the name is http.server's

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def give(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """Send an answer; `headers` are named with underscores for hyphens."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
