"""GET /: the live page. A fixed table of files, read once: no request's path ever meets the file system."""

from __future__ import annotations

from importlib import resources
from typing import Final

from aiohttp import web

from qorzen_obs.server.routes import Access, Answer, Handler, Route, Tag

#: The page runs its own script and style and talks to its own server; it cannot turn text into markup.
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
#: Below static/, in the package as in the address. One line each, so that no other file is ever served.
_ASSETS: Final = (
    "css/groups.css",
    "css/health.css",
    "css/now.css",
    "css/task.css",
    "css/tasks.css",
    "icon.svg",
    "js/main.js",
    "js/parts/attempts.js",
    "js/parts/banner.js",
    "js/parts/bulk.js",
    "js/parts/chart.js",
    "js/parts/copy.js",
    "js/parts/family.js",
    "js/parts/ledger.js",
    "js/parts/log-lines.js",
    "js/parts/moment.js",
    "js/parts/queues.js",
    "js/parts/series-charts.js",
    "js/parts/stack.js",
    "js/parts/status.js",
    "js/parts/task-index.js",
    "js/parts/task-trace.js",
    "js/parts/waits.js",
    "js/parts/waterfall-layout.js",
    "js/parts/waterfall.js",
    "js/router.js",
    "js/server.js",
    "js/store.js",
    "js/stream.js",
    "js/views/definitions.js",
    "js/views/failures.js",
    "js/views/health.js",
    "js/views/index.js",
    "js/views/now.js",
    "js/views/task.js",
    "js/views/tasks.js",
    "js/views/traces.js",
    "js/words.js",
    "page.css",
    "vendor/preact.js",
    "vendor/uplot.css",
    "vendor/uplot.js",
)
_TYPES: Final = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
#: The file and its type by path; relative to the page, so that it also works below another application's prefix.
ASSETS: Final = {
    "/": ("index.html", _TYPES["html"]),
    **{f"/static/{name}": (name, _TYPES[name.rpartition(".")[2]]) for name in _ASSETS},
}


FILES: Final = web.AppKey("files", dict[str, bytes])


def read_files() -> dict[str, bytes]:
    """Return the content of each asset by its file's name."""
    folder = resources.files("qorzen_obs.server") / "static"
    return {file: (folder / file).read_bytes() for file, _ in ASSETS.values()}


def _asset(file: str, content_type: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        """Answer with one file of the page."""
        response = web.Response(body=request.app[FILES][file], content_type=content_type, charset="utf-8")
        if content_type == "text/html":
            response.headers["Content-Security-Policy"] = PAGE_POLICY
        return response

    return answer


ROUTES: Final = tuple(
    Route(
        path,
        _asset(file, content_type),
        Access.OPEN,
        summary="The live page." if path == "/" else f"A part of the page: {file}.",
        description="HTML that follows `/api/events`. Its scripts and styles are below `/static/`."
        if path == "/"
        else "",
        tag=Tag.SERVICE if path == "/" else None,
        answers={200: Answer("The file.", media_types=(content_type,))},
    )
    for path, (file, content_type) in ASSETS.items()
)
