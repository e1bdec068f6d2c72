"""Which OTEL_* variables are used, and what replaces a value that is unusable.

The SDK reads some of them while it is imported and raises if a value is invalid. So they are checked before the import
(qorzen_obs/__init__.py), and the SDK sees only usable values. Knows nothing about the SDK.
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Final, NamedTuple

#: Third-party packages that read variables of their own, which only they can check.
_LEFT_TO_OTHERS: Final = ("OTEL_PYTHON_", "OTEL_INSTRUMENTATION_", "OTEL_SEMCONV_")


class OtelWarning(NamedTuple):
    """A variable that is ignored, or used in a changed form."""

    variable: str
    problem: str  #: what is wrong with it
    instead: str  #: what happens instead


class OtelEnvironment(NamedTuple):
    """The usable part of an environment."""

    usable: Mapping[str, str]
    warnings: tuple[OtelWarning, ...]


class _Unusable(Exception):
    """An unusable value: what is wrong with it, what replaces it, and what is left of it."""

    def __init__(self, problem: str, instead: str, rest: str = "") -> None:
        super().__init__(problem, instead, rest)
        self.problem, self.instead, self.rest = problem, instead, rest


_Check = Callable[[str], object]  # raises _Unusable
_DEFAULT: Final = "the default holds"
_UNSET: Final = "it counts as unset"
_NO_URL: Final = "is not an http:// or https:// address"


def read_otel_environment(environment: Mapping[str, str]) -> OtelEnvironment:
    """Return the environment without unusable values, and a warning for each variable that is not used as it is.

    An empty variable counts as unset, as the specification says.
    """
    usable, warnings = dict(environment), []
    for variable in sorted(name for name in environment if name.startswith("OTEL_")):
        value = environment[variable].strip()
        if value:
            try:
                _text(value)
                _check_of(variable)(value)
                continue
            except _Unusable as found:
                warnings.append(OtelWarning(variable, found.problem, found.instead))
                value = found.rest
        if value:
            usable[variable] = value
        else:
            del usable[variable]
    warnings += _check_batches(usable)
    warnings += _check_ratio(usable)
    warnings += _check_endpoints(usable)
    return OtelEnvironment(usable, tuple(warnings))


def _check_of(variable: str) -> _Check:
    if variable in _CHECKS:
        return _CHECKS[variable]
    if variable.startswith("OTEL_EXPORTER_OTLP_"):
        for signal in ("TRACES_", "METRICS_", "LOGS_"):  # each may have a value of its own
            general = variable.replace(f"OTEL_EXPORTER_OTLP_{signal}", "OTEL_EXPORTER_OTLP_")
            if general in _CHECKS:
                return _CHECKS[general]
    if variable.startswith(_LEFT_TO_OTHERS):
        return _anything
    return _not_followed("it has no effect", problem="is not known here; is it spelt right?")


@contextmanager
def only_usable() -> Iterator[None]:
    """Let the SDK, which reads `os.environ` itself, see only the usable values."""
    usable = read_otel_environment(os.environ).usable
    changed = {name: value for name, value in os.environ.items() if usable.get(name) != value}
    for name in changed:
        if name in usable:
            os.environ[name] = usable[name]
        else:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(changed)


#: Read while a module of OpenTelemetry is imported; the import fails if the value is unusable.
_READ_AT_IMPORT: Final = {
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "opentelemetry.sdk._logs",
    "OTEL_RESOURCE_ATTRIBUTES": "opentelemetry.sdk._logs",
    "OTEL_PYTHON_CONTEXT": "opentelemetry.context",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "opentelemetry.sdk.trace",
    "OTEL_PROPAGATORS": "opentelemetry.propagate",
}


def import_past_unusable() -> None:
    """Import the modules that would fail on an unusable variable; all others wait until they are needed."""
    at_import = {name: os.environ[name] for name in _READ_AT_IMPORT if name in os.environ}
    usable = read_otel_environment(at_import).usable
    failing = [name for name, value in at_import.items() if usable.get(name) != value]
    if failing:
        with only_usable():
            for name in failing:
                importlib.import_module(_READ_AT_IMPORT[name])


# ---------------------------------------------------------------------- kinds of values


def _anything(value: str) -> None:
    """Accept any value: it cannot be wrong, or its reader reports the error."""


def _text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Unusable("is not valid UTF-8", _UNSET) from None


def _not_followed(instead: str, *, problem: str = "is not followed", but: str = "") -> _Check:
    def check(value: str) -> None:
        if value.lower() != but:
            raise _Unusable(problem, instead)

    return check


def _number(value: str, *, least: int, words: tuple[str, ...] = ()) -> None:
    if value.lower() in words:
        return
    try:
        good = int(value) >= least
    except ValueError:
        good = False
    if not good:
        raise _Unusable(f"{value!r} is not a whole number of at least {least}", _DEFAULT)


def _seconds(value: str) -> None:
    try:
        good = isfinite(float(value)) and float(value) >= 0
    except ValueError:
        good = False
    if not good:
        raise _Unusable(f"{value!r} is not a number of seconds", "10 s hold")


def _word(value: str, *, words: tuple[str, ...], instead: str) -> None:
    if value.lower() not in words:
        raise _Unusable(f"{value!r} is none of {', '.join(words)}", instead)


def _file(value: str) -> None:
    if not Path(value).is_file():
        raise _Unusable(f"{value!r} is not a file", "exports go without it")


def _url(value: str) -> None:
    scheme, found, rest = value.partition("://")
    if found and (scheme.lower() not in ("http", "https") or not rest.strip("/")):
        raise _Unusable(_NO_URL, _UNSET)


def _pairs(value: str) -> None:
    """Check a list of key=value; a value may hold a secret, so it is not shown."""
    items = [item.strip() for item in value.split(",") if item.strip()]
    good = [item for item in items if item.partition("=")[0].strip() and "=" in item]
    if good != items:
        raise _Unusable(
            f"{len(items) - len(good)} of its items are not key=value", "the others hold", ",".join(good)
        )


def _names(value: str, *, group: str, known: tuple[str, ...], instead: str, most: int = 100) -> None:
    """Check names of entry points, which packages provide by group."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - worker processes do without

    asked = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [
        name for name in asked if name.lower() not in known and not entry_points(group=group, name=name)
    ]
    good = [name for name in asked if name not in unknown]
    if unknown:
        problem = f"asks for {', '.join(map(repr, unknown))}, which is not installed"
    elif len(good) > most:
        problem, good = f"asks for {len(good)}, where {most} can be used", good[:most]
    else:
        return
    raise _Unusable(problem, f"{', '.join(good)} holds" if good else instead, ",".join(good))


def _check_batches(usable: dict[str, str]) -> Iterator[OtelWarning]:
    for prefix in ("OTEL_BSP_", "OTEL_BLRP_"):
        batch, size = f"{prefix}MAX_EXPORT_BATCH_SIZE", f"{prefix}MAX_QUEUE_SIZE"
        if batch in usable and size in usable and int(usable[batch]) > int(usable[size]):
            problem = f"is {usable[batch]}, which is more than {size}, {usable[size]}"
            yield OtelWarning(batch, problem, "a batch is as large as the queue, at most 512")
            del usable[batch]


def _check_endpoints(usable: dict[str, str]) -> Iterator[OtelWarning]:
    """Check an endpoint; without a scheme it is one for gRPC."""
    protocol = usable.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    for signal in ("", "TRACES_", "METRICS_", "LOGS_"):
        endpoint = f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT"
        by = usable.get(f"OTEL_EXPORTER_OTLP_{signal}PROTOCOL", protocol).lower()
        if "://" not in usable.get(endpoint, "://") and by != "grpc":
            yield OtelWarning(endpoint, _NO_URL, _UNSET)
            del usable[endpoint]


def _check_ratio(usable: dict[str, str]) -> Iterator[OtelWarning]:
    argument, sampler = "OTEL_TRACES_SAMPLER_ARG", usable.get("OTEL_TRACES_SAMPLER", "").lower()
    if argument not in usable or (sampler and not sampler.endswith("traceidratio")):
        return
    try:
        good = bool(sampler) and 0.0 <= float(usable[argument]) <= 1.0
    except ValueError:
        good = False
    if not good:
        problem = (
            f"{usable[argument]!r} is not a number from 0 to 1" if sampler else "stands without a sampler"
        )
        yield OtelWarning(argument, problem, "the ratio is 1")
        del usable[argument]


# ---------------------------------------------------------------------- the variables

_boolean: Final = partial(_word, words=("true", "false"), instead="it counts as false")


def _metrics_exporter(value: str) -> None:
    if "prometheus" in value.lower():
        raise _Unusable("asks for 'prometheus'", "Prometheus gets them from /metrics, and nothing is sent")
    _exports(value, group="opentelemetry_metrics_exporter", known=_OTLP_EXPORTERS, most=1)


_limit: Final = partial(_number, least=0, words=("unset",))
_positive: Final = partial(_number, least=1)
_exports: Final = partial(_names, known=("otlp", "none", "console"), instead="nothing is exported")
_OTLP_EXPORTERS: Final = ("otlp", "otlp_proto_http", "otlp_proto_grpc", "none", "console")
_SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
_EXPORT_ENDS: Final = "an export ends by OTEL_EXPORTER_OTLP_TIMEOUT"
_BY_CONFIGURATOR: Final = "only opentelemetry-instrument reads it, for providers of its own"

_CHECKS: Final[Mapping[str, _Check]] = {
    "OTEL_SDK_DISABLED": _boolean,
    "OTEL_SERVICE_NAME": _anything,
    "OTEL_RESOURCE_ATTRIBUTES": _pairs,
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": partial(
        _names, group="opentelemetry_resource_detector", known=("*",), instead="only the usual ones detect"
    ),
    "OTEL_CONFIG_FILE": _not_followed("the other variables hold"),
    "OTEL_LOG_LEVEL": _not_followed("telemetry.log_level says which lines are written"),
    "OTEL_PROPAGATORS": partial(
        _names,
        group="opentelemetry_propagator",
        known=("none",),
        instead="tracecontext and baggage hold",
    ),
    "OTEL_ATTRIBUTE_COUNT_LIMIT": _limit,
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit,
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": _limit,
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit,
    "OTEL_SPAN_EVENT_COUNT_LIMIT": _limit,
    "OTEL_SPAN_LINK_COUNT_LIMIT": _limit,
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": _limit,
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": _limit,
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": _not_followed("log records keep all their attributes"),
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": _not_followed("log records keep all their attributes"),
    "OTEL_TRACES_SAMPLER": partial(
        _names,
        group="opentelemetry_traces_sampler",
        known=_SAMPLERS,
        instead="parentbased_always_on holds",
        most=1,
    ),
    "OTEL_TRACES_SAMPLER_ARG": _anything,  # see _check_ratio
    "OTEL_TRACES_EXPORTER": partial(_exports, group="opentelemetry_traces_exporter", known=_OTLP_EXPORTERS),
    "OTEL_LOGS_EXPORTER": partial(
        _exports, group="opentelemetry_logs_exporter", known=_OTLP_EXPORTERS, most=1
    ),
    "OTEL_METRICS_EXPORTER": _metrics_exporter,
    "OTEL_BSP_SCHEDULE_DELAY": _positive,
    "OTEL_BSP_MAX_QUEUE_SIZE": _positive,
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": _positive,
    "OTEL_BSP_EXPORT_TIMEOUT": _not_followed(_EXPORT_ENDS),
    "OTEL_BLRP_SCHEDULE_DELAY": _positive,
    "OTEL_BLRP_MAX_QUEUE_SIZE": _positive,
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": _positive,
    "OTEL_BLRP_EXPORT_TIMEOUT": _not_followed(_EXPORT_ENDS),
    "OTEL_METRIC_EXPORT_INTERVAL": _positive,
    "OTEL_METRIC_EXPORT_TIMEOUT": _not_followed(_EXPORT_ENDS),
    "OTEL_METRICS_EXEMPLAR_FILTER": _not_followed("exemplars are of traces that are kept", but="trace_based"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": _url,
    "OTEL_EXPORTER_OTLP_PROTOCOL": partial(
        _word, words=("http/protobuf", "grpc"), instead="http/protobuf holds"
    ),
    "OTEL_EXPORTER_OTLP_HEADERS": _pairs,
    "OTEL_EXPORTER_OTLP_TIMEOUT": _seconds,
    "OTEL_EXPORTER_OTLP_COMPRESSION": partial(
        _word, words=("none", "gzip", "deflate"), instead="nothing is compressed"
    ),
    "OTEL_EXPORTER_OTLP_INSECURE": _boolean,
    "OTEL_EXPORTER_OTLP_CERTIFICATE": _file,
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": _file,
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": _file,
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": partial(
        _word, words=("cumulative", "delta", "lowmemory"), instead="cumulative holds"
    ),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": partial(
        _word,
        words=("explicit_bucket_histogram", "base2_exponential_bucket_histogram"),
        instead="explicit_bucket_histogram holds",
    ),
    "OTEL_EXPORTER_PROMETHEUS_HOST": _not_followed("/metrics is served at server.host"),
    "OTEL_EXPORTER_PROMETHEUS_PORT": _not_followed("/metrics is served at server.port"),
    "OTEL_EXPORTER_ZIPKIN_ENDPOINT": _anything,  # the exporter of that name reads these, if it is installed
    "OTEL_EXPORTER_ZIPKIN_TIMEOUT": _anything,
    "OTEL_PYTHON_CONTEXT": partial(
        _names, group="opentelemetry_context", known=(), instead="contextvars_context holds", most=1
    ),
    "OTEL_PYTHON_TRACER_PROVIDER": partial(
        _names, group="opentelemetry_tracer_provider", known=(), instead="the provider is ours", most=1
    ),
    "OTEL_PYTHON_METER_PROVIDER": partial(
        _names, group="opentelemetry_meter_provider", known=(), instead="there is none", most=1
    ),
    "OTEL_PYTHON_ID_GENERATOR": _not_followed("ids are random", but="random"),
    "OTEL_PYTHON_TRACER_CONFIGURATOR": _not_followed(_BY_CONFIGURATOR),
    "OTEL_PYTHON_METER_CONFIGURATOR": _not_followed(_BY_CONFIGURATOR),
    "OTEL_PYTHON_LOGGER_CONFIGURATOR": _not_followed(_BY_CONFIGURATOR),
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": _boolean,
}
