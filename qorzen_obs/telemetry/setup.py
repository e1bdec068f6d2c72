"""The only wiring of the OpenTelemetry SDK: which provider makes the spans, who keeps them, who exports them.

Everything else in the package uses the OpenTelemetry API and works with whatever this module has set up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Final, Literal, TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.environment_variables import OTEL_TRACES_EXPORTER
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, DEFAULT_ON

from qorzen_obs.errors import SettingsError
from qorzen_obs.settings import TelemetrySettings
from qorzen_obs.telemetry.remote_spans import RemoteSpans
from qorzen_obs.telemetry.span_store import SpanStore

#: Whose the provider is: ours, somebody else's, or nobody's since the environment says so.
Mode: TypeAlias = Literal["sdk", "foreign", "disabled"]

DEFAULT_SERVICE_NAME: Final = "qorzen-obs"
MAX_SPAN_ATTRIBUTE_LENGTH: Final = 1_024  #: characters; the SDK has no limit of its own
MAX_EVENT_ATTRIBUTE_LENGTH: Final = 8_192  #: characters; it may be a stack trace, whose end says what failed

_OTLP_ENDPOINTS: Final = (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT)
_EXPORTER_GROUP: Final = "opentelemetry_traces_exporter"
_EXPORTER_BY_OTLP_PROTOCOL: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_EXTRA_BY_EXPORTER: Final = {"otlp_proto_http": "otlp", "otlp_proto_grpc": "otlp-grpc"}

_log = logging.getLogger(__name__)


class Tracing:
    """What `set_up_tracing` has set up, until `shutdown`."""

    def __init__(
        self,
        mode: Mode,
        provider: trace.TracerProvider,
        store: SpanStore,
        *,
        sampling: str,
        chain: _Chain | None = None,
        exports: Sequence[_Export] = (),
    ) -> None:
        self.mode: Mode = mode
        self.provider = provider
        self.store = store
        self.sampling = sampling  #: `all`, `foreign`, `none`, or what the sampler says of itself
        self.exporters = tuple(export.name for export in exports)
        self._chain = chain
        self._exports = exports
        self._closing = threading.Lock()
        self._flushed: bool | None = None

    def status(self) -> dict[str, Any]:
        """Return what `status()["telemetry"]` shows of tracing."""
        return {
            "tracing": self.mode,
            "sampling": self.sampling,
            "exporters": list(self.exporters),
            "traces_kept": self.store.traces_kept,
            "spans_dropped": self.store.dropped_spans,
        }

    @property
    def on_spans(self) -> RemoteSpans | None:
        """What takes the spans of worker processes, as the provider's own; None where nobody would see them.

        With a foreign provider they reach the store alone: the SDK offers no way to its other processors.
        """
        if self._chain is None or not isinstance(self.provider, TracerProvider):
            return None
        return RemoteSpans(self._chain, self.provider.resource)

    def shutdown(self, deadline_seconds: float = 1.0) -> bool:
        """Stop observing, send what is still queued, and return whether all of it was taken in time.

        Returns by the deadline whatever a collector does: what it has not taken by then is given up, and no
        thread left behind keeps the process alive. Blocks, so call it off the loop. What the store holds
        stays readable. Idempotent: a second call waits for the first and returns the same. A foreign provider
        goes on working; ours makes spans that nobody sees until the next `set_up_tracing`.
        """
        with self._closing:
            if self._flushed is None:
                if self._chain is not None:
                    self._chain.clear()
                    self._chain = None  # somebody else's from now on
                self.store.shutdown()
                self._flushed = _close(self._exports, deadline_seconds)
            return self._flushed


def set_up_tracing(
    settings: TelemetrySettings, environment: Mapping[str, str], *, set_global: bool
) -> Tracing:
    """Choose the provider of spans, keep their traces in a store, and export them where it is asked for.

    With `set_global` the process's own TracerProvider is used where there is one, and ours becomes it where
    there is none. A process can set it only once, so after `shutdown` the next call takes ours again, with
    the resource, sampler and limits it was made with; while ours is in use, a further call finds it foreign.
    Without `set_global` the provider is a private one, and nothing outside is touched.

    `environment` decides on OTEL_SDK_DISABLED and on the exporters: those of OTEL_TRACES_EXPORTER, else otlp
    where an OTLP endpoint is set, else none. The SDK itself reads the other OTEL_* variables, always from
    `os.environ`.

    Raises:
        SettingsError: an exporter is not installed or cannot be made, or a variable is malformed; nothing was
            changed.
    """
    store = SpanStore(keep_traces=settings.keep_traces, keep_spans_per_trace=settings.keep_spans_per_trace)
    if environment.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return Tracing("disabled", trace.NoOpTracerProvider(), store, sampling="none")
    current = trace.get_tracer_provider() if set_global else None
    if current is None or isinstance(current, trace.ProxyTracerProvider):
        provider = _Provider()
    elif isinstance(current, _Provider):
        provider = current
    else:
        return _join(current, store)
    if not provider.chain.claim():
        return _join(provider, store)
    try:
        exports = _start_exports(environment)
    except BaseException:
        provider.chain.clear()
        raise
    provider.chain.fill(store, *(export.processor for export in exports))
    if set_global and provider is not current:
        trace.set_tracer_provider(provider)
    return Tracing("sdk", provider, store, sampling=provider.sampling, chain=provider.chain, exports=exports)


def _join(provider: trace.TracerProvider, store: SpanStore) -> Tracing:
    """Watch the spans of a provider that somebody else configures, exports from and shuts down."""
    if not isinstance(provider, TracerProvider):  # not the SDK's: it has no processors
        return Tracing("foreign", provider, store, sampling="foreign")
    chain = _Chain()
    chain.fill(store)
    provider.add_span_processor(chain)
    return Tracing("foreign", provider, store, sampling="foreign", chain=chain)


class _Chain(SpanProcessor):
    """Processors that can be taken out again, which the SDK does not offer."""

    def __init__(self) -> None:
        self._processors: tuple[SpanProcessor, ...] = ()
        self._claim = threading.Lock()

    def claim(self) -> bool:
        """Take the chain until `clear`; return whether it was free."""
        return self._claim.acquire(blocking=False)

    def fill(self, *processors: SpanProcessor) -> None:
        self._processors = processors

    def clear(self) -> None:
        self._processors = ()
        if self._claim.locked():
            self._claim.release()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        for processor in self._processors:
            processor.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        for processor in self._processors:
            processor.on_end(span)

    def shutdown(self) -> None:
        for processor in self._processors:
            processor.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        flushed = [processor.force_flush(timeout_millis) for processor in self._processors]
        return all(flushed)


class _Provider(TracerProvider):
    """Ours. It outlives the Tracing that made it: the next one fills its chain again."""

    def __init__(self) -> None:
        # shutdown_on_exit would have the interpreter's exit wait for the collector.
        super().__init__(resource=_resource(), span_limits=_span_limits(), shutdown_on_exit=False)
        everything = (ALWAYS_ON, DEFAULT_ON)
        self.sampling = "all" if self.sampler in everything else self.sampler.get_description()
        self.chain = _Chain()
        self.add_span_processor(self.chain)


def _resource() -> Resource:
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # the environment names none
        return resource.merge(Resource({SERVICE_NAME: DEFAULT_SERVICE_NAME}))
    return resource


def _span_limits() -> SpanLimits:
    try:
        asked = SpanLimits()
    except ValueError as error:  # "OTEL_… must be a non-negative integer but got …"
        variable, _, problem = str(error).partition(" ")
        raise SettingsError(variable, problem) from error
    in_span, anywhere = asked.max_span_attribute_length, asked.max_attribute_length
    return SpanLimits(
        max_span_attribute_length=MAX_SPAN_ATTRIBUTE_LENGTH if in_span is None else in_span,
        max_attribute_length=MAX_EVENT_ATTRIBUTE_LENGTH if anywhere is None else anywhere,
    )


class _Export:
    """One exporter with its queue and its thread. The queue is bounded by OTEL_BSP_MAX_QUEUE_SIZE (2048)."""

    def __init__(self, name: str, exporter: SpanExporter) -> None:
        self.name = name
        self.outlet = _Outlet(exporter)
        self.processor: SpanProcessor = BatchSpanProcessor(self.outlet)


class _Outlet(SpanExporter):
    """An exporter that knows how much it could not send, and that can be closed while it is busy."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._closed = False
        self.failed_spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            if not self._closed:
                result = self._exporter.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                self.failed_spans += len(spans)
        return result

    def shutdown(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._exporter.shutdown()
        except Exception:  # noqa: BLE001  # nobody above could do more about it
            _log.warning("the span exporter %r did not close in order", self._exporter, exc_info=True)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _close(exports: Sequence[_Export], deadline_seconds: float) -> bool:
    """Drain all exports at once; return whether each had sent everything by the deadline."""
    deadline = time.monotonic() + deadline_seconds
    failed_before = sum(export.outlet.failed_spans for export in exports)
    # In threads: the SDK's shutdown waits for the exporter, and its flush ignores the timeout it is given.
    drains = [_in_thread(export.processor.shutdown, "qorzen-span-drain") for export in exports]
    for drain in drains:
        drain.join(max(0.0, deadline - time.monotonic()))
    late = [export for export, drain in zip(exports, drains, strict=True) if drain.is_alive()]
    for export in late:  # ends its retries; a request in flight ends with the exporter's own timeout
        _in_thread(export.outlet.shutdown, "qorzen-span-abort")
    return not late and failed_before == sum(export.outlet.failed_spans for export in exports)


def _in_thread(target: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


def _start_exports(environment: Mapping[str, str]) -> list[_Export]:
    wanted = _wanted_exporters(environment)
    exporters = {name: _make_exporter(variable, name) for variable, name in wanted}
    try:  # only now that all can be made: each starts a thread
        return [_Export(name, exporter) for name, exporter in exporters.items()]
    except ValueError as error:
        raise SettingsError("OTEL_BSP_*", str(error)) from error


def _wanted_exporters(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the entry points to export by, each once and after the variable that asks for it."""
    if names := environment.get(OTEL_TRACES_EXPORTER, "").strip():
        variable = OTEL_TRACES_EXPORTER
    elif variable := next((name for name in _OTLP_ENDPOINTS if environment.get(name)), ""):
        names = "otlp"
    wanted = [name.strip() for name in names.split(",")]
    found = [_otlp_exporter(environment) if name == "otlp" else name for name in wanted]
    return [(variable, name) for name in dict.fromkeys(found) if name.lower() not in {"", "none"}]


def _otlp_exporter(environment: Mapping[str, str]) -> str:
    """Return the exporter for OTLP; by default HTTP, as the specification says (the SDK takes gRPC)."""
    for variable in (OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL):
        if protocol := environment.get(variable, "").strip():
            if protocol not in _EXPORTER_BY_OTLP_PROTOCOL:
                supported = " or ".join(_EXPORTER_BY_OTLP_PROTOCOL)
                raise SettingsError(variable, f"{protocol!r} is not supported; use {supported}")
            return _EXPORTER_BY_OTLP_PROTOCOL[protocol]
    return _EXPORTER_BY_OTLP_PROTOCOL["http/protobuf"]


def _make_exporter(variable: str, name: str) -> SpanExporter:
    for entry_point in entry_points(group=_EXPORTER_GROUP, name=name):
        try:
            exporter: SpanExporter = entry_point.load()()
        except Exception as error:
            raise SettingsError(variable, f"the span exporter {name!r} cannot be made: {error}") from error
        return exporter
    if extra := _EXTRA_BY_EXPORTER.get(name):
        remedy = f"pip install 'qorzen-obs[{extra}]'"
    else:
        installed = sorted({entry_point.name for entry_point in entry_points(group=_EXPORTER_GROUP)})
        remedy = f"install the package that has it, or choose among otlp, {', '.join(installed)} and none"
    raise SettingsError(variable, f"asks for the span exporter {name!r}, which is not installed; {remedy}")
