"""Where clients find the application: behind a proxy, mounted below a prefix, or where it listens."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from qorzen_obs.errors import SettingsError
from qorzen_obs.server.links import read_url
from qorzen_obs.server.routes import Access, Route
from qorzen_obs.settings import ServerSettings
from qorzen_obs.telemetry.redaction import Redactor

#: `server.public_url` without a slash at its end.
PUBLIC_URL: Final = web.AppKey("public_url", str)
#: What the transport of a request knows that was mounted by other means than aiohttp's: below which path.
MOUNTED_AT: Final = "qorzen_mounted_at"
#: The resource of the page, from which an application learns below which prefix it is mounted.
HOME: Final = web.AppKey("home", web.AbstractResource)

_SETTING: Final = "server.public_url"
_PATH: Final = re.compile(r"(?:/[\w.~-]+)*", re.ASCII)


def read_public_url(settings: ServerSettings, redactor: Redactor) -> str:
    """Return `server.public_url` without a slash at its end; an empty text where it is not set.

    Raises:
        SettingsError: it is not an http or https address of a host and a plain path.
    """
    url = (read_url(_SETTING, settings.public_url, redactor) or "").rstrip("/")
    if not _PATH.fullmatch(urlsplit(url).path) or re.search("[?#]", url):
        raise SettingsError(_SETTING, "must end with a plain path, such as https://tasks.example.org/ops")
    return url


def prefixes_of(public_url: str) -> list[str]:
    """Return below which paths the routes are served: a proxy may remove the path of the public address or keep it."""
    return list(dict.fromkeys(("", urlsplit(public_url).path)))


def address_of(request: web.Request, path: str) -> str:
    """Return where clients find a path of the application that a request has reached."""
    public_url = request.app[PUBLIC_URL]
    mounted_at: str = request.get_extra_info(MOUNTED_AT) or request.app[HOME].canonical.removesuffix("/")
    return (public_url or mounted_at) + path


async def _redirect(request: web.Request) -> web.Response:
    """Send a browser to the page: its files are found relative to an address that ends with a slash."""
    location = {hdrs.LOCATION: address_of(request, "/")}
    return web.Response(status=HTTPStatus.PERMANENT_REDIRECT, headers=location)


#: What stands below a prefix without its slash; it is not a part of the API.
BARE_PREFIX: Final = Route("/", _redirect, Access.OPEN, summary="Where the page is.")
