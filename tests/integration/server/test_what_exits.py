"""Code of the program's that raises SystemExit, KeyboardInterrupt or GeneratorExit in the ops plane does not end it."""

from __future__ import annotations

import logging
from typing import Any

import aiohttp
import pytest

from tests.services.ops_plane import SaidManager, get_json, serving

ERRORS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit()]
exits = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


class Exiting(SaidManager):
    """A manager whose status cannot be shown."""

    error: BaseException = SystemExit()

    def status(self) -> dict[str, Any]:
        raise self.error


class Handler(logging.Handler):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self._error


@exits
async def test_an_observer_of_requests_that_exits_is_not_asked_again(
    session: aiohttp.ClientSession, error: BaseException
) -> None:
    asked: list[str] = []

    def on_request(_: str, route: str, __: int, ___: float) -> None:
        asked.append(route)
        raise error

    async with serving(SaidManager(), on_request=on_request) as plane:
        for _ in range(3):
            await get_json(session, f"{plane.url}/status")
    assert asked == ["/status"]


@pytest.mark.parametrize("error", ERRORS[:2], ids=lambda error: type(error).__name__)
async def test_what_exits_below_a_route_is_an_error_of_that_request(
    session: aiohttp.ClientSession, error: BaseException
) -> None:
    manager = Exiting()
    manager.error = error
    async with serving(manager) as plane:
        for _ in range(2):
            await get_json(session, f"{plane.url}/status", status=500)
        async with session.get(f"{plane.url}/livez") as response:
            assert response.status == 200


@exits
async def test_a_handler_of_the_log_that_exits_ends_no_server(
    session: aiohttp.ClientSession, error: BaseException
) -> None:
    handler = Handler(error)
    logging.getLogger("qorzen_obs").addHandler(handler)
    try:
        async with serving(Exiting()) as plane:
            for _ in range(2):
                await get_json(session, f"{plane.url}/status", status=500)
    finally:
        logging.getLogger("qorzen_obs").removeHandler(handler)


async def test_a_client_that_has_gone_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(SaidManager()) as plane:
        for _ in range(20):
            async with aiohttp.ClientSession() as session, session.get(f"{plane.url}/api/events"):
                pass
    assert not caplog.records
