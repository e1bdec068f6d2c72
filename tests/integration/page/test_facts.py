"""GET /api/page: what the page draws by, for whoever looks at it."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import aiohttp
import pytest

from qorzen_obs.errors import SettingsError
from qorzen_obs.settings import ServerSettings
from tests.services.ops_plane import SaidManager, get_json, managing, serving

CONTROL, READ = "a-token-for-control", "a-token-that-reads-only"


@pytest.mark.parametrize(
    ("token", "allow_submit", "may"),
    [
        (CONTROL, True, (True, True)),
        (CONTROL, False, (True, False)),
        (READ, True, (False, False)),
        (None, True, (True, True)),  # where none is set, all is open
        (None, False, (True, False)),
    ],
)
async def test_what_the_caller_may_do_follows_from_its_token(
    tmp_path: Path, token: str | None, allow_submit: bool, may: tuple[bool, bool]
) -> None:
    file = tmp_path / "tokens"
    file.touch(0o600)
    file.write_text(f"{CONTROL}\n{READ} read\n")
    settings = ServerSettings(
        port=0, token_file=None if token is None else str(file), allow_submit=allow_submit
    )
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with serving(SaidManager(), settings=settings) as plane, aiohttp.ClientSession() as session:
        async with session.get(f"{plane.url}/api/page", headers=headers) as response:
            document = await response.json()
        assert (document["may_control"], document["may_submit"]) == may


async def test_it_says_where_to_go_and_who_answers() -> None:
    manager = SaidManager()
    settings = ServerSettings(
        port=0, grafana_url="http://localhost:3000", trace_url="http://localhost:3000/t/{trace_id}"
    )
    async with (
        serving(manager, settings=settings) as plane,
        aiohttp.ClientSession() as session,
        session.get(f"{plane.url}/api/page") as response,
    ):
        document = await response.json()
    assert document["links"] == {"grafana": settings.grafana_url, "trace": settings.trace_url}
    assert document["instance"] == manager.event_ring.instance
    assert document["version"] == metadata.version("qorzen-obs")


async def test_it_says_which_service_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "orders")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=2.4.1")
    before = datetime.now(UTC)
    async with (
        managing() as (manager, _),
        serving(manager) as plane,
        aiohttp.ClientSession() as session,
    ):
        service = (await get_json(session, f"{plane.url}/api/page"))["service"]
        ready_at = (await get_json(session, f"{plane.url}/status"))["ready_at"]
    assert (service["name"], service["version"], service["host"]) == ("orders", "2.4.1", socket.gethostname())
    assert service["ready_at"] == ready_at
    assert before <= datetime.fromisoformat(ready_at) <= datetime.now(UTC)


async def test_a_service_that_has_not_started_and_has_no_name_says_so() -> None:
    async with serving(SaidManager()) as plane, aiohttp.ClientSession() as session:
        service = (await get_json(session, f"{plane.url}/api/page"))["service"]
    assert (service["name"], service["version"], service["ready_at"]) == ("qorzen-obs", None, None)


async def test_an_address_that_cannot_be_shown_stops_the_start() -> None:
    settings = ServerSettings(port=0, trace_url="javascript:alert({trace_id})")
    with pytest.raises(SettingsError, match=r"server\.trace_url"):
        async with serving(SaidManager(), settings=settings):
            pytest.fail("it started")
