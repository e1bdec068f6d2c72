"""What a route is: a path, its handler, and who may call it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import NamedTuple

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access(Enum):
    """Who may call a route where a token is set."""

    OPEN = "open"  #: anyone: it shows nothing of the service
    PROBE = "probe"  #: anyone, by any name, as long as no details are asked for
    READ = "read"  #: whoever has a token


class Route(NamedTuple):
    """One route; all of them answer GET (and HEAD)."""

    path: str
    handler: Handler
    access: Access
