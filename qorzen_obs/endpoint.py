"""What `server.host` and `server.port` mean, for the server that listens there and for the commands that ask it."""

from __future__ import annotations

from typing import Final

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8080

_LOOPBACK_OF: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def authority_of(host: str, port: int) -> str:
    """Return a host and a port as an address has them.

    >>> authority_of("::1", 8080)
    '[::1]:8080'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url_of(host: str, port: int) -> str:
    """Return where a client on this machine asks a server that listens there.

    >>> url_of("0.0.0.0", 8080)
    'http://127.0.0.1:8080'
    """
    return f"http://{authority_of(_LOOPBACK_OF.get(host, host), port)}"
