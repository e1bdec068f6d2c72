"""The client's token: whom it reaches, and what another kind of server can do to the command line."""

from __future__ import annotations

import json
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

import pytest
from click.testing import CliRunner

from qorzen_obs.cli import cli
from qorzen_obs.client import Client, ClientError
from tests.services.http_server import give, http_server

TOKEN = "a-token-of-many-characters"


def test_a_redirect_is_not_followed_so_the_token_stays_with_the_service() -> None:
    reached: list[str] = []
    with (
        http_server(lambda handler, _: reached.append(handler.path)) as elsewhere,
        http_server(lambda handler, _: give(handler, 302, b"", Location=f"{elsewhere}/status")) as url,
        pytest.raises(ClientError, match="302"),
    ):
        Client(url, TOKEN).status()
    assert reached == []


@pytest.mark.parametrize(
    "command", [["status"], ["tasks"], ["show", "x"], ["trace", "x"], ["cancel", "x"]], ids=" ".join
)
@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b"{}", b"[" * 100_000, b'{"items": [{}], "at": "never"}', b'"\xff"', b"null"],
    ids=lambda body: body[:8].decode("ascii", "replace"),
)
def test_another_kind_of_server_is_one_line_and_status_1(command: list[str], body: bytes) -> None:
    with http_server(lambda handler, _: give(handler, HTTPStatus.OK, body)) as url:
        done = CliRunner().invoke(cli, [*command, "--url", url])
    assert (done.exit_code, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {url} did not answer like this service (")


def test_t10_an_error_message_does_nothing_to_a_terminal() -> None:
    problem = json.dumps({"detail": "no\x1b[2J such\nthing"}).encode()
    with http_server(lambda handler, _: give(handler, HTTPStatus.NOT_FOUND, problem)) as url:
        done = CliRunner().invoke(cli, ["show", "x", "--url", url])
    assert done.exit_code == 1
    assert done.stderr == "Error: no\\u001b[2J such\\u000athing\n"


def test_a_token_for_reading_may_say_so_in_its_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(f"{TOKEN} read\nanother\n")
    sent: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        sent.append(handler.headers["Authorization"])
        give(handler, HTTPStatus.OK, b'{"status": "pass"}')

    with http_server(answer) as url:
        done = CliRunner().invoke(cli, ["health", "--url", url, "--token-file", str(file)])
    assert done.exit_code == 0
    assert sent == [f"Bearer {TOKEN}"]


def test_a_service_that_wants_a_token_is_told_from_one_that_does_not_accept_it() -> None:
    with http_server(lambda handler, _: give(handler, 401, b'{"detail": "send the header"}')) as url:
        with pytest.raises(ClientError, match="wants its token: --token-file, or QORZEN_SERVER__TOKEN"):
            Client(url).status()
        with pytest.raises(ClientError, match="does not accept this token"):
            Client(url, TOKEN).status()
