"""What a route is: a path, its method and handler, and who may call it."""

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
    CONTROL = "control"  #: whoever has a token, and no page of another site


class Route(NamedTuple):
    """One route."""

    path: str
    handler: Handler
    access: Access
    method: str = "GET"  #: which answers HEAD too
