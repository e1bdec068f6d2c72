"""The ops plane: the routes as one application, and the thread that serves them while the work loop works.

Everything is read from the manager's thread-safe side, so a blocked work loop does not keep an answer back.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from typing import Final

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Middleware

from qorzen_obs.endpoint import url_of
from qorzen_obs.errors import ManagerInitializationError
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.server import (
    bulk,
    categories,
    commands,
    definitions,
    failures,
    health,
    logs,
    loop,
    lost,
    metrics,
    openapi,
    page,
    page_facts,
    pending,
    registry,
    runbooks,
    running,
    series,
    settings_in_force,
    stack,
    status,
    stream,
    submit,
    task_trace,
    tasks,
    ticker,
    traces,
    why,
)
from qorzen_obs.server.address import BARE_PREFIX, HOME, PUBLIC_URL, prefixes_of, read_public_url
from qorzen_obs.server.body import MAX_BODY_BYTES
from qorzen_obs.server.door import SHUTDOWN_SECONDS, Door, keep_places
from qorzen_obs.server.health import set_up_history
from qorzen_obs.server.links import read_links
from qorzen_obs.server.listener import listen
from qorzen_obs.server.metrics import EXPOSITION, Exposition
from qorzen_obs.server.openapi import OPENAPI, OpenApi
from qorzen_obs.server.problems import answer_problems
from qorzen_obs.server.registry import ALLOW_SUBMIT, CATALOGUE, Catalogue
from qorzen_obs.server.routes import ANSWERED_AT, Handler, Route, RouteKey, route_of
from qorzen_obs.server.security import (
    check_exposure,
    guard,
    read_tokens,
    secure_response,
)
from qorzen_obs.server.sources import COMMANDS, HEALTH, LOOKS, REDACTOR, SPANS, ServedManager
from qorzen_obs.server.stored import STORE_READS, StoreReads
from qorzen_obs.server.tasks import ONE_LIST
from qorzen_obs.settings import HealthSettings, ServerSettings
from qorzen_obs.telemetry.own_log import OwnLog
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.traces import Traces

logger = OwnLog(__name__)

ROUTES: Final[tuple[Route, ...]] = (
    *page.ROUTES,
    *runbooks.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
    *status.ROUTES,
    *page_facts.ROUTES,
    *settings_in_force.ROUTES,
    *tasks.ROUTES,
    *lost.ROUTES,
    *task_trace.ROUTES,
    *series.ROUTES,
    *running.ROUTES,
    *pending.ROUTES,
    *definitions.ROUTES,
    *failures.ROUTES,
    *loop.ROUTES,
    *traces.ROUTES,
    *logs.ROUTES,
    *stack.ROUTES,
    *why.ROUTES,
    *submit.ROUTES,
    *registry.ROUTES,
    *stream.ROUTES,
    *commands.ROUTES,
    *bulk.ROUTES,
    *categories.ROUTES,
    *openapi.ROUTES,
)
STOP_DEADLINE_SECONDS: Final = 5.0  #: how long stop waits for the thread, whatever happens there

#: Takes `(method, route template, status code, seconds)` of each answered request.
OnRequest = Callable[[str, str, int, float], None]

_DEFAULT_SERVER: Final = ServerSettings()
_DEFAULT_HEALTH: Final = HealthSettings()
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER: Final = "other"


def create_app(
    manager: ServedManager,
    *,
    tasks: TaskRegistry | None = None,
    spans: Traces | None = None,
    redactor: Redactor | None = None,
    settings: ServerSettings = _DEFAULT_SERVER,
    health: HealthSettings = _DEFAULT_HEALTH,
    on_request: OnRequest | None = None,
) -> web.Application:
    """Return the routes as an application, to be served by the ops plane or mounted in an application of your own.

        app.add_subapp("/ops/", create_app(manager))

    Mounted, it makes the same answers on the host application's loop, and so not the promise of the ops plane: while
    that loop is blocked, nobody can ask what blocks it. Where the host application listens is not known here, so set
    `server.token` where others can reach it. Every ten seconds it takes note of load and checks there, which takes a
    millisecond at most.

    Args:
        manager: a TaskManager.
        tasks: those known by name, which `server.allow_submit` lets clients submit.
        spans, redactor: the manager's own when None.
        settings: tokens, hosts, links and whether tasks can be submitted; address and port mean nothing here.
        health: when a probe says no.
        on_request: called for each request that was answered; its `route` is the path of one of ROUTES, or "other".

    Raises:
        SettingsError: an entry of `server.allowed_hosts` is not a host name, `server.token_file` cannot be used, or
            `server.public_url`, `server.grafana_url` or `server.trace_url` is not an address that can be shown.
    """
    tokens = read_tokens(settings)
    routes: dict[RouteKey, Route] = {}
    middlewares = [answer_problems, keep_places(routes), guard(settings, tokens, routes)]
    if on_request is not None:
        middlewares.insert(0, _observe(on_request, routes))
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY_BYTES)
    looks = manager.looks
    redactor = looks.redactor if redactor is None else redactor
    app[PUBLIC_URL] = read_public_url(settings, redactor)
    for prefix in prefixes_of(app[PUBLIC_URL]):
        for route, path in [*((route, prefix + route.path) for route in ROUTES), (BARE_PREFIX, prefix)]:
            resource = app.router.add_resource(path)
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                resource.add_route(method, route.handler, expect_handler=_answer_expectation)
                routes[resource, method] = route
    app[HOME] = next(resource for resource in app.router.resources() if resource.canonical == "/")
    spans = looks.traces if spans is None else spans
    app[LOOKS], app[COMMANDS] = looks, manager
    app[HEALTH] = health
    app[settings_in_force.SERVER] = settings
    app[CATALOGUE] = Catalogue(TaskRegistry() if tasks is None else tasks)
    app[ALLOW_SUBMIT] = settings.allow_submit
    app[page.FILES] = page.read_files()
    app[runbooks.PAGE] = runbooks.read_page()
    app[ONE_LIST] = asyncio.Lock()
    app[STORE_READS] = StoreReads()
    app[bulk.ONE_BULK] = asyncio.Lock()
    app[EXPOSITION] = Exposition(looks.gathering)
    app[OPENAPI] = OpenApi(ROUTES, secured=bool(tokens))
    if spans is not None:
        app[SPANS] = spans
    app[REDACTOR] = redactor
    app[page_facts.LINKS] = read_links(settings, redactor)
    app[running.USUAL] = running.UsualSeconds(looks)
    ticker.set_up(app)
    series.set_up(app)
    definitions.set_up(app)
    set_up_history(app)
    stream.set_up(app)
    app.on_response_prepare.append(secure_response)
    app.cleanup_ctx.append(_close_exposition)
    return app


async def _close_exposition(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[EXPOSITION].close()


async def _answer_expectation(request: web.Request) -> None:
    """Ask for the body that a client keeps back, and pass over any other `Expect`: aiohttp's answer repeats it."""
    if request.version == HttpVersion11 and request.headers[hdrs.EXPECT].lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # no part of the response


def _observe(on_request: OnRequest, routes: Mapping[RouteKey, Route]) -> Middleware:
    """Return the middleware that tells `on_request` of each request; labels come from closed sets."""
    observer: OnRequest | None = on_request

    @web.middleware
    async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal observer
        started = time.monotonic()
        response = await handler(request)
        if observer is not None:
            route = route_of(request, routes)
            method = request.method if request.method in _METHODS else _OTHER
            seconds = request.get(ANSWERED_AT, time.monotonic()) - started
            try:
                observer(method, route.path if route else _OTHER, response.status, seconds)
            except BaseException:  # observing must not break the observed, and SystemExit would end the loop
                logger.exception("the observer of requests failed and is not asked again")
                observer = None
        return response

    return observe


class OpsPlane:
    """Serves a manager over HTTP from a daemon thread with a loop of its own.

    `start` and `stop` are awaited on any other loop and do not block it. One plane starts once.
    """

    def __init__(
        self,
        manager: ServedManager,
        *,
        tasks: TaskRegistry | None = None,
        spans: Traces | None = None,
        redactor: Redactor | None = None,
        settings: ServerSettings,
        health: HealthSettings,
        on_request: OnRequest | None = None,
    ) -> None:
        self._manager = manager
        self._tasks = tasks
        self._spans = spans
        self._redactor = redactor
        self._settings = settings
        self._health = health
        self._on_request = on_request
        self._thread = threading.Thread(target=self._run, name="qorzen-ops", daemon=True)
        self._listening: Future[int] = Future()  # on that port
        self._stop_asked: Future[None] = Future()
        self._ended: Future[None] = Future()

    @property
    def port(self) -> int:
        """The port that it listens on, 0 of a socket; before start the one of the settings, which may be 0."""
        listening = self._listening
        return listening.result() if listening.done() and not listening.exception() else self._settings.port

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page; `unix:/path` of a socket."""
        return url_of(self._settings.host, self.port)

    async def start(self) -> None:
        """Return when it listens. When the caller is cancelled meanwhile, it is stopped again.

        Raises:
            SettingsError: the address can be reached from other machines and no token is set, or as for create_app.
            ManagerInitializationError: it was started before, or cannot listen there.
        """
        if self._thread.ident is not None:
            raise ManagerInitializationError("ops plane", "it was started before; make a new one")
        check_exposure(self._settings)
        self._thread.start()
        try:
            await asyncio.shield(asyncio.wrap_future(self._listening))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop listening, give requests in flight a second, abort the others; complete when it returns.

        Safe before start and when called again. When the caller is cancelled the plane stops all the same.
        """
        if self._thread.ident is None:
            return
        if not self._stop_asked.done():
            self._stop_asked.set_result(None)
        try:
            async with asyncio.timeout(STOP_DEADLINE_SECONDS):
                await asyncio.shield(asyncio.wrap_future(self._ended))
            self._thread.join(STOP_DEADLINE_SECONDS)  # microseconds: nothing is left to do there
        except TimeoutError:
            logger.error("the ops plane did not end within %g s and is left alone", STOP_DEADLINE_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # the top of a thread
            if self._listening.done():
                logger.exception("the ops plane ended by an error")
            else:
                self._listening.set_exception(error)
        finally:
            self._ended.set_result(None)

    async def _serve(self) -> None:
        app = create_app(
            self._manager,
            tasks=self._tasks,
            spans=self._spans,
            redactor=self._redactor,
            settings=self._settings,
            health=self._health,
            on_request=self._on_request,
        )
        runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        assert runner.server is not None  # setup made it
        door = Door(runner.server)
        asyncio.get_running_loop().set_exception_handler(door.on_loop_error)
        try:
            listener = await listen(self._settings, door.admit)
            self._listening.set_result(listener.port)
            await asyncio.wrap_future(self._stop_asked)
            await listener.close()
        finally:
            await door.close(runner)
