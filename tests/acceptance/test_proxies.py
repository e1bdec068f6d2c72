"""Each configuration of docs/proxies.md, in the program that it is for."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from qorzen_obs import TaskRegistry, task
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.settings import ServerSettings
from tests.conftest import require
from tests.services.backends import free_port, program
from tests.services.ops_plane import managing, serving
from tests.support import until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DOCS: Final = (Path(__file__).parents[2] / "docs" / "proxies.md").read_text("utf-8")
HOST: Final = "tasks.example.org"
SNIPPETS: Final = re.findall(r"```(nginx|caddyfile)\n(.*?)```", DOCS, re.DOTALL)


@task(name="double")
def double(value: int) -> int:
    return 2 * value


@contextmanager
def nginx(folder: Path, snippet: str, port: int) -> Iterator[None]:
    """nginx with this server, and nothing of it outside of the folder."""
    paths = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    server = snippet.replace("listen 80;", f"listen 127.0.0.1:{port};")
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\nhttp {{ access_log off; {paths}\n{server}}}\n"
    )
    path = require("nginx", "apt-get install nginx")
    with program(path, "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"):
        yield


@contextmanager
def caddy(folder: Path, snippet: str, port: int) -> Iterator[None]:
    """Caddy with this site, by plain HTTP."""
    options = "{\n    admin off\n    auto_https off\n    grace_period 1s\n}\n"
    (folder / "Caddyfile").write_text(options + snippet.replace(HOST, f"http://{HOST}:{port}", 1))
    path = require("caddy", "apt-get install caddy")
    command = (path, "run", "--config", folder / "Caddyfile", "--adapter", "caddyfile")
    with program(*command, environment={"HOME": str(folder)}):
        yield


@asynccontextmanager
async def behind(
    kind: str, snippet: str, folder: Path
) -> AsyncIterator[tuple[TaskManager, aiohttp.ClientSession, str]]:
    """A service behind a proxy with this configuration; a client that finds the name, and the public address."""
    port, prefix = free_port(), "/ops" if "/ops" in snippet else ""
    url = f"http://{HOST}:{port}{prefix}"
    settings = ServerSettings(
        port=0, allow_submit=True, allowed_hosts=(HOST,), public_url=url if prefix else None
    )
    known = TaskRegistry()
    known.add(double)
    start = {"nginx": nginx, "caddyfile": caddy}[kind]
    async with (
        managing() as (manager, _),
        serving(manager, tasks=known, settings=settings) as plane,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=ToLoopback())) as session,
    ):
        with start(folder, snippet.replace("127.0.0.1:8080", f"127.0.0.1:{plane.port}"), port):
            await until(lambda: listens(port))
            yield manager, session, url


class ToLoopback(aiohttp.abc.AbstractResolver):
    """Finds every name here."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        return [
            {"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}
        ]

    async def close(self) -> None: ...


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("kind", "snippet"),
    SNIPPETS,
    ids=["nginx", "nginx removes the prefix", "nginx keeps it", "Caddy", "Caddy removes the prefix"],
)
async def test_behind_a_proxy_everything_works(kind: str, snippet: str, tmp_path: Path) -> None:
    async with behind(kind, snippet, tmp_path) as (manager, session, url):
        origin = url.removesuffix("/ops")
        async with session.get(f"{url}/") as page:
            assert (page.status, page.content_type) == (200, "text/html")
        async with session.get(url) as page:  # without its slash
            assert (page.status, page.url.path) == (200, "/" if url == origin else "/ops/")
        async with session.get(f"{url}/static/js/main.js") as script:
            assert script.status == 200

        # What a button of the page sends over plain HTTP, where browsers do not say Sec-Fetch-Site.
        body = {"task": "double", "args": [4]}
        async with session.post(f"{url}/api/tasks", json=body, headers={"Origin": origin}) as answer:
            assert answer.status == 202, await answer.text()
            task_id = (await answer.json())["task_id"]
            location = answer.headers["Location"]
        assert location == (url if url != origin else "") + f"/api/tasks/{task_id}"
        assert (await manager.wait_for_task(task_id)).result == 8
        async with session.get(location if url != origin else url + location) as answer:
            assert (await answer.json())["status"] == "completed"
        async with session.post(
            f"{url}/api/tasks", json=body, headers={"Origin": "http://evil.example"}
        ) as answer:
            assert answer.status == 403

        async with session.get(f"{url}/openapi.json") as answer:
            assert (await answer.json())["servers"] == [{"url": url if url != origin else "/"}]
        async with session.get(f"{url}/api/events") as stream:
            assert (await stream.content.readline()).strip()  # at once, and not when a buffer is full


def test_the_documents_have_a_prefix_for_each_proxy() -> None:
    assert {kind for kind, snippet in SNIPPETS if "/ops" in snippet} == {"nginx", "caddyfile"}
    assert len(SNIPPETS) == 5
