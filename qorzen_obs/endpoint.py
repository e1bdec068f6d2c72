"""What `server.host` and `server.port` mean, for the server that listens there and the commands that connect to it."""

from __future__ import annotations

from typing import Final

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8080

_UNIX: Final = "unix:"
_LOOPBACK_OF: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def socket_path(address: str) -> str | None:
    """Return the path of the socket that a host or an address names; None if it names none.

    >>> socket_path("unix:/run/qorzen.sock"), socket_path("127.0.0.1")
    ('/run/qorzen.sock', None)
    """
    return address.removeprefix(_UNIX) if address.startswith(_UNIX) else None


def plain_host(host: str) -> str:
    """Return a host without the brackets that URLs put around an IPv6 address."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def authority_of(host: str, port: int) -> str:
    """Return a host and a port as they stand in a URL.

    >>> authority_of("::1", 8080)
    '[::1]:8080'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url_of(host: str, port: int) -> str:
    """Return the URL at which a client on this machine reaches a server that listens there.

    >>> url_of("0.0.0.0", 8080), url_of("unix:/run/qorzen.sock", 8080)
    ('http://127.0.0.1:8080', 'unix:/run/qorzen.sock')
    """
    if socket_path(host) is not None:
        return host
    plain = plain_host(host)
    return f"http://{authority_of(_LOOPBACK_OF.get(plain, plain), port)}"
