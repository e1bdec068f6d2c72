"""Whether a collector can be reached from here, by its address alone: nothing is sent to it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from qorzen_obs.otel_variables import read_otel_environment

_CONNECT_SECONDS: Final = 2.0
_PORTS: Final = {"http": 80, "https": 443, "": 4317}
_ENDPOINTS: Final = tuple(
    f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_", "LOGS_")
)


def named_collectors(environment: Mapping[str, str]) -> list[str]:
    """Return the collectors that an environment names, each once, as host and port: an address may hold a password.

    >>> named_collectors({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:secret@collector:4318"})
    ['collector:4318']
    """
    usable = read_otel_environment(environment).usable
    found: dict[str, None] = {}
    for name in _ENDPOINTS:
        endpoint = usable.get(name, "").strip()
        if not endpoint:
            continue
        parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        try:
            host, port = parts.hostname, parts.port or _PORTS[parts.scheme.lower()]
        except ValueError:  # the port is not a number
            continue
        if host:
            found[f"[{host}]:{port}" if ":" in host else f"{host}:{port}"] = None
    return list(found)


def connection_problem(collector: str) -> str | None:
    """Return why a collector takes no connection; None when it does."""
    host, _, port = collector.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS):
            return None
    except OSError as error:
        return error.strerror or str(error)
