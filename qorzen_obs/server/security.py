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

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from qorzen_obs.endpoint import plain_host, socket_path
from qorzen_obs.errors import SettingsError
from qorzen_obs.server.problems import ProblemError
from qorzen_obs.server.routes import (
    API_VERSION,
    SCOPE,
    VERSION_HEADER,
    Access,
    Handler,
    Route,
    RouteKey,
    route_of,
)
from qorzen_obs.settings import ServerSettings
from qorzen_obs.small_file import UnusableFileError, read_small_file

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
_LONGEST_TOKEN_FILE: Final = 64 * 1024  # bytes
_TOKEN: Final = re.compile(rf"\S{{16,{_LONGEST_TOKEN}}}")
_SCOPES: Final = {"": Access.CONTROL, "control": Access.CONTROL, "read": Access.READ}
_CHALLENGE: Final = 'Bearer realm="qorzen_obs"'
_AUTHORITY: Final = re.compile(r"\[([0-9a-f:.]+(?:%[\w.-]+)?)\](?::\d*)?|([a-z0-9._-]+)(?::\d*)?", re.ASCII)


class Tokens:
    """Which token opens what: Access.READ, or Access.CONTROL and so everything. None at all ask for none."""

    def __init__(self, scopes: Mapping[str, Access]) -> None:
        self._scopes = {token.encode("utf-8", "surrogateescape"): scope for token, scope in scopes.items()}

    def __bool__(self) -> bool:
        return bool(self._scopes)

    def scope_of(self, given: bytes) -> Access | None:
        """Return what a token opens; how long that takes tells nothing of the tokens but their number."""
        found = None
        for token, scope in self._scopes.items():
            if hmac.compare_digest(given, token):
                found = scope
        return found


def read_tokens(settings: ServerSettings) -> Tokens:
    """Return the token of the settings, or those that `server.token_file` holds: `TOKEN` or `TOKEN read` a line.

    Its group may read the file, as a scraper beside the service has to; everybody may not.

    Raises:
        SettingsError: `server.token` is set too, or the file cannot be read, can be read by everybody, or has a line
            that is not a token of at least 16 characters.
    """
    if not settings.token_file:  # a variable of the environment that is set to nothing names none
        return Tokens({settings.token: Access.CONTROL} if settings.token else {})
    if settings.token is not None:
        raise SettingsError("server.token_file", "server.token is set too; keep one of them")
    return _read_token_file(Path(settings.token_file))


def _read_token_file(file: Path) -> Tokens:
    try:
        text, mode = read_small_file(file, _LONGEST_TOKEN_FILE)
    except UnusableFileError as error:
        raise SettingsError("server.token_file", f"{str(file)!r} {error}") from error
    if os.name == "posix" and mode & stat.S_IRWXO:
        raise SettingsError(
            "server.token_file",
            f"{str(file)!r} is open to everybody on this machine; close it: chmod o-rwx",
        )
    scopes: dict[str, Access] = {}
    for number, line in enumerate(text.splitlines(), 1):
        token, _, scope = " ".join(line.split()).partition(" ")
        if not token:
            continue
        if not _TOKEN.fullmatch(token) or scope not in _SCOPES or token in scopes:
            raise SettingsError(
                "server.token_file",
                f"line {number} of {str(file)!r} must be a token of its own of 16 to {_LONGEST_TOKEN} characters, "
                "and `read` after a space where it is for reading only",
            )
        scopes[token] = _SCOPES[scope]
    if not scopes:
        raise SettingsError("server.token_file", f"{str(file)!r} holds no token")
    return Tokens(scopes)


def check_exposure(settings: ServerSettings) -> None:
    """Refuse to listen where other machines can reach the server while no token is set.

    A socket in the file system is open to its owner alone, and so needs none.

    Raises:
        SettingsError: `server.host` is such an address, or `server.token_file` cannot be used.
    """
    if not read_tokens(settings) and not (socket_path(settings.host) or _is_loopback(settings.host)):
        raise SettingsError(
            "server.host",
            f"{settings.host!r} can be reached from other machines and no token is set; "
            "set server.token (QORZEN_SERVER__TOKEN) or server.token_file, or listen on 127.0.0.1",
        )


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
    response.headers[VERSION_HEADER] = API_VERSION


async def secure_response(request: web.Request, response: web.StreamResponse) -> None:
    """Add the security headers; for `on_response_prepare`."""
    add_security_headers(response)


def guard(settings: ServerSettings, tokens: Tokens, routes: Mapping[RouteKey, Route]) -> Middleware:
    """Return the middleware that refuses those who may not call a route.

    Raises:
        SettingsError: an entry of `server.allowed_hosts` is not a host name.
    """
    allowed_hosts = frozenset(_read_allowed_host(entry) for entry in settings.allowed_hosts)

    @web.middleware
    async def turn_away(request: web.Request, handler: Handler) -> web.StreamResponse:
        access = _access(request, routes)
        # A kubelet calls the probes by whatever name the pod has.
        if access is not Access.PROBE and not _host_is_allowed(request, allowed_hosts):
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this Host is not allowed; use localhost or an IP address, or add it to server.allowed_hosts",
            )
        if access in (Access.READ, Access.CONTROL):
            request[SCOPE] = _check_token(request, tokens, access) if tokens else Access.CONTROL
        if access is Access.CONTROL:
            _check_origin(request, allowed_hosts)
        return await handler(request)

    return turn_away


def _access(request: web.Request, routes: Mapping[RouteKey, Route]) -> Access:
    """Return who may make this very request: a probe with details is read like everything else."""
    route = route_of(request, routes)
    if route is None or (route.access is Access.PROBE and "verbose" in request.query):
        return Access.READ
    return route.access


def _host_is_allowed(request: web.Request, allowed_hosts: frozenset[str]) -> bool:
    authorities = request.headers.getall(hdrs.HOST, [])
    if len(authorities) != 1:
        return False
    host = read_host(authorities[0])
    return host is not None and (host == "localhost" or host in allowed_hosts or _is_ip(host))


def _check_token(request: web.Request, tokens: Tokens, access: Access) -> Access:
    """Return what the token of a request opens, which is at least `access`."""
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() != "bearer":
        raise _unauthorized(_CHALLENGE)
    scope = tokens.scope_of(given.strip().encode("utf-8", "surrogateescape"))
    if scope is None:
        raise _unauthorized(f'{_CHALLENGE}, error="invalid_token"')
    if scope is not Access.CONTROL and access is Access.CONTROL:
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            "this token is for reading only",
            headers={hdrs.WWW_AUTHENTICATE: f'{_CHALLENGE}, error="insufficient_scope", scope="control"'},
        )
    return scope


def _unauthorized(challenge: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.UNAUTHORIZED,
        "send the service's token in the header Authorization: Bearer",
        headers={hdrs.WWW_AUTHENTICATE: challenge},
    )


def _check_origin(request: web.Request, allowed_hosts: frozenset[str]) -> None:
    """Refuse what a page of another site sends: a browser says where a request comes from, other clients do not.

    Sec-Fetch-Site where the browser sends it, else Origin; and a body only of a type that no form can have. A proxy may
    replace the Host, or leave out its port, so a page of an allowed host is our own too.
    """
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get(hdrs.ORIGIN)
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        authority = None if origin is None else origin.partition("://")[2]
        own = (None, request.headers.get(hdrs.HOST))
        foreign = authority not in own and read_host(authority or "") not in allowed_hosts
    if foreign:
        raise ProblemError(HTTPStatus.FORBIDDEN, "a page of another site may not send this")
    # Without a body it does not matter what a client says of it: many say that it is a form.
    if request.body_exists and request.content_type != "application/json":
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
    plain = plain_host(host)
    return plain.lower() == "localhost" or (_is_ip(plain) and ip_address(plain).is_loopback)
