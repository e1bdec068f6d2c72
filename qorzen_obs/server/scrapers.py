"""Who scrapes, and how many of the series that begin with a 0 each of them has been shown.

Prometheus sees no increase in a series that begins with its first count. So a new one shows 0 once to each scraper. A
scraper is known by its connection. One that connects anew is known by its address and the name that it gives itself,
unless the connection that had these is still open: then it is another one, such as the second server of a pair.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary, ref

from aiohttp import hdrs, web

from qorzen_obs.telemetry.families import NOBODY_KNOWN

_MAX_NAMED: Final = 256  #: scrapers that are known by name; the one that was away for longest goes first
_MAX_NAME_LENGTH: Final = 200

_Name = tuple[str, str]  # address, User-Agent


class _Seen(NamedTuple):
    connection: ref[asyncio.BaseTransport]
    series: int


class Scrapers:
    """What was shown to whom; for the loop of the server."""

    def __init__(self) -> None:
        # A proxy may bring the scrapes of several over one connection.
        self._by_connection: WeakKeyDictionary[asyncio.BaseTransport, dict[_Name, int]] = WeakKeyDictionary()
        self._by_name: OrderedDict[_Name, _Seen] = OrderedDict()

    def shown_to(self, request: web.Request) -> int:
        """Return how many of the series, in the order in which they began, the scraper was shown.

        NOBODY_KNOWN for one that has not come before.
        """
        name, connection = _name_of(request), request.transport
        here = {} if connection is None else self._by_connection.get(connection, {})
        if name in here:
            return here[name]
        seen = self._by_name.get(name)
        if seen is None:
            return NOBODY_KNOWN
        other = seen.connection()
        return seen.series if other is None or other.is_closing() else NOBODY_KNOWN

    def note(self, request: web.Request, series: int) -> None:
        """Take note of the number of series that the scraper is shown."""
        name, connection = _name_of(request), request.transport
        if connection is None:  # it is gone, and was shown nothing
            return
        here = self._by_connection.setdefault(connection, {})
        if name in here or len(here) < _MAX_NAMED:
            here[name] = series
        self._by_name[name] = _Seen(ref(connection), series)
        self._by_name.move_to_end(name)
        if len(self._by_name) > _MAX_NAMED:
            self._by_name.popitem(last=False)


def _name_of(request: web.Request) -> _Name:
    return request.remote or "", request.headers.get(hdrs.USER_AGENT, "")[:_MAX_NAME_LENGTH]
