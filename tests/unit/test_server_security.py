"""Where the server may listen, and which names it goes by."""

import pytest

from qorzen_obs.errors import SettingsError
from qorzen_obs.server.security import check_exposure, guard, read_host
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
        guard(ServerSettings(allowed_hosts=("https://tasks.example.org",)), {})
