"""GET /runbooks: what to do about each alert. It shows nothing of the service, so a link in an alert opens it."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Final, NamedTuple

from aiohttp import web

from qorzen_obs import monitoring
from qorzen_obs.server.routes import Access, Answer, Route, Tag
from qorzen_obs.server.security import SECURITY_HEADERS

_HTML: Final = "text/html"


class Page(NamedTuple):
    """The page, and what a browser may do with it: show it, with the style that stands in it."""

    body: bytes
    policy: str


PAGE: Final = web.AppKey("runbooks", Page)


def read_page() -> Page:
    """Return the page."""
    text = monitoring.runbooks()
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    return Page(text.encode(), f"{policy}; style-src 'sha256-{digest}'")


async def get_runbooks(request: web.Request) -> web.Response:
    """Answer with the page."""
    page = request.app[PAGE]
    response = web.Response(body=page.body, content_type=_HTML, charset="utf-8")
    response.headers["Content-Security-Policy"] = page.policy
    return response


ROUTES: Final = (
    Route(
        "/runbooks",
        get_runbooks,
        Access.OPEN,
        summary="What to do about each alert.",
        description="A page with a section for each alert, whose id is the name of the alert in lower case.",
        tag=Tag.SERVICE,
        answers={200: Answer("The page.", media_types=(_HTML,))},
    ),
)
