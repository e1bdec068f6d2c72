"""GET /runbooks: a link in an alert opens it, with its style, in any browser that has no token."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

import aiohttp

from qorzen_obs import monitoring
from qorzen_obs.settings import ServerSettings
from tests.services.ops_plane import TOKEN, SaidManager, serving


async def test_the_runbooks_are_there_without_a_token_and_below_a_public_prefix(
    session: aiohttp.ClientSession,
) -> None:
    settings = ServerSettings(
        port=0, token=TOKEN.replace(" ", "-"), public_url="https://tasks.example.org/ops"
    )
    async with serving(SaidManager(), settings=settings) as plane:
        for path in ("/runbooks", "/ops/runbooks"):
            async with session.get(plane.url + path) as response:
                assert response.status == 200
                assert response.headers["Content-Type"] == "text/html; charset=utf-8"
                assert await response.text() == monitoring.runbooks()


async def test_a_browser_applies_the_style_of_the_page_and_runs_nothing(
    session: aiohttp.ClientSession,
) -> None:
    async with serving(SaidManager()) as plane, session.get(f"{plane.url}/runbooks") as response:
        (style,) = re.findall(r"<style>(.*?)</style>", await response.text(), re.DOTALL)
        digest = b64encode(sha256(style.encode()).digest()).decode()
        policy = dict(part.split(None, 1) for part in response.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["style-src"] == f"'sha256-{digest}'"
        assert "script-src" not in policy
