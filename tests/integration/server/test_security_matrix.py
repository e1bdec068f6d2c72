"""Whom the server answers: every route of the router before every kind of caller, by token, by Host, by origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from qorzen_obs.server.app import create_app
from qorzen_obs.server.page import ASSETS
from qorzen_obs.server.routes import Access
from qorzen_obs.settings import ServerSettings
from tests.services.ops_plane import TOKEN, SaidManager, exchange, serving

#: Every route, classified. A new one fails the test below until it stands here.
CLASSIFIED = {
    # The page and its files show nothing of the service.
    **{f"GET {path}": Access.OPEN for path in ASSETS},
    "GET /runbooks": Access.OPEN,  # the same of every service
    "GET ": Access.OPEN,  # a prefix without its slash
    "GET /livez": Access.PROBE,
    "GET /livez/{check}": Access.PROBE,
    "GET /healthz": Access.PROBE,
    "GET /healthz/{check}": Access.PROBE,
    "GET /readyz": Access.PROBE,
    "GET /readyz/{check}": Access.PROBE,
    "GET /startupz": Access.PROBE,
    "GET /startupz/{check}": Access.PROBE,
    "GET /health": Access.READ,
    "GET /api/health/history": Access.READ,
    "GET /metrics": Access.READ,
    "GET /status": Access.READ,
    "GET /openapi.json": Access.READ,
    "GET /api/registry": Access.READ,
    "GET /api/tasks": Access.READ,
    "GET /api/lost": Access.READ,
    "GET /api/tasks/{task_id}": Access.READ,
    "GET /api/tasks/{task_id}/trace": Access.READ,
    "GET /api/tasks/{task_id}/logs": Access.READ,
    "GET /api/tasks/{task_id}/stack": Access.READ,
    "GET /api/tasks/{task_id}/why": Access.READ,
    "GET /api/events": Access.READ,
    "GET /api/page": Access.READ,
    "GET /api/settings": Access.READ,
    "GET /api/series": Access.READ,
    "GET /api/running": Access.READ,
    "GET /api/pending": Access.READ,
    "GET /api/definitions": Access.READ,
    "GET /api/failures": Access.READ,
    "GET /api/loop": Access.READ,
    "GET /api/traces": Access.READ,
    "GET /api/traces/{trace_id}": Access.READ,
    "POST /api/tasks": Access.CONTROL,
    "POST /api/bulk/cancel": Access.CONTROL,
    "POST /api/bulk/rerun": Access.CONTROL,
    "POST /api/tasks/{task_id}/cancel": Access.CONTROL,
    "POST /api/tasks/{task_id}/rerun": Access.CONTROL,
    "POST /api/categories/{category}/pause": Access.CONTROL,
    "POST /api/categories/{category}/resume": Access.CONTROL,
}
READ_TOKEN = "a-token-that-reads-only"
#: What a request brings, and what that opens.
CALLERS: Mapping[str, tuple[dict[str, str], Access | None]] = {
    "none": ({}, None),
    "empty": ({"Authorization": "Bearer "}, None),
    "wrong": ({"Authorization": f"Bearer {TOKEN[:-1]}"}, None),
    "longer": ({"Authorization": f"Bearer {TOKEN}s"}, None),
    "other scheme": ({"Authorization": f"Basic {TOKEN}"}, None),
    "bare": ({"Authorization": TOKEN}, None),
    "not ASCII": ({"Authorization": "Bearer \u00e4\u00f6"}, None),
    "with its scope": ({"Authorization": f"Bearer {READ_TOKEN} control"}, None),
    "read": ({"Authorization": f"Bearer {READ_TOKEN}"}, Access.READ),
    "control": ({"Authorization": f"bearer {TOKEN.replace(' ', '-')}"}, Access.CONTROL),
}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def secured(tmp_path: Path) -> ServerSettings:
    """Settings with a token for each scope, that allow everything that they can."""
    file = tmp_path / "tokens"
    file.touch(0o600)
    file.write_text(f"{TOKEN.replace(' ', '-')}\n{READ_TOKEN} read\n")
    return ServerSettings(port=0, token_file=str(file), allow_submit=True)


def served() -> list[tuple[str, str]]:
    """Method and path template of each route of the router itself."""
    app = create_app(SaidManager())
    return [(route.method, route.resource.canonical) for route in app.router.routes() if route.resource]


def commands() -> list[str]:
    return [filled(template) for method, template in served() if method not in ("GET", "HEAD")]


def filled(template: str) -> str:
    check = "work-loop" if template.startswith(("/livez", "/healthz")) else "initialized"
    return template.format(check=check, task_id="1", trace_id="1", category="io")


def classified(method: str, template: str) -> Access:
    return CLASSIFIED[f"{'GET' if method == 'HEAD' else method} {template}"]


def test_t2_every_route_is_classified() -> None:
    assert {f"{method} {path}" for method, path in served() if method != "HEAD"} == set(CLASSIFIED)


def test_t5_what_changes_something_is_a_post_and_needs_control() -> None:
    assert {method for method, _ in served()} == {"GET", "HEAD", "POST"}
    for route, access in CLASSIFIED.items():
        assert route.startswith("POST ") == (access is Access.CONTROL)


# ---------------------------------------------------------------------------- by token


@pytest.mark.parametrize("caller", CALLERS)
async def test_t2_a_token_opens_what_its_scope_says_and_nothing_else(
    session: aiohttp.ClientSession, secured: ServerSettings, caller: str
) -> None:
    headers, scope = CALLERS[caller]
    async with serving(SaidManager(), settings=secured) as plane:
        for method, template in served():
            for query in ("", "?verbose", "?verbose=", "?exclude=x&verbose=0", "?%76erbose"):
                access = classified(method, template)
                if access is Access.PROBE and query:  # details
                    access = Access.READ
                refusal = {
                    (Access.READ, None): 401,
                    (Access.CONTROL, None): 401,
                    (Access.CONTROL, Access.READ): 403,
                }.get((access, scope))
                url = plane.url + filled(template) + query
                async with session.request(method, url, headers={**JSON, **headers}) as response:
                    status = response.status if response.status in (401, 403) else None
                    assert status == refusal, f"{method} {template}{query}"
                    if refusal is not None:
                        assert response.headers["WWW-Authenticate"].startswith("Bearer ")
                    check_headers(response.headers, is_page=template in ("", "/"))


async def test_t2_t3_without_a_token_everything_but_submitting_is_open(
    session: aiohttp.ClientSession,
) -> None:
    async with serving(SaidManager()) as plane:
        for method, template in served():
            url = plane.url + filled(template)
            async with session.request(method, url, headers=JSON, data=b"{}") as response:
                closed = (method, template) == ("POST", "/api/tasks")
                assert (response.status in (401, 403)) == closed, f"{method} {template}"


@pytest.mark.parametrize("path", ["/nothing", "/api", "/static/", "/%2e%2e/etc/passwd"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_t2_what_does_not_exist_is_not_told_without_the_token(
    session: aiohttp.ClientSession, secured: ServerSettings, method: str, path: str
) -> None:
    async with (
        serving(SaidManager(), settings=secured) as plane,
        session.request(method, plane.url + path) as response,
    ):
        assert response.status == 401


# ---------------------------------------------------------------------------- by Host


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("localhost:8080", True),
        ("LOCALHOST.", True),
        ("localhost.:8080", True),
        ("127.0.0.1", True),
        ("127.0.0.1:1", True),
        ("127.0.0.1.", True),
        ("192.168.7.7:8080", True),
        ("[::1]", True),
        ("[::1]:8080", True),
        ("[::ffff:127.0.0.1]:80", True),
        ("[fe80::1%25eth0]", True),
        ("tasks.example.org", True),
        ("Tasks.Example.Org.:8080", True),
        ("example.org", False),
        ("tasks.example.org..", False),
        ("tasks.example.org.evil.com", False),
        ("localhost.evil.com", False),
        ("127.0.0.1.evil.com", False),
        ("127.0.0.1.nip.io", False),
        ("evil.com:80", False),
        ("evil.com.", False),
        ("evil.com#localhost", False),
        ("localhost@evil.com", False),
        ("localhost, evil.com", False),
        ("0x7f.1", False),
        ("2130706433", False),
        ("::1", False),
        ("[::1", False),
        ("[evil.com]", False),
        ("localhost:80:80", False),
        ("", False),
    ],
)
async def test_t4_only_an_allowed_host_is_answered(host: str, allowed: bool) -> None:
    settings = ServerSettings(port=0, allowed_hosts=("tasks.example.org",))
    async with serving(SaidManager(), settings=settings) as plane:
        for path in ("/", "/static/js/main.js", "/status", "/livez?verbose", "/nothing"):
            status, _, _ = await exchange(plane, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert (status != 421) == allowed, path
        for path in ("/livez", "/readyz/accepting"):
            status, _, _ = await exchange(plane, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert status == 200, path


async def test_t4_a_foreign_host_is_turned_away_from_every_route(session: aiohttp.ClientSession) -> None:
    async with serving(SaidManager()) as plane:
        for method, template in served():
            headers = {**JSON, "Host": "evil.example"}
            url = plane.url + filled(template)
            async with session.request(method, url, headers=headers, data=b"{}") as response:
                exempt = classified(method, template) is Access.PROBE
                assert (response.status != 421) == exempt, f"{method} {template}"


@pytest.mark.parametrize("hosts", [[], ["localhost", "evil.com"]])
async def test_t4_a_missing_or_second_host_is_no_way_around(hosts: list[str]) -> None:
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    async with serving(SaidManager()) as plane:
        status, _, body = await exchange(plane, f"GET /status HTTP/1.1\r\n{lines}\r\n".encode())
        assert status in (400, 421)
        assert b"evil" not in body


# ---------------------------------------------------------------------------- by where it comes from


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "text/plain;application/json"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({**JSON, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**JSON, "Sec-Fetch-Site": "same-site"}, 403),
        ({**JSON, "Sec-Fetch-Site": ""}, 403),
        ({**JSON, "Sec-Fetch-Site": "cross-site", "Origin": "SELF"}, 403),
        ({**JSON, "Origin": "http://evil.example"}, 403),
        ({**JSON, "Origin": "http://localhost"}, 403),
        ({**JSON, "Origin": "null"}, 403),
        ({**JSON, "Origin": ""}, 403),
        ({**JSON, "Sec-Fetch-Site": "same-origin"}, None),
        ({**JSON, "Sec-Fetch-Site": "none"}, None),
        ({**JSON, "Sec-Fetch-Site": "same-origin", "Origin": "SELF"}, None),
        ({**JSON, "Origin": "SELF"}, None),
        ({"Content-Type": "application/json; charset=utf-8"}, None),
        (JSON, None),
    ],
    ids=lambda value: (
        ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    ),
)
async def test_t5_a_page_of_another_site_changes_nothing(
    session: aiohttp.ClientSession, headers: dict[str, str], refused: int | None
) -> None:
    settings = ServerSettings(port=0, allow_submit=True)
    async with serving(SaidManager(), settings=settings) as plane:
        sent = {name: plane.url if value == "SELF" else value for name, value in headers.items()}
        for path in commands():
            async with session.post(plane.url + path, headers=sent, data=b"{}") as response:
                status = response.status if response.status in (403, 415) else None
                assert status == refused, path


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"Origin": "https://tasks.example.org"}, False),
        ({"Origin": "http://tasks.example.org:8443"}, False),
        ({"Origin": "https://Tasks.Example.Org."}, False),
        ({"Origin": "https://tasks.example.org", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Origin": "https://tasks.example.org", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": "https://tasks.example.org.evil.com"}, True),
        ({"Origin": "https://evil.com"}, True),
        ({"Origin": "https://evil.com#tasks.example.org"}, True),
        ({"Origin": "tasks.example.org"}, True),
        ({"Origin": "https://127.0.0.1"}, True),
        ({"Origin": "null"}, True),
        ({"Origin": ""}, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("host", ["127.0.0.1:8080", "tasks.example.org"], ids=["by default", "Host $host"])
async def test_t5_behind_a_proxy_an_allowed_host_is_an_allowed_origin(
    session: aiohttp.ClientSession, host: str, headers: dict[str, str], refused: bool
) -> None:
    settings = ServerSettings(port=0, allow_submit=True, allowed_hosts=("tasks.example.org",))
    async with serving(SaidManager(), settings=settings) as plane:
        for path in commands():
            sent = {**JSON, "Host": host, **headers}
            async with session.post(plane.url + path, headers=sent, data=b"{}") as response:
                assert (response.status == 403) == refused, path


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Content-Length: 0"],
        ["Content-Length: 0", "Content-Type: application/x-www-form-urlencoded"],
        ["Content-Type: application/octet-stream"],
        ["Content-Type: application/json"],
    ],
    ids=str,
)
async def test_t5_a_command_without_a_body_needs_no_content_type_and_an_origin_of_its_own(
    lines: list[str],
) -> None:
    async with serving(SaidManager()) as plane:
        for path in set(commands()) - {"/api/tasks"}:
            for origin in (), ("Origin: http://evil.example",), ("Origin: null",):
                head = [f"POST {path} HTTP/1.1", "Host: localhost", *lines, *origin, "", ""]
                status, _, _ = await exchange(plane, "\r\n".join(head).encode())
                assert (status == 403) == bool(origin), path
                assert status != 415, path


async def test_t5_a_body_in_pieces_is_one_too() -> None:
    async with serving(SaidManager()) as plane:
        for path in commands():
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            status, _, _ = await exchange(plane, head.encode() + b"2\r\n{}\r\n0\r\n\r\n")
            assert status == 415, path


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_t5_a_command_is_a_post_and_nothing_else(session: aiohttp.ClientSession, method: str) -> None:
    async with serving(SaidManager()) as plane:
        for path in commands():
            if path == "/api/tasks" and method in ("GET", "HEAD"):
                continue  # another route
            async with session.request(method, plane.url + path, headers=JSON) as response:
                assert response.status == 405, path
                assert "POST" in response.headers["Allow"].split(",")
                assert not [name for name in response.headers if name.startswith("Access-Control")]


# ---------------------------------------------------------------------------- what every answer carries


async def test_t6_every_answer_carries_the_security_headers(session: aiohttp.ClientSession) -> None:
    async with serving(SaidManager()) as plane:
        for method, template in served():
            url = plane.url + filled(template)
            async with session.request(method, url, headers=JSON, data=b"[") as response:
                check_headers(response.headers, is_page=template in ("", "/"))
        for request, expected in (
            (b"nonsense\r\n\r\n", 400),
            (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
            (b"GET /api/tasks?limit=x HTTP/1.1\r\nHost: localhost\r\n\r\n", 422),
            (b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405),
            (b"GET /status HTTP/1.1\r\nHost: evil.com\r\n\r\n", 421),
        ):
            status, headers, body = await exchange(plane, request)
            assert status == expected
            assert headers["Content-Type"] == "application/problem+json"
            assert json.loads(body)["status"] == expected
            check_headers(headers, is_page=False)


def check_headers(headers: Mapping[str, str], *, is_page: bool) -> None:
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "qorzen_obs"
    assert headers["Qorzen-API-Version"] == "1.0"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert ("script-src 'self'" in policy) == ("require-trusted-types-for 'script'" in policy) == is_page
    assert not [name for name in headers if name.lower().startswith("access-control")]
