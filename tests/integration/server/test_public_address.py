"""Where clients are told to go, when the service is behind a proxy or mounted below a prefix."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from qorzen_obs.errors import SettingsError
from qorzen_obs.server.app import create_app
from qorzen_obs.settings import ServerSettings
from tests.services.ops_plane import TOKEN, SaidManager, get_json, hosted, managing, serving

PUBLIC = "https://tasks.example.org/ops"
JSON = {"Content-Type": "application/json"}


async def failing() -> None:
    raise ValueError("as it always does")


@pytest.mark.parametrize("public_url", [PUBLIC, f"{PUBLIC}/"])
@pytest.mark.parametrize("prefix", ["", "/ops"], ids=["removed by the proxy", "kept by the proxy"])
async def test_a_service_with_a_public_address_sends_its_clients_there(
    session: aiohttp.ClientSession, public_url: str, prefix: str
) -> None:
    async with managing() as (manager, _):
        failed = await manager.submit_task(failing)
        await manager.wait_for_task(failed)
        async with serving(manager, settings=ServerSettings(port=0, public_url=public_url)) as plane:
            url = plane.url + prefix
            async with session.post(f"{url}/api/tasks/{failed}/rerun", data=b"{}", headers=JSON) as answer:
                task_id = json.loads(await answer.read())["task_id"]
                assert answer.headers["Location"] == f"{PUBLIC}/api/tasks/{task_id}"
            assert (await get_json(session, f"{url}/openapi.json"))["servers"] == [{"url": PUBLIC}]
            assert (await get_json(session, f"{url}/api/tasks/{task_id}"))["name"] == "failing"
            async with session.get(f"{url}/") as page:
                assert page.status == 200
            async with session.get(f"{plane.url}/ops", allow_redirects=False) as redirect:
                assert (redirect.status, redirect.headers["Location"]) == (308, f"{PUBLIC}/")
            await manager.wait_for_task(task_id)


async def test_a_prefix_without_its_slash_leads_to_the_page(session: aiohttp.ClientSession) -> None:
    secured = ServerSettings(token=TOKEN)
    async with hosted(create_app(SaidManager(), settings=secured), "/api/ops") as url:
        async with session.get(url, allow_redirects=False) as redirect:
            assert (redirect.status, redirect.headers["Location"]) == (308, "/api/ops/")
            assert redirect.headers["X-Content-Type-Options"] == "nosniff"
        async with session.get(url) as page:
            assert (page.status, page.url.path) == (200, "/api/ops/")


async def test_only_the_path_of_the_public_address_is_a_prefix(session: aiohttp.ClientSession) -> None:
    async with serving(SaidManager(), settings=ServerSettings(port=0, public_url=PUBLIC)) as plane:
        for path in ("/opsy", "/op/status", "/ops/ops/status", "/ops/nothing"):
            await get_json(session, plane.url + path, 404)


async def test_requests_below_the_prefix_count_for_the_same_routes(session: aiohttp.ClientSession) -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def observe(method: str, route: str, code: int, seconds: float) -> None:
        loop.call_soon_threadsafe(seen.put_nowait, route)

    settings = ServerSettings(port=0, public_url=PUBLIC)
    async with serving(SaidManager(), settings=settings, on_request=observe) as plane:
        for path, route in (
            ("/ops/livez", "/livez"),
            ("/ops", "/"),
            ("/ops/api/tasks/x", "/api/tasks/{task_id}"),
        ):
            async with session.get(plane.url + path, allow_redirects=False):
                assert await seen.get() == route


@pytest.mark.parametrize(
    "public_url",
    [
        "tasks.example.org/ops",
        "ftp://tasks.example.org/ops",
        "https://",
        "https://user:secret@tasks.example.org/ops",
        "https://tasks.example.org/ops?x=1",
        "https://tasks.example.org/ops#x",
        "https://tasks.example.org/ops?",
        "https://tasks.example.org/{task_id}",
        "https://tasks.example.org//ops",
        "https://tasks.example.org/a b",
    ],
)
def test_what_is_no_public_address_stops_the_start(public_url: str) -> None:
    with pytest.raises(SettingsError, match=r"server\.public_url") as refused:
        create_app(SaidManager(), settings=ServerSettings(public_url=public_url))
    assert "secret" not in str(refused.value)


async def test_an_empty_public_address_is_none(session: aiohttp.ClientSession) -> None:
    async with serving(SaidManager(), settings=ServerSettings(port=0, public_url="")) as plane:
        assert (await get_json(session, f"{plane.url}/openapi.json"))["servers"] == [{"url": "/"}]
