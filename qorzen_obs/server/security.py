"""Who gets an answer, and what a browser may do with it. Closed by default.

A route that says nothing of its access needs the token. A Host that nobody allowed gets no answer: a page of
another site can reach a loopback server by letting its own name resolve to it (DNS rebinding), but only so.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from collections.abc import Mapping
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from qorzen_obs.errors import SettingsError
from qorzen_obs.server.problems import ProblemError
from qorzen_obs.server.routes import Access, Handler, Route
from qorzen_obs.settings import ServerSettings

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_LONGEST_TOKEN: Final = 1_024
_TOKEN: Final = re.compile(rf"\S{{16,{_LONGEST_TOKEN}}}")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_AUTHORITY: Final = re.compile(r"\[([0-9a-f:.]+(?:%[\w.-]+)?)\](?::\d*)?|([a-z0-9._-]+)(?::\d*)?", re.ASCII)


def check_exposure(settings: ServerSettings) -> None:
    """Refuse to listen where other machines can reach the server while no token is set.

    Raises:
        SettingsError: `server.host` is such an address.
    """
    if not settings.token and not _is_loopback(settings.host):
        raise SettingsError(
            "server.host",
            f"{settings.host!r} can be reached from other machines and no token is set; "
            "set server.token (QORZEN_SERVER__TOKEN) or server.token_file, or listen on 127.0.0.1",
        )


def with_token(settings: ServerSettings) -> ServerSettings:
    """Return the settings with the token that `server.token_file` holds, where one is named.

    Its group may read the file, as a scraper beside the service has to; everybody may not.

    Raises:
        SettingsError: `server.token` is set too, or the file cannot be read, can be read by everybody, or does not
            begin with a line of at least 16 characters without spaces.
    """
    if not settings.token_file:  # a variable of the environment that is set to nothing names none
        return settings
    if settings.token is not None:
        raise SettingsError("server.token_file", "server.token is set too; keep one of them")
    return msgspec.structs.replace(settings, token=_read_token(Path(settings.token_file)), token_file=None)


def _read_token(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as lines:
            mode = os.fstat(lines.fileno()).st_mode
            token = lines.readline(_LONGEST_TOKEN + 1).strip()
    except OSError as error:
        raise SettingsError("server.token_file", f"{str(file)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError("server.token_file", f"{str(file)!r} is no text") from error
    if os.name == "posix" and mode & stat.S_IRWXO:
        raise SettingsError(
            "server.token_file",
            f"{str(file)!r} is open to everybody on this machine; close it: chmod o-rwx",
        )
    if not _TOKEN.fullmatch(token):
        raise SettingsError(
            "server.token_file",
            f"{str(file)!r} must begin with a token: a line of 16 to {_LONGEST_TOKEN} characters without spaces",
        )
    return token


def read_host(authority: str) -> str | None:
    """Return the plain host of a Host header, without port, brackets and a last dot; None for no host.

    >>> read_host("LocalHost.:8080"), read_host("[::1]:80"), read_host("a b")
    ('localhost', '::1', None)
    """
    found = _AUTHORITY.fullmatch(authority.lower())
    return (found[1] or found[2].removesuffix(".")) if found else None


def add_security_headers(response: web.StreamResponse) -> None:
    """Add what every response carries, over nothing that it has already."""
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers[hdrs.SERVER] = "qorzen_obs"  # not which versions to attack


async def secure_response(request: web.Request, response: web.StreamResponse) -> None:
    """Add the security headers; for `on_response_prepare`."""
    add_security_headers(response)


def guard(settings: ServerSettings, routes: Mapping[web.AbstractResource, Route]) -> Middleware:
    """Return the middleware that turns away whoever may not call a route.

    Raises:
        SettingsError: an entry of `server.allowed_hosts` is no host name, or `server.token_file` cannot be used.
    """
    settings = with_token(settings)
    allowed_hosts = frozenset(_read_allowed_host(entry) for entry in settings.allowed_hosts)
    token = settings.token.encode() if settings.token is not None else None

    @web.middleware
    async def turn_away(request: web.Request, handler: Handler) -> web.StreamResponse:
        access = _access(request, routes)
        # A kubelet calls the probes by whatever name the pod has.
        if access is not Access.PROBE and not _host_is_allowed(request, allowed_hosts):
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this Host is not allowed; use localhost or an IP address, or add it to server.allowed_hosts",
            )
        if access in (Access.READ, Access.CONTROL) and token is not None:
            _check_token(request, token)
        if access is Access.CONTROL and request.method not in _SAFE_METHODS:
            _check_origin(request)
        return await handler(request)

    return turn_away


def _access(request: web.Request, routes: Mapping[web.AbstractResource, Route]) -> Access:
    """Return who may make this very request: a probe with details is read like everything else."""
    resource = request.match_info.route.resource
    route = routes.get(resource) if resource is not None else None
    if route is None or (route.access is Access.PROBE and "verbose" in request.query):
        return Access.READ
    return route.access


def _host_is_allowed(request: web.Request, allowed_hosts: frozenset[str]) -> bool:
    authorities = request.headers.getall(hdrs.HOST, [])
    if len(authorities) != 1:
        return False
    host = read_host(authorities[0])
    return host is not None and (host == "localhost" or host in allowed_hosts or _is_ip(host))


def _check_token(request: web.Request, token: bytes) -> None:
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() != "bearer":
        challenge = 'Bearer realm="qorzen_obs"'
    elif hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token):
        return
    else:
        challenge = 'Bearer realm="qorzen_obs", error="invalid_token"'
    raise ProblemError(
        HTTPStatus.UNAUTHORIZED,
        "send the service's token in the header Authorization: Bearer",
        headers={hdrs.WWW_AUTHENTICATE: challenge},
    )


def _check_origin(request: web.Request) -> None:
    """Refuse what a page of another site sends: a browser says where a request comes from, other clients do not.

    Sec-Fetch-Site where the browser sends it, else Origin; and a content type that no form can have.
    """
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get(hdrs.ORIGIN)
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        foreign = origin is not None and origin.partition("://")[2] != request.headers.get(hdrs.HOST)
    if foreign:
        raise ProblemError(HTTPStatus.FORBIDDEN, "a page of another site may not send this")
    if request.content_type != "application/json":
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the header Content-Type: application/json"
        )


def _read_allowed_host(entry: str) -> str:
    host = read_host(entry)
    if host is None:
        raise SettingsError("server.allowed_hosts", f"{entry!r} is no host name such as 'tasks.example.org'")
    return host


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host.lower() == "localhost" or (_is_ip(host) and ip_address(host).is_loopback)
