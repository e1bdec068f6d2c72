"""The tasks of a request belong to its trace: the headers' one, or that of a span that is current already."""

from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry import baggage, trace
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from qorzen_obs import Settings
from qorzen_obs.hosts import TASKS, AsgiHost, ContinueTrace, cleanup_ctx, continue_trace
from tests.services.asgi import uvicorn_serves
from tests.support import Spans

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01", "baggage": "tenant=blue"}


async def work() -> str:
    span = trace.get_current_span().get_span_context()
    return f"{span.trace_id:032x} {baggage.get_baggage('tenant')}"


async def text_of(url: str, headers: dict[str, str]) -> str:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return await response.text()


async def asked_of_asgi(headers: dict[str, str], spans: Spans | None) -> str:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await host.tasks.run(work))

    async def instrumented(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or spans is None:
            await inner(scope, receive, send)
            return
        with spans.tracer.start_as_current_span("request"):
            await inner(scope, receive, send)

    host = AsgiHost(Settings())
    app = Starlette(routes=[Route("/", answer)], lifespan=host.lifespan)
    inner = ContinueTrace(app)
    async with uvicorn_serves(instrumented) as url:
        return await text_of(url, headers)


async def asked_of_aiohttp(headers: dict[str, str], spans: Spans | None) -> str:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=await request.app[TASKS].run(work))

    @web.middleware
    async def instrumented(request: web.Request, handler: Any) -> Any:
        if spans is None:
            return await handler(request)
        with spans.tracer.start_as_current_span("request"):
            return await handler(request)

    app = web.Application(middlewares=[instrumented, continue_trace])
    app.cleanup_ctx.append(cleanup_ctx(Settings()))
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        return await text_of(f"http://{host}:{port}/", headers)
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("ask", [asked_of_asgi, asked_of_aiohttp])
async def test_the_headers_of_a_request_name_the_trace_of_its_tasks(ask: Any) -> None:
    assert await ask(HEADERS, None) == f"{TRACE} blue"


@pytest.mark.parametrize("ask", [asked_of_asgi, asked_of_aiohttp])
async def test_without_them_its_tasks_have_traces_of_their_own(ask: Any) -> None:
    trace_id, tenant = (await ask({}, None)).split()
    assert int(trace_id, 16) not in (0, int(TRACE, 16))
    assert tenant == "None"


@pytest.mark.parametrize("ask", [asked_of_asgi, asked_of_aiohttp])
async def test_a_span_that_is_current_already_stays_the_parent(ask: Any) -> None:
    spans = Spans()
    trace_id, tenant = (await ask(HEADERS, spans)).split()
    context = spans.one("request").get_span_context()
    assert context is not None
    assert (trace_id, tenant) == (f"{context.trace_id:032x}", "None")


async def test_contexts_that_are_appended_later_have_the_manager_in_both_halves() -> None:
    seen: list[str] = []

    async def own(app: web.Application) -> Any:
        seen.append(await app[TASKS].run(work))
        yield
        seen.append(await app[TASKS].run(work))

    app = web.Application()
    app.cleanup_ctx.append(cleanup_ctx(Settings()))
    app.cleanup_ctx.append(own)
    runner = web.AppRunner(app)
    await runner.setup()
    await runner.cleanup()
    assert len(seen) == 2
