"""Where a service's dashboards and traces are seen elsewhere: addresses from the settings, which the page shows."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from qorzen_obs.errors import SettingsError
from qorzen_obs.settings import ServerSettings
from qorzen_obs.telemetry.redaction import Redactor

TRACE_ID: Final = "{trace_id}"
_LONGEST: Final = 2_000


class Links(Struct, frozen=True, kw_only=True):
    """Where to go from the page; null where the settings do not say."""

    grafana: str | None
    trace: str | None  #: with {trace_id} where that belongs


def read_links(settings: ServerSettings, redactor: Redactor) -> Links:
    """Return the addresses of the settings.

    Raises:
        SettingsError: one is not an http or https address without secrets, or a trace's lacks its place. It does not
            repeat the address, which may have a password in it.
    """
    trace = read_url("server.trace_url", settings.trace_url, redactor)
    if trace is not None and TRACE_ID not in trace.removeprefix(_origin(trace)):
        raise SettingsError("server.trace_url", f"must have {TRACE_ID} where the id of a trace belongs")
    return Links(grafana=read_url("server.grafana_url", settings.grafana_url, redactor), trace=trace)


def read_url(setting: str, url: str | None, redactor: Redactor) -> str | None:
    """Return an address of the settings; None where it is not set.

    Raises:
        SettingsError: it is not an http or https address without secrets. It does not repeat the address.
    """
    if not url:  # a variable of the environment that is set to nothing names none
        return None
    if not _is_of_the_web(url):
        raise SettingsError(setting, "must be an address that begins with http:// or https://")
    if redactor.text(url) != url:
        raise SettingsError(
            setting, "must not have a user, a password or a token in it: everybody who may read sees it"
        )
    return url


def _is_of_the_web(url: str) -> bool:
    if not url.isprintable() or " " in url or "\\" in url or len(url) > _LONGEST:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is not a number, or what stands in brackets is not an address
        return False


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{url[: len(parts.scheme)]}://{parts.netloc}"
