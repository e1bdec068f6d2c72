"""Addresses that the page shows: which are taken, and that a refusal repeats none of them."""

from __future__ import annotations

import pytest

from qorzen_obs.errors import SettingsError
from qorzen_obs.server.links import Links, read_links
from qorzen_obs.settings import ServerSettings
from qorzen_obs.telemetry.redaction import Redactor

CANARY = "hunter2canary"


def read(**urls: str | None) -> Links:
    return read_links(ServerSettings(**urls), Redactor())  # type: ignore[arg-type]  # the fields are given by name


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:3000",
        "https://grafana.example.org/a/b?orgId=1&var-job=qorzen",
        "http://[::1]:3000/",
        "HTTPS://Grafana.example.org",
    ],
)
def test_an_address_is_shown_as_it_is_set(url: str) -> None:
    assert read(grafana_url=url) == Links(grafana=url, trace=None)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:3200/trace/{trace_id}",
        "https://ui.honeycomb.io/team/environments/prod/trace?trace_id={trace_id}&span=1",
        "https://jaeger.example.org/trace/{trace_id}?uiFind=x#{trace_id}",
        'http://localhost:3000/explore?left={"datasource":"tempo","queries":[{"query":"{trace_id}"}]}',
        "https://app.datadoghq.eu/apm/trace/{trace_id}",
        "https://grafana.example.org/explore?panes=%7B%22a%22%3A%7B%22query%22%3A%22{trace_id}%22%7D%7D",
    ],
)
def test_a_traces_address_has_a_place_for_its_id(url: str) -> None:
    assert read(trace_url=url) == Links(grafana=None, trace=url)


def test_a_variable_that_is_set_to_nothing_names_none() -> None:
    assert read(grafana_url="", trace_url="") == read() == Links(grafana=None, trace=None)


@pytest.mark.parametrize(
    "url",
    [
        "grafana.example.org",
        "//grafana.example.org",
        "javascript:alert(1)",
        "JavaScript://grafana.example.org/%0aalert(1)",
        "data:text/html,x",
        "ftp://grafana.example.org",
        "http://",
        "http:///path",
        "http://grafana.example.org:port",
        "http://grafana.example.org:99999",
        "http://[grafana",
        "http://grafana.example.org/a b",
        "http://grafana.example.org/\n",
        " http://grafana.example.org",
        "http:\\\\grafana.example.org",
        f"http://grafana.example.org/{'a' * 2_000}",
    ],
)
@pytest.mark.parametrize("setting", ["grafana_url", "trace_url"])
def test_what_is_no_address_of_the_web_stops_the_start(setting: str, url: str) -> None:
    with pytest.raises(SettingsError, match=rf"server\.{setting}.*http:// or https://"):
        read(**{setting: url})


@pytest.mark.parametrize(
    "url",
    [
        f"https://admin:{CANARY}@grafana.example.org/{{trace_id}}",
        f"https://{CANARY}@grafana.example.org/{{trace_id}}",
        "https://a@grafana.example.org/{trace_id}",
        "https://@grafana.example.org/{trace_id}",
        f"https://grafana.example.org/{{trace_id}}?auth_token={CANARY}",
    ],
)
@pytest.mark.parametrize("setting", ["grafana_url", "trace_url"])
def test_t7_an_address_with_a_secret_is_refused_and_not_repeated(setting: str, url: str) -> None:
    with pytest.raises(SettingsError, match=rf"server\.{setting}.*must not contain") as caught:
        read(**{setting: url})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://localhost:3200/trace", "http://{trace_id}.example.org/", "http://localhost/{traceid}"]
)
def test_a_traces_address_without_a_place_for_its_id_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"server\.trace_url.*\{trace_id\}"):
        read(trace_url=url)
