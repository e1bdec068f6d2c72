"""The only wiring of the OpenTelemetry SDK: which provider creates spans, what keeps them, what exports them.

Everything else in the package uses the OpenTelemetry API and works with whatever this module has set up.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from opentelemetry import metrics, trace
from opentelemetry.environment_variables import OTEL_LOGS_EXPORTER, OTEL_METRICS_EXPORTER
from opentelemetry.sdk.environment_variables import (
    OTEL_METRIC_EXPORT_INTERVAL,
    OTEL_SDK_DISABLED,
    OTEL_TRACES_SAMPLER,
    OTEL_TRACES_SAMPLER_ARG,
)
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider

from qorzen_obs import foreign
from qorzen_obs.clock import Clock, SystemClock
from qorzen_obs.otel_variables import only_usable, read_otel_environment
from qorzen_obs.settings import TelemetrySettings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.cut_texts import CUT_TEXTS
from qorzen_obs.telemetry.exemplars import Exemplars, IfSampled
from qorzen_obs.telemetry.export import BatchLimits, quieted
from qorzen_obs.telemetry.exporters import asked_exporter, loggers_of, make_exporter, wanted_span_exporters
from qorzen_obs.telemetry.log_export import LogExport
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.remote_spans import RemoteSpans
from qorzen_obs.telemetry.sampling import RecordAll, TailSampler, base_ratio, follows_parent
from qorzen_obs.telemetry.span_facts import UserAttributes
from qorzen_obs.telemetry.span_pipeline import Chain, Export, Shared, close, send
from qorzen_obs.telemetry.span_store import SpanStore
from qorzen_obs.telemetry.task_span import SpanMaker, TaskSpanSink
from qorzen_obs.telemetry.trace_buffer import Budget
from qorzen_obs.telemetry.traces import AllTraces, Traces

if TYPE_CHECKING:
    from qorzen_obs.telemetry.metric_export import MetricExport

#: The owner of the provider: us, somebody else, or nobody because the environment says so.
Mode: TypeAlias = Literal["sdk", "foreign", "disabled"]

DEFAULT_SERVICE_NAME: Final = "qorzen-obs"
MAX_SPAN_ATTRIBUTE_LENGTH: Final = 1_024  #: characters; the SDK has no limit of its own
MAX_EVENT_ATTRIBUTE_LENGTH: Final = 8_192  #: characters; it may be a stack trace, whose end says what failed

_SPAN_EXPORTERS: Final = "opentelemetry_traces_exporter"  # groups of entry points
_LOG_EXPORTERS: Final = "opentelemetry_logs_exporter"
_METRIC_EXPORTERS: Final = "opentelemetry_metrics_exporter"
_METRIC_INTERVAL_MILLIS: Final = 60_000


class Tracing:
    """What `set_up_tracing` has set up, until `shutdown`.

    All users of one provider share its sampler and exporters, so the counts of spans cover all of them.
    """

    def __init__(
        self,
        mode: Mode,
        provider: trace.TracerProvider,
        store: SpanStore,
        *,
        sampling: str,
        chain: Chain | None = None,
        shared: Shared | None = None,
    ) -> None:
        sampler = None if shared is None else shared.sampler
        self.mode: Mode = mode
        self.provider = provider
        #: The program's identity, sent with every signal.
        self.resource = provider.resource if isinstance(provider, TracerProvider) else _resource()
        self.store = store
        #: The readable traces, including undecided ones.
        self.traces: Traces = store if sampler is None else AllTraces(store, sampler)
        self.sampling = sampling  #: `tail`, `foreign`, `none`, or a head sampler's description
        self.exemplars: Exemplars = sampler or IfSampled()
        self._chain = chain
        self._shared = shared
        self._sampler = sampler
        self._remote_spans: RemoteSpans | None = None
        self._closing = threading.Lock()
        self._flushed: bool | None = None

    @property
    def exporters(self) -> tuple[str, ...]:
        """The names of the exporters."""
        return tuple(export.name for export in self._exports)

    @property
    def _exports(self) -> Sequence[Export]:
        return () if self._shared is None else self._shared.exports

    def status(self) -> dict[str, Any]:
        """Return tracing's part of `status()["telemetry"]`."""
        return {
            "service": self.service(),
            "tracing": self.mode,
            "sampling": self.sampling,
            "exporters": list(self.exporters),
            "traces_kept": self.store.traces_kept,
            "spans_dropped": self.store.dropped_spans,
            "spans": dict(self.span_outcomes()),
            "traces": {
                decision: sum(n for (found, _), n in self.trace_decisions().items() if found == decision)
                for decision in names.TRACE_DECISIONS
            },
            "undecided_traces": self._sampler.undecided if self._sampler is not None else 0,
            "span_queue": {"size": self.span_queue_size, "limit": self.span_queue_limit},
            "last_export_at": self.last_export_at or None,
            "trouble": [*self._trouble()],
        }

    def service(self) -> dict[str, str | None]:
        """Return the name and the version that the program gives itself; None where it gives none."""
        attributes = self.resource.attributes
        found = {"name": attributes.get(SERVICE_NAME), "version": attributes.get(SERVICE_VERSION)}
        return {key: foreign.text(value) if value else None for key, value in found.items()}

    def _trouble(self) -> Iterator[str]:
        yield from (trouble for export in self._exports if (trouble := export.queue.trouble) is not None)
        if self._remote_spans is not None and self._remote_spans.unseen:
            yield (
                f"{self._remote_spans.unseen} spans of worker processes reached no exporter: this version of the SDK "
                "does not let them through to the processors of your TracerProvider"
            )

    def target_info(self) -> dict[str, str]:
        """Return the resource as the labels of `target_info`; https://prometheus.io/docs/specs/om/."""
        return {
            re.sub(r"^(?=\d|__)", "key_", re.sub(r"\W", "_", key, flags=re.ASCII)): foreign.text(value)
            for key, value in self.resource.attributes.items()
        }

    # What the metrics read at scrape, from any thread; see export.TracingFigures.

    def span_outcomes(self) -> dict[str, int]:
        """Return how many spans had each outcome; unknown if somebody else exports."""
        queues = [export.queue for export in self._exports]
        found = dict.fromkeys(names.SPAN_OUTCOMES, 0)
        found[names.SPAN_EXPORTED] = sum(queue.exported for queue in queues)
        found[names.SPAN_EXPORT_FAILED] = sum(queue.failed for queue in queues)
        found[names.SPAN_DROPPED_QUEUE_FULL] = sum(queue.dropped_full for queue in queues)
        found[names.SPAN_DROPPED_SHUTDOWN] = sum(queue.dropped_shutdown for queue in queues)
        if self._sampler is not None:
            found[names.SPAN_DROPPED_SHUTDOWN] += self._sampler.dropped_shutdown
            found[names.SPAN_SAMPLED_OUT] = self._sampler.sampled_out
            found[names.SPAN_KEPT] = 0 if queues else self._sampler.kept
        return found

    def trace_decisions(self) -> dict[tuple[str, str], int]:
        """Return how many traces were decided, by decision and reason."""
        return {
            **dict.fromkeys(names.TRACE_SERIES, 0),
            **(self._sampler.decisions if self._sampler is not None else {}),
        }

    @property
    def span_queue_size(self) -> int:
        """How many spans wait for export; with several exporters, the largest of their queues."""
        return max((export.queue.size for export in self._exports), default=0)

    @property
    def span_queue_limit(self) -> int:
        """How many spans may wait for each exporter; 0 without one."""
        return max((export.queue.limit for export in self._exports), default=0)

    @property
    def last_export_at(self) -> float:
        """When each exporter last delivered spans, Unix seconds; 0 before the first."""
        return min((export.queue.last_export_at for export in self._exports), default=0.0)

    def lost(self) -> dict[str, int]:
        """Return how many texts on spans of the process were cut to the limit, as a kind of `qorzen_events_dropped`."""
        return {"span_text": CUT_TEXTS.count}

    def tick(self) -> None:
        """Decide about traces that have waited long enough; an exporter's thread does so too."""
        if self._sampler is not None:
            self._sampler.tick()

    @property
    def on_spans(self) -> RemoteSpans | None:
        """Takes the spans of worker processes like the provider's own; None if nobody would see them."""
        if (
            self._remote_spans is None
            and self._chain is not None
            and isinstance(self.provider, TracerProvider)
        ):
            self._remote_spans = RemoteSpans(self._chain, self.provider.resource, self.provider)
        return self._remote_spans

    def shutdown(self, deadline_seconds: float = 1.0) -> bool:
        """Stop observing, send what is still queued, and return whether all of it was accepted in time.

        Returns by the deadline whatever a collector does: spans that it has not accepted by then are dropped, and no
        remaining thread keeps the process alive. Blocks, so do not call it on the loop. The store stays readable.
        Idempotent: a second call waits for the first and returns the same. A foreign provider keeps working, and so
        does everything that another Tracing shares with this one. After the last of them, our spans count as dropped
        until the next `set_up_tracing`.
        """
        with self._closing:
            if self._flushed is None:
                if self._shared is not None:
                    CUT_TEXTS.unwatch()
                is_last = self._chain is None or self._chain.leave(self._shared, self.store)
                self.store.shutdown()
                self._flushed = (close if is_last else send)(self._exports, deadline_seconds)
            return self._flushed


@only_usable()
def set_up_tracing(
    settings: TelemetrySettings,
    environment: Mapping[str, str],
    *,
    set_global: bool,
    clock: Clock | None = None,
    redactor: Redactor | None = None,
) -> Tracing:
    """Choose the provider of spans, keep their traces in a store, and export them if requested.

    With `set_global`, use the process's own TracerProvider if there is one; otherwise ours becomes the global one. A
    process can set it only once, so after `shutdown` the next call uses ours again, with its original resource, sampler
    and limits. While ours is in use, a further call shares its sampler, at the present rates, and its exporters, and
    adds exporters that only its own environment asks for. The last `shutdown` closes them. Without `set_global` the
    provider is private, and nothing outside is changed.

    `environment` provides OTEL_SDK_DISABLED, OTEL_BSP_* and the exporters: those of OTEL_TRACES_EXPORTER, else otlp if
    an OTLP endpoint is set, else none. OTEL_TRACES_SAMPLER and its argument set the ratio of the tail sampler, before
    its budget; a sampler of another name decides at the head. The SDK itself reads the other OTEL_* variables, always
    from `os.environ`. Unusable values count as unset (otel_variables.py). `redactor`, by default the usual one, redacts
    everything that is exported.

    Raises:
        SettingsError: an exporter is not installed or cannot be created; nothing was changed.
    """
    environment = read_otel_environment(environment).usable
    store = SpanStore(
        keep_traces=settings.keep_traces,
        keep_spans_per_trace=settings.keep_spans_per_trace,
        keep_spans=settings.keep_spans,
        keep_bytes=settings.keep_span_bytes,
        slow_task_seconds=settings.slow_task_seconds,
    )
    if environment.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return Tracing("disabled", trace.NoOpTracerProvider(), store, sampling="none")
    current = trace.get_tracer_provider() if set_global else None
    ratio = base_ratio(environment.get(OTEL_TRACES_SAMPLER, ""), environment.get(OTEL_TRACES_SAMPLER_ARG, ""))
    if current is None or isinstance(current, trace.ProxyTracerProvider):
        provider = _Provider(tail=ratio is not None)
    elif isinstance(current, _Provider):
        provider = current
    else:
        return _join(current, store)
    clock, redactor, chain = clock or SystemClock(), redactor or Redactor(), provider.chain
    with chain.lock:
        shared = chain.shared
        # A closed one was shut down with the provider, which only the user does.
        if shared is None or shared.sampler.closed:
            shared = Shared(
                TailSampler(
                    (),
                    Budget(settings.traces_per_second, 1.0 if ratio is None else ratio),
                    slow_task_seconds=settings.slow_task_seconds,
                    clock=clock,
                    follows_parent=follows_parent(environment.get(OTEL_TRACES_SAMPLER, "")),
                )
            )
        known = [export.name for export in shared.exports]
        shared.enter(store, redactor, _make_exports(environment, clock, redactor, known))
        chain.use(shared)
    CUT_TEXTS.watch()
    if set_global and provider is not current:
        trace.set_tracer_provider(provider)
    return Tracing("sdk", provider, store, sampling=provider.sampling, chain=chain, shared=shared)


def _join(provider: trace.TracerProvider, store: SpanStore) -> Tracing:
    """Watch the spans of a provider that somebody else configures, exports from and shuts down."""
    if not isinstance(provider, TracerProvider):  # not the SDK's: it has no processors
        return Tracing("foreign", provider, store, sampling="foreign")
    chain = Chain.on(provider)
    chain.watch(store)
    return Tracing("foreign", provider, store, sampling="foreign", chain=chain)


class _Provider(TracerProvider):
    """Our provider. It outlives the Tracing that created it: the next one fills its chain again."""

    def __init__(self, *, tail: bool) -> None:
        # Else each tracer would request it again, and OTEL_PYTHON_METER_PROVIDER may name one that is not installed.
        self._meters = metrics.get_meter_provider()
        super().__init__(
            sampler=RecordAll() if tail else None,
            resource=_resource(),
            span_limits=_span_limits(),
            meter_provider=self._meters,
            shutdown_on_exit=False,  # it would make the interpreter's exit wait for the collector
        )
        self.sampling = "tail" if tail else self.sampler.get_description()
        self.chain = Chain()
        self._limits = _span_limits()
        self.add_span_processor(self.chain)

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        if span_processor is not self.chain:
            self.chain.join_others()
        super().add_span_processor(span_processor)

    def task_sink(self) -> TaskSpanSink | None:
        """Return the sink for spans that the SDK need not create; None if the user's own processors see each."""
        chain = self.chain
        return chain.task_sink if chain.is_alone else None

    def span_maker(self, scope: str, version: str, users: UserAttributes) -> SpanMaker:
        """Return the factory of such spans."""
        return SpanMaker(
            self.sampler,
            self.resource,
            self._limits,
            self.id_generator,
            scope=scope,
            version=version,
            users=users,
            meter_provider=self._meters,
        )


def _resource() -> Resource:
    resource = Resource.create()
    # the environment names no exporter
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: DEFAULT_SERVICE_NAME}))
    return resource


def _span_limits() -> SpanLimits:
    asked = SpanLimits()
    in_span, anywhere = asked.max_span_attribute_length, asked.max_attribute_length
    return SpanLimits(
        max_span_attribute_length=MAX_SPAN_ATTRIBUTE_LENGTH if in_span is None else in_span,
        max_attribute_length=MAX_EVENT_ATTRIBUTE_LENGTH if anywhere is None else anywhere,
    )


def _make_exports(
    environment: Mapping[str, str], clock: Clock, redactor: Redactor, known: Collection[str]
) -> list[Export]:
    """Return the exports that the environment asks for, except those that already exist."""
    limits = BatchLimits.from_environment(environment)
    wanted = [one for one in wanted_span_exporters(environment) if one[1] not in known]
    exporters = {name: make_exporter(variable, _SPAN_EXPORTERS, name) for variable, name in wanted}
    # Only once all can be created: each changes the loggers of its exporter.
    return [Export(name, exporter, limits, clock, redactor) for name, exporter in exporters.items()]


@only_usable()
def set_up_log_export(environment: Mapping[str, str], *, clock: Clock | None = None) -> LogExport | None:
    """Return the exporter of log lines that OTEL_LOGS_EXPORTER names; None if it is unset or `none`.

    OTEL_BLRP_* bound its queue.

    Raises:
        SettingsError: the exporter is not installed or cannot be created.
    """
    environment = read_otel_environment(environment).usable
    name = asked_exporter(environment, OTEL_LOGS_EXPORTER, "LOGS")
    if not name:
        return None
    limits = BatchLimits.from_environment(environment, "OTEL_BLRP_")
    exporter = make_exporter(OTEL_LOGS_EXPORTER, _LOG_EXPORTERS, name)
    clock = clock or SystemClock()
    quiet = ExitStack()
    quiet.enter_context(quieted(loggers_of(exporter), clock))
    return LogExport(name, exporter, _resource(), limits=limits, clock=clock, on_ended=quiet.close)


@only_usable()
def set_up_metric_export(
    environment: Mapping[str, str], resource: Resource, *, clock: Clock | None = None
) -> MetricExport | None:
    """Return the exporter of metrics that OTEL_METRICS_EXPORTER names, not started; None if it is unset or `none`.

    It sends every OTEL_METRIC_EXPORT_INTERVAL. The exporter decides whether it gets each kind since the start or since
    the last export, and which kind of histograms.

    Raises:
        SettingsError: the exporter is not installed or cannot be created.
    """
    environment = read_otel_environment(environment).usable
    name = asked_exporter(environment, OTEL_METRICS_EXPORTER, "METRICS")
    if not name:
        return None
    from qorzen_obs.telemetry.metric_export import MetricExport  # noqa: PLC0415 - imports the SDK's metrics, which few need

    exporter = make_exporter(OTEL_METRICS_EXPORTER, _METRIC_EXPORTERS, name)
    clock = clock or SystemClock()
    quiet = ExitStack()
    quiet.enter_context(quieted(loggers_of(exporter), clock))
    interval = int(environment.get(OTEL_METRIC_EXPORT_INTERVAL, _METRIC_INTERVAL_MILLIS)) / 1000
    return MetricExport(
        name, exporter, resource, interval_seconds=interval, clock=clock, on_ended=quiet.close
    )
