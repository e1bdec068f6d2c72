"""Where the server may listen, and which names it goes by."""

import contextlib
import os
import socket
from pathlib import Path

import pytest

from qorzen_obs.errors import SettingsError
from qorzen_obs.server.routes import Access
from qorzen_obs.server.security import Tokens, check_exposure, guard, read_host, read_tokens
from qorzen_obs.settings import ServerSettings

TOKEN = "a token of many characters"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LOCALHOST"])
def test_t1_loopback_needs_no_token(host: str) -> None:
    check_exposure(ServerSettings(host=host))


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "192.168.1.10", "10.0.0.1", "2001:db8::1", "tasks.example.org", "localhost.evil"],
)
def test_t1_any_other_address_needs_one(host: str) -> None:
    check_exposure(ServerSettings(host=host, token=TOKEN))
    with pytest.raises(SettingsError) as refused:
        check_exposure(ServerSettings(host=host))
    assert refused.value.key == "server.host"
    message = str(refused.value)
    assert "\n" not in message
    assert "server.token" in message
    assert "127.0.0.1" in message


def test_t1_an_empty_token_is_none() -> None:
    with pytest.raises(SettingsError):
        check_exposure(ServerSettings(host="0.0.0.0", token=""))


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("localhost", "localhost"),
        ("localhost:8080", "localhost"),
        ("localhost:", "localhost"),
        ("LocalHost.", "localhost"),
        ("localhost..", "localhost."),
        ("127.0.0.1.:80", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::1]:8080", "::1"),
        ("[fe80::1%eth0]:8080", "fe80::1%eth0"),
        ("tasks.example.org:443", "tasks.example.org"),
        ("::1", None),
        ("[::1", None),
        ("[::1]x", None),
        ("localhost:80:80", None),
        ("localhost:http", None),
        ("user@localhost", None),
        ("localhost/x", None),
        ("a b", None),
        ("локалхост", None),
        ("localhost:٣", None),
        ("", None),
    ],
)
def test_a_host_header_is_read_strictly(authority: str, host: str | None) -> None:
    assert read_host(authority) == host


def test_an_allowed_host_that_is_none_stops_the_start() -> None:
    with pytest.raises(SettingsError, match=r"server\.allowed_hosts.*https://tasks"):
        guard(ServerSettings(allowed_hosts=("https://tasks.example.org",)), Tokens({}), {})


def token_file(folder: Path, content: bytes | None, mode: int = 0o600) -> ServerSettings:
    file = folder / "token"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    return ServerSettings(host="0.0.0.0", token_file=str(file))


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_t2_tokens_are_read_from_a_file_that_not_everybody_may_read(tmp_path: Path, mode: int) -> None:
    settings = token_file(tmp_path, b"a-token-of-many-characters\n", mode)
    check_exposure(settings)
    assert read_tokens(settings).scope_of(b"a-token-of-many-characters") is Access.CONTROL


def test_t2_each_line_of_the_file_is_a_token_with_its_scope(tmp_path: Path) -> None:
    lines = b"the-token-of-operators\n\nthe-token-of-scrapers  read\r\n  the-token-of-scripts control"
    tokens = read_tokens(token_file(tmp_path, lines))
    assert tokens
    assert tokens.scope_of(b"the-token-of-operators") is Access.CONTROL
    assert tokens.scope_of(b"the-token-of-scripts") is Access.CONTROL
    assert tokens.scope_of(b"the-token-of-scrapers") is Access.READ
    for other in (b"", b"read", b"the-token-of-scrapers read", b"the-token-of-scraper", b"\xff"):
        assert tokens.scope_of(other) is None


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (None, 0o600, "cannot be read: No such file"),
        (b"a-token-of-many-characters", 0o604, "is open to everybody on this machine; close it: chmod o-rwx"),
        (b"a-token-of-many-characters", 0o602, "is open to everybody"),
        (b"", 0o600, "holds no token"),
        (b" \n\n", 0o600, "holds no token"),
        (b"short", 0o600, "line 1 of"),
        (b"a-token-of-many-characters\nshort", 0o600, "line 2 of"),
        (b"a-token-of-many-characters write", 0o600, "a space and `read` after it if it is for reading only"),
        (b"a-token-of-many-characters read control", 0o600, "line 1 of"),
        (b"a-token-of-many-characters read\na-token-of-many-characters", 0o600, "that no other line has"),
        (b"x" * 1025, 0o600, "16 to 1024 characters"),
        (b"a-token-of-many-characters\n" * 10_000, 0o600, "is longer than 65536 bytes"),
        (b"\xff" * 20, 0o600, "is not UTF-8 text"),
    ],
)
def test_t2_a_token_file_that_cannot_be_used_is_named_and_its_content_is_not(
    tmp_path: Path, content: bytes | None, mode: int, problem: str
) -> None:
    settings = token_file(tmp_path, content, mode)
    for use in (read_tokens, check_exposure):
        with pytest.raises(SettingsError) as refused:
            use(settings)
        assert refused.value.key == "server.token_file"
        assert problem in str(refused.value)
        assert str(settings.token_file) in str(refused.value)
        assert "many-characters" not in str(refused.value)


@pytest.mark.parametrize("kind", ["a pipe", "a directory", "a socket", "a device"])
def test_t2_a_token_file_that_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "token"
    with contextlib.ExitStack() as stack:
        if kind == "a pipe":
            os.mkfifo(path, 0o600)  # nobody writes to it: to open it would wait for ever
        elif kind == "a directory":
            path.mkdir()
        elif kind == "a device":
            path = Path("/dev/zero")
        else:
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        with pytest.raises(SettingsError) as refused:
            read_tokens(ServerSettings(token_file=str(path)))
    assert str(path) in str(refused.value)
    assert kind in str(refused.value) or kind == "a socket"  # which cannot be opened at all


def test_a_token_of_the_environment_need_not_be_utf_8() -> None:
    tokens = read_tokens(ServerSettings(token="a-token-of-many-\udcff"))
    assert tokens.scope_of(b"a-token-of-many-\xff") is Access.CONTROL


def test_a_token_file_named_by_an_empty_variable_is_none() -> None:
    assert not read_tokens(ServerSettings(token_file=""))
    assert read_tokens(ServerSettings(token=TOKEN, token_file="")).scope_of(TOKEN.encode()) is Access.CONTROL


def test_t2_a_token_and_a_file_of_it_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"server\.token is set too"):
        read_tokens(ServerSettings(token=TOKEN, token_file=str(tmp_path / "token")))
