"""Finds the installed exporter for a signal, as OpenTelemetry's variables ask for it.

Knows nothing about the SDK: an exporter is whatever an entry point provides.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry.environment_variables import OTEL_TRACES_EXPORTER

from qorzen_obs import foreign
from qorzen_obs.errors import SettingsError

_OTLP_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTER_BY_OTLP_PROTOCOL: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_EXTRA_BY_EXPORTER: Final = {"otlp_proto_http": "otlp", "otlp_proto_grpc": "otlp-grpc"}


def wanted_span_exporters(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the entry point of each requested exporter once, after the variable that asks for it."""
    if asked := environment.get(OTEL_TRACES_EXPORTER, "").strip():
        variable = OTEL_TRACES_EXPORTER
    elif variable := next((name for name in _OTLP_ENDPOINTS if environment.get(name)), ""):
        asked = "otlp"
    wanted = [name.strip() for name in asked.split(",")]
    found = [otlp_exporter(environment) if name.lower() == "otlp" else name for name in wanted]
    return [(variable, name) for name in dict.fromkeys(found) if name.lower() not in {"", "none"}]


def otlp_exporter(environment: Mapping[str, str], signal: str = "TRACES") -> str:
    """Return the name of the OTLP exporter; HTTP by default, as the specification says (the SDK uses gRPC)."""
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environment.get(variable, ""):
            return _EXPORTER_BY_OTLP_PROTOCOL[protocol.strip().lower()]
    return _EXPORTER_BY_OTLP_PROTOCOL["http/protobuf"]


def make_exporter(variable: str, group: str, name: str) -> Any:
    """Return a new exporter of this name, requested by `variable`.

    Raises:
        SettingsError: it is not installed or cannot be created.
    """
    for entry_point in entry_points(group=group, name=name) or entry_points(group=group, name=name.lower()):
        try:
            return entry_point.load()()
        except Exception as error:
            raise SettingsError(
                variable, f"the exporter {name!r} cannot be made: {foreign.text(error)}"
            ) from error
    extra = _EXTRA_BY_EXPORTER[name.lower()]  # any other name is an entry point
    problem = f"asks for the exporter {name!r}, which is not installed; pip install 'qorzen-obs[{extra}]'"
    raise SettingsError(variable, problem)


def asked_exporter(environment: Mapping[str, str], variable: str, signal: str) -> str:
    """Return the entry point of the one exporter that a variable names; empty if it names none."""
    name = environment.get(variable, "").strip()
    if name.lower() in {"", "none"} or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ""
    return otlp_exporter(environment, signal) if name.lower() == "otlp" else name


def loggers_of(exporter: object) -> list[str]:
    """Return the loggers that the exporter writes to, assuming that they are named after their modules.

    OpenTelemetry's exporters share a client, which has a logger of its own.
    """
    modules = [kind.__module__ for kind in type(exporter).__mro__]
    shared = [name for name in logging.root.manager.loggerDict if name.startswith("opentelemetry.exporter.")]
    return [
        module for module in dict.fromkeys(modules + shared) if module not in {"builtins", "abc", "typing"}
    ]
