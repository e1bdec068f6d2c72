"""`qorzen-obs health`: what a container or a script is told of a service."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qorzen_obs.cli import cli
from qorzen_obs.settings import ServerSettings
from tests.services.http_server import give, http_server
from tests.services.ops_plane import SaidManager, State, serving

TOKEN = "a-token-of-many-characters"


async def ask(*arguments: str) -> Result:
    return await asyncio.to_thread(
        CliRunner(env={"QORZEN_SERVER__TOKEN": None}).invoke, cli, ["health", *arguments]
    )


async def test_a_service_that_works_is_status_0_and_one_word() -> None:
    async with serving(SaidManager()) as plane:
        done = await ask("--url", plane.url)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "pass\n", "")


async def test_a_warning_is_told_and_is_no_failure() -> None:
    async with serving(SaidManager(depth=95)) as plane:
        done = await ask("--url", plane.url)
    assert done.exit_code == 0
    assert done.stdout == "warn\n  warn  queue:saturation: 95 of 100 places are taken\n"


async def test_what_fails_is_told_with_status_1() -> None:
    async with serving(SaidManager(state=State.DRAINING, blocked=31.0)) as plane:
        done = await ask("--url", plane.url)
        as_json = await ask("--url", plane.url, "--json")
    assert done.exit_code == as_json.exit_code == 1
    assert done.stdout.splitlines() == [
        "fail",
        "  fail  work-loop:blocked: blocked for 31.0 s",
        "  fail  manager:state: the manager is draining and takes no work",
    ]
    assert json.loads(as_json.stdout)["checks"]["manager:state"][0]["status"] == "fail"


async def test_the_token_comes_from_the_first_line_of_a_file_or_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\nanother-{TOKEN} read\n")
    file.chmod(0o600)
    async with serving(SaidManager(), settings=ServerSettings(port=0, token_file=str(file))) as plane:
        by_file = await ask("--url", plane.url, "--token-file", str(file))
        without = await ask("--url", plane.url)
        for variable, value in (("QORZEN_SERVER__TOKEN", TOKEN), ("QORZEN_SERVER__TOKEN_FILE", str(file))):
            runner = CliRunner(env={variable: value})
            by_variable = await asyncio.to_thread(runner.invoke, cli, ["health", "--url", plane.url])
            assert by_variable.exit_code == 0, variable
    assert by_file.exit_code == 0
    assert without.exit_code == 1
    assert "the service wants its token: --token-file" in without.stderr


async def test_a_server_that_is_not_there_is_status_1() -> None:
    async with serving(SaidManager()) as plane:
        url = plane.url
    done = await ask("--url", url)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "does not answer" in done.stderr


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (HTTPStatus.OK, b"<html>"),
        (HTTPStatus.OK, b"[]"),
        (HTTPStatus.OK, b'{"status": "up"}'),
        (HTTPStatus.SERVICE_UNAVAILABLE, b"try later"),
        (HTTPStatus.NOT_FOUND, b""),
    ],
)
async def test_another_kind_of_server_is_no_healthy_service(status: HTTPStatus, body: bytes) -> None:
    with http_server(lambda handler, _: give(handler, status, body)) as url:
        done = await ask("--url", url)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "Error: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--token-file", "/nowhere/at/all"], "cannot be read"),
        (["surplus"], "unexpected extra argument"),
        (["--url"], "requires an argument"),
    ],
)
async def test_wrong_use_is_status_2(arguments: list[str], problem: str) -> None:
    done = await ask(*arguments)
    assert done.exit_code == 2
    assert problem in done.stderr
